"""The report: one page that stands alone, tells everything, and runs nothing."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from records_made_up import MACHINE, made_up_run
from records_made_up import made_up_comparison as bare_comparison

from labkit.core.errors import ResultsError, UsageError
from labkit.core.terminal import HIDDEN
from labkit.results.plots import style
from labkit.results.plots.labels import LOSES_WORDS
from labkit.results.records import Comparison, Run
from labkit.results.report.groups import groups, newest
from labkit.results.report.machines import figure, machines, side_by_side
from labkit.results.report.report_page import write_report
from labkit.results.report.tables import _cells, runs_table
from labkit.results.result_set import ResultSet
from labkit.results.store import Prediction, Store, default_path

HOSTILE = "<script>alert(1)</script>\"'&<img src=http://example.org/x onerror=alert(2)>"


def made_up_comparison(*rungs: str, **other: object) -> Comparison:
    """A comparison that worked on the same as a made-up run."""
    same = made_up_run()
    return bare_comparison(*rungs, **({"settings": same.settings, "source": same.source} | other))


class Page(HTMLParser):
    """All tags with their attributes, the text, and whether the tags nest."""

    VOID = {"meta", "img", "source", "br", "wbr"}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    runs = [
        made_up_run("plain", created="2026-01-02T03:04:05+00:00"),
        made_up_run(
            HOSTILE,
            n=700,
            spread=0.3,
            disturbances=("the host <took> 9%",),
            fingerprint=MACHINE | {"note": HOSTILE},
        ),
        made_up_run("tiny", n=3, agreement=None, limit={}),
        made_up_run("elsewhere", source={"spec": HOSTILE}),
    ]
    comparisons = [made_up_comparison("plain", HOSTILE), made_up_comparison("plain", "b", agrees=False)]
    path = write_report(runs, comparisons, tmp_path_factory.mktemp("report") / "deep" / "report.html")
    page = Page(path.read_text(encoding="utf-8"))
    page.runs, page.comparisons, page.raw = runs, comparisons, path.read_text(encoding="utf-8")
    return page


def test_nothing_in_it_runs_or_loads_from_elsewhere(page: Page) -> None:
    assert {name for name, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form"} == set()
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in page.raw
    assert "default-src 'none'" in next(a["content"] for a in page.all("meta") if a.get("http-equiv"))


def test_every_name_is_shown_as_it_stands(page: Page) -> None:
    assert page.text.count(HOSTILE) >= 4
    assert "the host <took> 9%" in page.text


def test_nobodys_name_turns_the_writing_round_or_steers_a_terminal(tmp_path: Path) -> None:
    name = "r\u202eung\x1b[31m\x07\u2066\x9b"
    runs, comparisons = [made_up_run(name)], [made_up_comparison(name, "tuned")]
    page = write_report(runs, comparisons, tmp_path / "report.html").read_text(encoding="utf-8")
    shown = ResultSet(runs, comparisons)._repr_html_()
    for text in (page, shown):
        assert r"r\u202eung\x1b[31m\x07\u2066\x9b" in text
        assert all(letter in "\n\t" or unicodedata.category(letter) not in HIDDEN for letter in text)


def test_every_sentence_and_doubt_is_there(page: Page) -> None:
    for comparison in page.comparisons:
        assert comparison.finding in page.text
    assert (
        page.text.split("What was measured")[1].lstrip().startswith("disturbed (1 of 6 results, at worst): ")
    )
    for run in page.runs:
        for reason in run.noise:
            assert reason in page.text
    assert "The weights are random" in page.text
    assert "2026-01-02" in page.text


def test_the_table_tells_the_figures_of_each_run(page: Page) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", page.raw, re.S)[1:]
    cells = [re.findall(r"<td>(.*?)</td>", row, re.S) for row in rows if "<td>" in row]
    plain, hostile, tiny, elsewhere = cells
    run = page.runs[0]
    assert plain[1] == "{:.1f}<small>{:.1f} to {:.1f}</small>".format(run.fps, *run.fps_interval)
    assert plain[2:5] == [f"{run.percentile_ms(50):.1f}", f"{run.percentile_ms(90):.1f}", "-"]
    assert plain[5] == "100.0%"
    assert plain[-1] == ""  # what all runs share is told once, below
    assert hostile[4] == f"{page.runs[1].percentile_ms(99):.1f}"
    assert "noisy" in hostile[-1]
    assert "too few frames" in tiny[1]
    assert tiny[5:7] == ["-", "-"]  # mAP and names, which no run has, have no column
    assert elsewhere[1].startswith(f"{page.runs[3].fps:.1f}")
    assert page.text.count("All of these: closed, random weights.") == 2


def test_what_a_gpu_held_stands_below_the_memory_of_the_process(tmp_path: Path) -> None:
    held = {**made_up_run().settings, "device": "cuda", "gpu_peak_bytes": 1536 * 2**20}
    run = made_up_run("graph_cuda", settings=held)
    text = write_report([run, made_up_run("plain")], [], tmp_path / "a.html").read_text()
    assert text.count("<td>600<small>GPU 1536</small></td>") == 1
    assert text.count("<td>600</td>") == 1
    assert run.to_json()["gpu_peak_mib"] == 1536
    assert made_up_run("plain").to_json()["gpu_peak_mib"] is None


def test_each_plot_is_there_with_words_on_a_card_of_its_own(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 6 + 4  # what was seen elsewhere has pictures of its own
    for image in images:
        assert len(image["alt"] or "") > 40
        svg = base64.b64decode((image["src"] or "").removeprefix("data:image/svg+xml;base64,"))
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert f"fill: {style.PAPER.lower()}" in svg.decode()  # the same on light pages and on dark ones


def test_a_rung_that_loses_is_marked_and_the_mark_is_explained(tmp_path: Path) -> None:
    judged = {"map": 0.836, "map_interval": [0.818, 0.853], "map_loss": 0.014, "top1": 0.9, "n_scenes": 100}
    runs = [
        made_up_run("exact", accuracy={**judged, "map_loss": 0.0, "loses": False}),
        made_up_run("int8_cpu", accuracy={**judged, "loses": True}),
    ]
    text = write_report(runs, [], tmp_path / "a.html").read_text()
    page = Page(text)
    assert '<b class="doubt">0.836!</b><small>0.818 to 0.853</small>' in text
    assert text.count("0.836!") == 1
    assert f"!: {LOSES_WORDS} (int8_cpu 1.4 points of mAP@[.5:.95])." in page.text
    assert "the lab's small models, prepared alike, on 100 drawn scenes." in page.text
    other = made_up_run("int8_cpu", fingerprint=OTHER, accuracy={**judged, "loses": True})
    beside = write_report([*runs, other], [], tmp_path / "b.html").read_text()
    section = beside.split("Machines side by side")[1].split("Runs on A")[0]
    assert section.count(f"{other.fps:.1f}!<small>") == 2
    assert LOSES_WORDS in section


def test_unlike_work_never_stands_in_one_table_or_picture(tmp_path: Path) -> None:
    five, more = ({**made_up_run().settings, "objects": boxes} for boxes in (5, 15))
    here = made_up_run("plain", settings=five)
    clip = made_up_run("plain", settings=five, source={"spec": "clip.mp4"}, period_s=0.05)
    steps = [made_up_comparison("plain", "b", ratio=r, settings=s) for r, s in ((1.3, five), (2.0, more))]
    page = Page(write_report([here, clip], steps, tmp_path / "a.html").read_text())
    for words in (
        "Runs: scenes 640x480, 5 boxes; full models, random weights; closed",
        "Runs: clip.mp4 640x480, 5 boxes; full models, random weights; closed",
        "Gains: scenes 640x480, 5 boxes; full",
        "Gains: scenes 640x480, 15 boxes; full",
    ):
        assert words in page.text.replace("\n", " ")
    throughputs = [image["alt"] for image in page.all("img") if "Throughput in" in (image["alt"] or "")]
    assert [alt.count("plain") for alt in throughputs] == [1, 1]


def test_what_each_further_box_costs_is_drawn_once_there_are_several_numbers(tmp_path: Path) -> None:
    def of(rung: str, objects: int, period_s: float, **other: object) -> Run:
        settings = {**made_up_run().settings, "objects": objects, "preparation": {"task": "combined"}}
        return made_up_run(rung, period_s=period_s, settings=settings, **other)

    runs = [of("one", 5, 0.1), of("one", 15, 0.3), of("two", 5, 0.2), of("one", 5, 0.2, created="2027-01-01")]
    page = Page(write_report(runs, [], tmp_path / "a.html").read_text())
    assert page.text.count("Number of boxes: scenes 640x480; full models, random weights; closed") == 1
    (alt,) = (image["alt"] for image in page.all("img") if "boxes per frame: one" in (image["alt"] or ""))
    assert alt is not None and "two" not in alt
    assert re.search(r"one (199|20\d).* ms at 5, (29\d|30\d).* ms at 15", alt)
    few = Page(write_report(runs[1:3], [], tmp_path / "b.html").read_text())
    assert "Number of boxes" not in few.text


def test_what_names_whole_frames_stands_with_any_number_of_boxes() -> None:
    def of(rung: str, task: str, objects: int) -> Run:
        settings = {**made_up_run().settings, "objects": objects, "preparation": {"task": task}}
        return made_up_run(rung, settings=settings)

    runs = [of("name", "classify", 1), of("find", "detect", 5), of("name", "classify", 1)]
    pair = made_up_comparison("other", "name", settings={**made_up_run().settings, "objects": 1})
    (group,) = groups([*runs, pair])
    assert (group.work.objects, len(group.runs), group.comparisons) == (5, 3, [pair])
    one, more = groups([*runs, of("find", "detect", 15)])
    assert (one.work.objects, more.work.objects) == (5, 15)
    assert [run.rung for run in more.runs] == ["find"]


def test_the_newest_of_each_work_is_kept_and_a_camera_is_one_work() -> None:
    live = [
        made_up_run("a", source={"spec": "webcam:0", "sha256": str(k), "live": True}, created=f"2026-01-0{k}")
        for k in (2, 1)
    ]
    file = made_up_run("a", created="2025-01-01")
    pair, later = (made_up_comparison("a", "b", created=day) for day in ("2025-01-01", "2025-01-02"))
    assert newest([*live, file, later, pair]) == [file, later, live[0]]


def test_the_fingerprint_is_there(page: Page) -> None:
    assert '"os": "Linux 6.1"' in page.text
    assert page.all("html")[0]["lang"] == "en"


def test_a_report_of_comparisons_alone_or_of_runs_alone(tmp_path: Path) -> None:
    alone = write_report([], [made_up_comparison()], tmp_path / "a.html").read_text()
    assert len(Page(alone).all("img")) == 1
    steady = Page(write_report([made_up_run()], [], tmp_path / "b.html").read_text())
    assert "None: latencies were steady" in steady.text


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a run"):
        write_report([], [], tmp_path / "a.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot write"):
        write_report([], [made_up_comparison()], tmp_path / "file" / "a.html")


def test_forecasts_have_a_section_of_their_own(tmp_path: Path) -> None:
    predictions = [
        Prediction("How much?", (), 3.0, {"ratio": 2.0, "ci": [1.9, 2.1]}),
        Prediction(HOSTILE, (), None, {"ratio": 1.0, "ci": [None, None]}),
    ]
    page = Page(write_report([], [made_up_comparison()], tmp_path / "a.html", predictions).read_text())
    assert "0 of 1 predictions" in page.text
    assert "1.50 times too high" in page.text
    assert HOSTILE in page.text
    assert "skipped" in page.text
    images = page.all("img")
    assert len(images) == 2
    assert "How much?" in (images[1]["alt"] or "")
    without = write_report([], [made_up_comparison()], tmp_path / "b.html").read_text()
    assert "Forecasts" not in without


@pytest.mark.browser
def test_a_browser_shows_it(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    runs = [made_up_run(HOSTILE), made_up_run("another rung")]
    path = write_report(runs, [made_up_comparison()], tmp_path / "report.html")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "<script>" not in done.stdout
    assert done.stdout.count("<img") == 6
    picture = tmp_path / "page.png"
    subprocess.run(
        [*command, "--window-size=1100,3000", f"--screenshot={picture}", path.as_uri()],
        capture_output=True,
        timeout=120,
    )
    from PIL import Image

    with Image.open(picture) as shot:
        colours = shot.convert("RGB").getcolors(2**24)
    assert (0, 114, 178) in {colour for _, colour in colours}  # the first data colour: plots are drawn


OTHER = MACHINE | {"cpu": "Other <CPU> 9", "versions": {"torch": "2.1"}}


def test_machines_stand_side_by_side_with_figure_interval_and_what_differs(tmp_path: Path) -> None:
    slow = made_up_run("plain", period_s=0.05, fingerprint=MACHINE | {"versions": {"torch": "2.0"}})
    fast = made_up_run("plain", period_s=0.0125, agreement=0.5, fingerprint=OTHER)
    alone = made_up_run("elsewhere", fingerprint=OTHER)
    page = Page(write_report([slow, fast, alone], [], tmp_path / "a.html").read_text())
    section = page.text.split("Machines side by side")[1].split("Runs on A")[0]
    for run in (slow, fast):
        assert f"{run.fps:.1f}" in section
        assert "{:.1f} to {:.1f}".format(*run.fps_interval) in section
    assert "agrees 100%" in section
    assert "agrees 50%" in section
    assert "A: Example CPU 3000, 8 cores" in section
    assert "differs from A in cpu: Example CPU 3000 / Other <CPU> 9; torch: 2.0 / 2.1" in section
    assert "elsewhere" not in section  # nothing to compare it with
    assert "elsewhere" in page.text.split("Runs on B")[1]
    assert len(page.all("table")) == 3


def test_like_runs_stand_as_their_median_and_unlike_ones_never() -> None:
    mark = MACHINE | {"versions": {"torch": "2.0"}}
    like = [made_up_run("plain", period_s=period_s, fingerprint=mark) for period_s in (0.01, 0.04, 0.02)]
    unlike = made_up_run("plain", period_s=0.5, fingerprint=MACHINE | {"versions": {"torch": "2.1"}})
    there = machines([*like, unlike])
    assert [machine.has(unlike) for machine in there].count(True) == 1
    assert [(machine.letter, len(machine.runs)) for machine in there] == [("A", 3), ("B", 1)]
    ((work, cells),) = side_by_side(there)
    assert work.rung == "plain"
    assert (cells["A"].n, cells["A"].fps) == (3, like[2].fps)
    assert cells["A"].interval == (like[1].fps_interval[0], like[0].fps_interval[1])
    assert (cells["B"].n, cells["B"].fps, cells["B"].interval) == (1, unlike.fps, unlike.fps_interval)
    assert figure([made_up_run(n=3)]).interval is None


@pytest.mark.parametrize(
    "other",
    [
        {"rung": "other"},
        {"scenario": "paced"},
        {"quick": True},
        {"source": {"spec": "scenes", "sha256": "cd" * 32}},
        {"settings": {"size": [320, 240]}},
        {"settings": {"objects": 7}},
        {"settings": {"weights": "pretrained"}},
        {"settings": {"weights_sha256": {"resnet18": "ee"}}},
        {"settings": {"model_set": "lab"}},
        {"settings": {"paced_fps": 5}},
    ],
    ids=str,
)
def test_only_the_same_work_stands_in_one_row(other: dict) -> None:
    here = made_up_run("plain")
    settings = {"settings": dict(here.settings) | other.get("settings", {})}
    there = made_up_run(**({"rung": "plain", "fingerprint": OTHER} | other | settings))
    assert side_by_side(machines([here, there])) == []
    same = made_up_run("plain", fingerprint=OTHER)
    assert len(side_by_side(machines([here, same]))) == 1


def test_older_runs_count_side_by_side_and_old_machines_are_left_out(tmp_path: Path) -> None:
    marks = [MACHINE | {"cores": cores, "cpu": f"CPU {cores}"} for cores in range(1, 10)]
    runs = [made_up_run(fingerprint=m, created=f"2026-01-0{m['cores']}") for m in marks]
    page = Page(write_report(runs[-1:], [], tmp_path / "a.html", others=runs).read_text())
    assert "3 older ones are left out" in page.text
    assert "CPU 3" not in page.text
    assert all(f"CPU {cores}" in page.text for cores in range(4, 10))
    assert page.text.count("Runs on") == 1  # only what was asked for is shown in full


def test_the_command_reads_exports_and_the_own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.cli.main import main

    for name, mark in (("one", MACHINE), ("two", OTHER)):
        with Store(tmp_path / f"{name}.sqlite") as lab:
            lab.add(made_up_run("plain", fingerprint=mark))
            lab.export(tmp_path / "exports" / name)
    own = MACHINE | {"cpu": "Own CPU"}
    with Store(default_path()) as lab:
        lab.add(made_up_run("plain", fingerprint=own))

    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["report", *map(str, arguments), "--out", str(tmp_path / "page.html")])
        assert end.value.code == 0
        return (tmp_path / "page.html").read_text()

    both = told(tmp_path / "exports")
    assert "Example CPU" in both and "Other &lt;CPU&gt;" in both and "Own CPU" not in both
    assert "Own CPU" in told(tmp_path / "exports" / "one", "--own")
    assert "Machines side by side" not in told()
    assert main(["report", str(tmp_path / "page.html")]) == 2
    assert main(["report", str(tmp_path / "nowhere")]) == 7


def test_the_share_of_the_limit_is_told_where_there_is_one():
    run = made_up_run("a")
    assert f"{run.share_of_limit:.1%}" in [cell.text for cell in _cells(run, [])]
    assert [cell.text for cell in _cells(made_up_run("a", limit={}), [])].count("-") >= 1


def test_what_all_rows_share_is_told_once_above_them():
    runs = [made_up_run("a"), made_up_run("b")]
    assert "All of these: closed, random weights." in str(runs_table(runs))
    assert "All of these" not in str(runs_table([runs[0], made_up_run("b", scenario="paced", settings={})]))
