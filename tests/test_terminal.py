"""What a terminal, a pipe or a spreadsheet is given: nothing that steers it, nothing cut."""

import ast
import contextlib
import csv
import html
import io
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_made_up import made_up_comparison, made_up_run
from rich.console import Console
from rich.table import Table

import labkit
from labkit.bench.doctor import Check, lines
from labkit.bench.progress import OPTIONAL, ProgressBar, err, print_lines, print_table, rows_table, runs_table
from labkit.cli import main as cli
from labkit.core.errors import LabError, LoopError, ResultsError, SourceError, UsageError
from labkit.core.shown import Sentence, Sentences
from labkit.core.terminal import HIDDEN, printable
from labkit.lessons.exercise import CheckResult
from labkit.results.exports import export
from labkit.results.result_set import ResultSet
from labkit.results.store import Store
from labkit.sources.openers import open_source

HOSTILE = "\x1b]0;owned\x07\x1b[2Jcamera\u202etxt\x9b31m"


def shown_on(width, terminal=True, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, **options)
    return console, console.file


@given(st.text())
def test_no_control_character_is_left(text):
    import unicodedata

    kinds = {unicodedata.category(c) for c in printable(text) if c not in "\n\t"}
    assert not kinds & HIDDEN


def test_progress_and_errors_stay_out_of_what_is_piped_on():
    assert err.stderr


def test_cells_are_short_floats_words_and_dashes():
    cells = rows_table("abcde", [(0.123456, None, True, np.False_, 7)]).columns
    assert [next(iter(cell.cells)) for cell in cells] == ["0.12", "-", "yes", "", "7"]


def test_foreign_text_steers_no_terminal():
    console, written = shown_on(80)
    print_lines([HOSTILE], console=console)
    assert "\x1b" not in written.getvalue() and "\\x1b]0;owned\\x07" in written.getvalue()
    console, written = shown_on(80)
    print_table(runs_table([made_up_run(HOSTILE)]), OPTIONAL, console)
    assert not {"\x1b", "\x9b", "\u202e"} & set(written.getvalue())


def test_everything_printed_goes_one_way():
    """Text is printed by `print_text` or `print_lines`, which hide what steers, or is JSON in ASCII."""
    own = {"terminal.py", "progress.py", "busy_machine.py", "download.py"}  # the last: messages to a parent
    printing = re.compile(
        r"print\((?!json\.dumps)|typer\.echo\(|.*\bstd(out|err)\.write\(|.*console\.print\("
    )
    found = [
        f"{path.name}: {called}"
        for path in Path(labkit.__file__).parent.rglob("*.py")
        if path.name not in own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and printing.match(called := ast.unparse(node))
    ]
    assert found == []


@pytest.fixture
def hostile_export(tmp_path, monkeypatch):
    """The export of a colleague whose names, machine, source and disturbances would steer a terminal."""
    with Store(tmp_path / "theirs" / "lab.sqlite") as lab:
        facts = {"cpu": HOSTILE, "cores": 2, "gpu": {"name": HOSTILE}, "commit": HOSTILE}
        settings = {"device": "cpu", "weights": HOSTILE, "model_set": HOSTILE, "size": [640, 480]}
        for place in range(2):
            lab.add(
                made_up_run(
                    HOSTILE, n=2000, seed=place, fingerprint=facts, settings=settings,
                    source={"spec": HOSTILE}, disturbances=(HOSTILE,),
                )
            )  # fmt: skip
        lab.add(made_up_comparison(HOSTILE, "b" + HOSTILE, disturbances=(HOSTILE,)))
        lab.export(tmp_path / "export")
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "ours"))
    return tmp_path / "export"


def test_nothing_of_an_export_steers_a_terminal(hostile_export, tmp_path, capfd):
    odd = tmp_path / "out\x1b[2J"
    commands = [
        ["results", "add", str(hostile_export)], ["results"], ["results", "show", "1"],
        ["results", "history", HOSTILE], ["report", str(hostile_export)], ["report", "--out", f"{odd}.html"],
        ["results", "export", str(odd)], ["results", "export", "/dev/null/\x1b[2J"],
        ["results", "show", "99"], ["bench", HOSTILE], ["bench", "--source", HOSTILE],
        ["report", str(odd / "gone")], ["results", "delete", HOSTILE], ["compare", HOSTILE, "\x1b[31m"],
    ]  # fmt: skip
    shown = ""
    for command in commands:
        with contextlib.suppress(SystemExit):
            cli.main(command)
        found = capfd.readouterr()
        shown += found.out + found.err
    assert "owned" in shown
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(shown)
    assert not {"\x1b", "\x9b"} & set((odd / "runs.csv").read_text(encoding="utf-8"))


def test_nothing_of_a_camera_steers_a_terminal():
    """Its status, its kind of content and its page end up in the error."""
    answer = f"HTTP/1.1 200 {HOSTILE}\r\nContent-Type: text/{HOSTILE}\r\nServer: {HOSTILE}\r\n\r\n{HOSTILE}"

    def serve(listening):
        with contextlib.suppress(OSError):
            while True:
                connection = listening.accept()[0]
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer.encode())

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/video"
        with pytest.raises(LabError) as caught:
            open_source(address, open_timeout_s=3.0)
    assert not {"\x1b", "\x9b", "\u202e"} & set(str(caught.value))


@pytest.mark.parametrize("kind", [LabError, SourceError, ResultsError, UsageError])
def test_an_error_steers_no_terminal_wherever_it_is_shown(kind):
    error = kind(f"cannot open {HOSTILE}")
    assert "\x1b" not in str(error) + "".join(error._render_traceback_())
    assert str(error) == str(kind(str(error)))
    loop = LoopError(HOSTILE, (("a.py", 1, HOSTILE),), f"ValueError: {HOSTILE}")
    assert "\x1b" not in str(loop)


def test_progress_and_tables_steer_no_terminal():
    console, written = shown_on(80)
    with ProgressBar(console) as screen:
        screen.step(HOSTILE)
        screen.note(HOSTILE)
        screen.finished(made_up_run(HOSTILE))
        console.print(screen._progress.get_renderable())
    table = Table("name")
    table.add_row(HOSTILE)
    print_table(table, (), console)
    assert "owned" in written.getvalue() and not {"\x07", "\x9b", "\u202e"} & set(written.getvalue())
    assert "\x1b]0" not in written.getvalue() and "\x1b[2Jcamera" not in written.getvalue()
    assert "\x1b" not in str(ResultSet([made_up_run(HOSTILE)], [made_up_comparison(b=HOSTILE)]))


def test_lines_for_a_pipe_are_whole():
    path = "/a/folder/" + "long/" * 30 + "report.html"
    console, written = shown_on(80, terminal=False)
    print_lines([f"report: {path}"], console=console)
    assert written.getvalue() == f"report: {path}\n"
    console, written = shown_on(40, terminal=False)
    print_table(runs_table([made_up_run("a_rung_of_a_long_name" * 4)]), OPTIONAL, console)
    assert "a_rung_of_a_long_name" * 4 in written.getvalue() and "limit" in written.getvalue()


def test_a_path_that_the_doctor_names_is_broken_nowhere():
    check = Check(
        "disk", "good", "63 GiB free for results in /home/somebody/my-lab-of-webcams/results", "/a-path " * 20
    )
    assert "/home/somebody/my-lab-of-webcams/results" in "\n".join(line for line, _ in lines([check], 70))
    assert sum(line.count("/a-path") for line, _ in lines([check], 70)) == 20


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80])
def test_a_narrow_terminal_loses_columns_and_no_figure(width):
    console, written = shown_on(width)
    run = made_up_run("peer_onnxruntime_fp32", n=2000, accuracy={"map": 0.85, "top1": 0.9})
    print_table(runs_table([run]), OPTIONAL, console)
    heading, figures = written.getvalue().splitlines()
    assert len(figures.rstrip()) <= width
    assert "FPS" in heading and "peer_onnxruntime_fp32" in figures and "…" not in figures
    assert ("limit" in heading) == (width >= 80)


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 70, 80])
def test_no_cell_is_cut_and_what_belongs_together_goes_together(width):
    console, written = shown_on(width)
    columns = ("rung", "when", "low", "high")
    rows = [("baseline_combined_cuda", "2026-11-28 22:43", 123.4, 567.8)]
    print_table(rows_table(columns, rows), ("when", ("low", "high")), console)
    shown = written.getvalue()
    assert "baseline_combined_cuda" in shown and "…" not in shown
    assert ("low" in shown, "123" in shown) == ("high" in shown, "568" in shown) == (width >= 40,) * 2


@pytest.mark.parametrize("width", [40, 60, 79])
def test_the_doctor_keeps_to_the_width(width):
    check = Check("weights", "missing", "none of detr_r50, resnet18 " * 3, "labkit weights --fetch " * 5)
    assert all(len(line) <= width for line, _ in lines([check], width))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_console_encoding_takes_every_text(encoding):
    code = (
        "import sys; from labkit.cli import main as cli; from labkit.core.errors import LabError\n"
        "def broken(*_): print('\\u2192 \\u65e5\\udce9'); raise LabError('caf\\xe9 \\u2192 \\udce9')\n"
        "cli._add_commands(); cli.app = broken; sys.exit(cli.main())"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"labkit: caf") and b"Error" not in done.stderr


def test_no_cell_of_a_csv_begins_a_formula(tmp_path):
    with Store(tmp_path / "lab.sqlite") as lab:
        lab.add(made_up_run('=cmd|"/c calc"!A1', n=3))
        lab.add(made_up_run("@SUM(1)", n=3))
        export(lab.runs(), [], tmp_path / "out")
        for name in FORMULAS:
            lab.add(made_up_run(name, n=3, spans_s={name: np.ones(3)}))
        export(lab.runs(), [], tmp_path / "out")
    for name in ("runs.csv", "samples.csv"):
        with (tmp_path / "out" / name).open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert name == "samples.csv" or sum(cell.startswith("'") for cell in cells) >= len(FORMULAS)
        assert not [
            c for c in cells if c.strip()[:1] in tuple("=+@＝＋－＠") or c.startswith(("\t", "\r", "\n"))
        ]
        assert not [c for c in cells if c.strip().startswith("-") and not is_number(c)]


FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "＋1", "－1", "＠1")


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


COUNTING = """
import atexit, socket
asked = []
def no_host(host, *_, **__):
    asked.append(str(host)); raise socket.gaierror("counted")
socket.getaddrinfo = socket.gethostbyname = no_host
atexit.register(lambda: print("asked for", asked, flush=True))
"""
CONVERT = (
    COUNTING
    + """
import labkit.models.engines.openvino as engine, nncf, numpy as np, torch
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
model = engine.ov.convert_model(net, example_input=torch.zeros(1, 3, 16, 16))
nncf.quantize(model, nncf.Dataset([np.zeros((1, 3, 16, 16), np.float32)]), subset_size=1)
"""
)


def test_nothing_phones_home(tmp_path):
    pytest.importorskip("nncf")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI")
    }
    environment |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CONVERT], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "asked for []"
    assert [
        path for path in Path(tmp_path).rglob("*") if "openvino" in path.name or "intel" in path.name
    ] == []


def test_a_notebook_shows_a_sentence_as_text_that_breaks_between_words():
    from IPython.core.formatters import DisplayFormatter

    comparison = made_up_comparison()
    for shown, text in [
        (Sentence(f"a < b {HOSTILE}"), printable(f"a < b {HOSTILE}")),
        (Sentences(["one", "two"]), "one\ntwo"),
        (CheckResult(False, "it is <b>"), "Not yet: it is <b>"),
        (comparison, comparison.sentence),
    ]:
        data, _ = DisplayFormatter().format(shown)
        assert data["text/plain"] == text == repr(shown)
        paragraphs = re.findall("<p[^>]*>(.*?)</p>", data["text/html"])
        assert "\n".join(map(html.unescape, paragraphs)) == text and "<b>" not in data["text/html"]
