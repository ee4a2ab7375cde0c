"""The command line as a user meets it: output, exit codes, one sentence per error."""

import importlib
import importlib.util
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
import typer

from labkit.bench import doctor
from labkit.bench.doctor import examine
from labkit.bench.run import TIME_IS_UP
from labkit.cli import main as cli_main
from labkit.cli.main import app
from labkit.cli.options import parse_size
from labkit.core.errors import ResultsError, SourceError, UnavailableError, UsageError, WorkerError
from labkit.core.files import results_folder, user_cache
from labkit.pipelines.ladder import LADDER, select_rungs
from labkit.results.format import format_number

from conftest import further  # isort: skip

TINY = [
    "--size", "160x128", "--weights", "random", "--objects", "2", "--quick", "--seconds", "0.2",
    "--no-accuracy",
]  # fmt: skip


def labkit(*arguments, **options):
    environment = {**os.environ, "COLUMNS": "80", **options.pop("env", {})}
    command = [sys.executable, "-c", "from labkit.cli.main import main; raise SystemExit(main())", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=280, check=False, **options
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bench", "nosuch_rung"], 2, "no rung named 'nosuch_rung'"),
        (["bench", "resnet_pil_cp"], 2, "did you mean resnet_pil_cpu"),
        (["bench", "--stage", "99"], 2, "stage 99 has no rungs"),
        (["bench", "--objects", "-1"], 2, "not -1"),
        (["bench", "--size", "wide"], 2, "not 'wide'"),
        (["bench", "--fps", "30"], 2, "--scenario paced"),
        (["bench", "--scenario", "paced"], 2, "needs a rate"),
        (["bench", "--paced", "10,fast"], 2, "'10,fast'"),
        (["bench", "--paced", "0"], 2, "not 0"),
        (["bench", "--model-set", "huge"], 2, "not 'huge'"),
        (["bench", "--seconds", "0"], 2, "more than 0"),
        (["bench", "resnet_pil_cpu", "--source", "missing.mp4"], 3, "missing.mp4"),
        (["bench", "resnet_pil_cpu", "--source", "webcam:97"], 3, "97"),
        (["compare", "resnet_pil_cpu", "detr_pil_cpu"], 5, "different work"),
        (["compare", "a", "b", "--rounds", "3"], 2, "9 rounds"),
        (["report"], 7, "no results yet"),
        (["results", "show", "12345"], 2, "12345"),
        (["nosuch"], 2, "nosuch"),
        (["live", "--rung", "nosuch_rung"], 2, "nosuch_rung"),
        (["live", "--threshold", "7"], 2, "not 7"),
        (["live", "--source", "photos", "--port", "99999"], 2, "99999"),
        (["profile", "nosuch_rung"], 2, "nosuch_rung"),
        (["train", "nosuch"], 2, "'nosuch'"),
        (["bench", "--minutes", "0"], 2, "not 0"),
        (["compare", "a", "b", "--open-timeout", "0"], 2, "--open-timeout"),
        (["profile", "resnet_pil_cpu", "--read-timeout", "nan"], 2, "--read-timeout"),
        (["sweep", "--fit", "wide"], 2, "--fit"),
        (["live", "--no-browser", "http://joe:s3cret@camera"], 2, "http://***@camera is an address"),
        (["batch", "joe:s3cret@camera", "--out", "found"], 2, "*** is an address"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(arguments, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["labkit", *arguments])
    assert exit_code() == code
    told = capsys.readouterr()
    assert words in told.err and "s3cret" not in told.err
    assert "Traceback" not in told.err + told.out


def test_whatever_reads_a_source_has_its_options():
    cli_main._add_commands()
    commands = typer.main.get_command(app).commands
    reading = ["bench", "compare", "profile", "sweep", "fleet", "batch", "live"]
    options = {name: {option.name: option for option in commands[name].params} for name in reading}
    for name, default in (("fit", "letterbox"), ("open_timeout", 5.0), ("read_timeout", 2.0)):
        assert {options[command][name].default for command in reading} == {default}


def test_time_outs_reach_the_camera(monkeypatch):
    """Each way to measure asks a camera with the user's time-outs; here nobody listens at its address."""
    from labkit.bench.run import compare
    from labkit.fleet.batch.segments import decode_segments
    from labkit.fleet.sweep.grid import Grid
    from labkit.fleet.sweep.node_task import measure_point
    from labkit.profiling.variant import profile
    from labkit.sources import camera

    asked = []

    def refuse(*_, open_timeout_s, read_timeout_s):
        asked.append((open_timeout_s, read_timeout_s))
        raise SourceError("nobody there")

    monkeypatch.setattr(camera, "open_camera", refuse)
    where, timeouts = "rtsp://127.0.0.1:1/cam", {"open_timeout_s": 7.5, "read_timeout_s": 3.5}
    small = {"source": where, "size": (64, 48), "model_set": "lab"}
    grid = Grid(("lut_cpu",), source=where, sizes=((64, 48),), model_set="lab", timeouts_s=(7.5, 3.5))
    batch = pa.Table.from_pylist([{"video": "a", "path": where, "stamp": [1, 2], "parts": []}])
    for measure in (
        lambda: compare("resnet_pil_cpu", "resnet_opencv_cpu", **small, **timeouts, quick=True),
        lambda: profile("resnet_pil_cpu", 1, **small, **timeouts, engine="torch"),
        lambda: measure_point(grid.points[0]),
    ):
        with pytest.raises(SourceError, match="nobody there"):
            measure()
    (row,) = decode_segments(batch, (64, 48), 8, fit="crop", **timeouts)
    assert row["fault"][0].as_py() == "nobody there"
    assert asked == [(7.5, 3.5)] * 4
    assert grid.points[0].key == replace(grid.points[0], timeouts_s=(1.0, 1.0)).key


@pytest.fixture
def here(monkeypatch, capsys, in_process):
    """As `labkit`, but in this process, which has everything imported."""
    from labkit.bench import progress

    def run(*arguments, cwd=".", env=None):
        with monkeypatch.context() as patch:
            patch.setattr(progress.out, "_width", 80)
            patch.setattr(progress.err, "_width", 80)
            patch.setattr("sys.argv", ["labkit", *arguments])
            patch.chdir(cwd)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = exit_code()
        told = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out, told.err)

    return run


HEAVY = {"torch", "pandas", "cv2", "transformers", "matplotlib", "scipy", "ray", "IPython"}


@pytest.mark.parametrize(
    "command",
    ["--help", "bench --help", "profile --help", "results --help", "results", "doctor", *further("rungs")],
)
def test_commands_that_answer_at_once_import_nothing_heavy(command):
    if command == "doctor" and torch.cuda.is_available():
        pytest.skip("doctor asks torch about this GPU")
    code = (
        "import sys\n"
        "from labkit.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "print('loaded', *sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=True
    )
    assert ("Usage" in done.stdout) == ("--help" in command)
    heavy = HEAVY - {"torch", "cv2"} | {"torchvision"} if command == "rungs" else HEAVY  # its loops need them
    assert not heavy & set(done.stdout.splitlines()[-1].split())


def test_help_names_the_exit_codes():
    from labkit.cli.main import app
    from labkit.core import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {getattr(kind, "exit_code", 1) for kind in kinds} | {errors.EXIT_INTERRUPTED}
    assert all(f" {code} " in app.info.epilog for code in codes)
    named = {
        errors.UsageError: "2 wrong usage",
        errors.SourceError: "3 source or frame",
        errors.FrameError: "3 source or frame",
        errors.WeightsError: "4 weights",
        errors.UnavailableError: "5 not possible",
        errors.WorkerError: "6 the measuring process",
        errors.ResultsError: "7 results store",
    }
    for kind, words in named.items():
        assert words in app.info.epilog and words.startswith(f"{kind.exit_code} ")


def test_commands_are_there_once_however_often_the_program_starts(monkeypatch, capsys):
    from labkit.cli.main import app

    counts = []
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["labkit", "--help"])
        assert exit_code() == 0
        counts.append((len(app.registered_commands), len(app.registered_groups)))
    assert counts[0] == counts[1]
    assert capsys.readouterr().out.count("Train the small DETR") == 2


def test_the_report_of_a_benchmark_tells_the_forecasts_too(tmp_path, monkeypatch, capsys):
    from records_made_up import made_up_run

    from labkit.cli.show_bench import leave_pictures
    from labkit.results.result_set import ResultSet
    from labkit.results.store import Prediction, Store, default_path

    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    with Store(default_path()) as store:
        note = store.add_prediction(Prediction("How much faster?", ("number",), 2.0))
        store.settle_prediction(note.id, {"ratio": 1.9, "ci": [1.8, 2.1]})
    leave_pictures(ResultSet([replace(made_up_run(), id=None)]), default_path())
    assert "report:" in (told := capsys.readouterr().out) and "rows:" not in told, "no row was saved"
    leave_pictures(ResultSet([replace(made_up_run(), id=1)]), default_path())
    assert "rows:" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "How much faster?" in page
    assert "inside the interval" in page


def exit_code():
    """Of the command in sys.argv, run in this process."""
    from labkit.cli.main import main

    try:
        return main()
    except SystemExit as end:
        return end.code or 0


def test_a_device_brings_the_rungs_that_its_own_are_compared_with():
    chosen = select_rungs(device="cuda")
    names = [rung.name for rung in chosen]
    assert {"resnet_cuda", "graph_cuda", "streams_cuda", "baseline_combined_cpu"} <= set(names)
    assert {rung.reference for rung in chosen if rung.prepare.device == "cuda"} <= set(names)
    assert names == sorted(set(names), key=[rung.name for rung in LADDER].index)
    assert all(rung.prepare.device == "cpu" for rung in select_rungs(device="cpu"))
    assert [rung.name for rung in select_rungs((), 2, "cuda")] == [
        "resnet_opencv_cpu", "detr_opencv_cpu", "resnet_cuda", "detr_cuda",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="cpu or cuda"):
        select_rungs(device="tpu")


def test_a_text_file_is_not_a_video(tmp_path, here):
    (tmp_path / "notes.mp4").write_text("this is text")
    done = here("bench", "resnet_pil_cpu", "--source", "notes.mp4", cwd=tmp_path)
    assert done.returncode == 3
    assert "notes.mp4" in done.stderr.splitlines()[-1]


def test_pretrained_weights_without_a_network_are_one_sentence(tmp_path, here, monkeypatch):
    def refuse(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    done = here("bench", "resnet_pil_cpu", "--size", "160x128", "--weights", "pretrained", "--quick")
    assert done.returncode == 4
    assert "cannot be reached: network is unreachable" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_rung_without_its_device_exits_with_the_reason(here):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = here("bench", "resnet_cuda")
    assert done.returncode == 5
    assert "NVIDIA GPU" in done.stderr


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_results_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    home = {"LABKIT_HOME": str(tmp_path / "locked"), "TMPDIR": str(tmp_path)}
    assert labkit("bench", "resnet_pil_cpu", *TINY, env=home).returncode == 7


@pytest.mark.skipif(os.name == "nt", reason="a folder in use cannot be deleted there")
def test_a_working_folder_that_was_deleted(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli_main.main(["results"]) == 2
    assert "has been deleted; cd to another" in capsys.readouterr().err


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it answers where there is none
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(OSError, match="Not a directory"):
        user_cache().mkdir(parents=True)
    monkeypatch.setenv("LABKIT_HOME", "~/results")
    assert results_folder() == Path("~/results")


def test_a_results_folder_that_is_a_file(tmp_path, here):
    (tmp_path / "file").write_text("")
    home = {"LABKIT_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    done = here("bench", "resnet_pil_cpu", *TINY, env=home)
    assert done.returncode == 7
    assert "Traceback" not in done.stderr
    assert done.stderr.count("could not be saved") == 1
    assert "resnet_pil_cpu" in done.stdout  # measured and shown all the same
    home = {"LABKIT_HOME": str(tmp_path / "home")}
    command = re.search(r"labkit (results add \S+/lab\.sqlite)", done.stderr.splitlines()[-1])[1]
    assert here(*command.split(), env=home).stdout.startswith("1 results added")
    assert here(*command.split(), env=home).stdout.startswith("0 results added")
    assert "resnet_pil_cpu" in here("results", env=home).stdout


def test_a_named_rung_that_failed_is_the_commands_failure(tmp_path):
    from records_made_up import made_up_run

    from labkit.cli.show_bench import show_benchmark
    from labkit.results.result_set import ResultSet

    for skipped, code in (
        ({"other": "failed: it died"}, WorkerError),
        ({"other": "needs an NVIDIA GPU"}, UnavailableError),
        ({"accuracy of opencv": "failed: it died"}, WorkerError),
    ):
        result = ResultSet([made_up_run()], skipped=skipped, notes=["1 result could not be saved"])
        with pytest.raises(code):
            show_benchmark(result, True, ["opencv", "other"])
        with pytest.raises(ResultsError, match="could not be saved"):
            show_benchmark(result, True)
    show_benchmark(ResultSet([made_up_run()], skipped={"other": TIME_IS_UP}), True, ["other"])


def test_damaged_rows_are_named_and_deleted(tmp_path, here):
    from records_made_up import made_up_comparison, made_up_run

    from labkit.results.store import Store

    home = {"LABKIT_HOME": str(tmp_path)}
    path = tmp_path / "lab.sqlite"
    with Store(path) as store:
        for name in ("whole", "spoiled"):
            store.add(made_up_run(name))
        store.add(made_up_comparison("spoiled", "tuned"))
    path.write_bytes(path.read_bytes().replace(b"spoiled", b"spoilt!"))
    for command in (["results"], ["report"], ["results", "export", str(tmp_path / "out")]):
        done = here(*command, env=home)
        assert done.returncode == 0
        assert "labkit results delete 2" in " ".join(done.stderr.split())
        assert "labkit results delete --table comparisons 1" in " ".join(done.stderr.split())
    for command in ("history", "trend"):
        assert "labkit results delete 2" in here("results", command, "whole", env=home).stdout
    assert "whole" in here("results", env=home).stdout
    assert here("results", "show", "2", env=home).returncode == 7
    for impossible in ("9" * 5000, "²", "7-"):
        assert here("results", "delete", impossible, env=home).returncode == 2
    assert here("results", "delete", "2-9", "9" * 20, env=home).stdout == "1 runs deleted\n"
    assert here("results", "delete", "--table", "comparisons", "1", env=home).returncode == 0
    assert not here("results", env=home).stderr
    assert here("results", "delete", "x", env=home).returncode == 2


def test_commands_that_read_leave_the_store_as_it_is(tmp_path, here):
    from records_made_up import made_up_run

    from labkit.results.store import Store

    shared = tmp_path / "shared" / "lab.sqlite"
    with Store(shared) as store:
        store.add(made_up_run())
    before = shared.read_bytes(), shared.stat().st_mtime_ns
    home = {"LABKIT_HOME": str(shared.parent)}
    page, folder = tmp_path / "page.html", tmp_path / "out"
    for command in ("results", "results show 1", f"report --out {page}", f"results export {folder}"):
        assert here(*command.split(), env=home).returncode == 0
    assert (shared.read_bytes(), shared.stat().st_mtime_ns) == before
    assert os.listdir(shared.parent) == ["lab.sqlite"]
    assert here("results", env={"LABKIT_HOME": str(tmp_path / "none")}).returncode == 0
    assert not (tmp_path / "none").exists()


def test_bench_shows_a_table_of_80_columns_and_leaves_rows_plots_and_a_report(tmp_path, here, monkeypatch):
    home = tmp_path / "home"
    run = importlib.import_module("labkit.bench.run")
    monkeypatch.setattr(run, "QUICK_ROUNDS", replace(run.QUICK_ROUNDS, frames=1))
    done = here("bench", "--stage", "1", *TINY, "--model-set", "lab", env={"LABKIT_HOME": str(home)})
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("Measured in interleaved rounds")[0].splitlines()
    sentences = ("/", "disturbed")  # in a pipe they are not wrapped
    assert all(len(line) <= 80 for line in table if not any(word in line for word in sentences))
    for words in ("resnet_pil_cpu", "detr_opencv_cpu", "lab weights", "quick", "Measured in interleaved"):
        assert words in done.stdout
    with sqlite3.connect(home / "lab.sqlite") as db:
        assert db.execute("select count(*) from runs").fetchone()[0] == 5
    assert list((home / "plots").glob("*.png"))
    assert list((home / "plots").glob("*.svg"))
    page = (home / "report.html").read_text()
    assert "resnet_pil_cpu" in page
    listed = here("results", env={"LABKIT_HOME": str(home)})
    assert "resnet_pil_cpu" in listed.stdout
    exported = here("results", "export", str(tmp_path / "out"), env={"LABKIT_HOME": str(home)})
    assert exported.returncode == 0
    assert {"runs.csv", "runs.parquet", "fingerprint.json"} <= {p.name for p in (tmp_path / "out").iterdir()}
    shown = here("results", "show", "1", env={"LABKIT_HOME": str(home)})
    assert json.loads(shown.stdout)["id"] == 1
    assert "1 runs deleted" in here("results", "delete", "1", env={"LABKIT_HOME": str(home)}).stdout


def test_json_is_one_object_per_rung(here):
    names, rates = ["resnet_pil_cpu", "resnet_opencv_cpu"], ["--paced", "50,20"]
    done = here("bench", *names, *TINY, *rates, "--no-compare", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["rung"] for row in rows] == [name for name in names for _ in range(3)]
    assert [row["settings"]["paced_fps"] for row in rows] == [None, 50.0, 20.0] * 2
    assert rows[0]["latency_ms"]["p99"] is None or rows[0]["n_frames"] >= 662


@pytest.mark.extended
def test_compare_as_json(here):
    done = here("compare", "resnet_opencv_cpu", "resnet_linear_cpu", *TINY[:6], "--quick", "--json")
    row = json.loads(done.stdout)
    assert (row["a"], row["b"]) == ("resnet_opencv_cpu", "resnet_linear_cpu")
    assert (row["rounds"], row["processes"]) == (10, 5)
    assert row["ci"][0] <= row["ratio"] <= row["ci"][1]
    assert row["verdict"] in ("faster", "slower", "same", "cannot tell")


@pytest.mark.extended
def test_ctrl_c_keeps_finished_rows_and_says_so(tmp_path):
    """Interrupted as soon as the first rung has its row."""
    command = [sys.executable, "-c", "from labkit.cli.main import main; raise SystemExit(main())"]
    command += ["bench", "resnet_pil_cpu", "detr_pil_cpu", "--size", "160x128", "--weights", "random"]
    command += ["--seconds", "0.5", "--no-compare", "--no-accuracy"]
    environment = {**os.environ, "LABKIT_HOME": str(tmp_path), "COLUMNS": "80", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    seen = ""
    assert process.stderr is not None
    for line in process.stderr:
        seen += line
        if "resnet_pil_cpu:" in line and "FPS" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "1 finished results are saved" in rest, seen + rest
    assert "Traceback" not in rest
    with sqlite3.connect(tmp_path / "lab.sqlite") as db:
        assert db.execute("select rung from runs").fetchall() == [("resnet_pil_cpu",)]


def test_doctor_looks_at_everything_and_says_what_to_do(here):
    done = labkit("doctor")
    assert done.returncode == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    words = "python|cpu|memory|gpu|cupy|engines|accuracy|scale|offline|supervision|camera|display|weights"
    for word in [*words.split("|"), "lab set", "nsys", "disk"]:
        assert any(line[9:].startswith(word) for line in done.stdout.splitlines()), word
    states = {row["state"] for row in json.loads(here("doctor", "--json").stdout)}
    assert states <= {"good", "missing", "note"}


@pytest.mark.parametrize("compiled", [True, False])
def test_doctor_says_why_each_process_takes_seconds_to_start(tmp_path, monkeypatch, compiled):
    source = tmp_path / "torch" / "__init__.py"
    written = Path(importlib.util.cache_from_source(str(source)))
    written.parent.mkdir(parents=True)
    if compiled:
        written.touch()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(source)))
    (check,) = (check for check in examine() if check.what == "python")
    assert (check.state == "good", f"-m compileall -q {tmp_path}" in check.advice) == (compiled, not compiled)


GIB = 2**30
MACHINE = {
    "battery": None,
    "clock": {},
    "load": 0.1,
    "bf16": None,
    "limit": None,
    "free": 9 * GIB,
    "quota": None,
}


@pytest.mark.parametrize(
    ("look", "has", "state", "words"),
    [
        ("_cpu", {}, "good", "2 cores, avx2; "),
        ("_cpu", {"quota": 1.5}, "good", "2 cores, 1.5 by quota, avx2; "),
        ("_cpu", {"battery": "discharging"}, "note", "plug it in"),
        ("_cpu", {"clock": {"governor": "powersave"}}, "note", "governor"),
        ("_cpu", {"clock": {"governor": "powersave", "preference": "performance"}}, "good", ""),
        ("_cpu", {"load": 1.1}, "note", "load is 1.10"),
        ("_cpu", {"bf16": "float32"}, "note", "run in float32"),
        ("_memory", {}, "good", ""),
        ("_memory", {"free": 3 * GIB}, "note", "close other programs"),
        ("_memory", {"limit": 12 * GIB}, "good", "9.0 of 12.0 allowed GiB"),
        ("_disk", {"free": 9 * GIB}, "good", "9 GiB free"),
        ("_disk", {"free": 1.9 * GIB}, "note", "1.9 GiB free"),
    ],
)
def test_doctor_says_what_slows_a_machine_down(look, has, state, words, monkeypatch):
    has = MACHINE | has
    facts = {"cpu": "a CPU", "cores": 2, "quota_cores": has["quota"], "isa": {"avx2": True, "avx512f": False}}
    monkeypatch.setattr("labkit.core.machine.cpu_facts", lambda: facts)
    monkeypatch.setattr("labkit.core.cpu.power_settings", lambda: {"battery": has["battery"]})
    monkeypatch.setattr("labkit.core.cpu.clock_settings", lambda: has["clock"])
    monkeypatch.setattr("labkit.core.requirements.fallback", lambda preparation: has["bf16"])
    monkeypatch.setattr("labkit.core.machine.available_memory", lambda: has["free"])
    monkeypatch.setattr("labkit.core.cgroup.memory_limit", lambda: has["limit"])
    monkeypatch.setattr("psutil.getloadavg", lambda: (has["load"], 0.0, 0.0))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=has["free"]))
    check = getattr(doctor, look)()
    assert check.state == state and words in f"{check.found}; {check.advice}"
    assert bool(check.advice) == (state != "good")


@pytest.mark.parametrize(
    ("screens", "browser", "state", "words"),
    [
        ({"DISPLAY": ":0"}, "firefox", "good", "DISPLAY=:0, firefox"),
        ({"WAYLAND_DISPLAY": "w", "DISPLAY": ":0"}, "firefox", "good", "WAYLAND_DISPLAY=w"),
        ({"DISPLAY": ":0"}, None, "missing", "but no browser"),
        ({"DISPLAY": ""}, "firefox", "missing", "no screen here (firefox is)"),
        ({}, None, "missing", "ssh -L"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have their own screen and browser")
def test_doctor_says_where_a_page_would_open(screens, browser, state, words, monkeypatch):
    for name in ("WAYLAND_DISPLAY", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
        if name in screens:
            monkeypatch.setenv(name, screens[name])
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if name == browser else None)
    check = doctor._display()
    assert check.state == state and words in f"{check.found}; {check.advice}"


def test_rungs_and_weights_are_listed(tmp_path, here):
    done = here("rungs", "--json")
    rows = {row["rung"]: row for line in done.stdout.splitlines() if (row := json.loads(line))}
    assert rows["resnet_opencv_cpu"]["changes"] == "resnet_pil_cpu"
    done = labkit("weights", env={"HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)})
    assert "resnet18: not on this machine" in done.stdout
    assert "d_fine_s: not on this machine (D-FINE small" in done.stdout


def test_sizes_and_numbers():
    assert parse_size("640X480") == (640, 480)
    with pytest.raises(UsageError):
        parse_size("640")
    assert [format_number(x) for x in (None, 0.1234, 1.234, 12.34, 123.4, 1234.5)] == [
        "-", "0.12", "1.23", "12.3", "123", "1234",
    ]  # fmt: skip


def test_the_notebook_must_be_there(tmp_path, here):
    done = here("lab", cwd=tmp_path)
    assert done.returncode == 2
    assert str(Path("notebooks/00_start_here.ipynb")) in done.stderr


@pytest.mark.parametrize(("command", "package"), [("live", "tornado"), ("lab", "jupyterlab")])
def test_a_command_names_the_package_that_it_lacks(command, package, tmp_path, monkeypatch, capsys):
    from labkit.cli.main import main

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "labkit.live.page", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ipynb").write_text("{}")
    try:
        code = main(["live", "--no-browser"] if command == "live" else ["lab", "a.ipynb", "--allow-root"])
    except SystemExit as end:
        code = end.code
    assert code == 5
    assert capsys.readouterr().err == f"labkit: this needs the package {package} (pip install {package})\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no root")
@pytest.mark.parametrize(
    ("user", "contained", "options", "wanted", "unwanted"),
    [
        (1000, False, [], {"--ip=127.0.0.1", "--port=8888"}, {"--allow-root"}),
        (0, True, [], {"--ip=0.0.0.0", "--allow-root"}, set()),  # as `make lab` in a container
        (0, False, ["--allow-root"], {"--ip=127.0.0.1", "--allow-root"}, set()),
        (
            0,
            True,
            ["--ip", "127.0.0.1", "--port", "9000"],
            {"--ip=127.0.0.1", "--port=9000"},
            {"--ip=0.0.0.0"},
        ),
        (0, False, [], None, None),
    ],
)
def test_jupyterlab_is_started_for_root_in_a_container_or_on_request(
    user, contained, options, wanted, unwanted, tmp_path, monkeypatch
):
    from labkit.cli.main import main
    from labkit.core import machine

    started = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: started.append(set(command)) or done)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(machine, "in_container", lambda: contained)
    notebook = tmp_path / "a.ipynb"
    notebook.write_text("{}")
    try:
        code = main(["lab", str(notebook), *options])
    except SystemExit as end:
        code = end.code
    if wanted is None:
        assert code == 2 and not started
    else:
        assert code == 0 and wanted <= started[0] and not unwanted & started[0]


@pytest.mark.extended
def test_training_from_the_shell_leaves_models_and_goes_on(tmp_path):
    few = ["train", "resnet", "--out", str(tmp_path / "out"), "--scenes", "4"]
    done = labkit(*few, "--steps", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "resnet" / "model.safetensors").is_file()
    assert labkit(*few, "--steps", "3", "--resume").returncode == 0


def test_a_note_is_shown_once_however_often_it_comes():
    from rich.console import Console

    from labkit.bench.progress import ProgressBar

    console = Console(record=True, width=80, file=StringIO())
    with ProgressBar(console) as progress:
        for text in ("no weights here", "[b] is no markup", "no weights here"):
            progress.note(text)
    assert console.export_text().split() == ["no", "weights", "here", "[b]", "is", "no", "markup"]


def test_an_interrupt_in_a_notebook_is_one_sentence_that_says_what_is_kept(monkeypatch):
    import IPython.display
    from records_made_up import made_up_comparison, made_up_run

    from labkit.bench.progress import NotebookProgress
    from labkit.core.interrupt import Interrupted

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: SimpleNamespace(update=shown.append))

    def interrupted(*finished):
        with NotebookProgress() as progress:
            for each in finished:
                progress.finished(each)
            progress.step("b: measuring")
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"stopped at 'b: measuring'; kept .*: a$") as stopped:
        interrupted(made_up_run("a", id=7), made_up_comparison("a", "unsaved"))
    assert stopped.value._render_traceback_() == [f"Interrupted: {stopped.value}"]
    assert shown[-1].data == "" and isinstance(stopped.value, KeyboardInterrupt)
    with pytest.raises(Interrupted, match="nothing was measured"):
        interrupted()


def test_the_browser_is_not_handed_the_token_of_the_live_view(monkeypatch):
    """Its command line names a file that only this user can read, which leads to the page."""
    from urllib.request import url2pathname

    from labkit.cli import cmd_live
    from labkit.core import terminal
    from labkit.live import page

    opened = []

    def serve(*_, ready, **__):
        ready("http://localhost:8123/?token=s3cret")
        (address,) = opened
        path = Path(url2pathname(address.removeprefix("file://")))
        assert "http://localhost:8123/?token=s3cret" in path.read_text()
        assert os.name == "nt" or path.parent.stat().st_mode & 0o077 == 0
        opened.append(path)

    monkeypatch.setattr(page, "serve", serve)
    monkeypatch.setattr(terminal, "screen", lambda: True)
    monkeypatch.setattr(cmd_live.webbrowser, "open", opened.append)
    monkeypatch.setattr("sys.argv", ["labkit", "live", "--source", "photos"])
    assert exit_code() == 0
    address, path = opened
    assert "s3cret" not in address
    assert not path.exists(), "gone when the view ends"


def test_filters_are_timed_and_what_needs_a_gpu_is_named(tmp_path, here):
    done = here("filters", "--size", "64x48", "--rounds", "2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Guided filter, 64x48x3, radius 4" in done.stdout
    assert "numba: " in done.stdout
    if not torch.cuda.is_available():
        assert "needs an NVIDIA GPU" in done.stdout
        assert [path.name for path in tmp_path.glob("*.json")] == ["filters.json"]
    assert here("filters", "--device", "tpu").returncode == 2


@pytest.mark.parametrize(("name", "code"), [("file/a.png", 7), ("a.xyz", 2), ("a.svg", None)])
def test_a_picture_that_cannot_be_written_is_one_sentence(name, code, tmp_path):
    from labkit.results.plots.save import save_picture
    from labkit.results.plots.style import Chart

    (tmp_path / "file").touch()
    if code is None:
        save_picture(Chart(), tmp_path / name)
        assert b"<svg" in (tmp_path / name).read_bytes()
        return
    with pytest.raises((ResultsError, UsageError), match=re.escape(str(tmp_path / name))) as caught:
        save_picture(Chart(), tmp_path / name)
    assert caught.value.exit_code == code
