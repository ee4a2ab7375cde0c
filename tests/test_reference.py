"""The README's figures are those of the recorded runs, word for word."""

import json
import re
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from labkit.bench.progress import _cells
from labkit.core.errors import UsageError
from labkit.filters.filter_benchmark import FilterTimes, VersionTimes
from labkit.pipelines.ladder import rung
from labkit.profiling.operators import KINDS, Kind, Operators
from labkit.results.ablation import AblationRow, Estimate, to_csv
from labkit.results.exports import load_export
from labkit.results.plots.labels import LOSES_WORDS
from labkit.results.plots.save import overview
from labkit.results.plots.tradeoffs import speed_accuracy
from labkit.results.readme import BASELINE, BEGIN, END, block, highlights, insert, main, record
from labkit.results.store import Store

from records_made_up import made_up_comparison, made_up_run  # isort: skip

ROOT = Path(__file__).parents[1]
RECORDED = sorted(p for p in (ROOT / "results" / "reference").glob("*") if (p / "runs.parquet").is_file())


@pytest.mark.skipif(not RECORDED, reason="no recorded runs yet")
def test_the_readme_says_what_was_recorded():
    readme = (ROOT / "README.md").read_text()
    page = (ROOT / "results" / "reference" / "README.md").read_text()
    (folder,) = [folder for folder in RECORDED if record(folder) == page]
    assert insert(readme, highlights(folder)) == readme
    assert len(readme.splitlines()) <= 120


@pytest.mark.parametrize("folder", RECORDED, ids=lambda f: f.name)
def test_what_was_recorded_names_no_folder_of_the_machine(folder):
    for each in (folder, *(path.parent for path in folder.glob("*/fingerprint.json"))):
        export = load_export(each)
        assert all("/" not in kept.source["spec"] for kept in (*export.runs, *export.comparisons))


@pytest.mark.parametrize("folder", [f for f in RECORDED if list(f.glob("*.svg"))], ids=lambda f: f.name)
def test_the_recorded_pictures_say_what_was_recorded(folder):
    export = load_export(folder)
    charts = dict(overview(export.runs, export.comparisons))
    assert (
        set(charts) == {path.stem for path in folder.glob("*.svg")} == {p.stem for p in folder.glob("*.png")}
    )
    if (folder / "int8").is_dir():
        runs = [run for run in load_export(folder / "int8").runs if run.rung != BASELINE]
        charts["int8/speed_accuracy"] = speed_accuracy(runs)
    for name, chart in charts.items():
        drawn = (folder / f"{name}.svg").read_text()
        assert f'<desc id="desc">{escape(chart.alt_text)}</desc>' in drawn, f"{name} is of other rows"


def test_a_rung_that_loses_is_marked_as_in_the_terminal(tmp_path):
    judged = {"map": 0.836, "map_interval": [0.818, 0.853], "map_50": 0.994, "top1": 0.998}
    runs = [
        made_up_run("exact", accuracy={**judged, "map_loss": 0.0, "loses": False}),
        made_up_run("int8", accuracy={**judged, "map_loss": 0.0144, "loses": True}, spread=0.3),
    ]
    with Store(tmp_path / "lab.sqlite") as store:
        for run in runs:
            store.add(run)
        store.export(tmp_path / "out")
    lines = block(tmp_path / "out").splitlines()
    heads, exact, int8 = (
        [cell.strip() for cell in line.split("|")] for line in (lines[2], lines[4], lines[5])
    )
    assert heads[6] == "mAP@[.5:.95]"
    interval = "(0.818&nbsp;to&nbsp;0.853)"
    assert (exact[6], int8[6]) == (f"0.836 {interval}", f"0.836! {interval}")
    assert (exact[7], int8[7]) == ("99.8%", "99.8%")
    assert int8[2].endswith("~") and not exact[2].endswith("~")
    assert lines[7] == f"~: noisy, so doubt it. !: {LOSES_WORDS} (int8 1.4 points of mAP@[.5:.95])."
    terminal = " ".join(_cells(runs[1]))
    assert "!" in terminal and "!" not in " ".join(_cells(runs[0]))


def test_what_lies_beside_the_runs_is_told_in_folded_lists(tmp_path):
    with Store(tmp_path / "lab.sqlite") as store:
        store.add(made_up_run())
        store.export(tmp_path / "a machine")
    kinds = tuple(
        Kind(name, 1, 10.0, work) for name, work in zip(KINDS, (8.0, 6.0, 4.0, 1.0, 0.0), strict=True)
    )
    found = [Operators("detr_engine_bf16", "bf16", kinds, 41.0, 1000.0).to_json()]
    (tmp_path / "a machine" / "operators.json").write_text(json.dumps(found))
    racers = {"reference": 0.05, "opencv": 0.008, "ximgproc": 0.006, "numba": 0.002}
    entries = tuple(
        VersionTimes(name, (s, 1.5 * s) * 5, 1 + (name == "ximgproc")) for name, s in racers.items()
    )
    (tmp_path / "a machine" / "filters.json").write_text(
        json.dumps({**FilterTimes((640, 480), 4, 0.01, entries).to_json(), "fingerprint": {}})
    )
    fleets = [{"streams": 1, "fps": 9.6, "single_fps": 10.0, "share_of_single": 0.96}]
    told = {"rung": "grouped_bf16_cpu", "fleets": fleets, "overhead_ms": 2.5, "recovery_s": 7.0}
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "figures.json").write_text(json.dumps(told))
    rows = [
        {"every": k, "detected": 1 / k, "fps": {"value": 9.0 * k}, "map": None,
         "times": {"value": k, "low": 3.5, "high": 4.5}, "lost": {"value": 0.01, "low": 0.004, "high": 0.016}}
        for k in (1, 4)
    ]  # fmt: skip
    tracked = {"rung": "tracked", "shots": 16, "frames": 32, "workload": {"model_set": "full"}, "rows": rows}
    for place in ("accuracy", "a machine"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "tracking.json").write_text(json.dumps(tracked))
    with Store(tmp_path / "small.sqlite") as store:
        store.add(made_up_run("detr_opencv_cpu", period_s=0.02))
        store.export(tmp_path / "a machine" / "lab")
    text = block(tmp_path / "a machine")
    assert re.search(r"- detr_opencv_cpu on frames of 640x480: (19\.\d|20|20\.\d) ms per frame \(p50\)", text)
    assert "- 8% of the time is lost in convolutions 1x1" in text
    assert "- 1 stream of grouped_bf16_cpu through Ray: 9.60 frames per second together, 96% of" in text
    assert "radius 4: OpenCV's box filters put together take 10.00 ms (median of 10 rounds" in text
    assert "- numba: 2.50 ms, 4.00 times as fast (3.78 to 4.23), within 1 grey level of float64." in text
    assert (
        "- ximgproc: 7.50 ms, 1.33 times as fast (1.26 to 1.41), within 2 grey levels of float64 away from"
        in text
    )
    assert "- reference: 62.50 ms, 0.16 times as fast (0.15 to 0.17)." in text
    assert "- tracked on 16 moving scenes, a detection due every 4 frames and made on 25% of them" in text
    assert ": 1.0, 0.4 to 1.6 points of mAP@[.5:.95] lost against one on every frame." in text
    assert (
        "every 4 frames: 36.0 FPS on average" in text and "4.000 (3.500 to 4.500) times one on every" in text
    )
    assert "every 1 frames" not in text
    assert text.count("<details>") == text.count("</details>") == 5
    assert "The live view" not in text


def test_the_command_draws_and_says_what_is_wrong(tmp_path, capsys):
    with Store(tmp_path / "lab.sqlite") as store:
        store.add(made_up_run("folded_cpu"))
        store.export(tmp_path / "out")
    readme = tmp_path / "start.md"
    readme.write_text(f"a {BEGIN} {END} b")
    assert main([str(tmp_path / "out"), str(readme)]) == 0
    assert "| `folded_cpu` |" in readme.read_text()
    assert "| `folded_cpu` |" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "out" / "throughput.svg").is_file()
    assert main([str(tmp_path / "nowhere")]) == 7
    assert main([str(tmp_path / "out"), str(tmp_path / "none.md")]) == 7
    assert main([]) == 2
    told = capsys.readouterr().err
    assert "usage:" in told and "Traceback" not in told


def test_a_block_names_machine_workload_and_every_rung(tmp_path):
    with Store(tmp_path / "lab.sqlite") as store:
        store.add(replace(made_up_run(), created="2026-03-01T10:20:30"))
        store.add(made_up_comparison())
        store.export(tmp_path / "out")
    text = block(tmp_path / "out")
    assert f"Recorded on {made_up_run().machine}, 2026-03-01, labkit " in text
    assert f"| `{made_up_run().rung}` |" in text


def test_other_numbers_of_boxes_and_the_cost_of_spans_are_told(tmp_path):
    one = made_up_comparison()
    more = replace(one, settings={**one.settings, "objects": 15, "baseline": one.a})
    with Store(tmp_path / "lab.sqlite") as store:
        store.add(made_up_run())
        store.export(tmp_path / "out")
    with Store(tmp_path / "more.sqlite") as store:
        store.add(more)
        store.export(tmp_path / "out" / "15-boxes")
    live = {
        "rung": "cpu_engine_bf16", "model_set": "full", "display_fps": 29.97, "interval_p99_ms": 38.4,
        "slowdown": 0.01, "slowdown_per_round": [-0.02, 0.03], "rounds": 2, "stops": 100,
        "result_age_in_detections": 1.01, "stop_p99_ms": 120.3,
    }  # fmt: skip
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "figures.json").write_text(json.dumps(live))
    (tmp_path / "out" / "span_cost.json").write_text('{"sentence": "Spans cost little."}')
    lines = block(tmp_path / "out").splitlines()
    assert "- Spans cost little." in lines
    (view,) = (line for line in lines if line.startswith("- cpu_engine_bf16 with the full models: 30.0 pic"))
    assert "slowed by 1.0% (-2.0 to 3.0 over 2 rounds)" in view
    head = "<details><summary>Interleaved comparisons, 15 boxes per frame</summary>"
    assert lines[lines.index(head) + 2] == f"- {more.finding}"


def test_rungs_fed_as_a_camera_does_stand_in_a_table_of_their_own(tmp_path):
    with Store(tmp_path / "lab.sqlite") as store:
        store.add(made_up_run("folded_cpu", period_s=0.02))
        store.export(tmp_path / "out")
        paced = made_up_run("folded_cpu", period_s=0.03, scenario="paced", offered=160, dropped=40)
        store.add(replace(paced, settings={**paced.settings, "paced_fps": 30.0, "cpu_s": 6.0}))
        store.export(tmp_path / "out" / "paced")
    text = block(tmp_path / "out")
    heads, closed, fed = (line.split(" | ") for line in text.splitlines() if line.count(" | ") == 7)
    assert [heads[k] for k in (1, 5, 7)] == ["fed", "times closed", "CPU ms per frame |"]
    assert (closed[1], fed[1]) == ("closed", "30 FPS")
    assert float(fed[5]) == pytest.approx(1.5, rel=0.02)
    assert (fed[6], fed[7]) == ("25%", "50.0 |")
    assert "The full models on frames of 640x480." in text
    assert "Energy per frame is not measurable here" in text


def rows_of(text, title):
    """The cells of the rows of a table that opens on a click, without its heads."""
    table = text.partition(f"<summary>{title}</summary>")[2].partition("</details>")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def exported(folder, records):
    with Store(folder.with_suffix(".sqlite")) as store:
        for each in records:
            store.add(each)
        store.export(folder)


def test_ways_to_quantise_stand_beside_what_they_gain_and_lose(tmp_path):
    exported(tmp_path / "out", [made_up_run()])
    names = ("baseline_combined_cpu", "cpu_engine_int8", "cpu_engine_int8_smooth")
    gains = [made_up_comparison(names[0], name, ratio=6.0) for name in names[1:]]
    exported(tmp_path / "out" / "int8", [*map(made_up_run, names), *gains])
    lost = [
        AblationRow(
            name, "about", 0.0, 300, *[Estimate(0.8)] * 3, Estimate(0.0), Estimate(0.021, 0.012, 0.03)
        )
        for name in names[1:]
    ]
    (tmp_path / "accuracy").mkdir()
    (tmp_path / "accuracy" / "int8.csv").write_text(to_csv(lost))
    text = block(tmp_path / "out")
    rows = rows_of(text, "8 bits, and ways to keep the accuracy")
    assert [row[0] for row in rows] == ["`cpu_engine_int8`", "`cpu_engine_int8_smooth`"]
    assert re.match(r"(5\.9|6\.0)\d \(", rows[1][2])
    assert rows[1][3:] == ["2.1, 1.2 to 3.0", rung("cpu_engine_int8_smooth").about]
    assert "Lost against float32 on 300 drawn scenes" in text
    assert main([str(tmp_path / "out")]) == 0
    drawn = (tmp_path / "out" / "int8" / "speed_accuracy.svg").read_text()
    assert "cpu_engine_int8_smooth" in drawn and "baseline" not in drawn


def test_the_best_direct_script_of_each_precision_is_told(tmp_path):
    exported(tmp_path / "out", [made_up_run()])
    ratios = {"openvino_fp32": 1.01, "compiled_fp32": 0.9, "openvino_bf16": 0.8, "compiled_bf16": 1.2}
    scripts = [
        made_up_comparison(f"cpu_engine_{name[-4:]}", name, ratio=ratio, agrees=name != "compiled_bf16")
        for name, ratio in ratios.items()
    ]
    exported(tmp_path / "out" / "peers", scripts)
    text = block(tmp_path / "out")
    rows = {row[1].strip("`"): row for row in rows_of(text, "The best direct script at each precision")}
    assert {name: row[3] for name, row in rows.items()} == {
        "openvino_fp32": "yes", "compiled_fp32": "", "openvino_bf16": "", "compiled_bf16": "yes"
    }  # fmt: skip
    assert rows["openvino_bf16"][0] == "`cpu_engine_bf16`"
    assert re.match(r"1\.2\d! \(", rows["compiled_bf16"][2])
    assert [line for line in text.splitlines() if line.startswith(("- openvino", "- compiled"))] == [
        f"- {scripts[0].finding}", f"- {scripts[3].finding}"
    ]  # fmt: skip


def test_detectors_stand_side_by_side_in_each_precision(tmp_path):
    exported(tmp_path / "out", [made_up_run()])
    records = []
    for k, name in enumerate(("detr_r50", "d_fine_s")):
        settings = {**made_up_run().settings, "detector": name}
        records += [
            made_up_run(rung, period_s=period_s, settings=settings)
            for rung, period_s in (("detr_opencv_cpu", 0.2), ("detr_engine_bf16", 0.05))
        ]
        gain = made_up_comparison("detr_opencv_cpu", "detr_engine_bf16", ratio=3.0 + k, settings=settings)
        records.append(replace(gain, agrees=not k))
        records.append(replace(gain, a="detr_engine_fp32", a_s=9 * gain.a_s))  # a step, not the gain
    records.append(made_up_run("detr_opencv_cpu", settings={**made_up_run().settings, "detector": "alone"}))
    exported(tmp_path / "out" / "detectors", records)
    first, second, third = rows_of(block(tmp_path / "out"), "Other detectors")
    assert [first[0], first[1], second[0]] == ["`detr_r50`", "10.0", "`d_fine_s`"]
    assert float(first[2]) == pytest.approx(5.0, rel=0.05)
    assert re.match(r"(19|20)\.\d, [23]\.\d\d \(", first[3])
    assert re.match(r"(19|20)\.\d, [34]\.\d\d! \(", second[3])
    assert (third[0], third[3]) == ("`alone`", "-")


def test_the_short_table_tells_of_detectors_alone_in_bfloat16(tmp_path):
    exported(tmp_path / "out", [made_up_run("baseline_combined_cpu")])
    assert "alone" not in highlights(tmp_path / "out")
    settings = {**made_up_run().settings, "detector": "d_fine_s"}
    runs = [made_up_run(rung, settings=settings) for rung in ("detr_engine_fp32", "detr_engine_bf16")]
    exported(tmp_path / "out" / "detectors", runs)
    (told,) = re.findall(r"Detectors alone in the bfloat16 engine: (.*?)\. All", highlights(tmp_path / "out"))
    assert re.fullmatch(r"`d_fine_s` 33\.\d FPS", told)


def test_the_same_climb_elsewhere_stands_beside_it(tmp_path):
    def record(folder, cpu, ratio, **other):
        machine = {"cpu": cpu, "cores": 2}
        with Store(tmp_path / f"{folder}.sqlite") as store:
            for rung in ("baseline_combined_cpu", "folded_cpu"):
                store.add(made_up_run(rung, fingerprint=machine, **other))
            step = made_up_comparison("baseline_combined_cpu", "folded_cpu", ratio=ratio, fingerprint=machine)
            store.add(step)
            store.export(tmp_path / folder)

    record("here", "Here 1", 2.0)
    assert "on another machine" not in block(tmp_path / "here")
    record("there", "There 2", 3.0)
    record("clip", "Here 1", 9.0, source={"spec": "clip.mp4", "sha256": "cd" * 32})
    fleets = [{"streams": 8, "fps": 9.0, "single_fps": 10.0, "share_of_single": 0.9,
               "share_interval": [0.88, 0.931], "rounds_fps": [[9.0, 10.0]] * 9,
               "cores_used": {"engines": 1.8, "readers": 0.05, "Ray itself": 0.07}}]  # fmt: skip
    told = {"rung": "grouped_bf16_cpu", "fleets": fleets, "overhead_ms": 2.5, "recovery_s": 7.0}
    (tmp_path / "there" / "fleet.json").write_text(json.dumps({**told, "fingerprint": {"cores": 2}}))
    text = block(tmp_path / "here")
    assert "| rung | Here 1, 2 cores | of peak | There 2, 2 cores | of peak |" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| `folded_cpu` | 2.0"))
    assert re.match(r"\| `folded_cpu` \| 2\.\d\d \(\S+\) \| \d+% \| [23]\.\d\d \(\S+\) \| \d+% \|$", row)
    assert "90% (88 to 93%, 9 rounds) of the 10.00 that one process" in text
    assert "8 streams use 0.12 of 2 cores (Ray itself 0.07, readers 0.05)" in text
    assert text.count("<details>") == text.count("</details>")


def test_text_goes_between_the_marks_only():
    assert insert(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\nnew\n{END} b"
    with pytest.raises(UsageError, match="no <!-- recorded"):
        insert("no marks", "new")
