"""What a terminal, a pipe or a spreadsheet is given: nothing that steers it, nothing cut."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_made_up import made_up_run
from rich.console import Console

from labkit.bench.progress import OPTIONAL, print_lines, print_table, runs_table
from labkit.core.terminal import HIDDEN, printable
from labkit.results.exports import export
from labkit.results.store import Store

HOSTILE = "\x1b]0;owned\x07\x1b[2Jcamera\u202etxt\x9b31m"


def shown_on(width, terminal=True, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, **options)
    return console, console.file


@given(st.text())
def test_no_control_character_is_left(text):
    import unicodedata

    kinds = {unicodedata.category(c) for c in printable(text) if c not in "\n\t"}
    assert not kinds & HIDDEN


def test_foreign_text_steers_no_terminal():
    console, written = shown_on(80)
    print_lines([HOSTILE], console=console)
    assert "\x1b" not in written.getvalue() and "\\x1b]0;owned\\x07" in written.getvalue()
    console, written = shown_on(80)
    print_table(runs_table([made_up_run(HOSTILE)]), OPTIONAL, console)
    assert not {"\x1b", "\x9b", "\u202e"} & set(written.getvalue())


def test_lines_for_a_pipe_are_whole():
    path = "/a/folder/" + "long/" * 30 + "report.html"
    console, written = shown_on(80, terminal=False)
    print_lines([f"report: {path}"], console=console)
    assert written.getvalue() == f"report: {path}\n"
    console, written = shown_on(40, terminal=False)
    print_table(runs_table([made_up_run("a_rung_of_a_long_name" * 4)]), OPTIONAL, console)
    assert "a_rung_of_a_long_name" * 4 in written.getvalue() and "limit" in written.getvalue()


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80])
def test_a_narrow_terminal_loses_columns_and_no_figure(width):
    console, written = shown_on(width)
    run = made_up_run("peer_onnxruntime_fp32", n=2000, accuracy={"map": 0.85, "top1": 0.9})
    print_table(runs_table([run]), OPTIONAL, console)
    heading, figures = written.getvalue().splitlines()
    assert len(figures.rstrip()) <= width
    assert "FPS" in heading and "peer_onnxruntime_fp32" in figures and "…" not in figures
    assert ("limit" in heading) == (width >= 80)


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
        lab.add_run(made_up_run('=cmd|"/c calc"!A1', n=3))
        lab.add_run(made_up_run("@SUM(1)", n=3))
        export(lab.runs(), [], tmp_path / "out")
    text = (tmp_path / "out" / "runs.csv").read_text(encoding="utf-8")
    assert "'=cmd" in text and "'@SUM" in text and ",=" not in text and ',"=' not in text


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
