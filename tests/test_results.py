"""The store: what it reported as saved is there; what it cannot do it says."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_made_up import made_up_comparison, made_up_run

from labkit.bench.progress import shortened
from labkit.core.errors import ResultsError, UsageError
from labkit.core.files import recorded_folder, write_atomic
from labkit.core.types import Frame
from labkit.results import checksums, codec, database, exports, result_set, saving, schema
from labkit.results.ceilings import with_ceilings
from labkit.results.exports import export, load_export, load_exports
from labkit.results.history import History
from labkit.results.record_checks import check_seconds, describe
from labkit.results.records import Comparison, Run
from labkit.results.result_set import ResultSet
from labkit.results.saving import Saving, add_all
from labkit.results.store import Prediction, Store, default_path
from labkit.results.sweeps import keep_point, sweep_names, sweep_points
from labkit.results.table import table

TESTS = Path(__file__).parent
V1_FILE = """
CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL, rung TEXT NOT NULL,
  stage INTEGER NOT NULL, scenario TEXT NOT NULL, quick INTEGER NOT NULL, offered INTEGER NOT NULL,
  dropped INTEGER NOT NULL, failed INTEGER NOT NULL, startup_s REAL NOT NULL, peak_bytes INTEGER NOT NULL,
  samples BLOB NOT NULL, settings TEXT NOT NULL, source TEXT NOT NULL, "limit" TEXT NOT NULL,
  fidelity TEXT NOT NULL, accuracy TEXT NOT NULL, disturbances TEXT NOT NULL, fingerprint TEXT NOT NULL);
CREATE INDEX runs_by_rung ON runs (rung, stage);
CREATE TABLE comparisons (id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL, a TEXT NOT NULL,
  b TEXT NOT NULL, frames_per_turn INTEGER NOT NULL, agrees INTEGER NOT NULL, quick INTEGER NOT NULL,
  samples BLOB NOT NULL, settings TEXT NOT NULL, source TEXT NOT NULL, fidelity TEXT NOT NULL,
  fingerprint TEXT NOT NULL, disturbances TEXT NOT NULL);
PRAGMA application_id = 1279345227;
PRAGMA user_version = 1;
"""


@pytest.fixture
def lab(tmp_path: Path) -> Store:
    return Store(tmp_path / "lab.sqlite")


def assert_same_run(a: Run, b: Run) -> None:
    for name in (*codec.RUN_PLAIN, "settings", "source", "limit", "agreement", "accuracy", "disturbances"):
        assert getattr(a, name) == getattr(b, name), name
    one, other = codec.series_of(a), codec.series_of(b)
    assert one.keys() == other.keys()
    for name, part in one.items():
        assert part.dtype == other[name].dtype == np.float64
        np.testing.assert_array_equal(part, other[name], err_msg=name)


def test_a_run_comes_back_as_it_was(lab: Store) -> None:
    run = made_up_run(
        spans_s={"infer": np.full(120, np.nan), "a/b ü": np.arange(120.0)},
        spans_gpu_s={"infer": np.arange(120.0)},
        disturbances=("the fan ran",),
        limit={"peak_gflops": float("inf"), "deep": [{"nan": -float("inf")}]},
    )
    saved = lab.add(run)
    assert saved.id == 1
    assert saved.created.endswith("+00:00")
    assert_same_run(lab.run(1), saved)
    assert lab.run(1).fps_interval == run.fps_interval


def test_a_comparison_comes_back_as_it_was(lab: Store) -> None:
    saved = lab.add(made_up_comparison(agreement=made_up_run().agreement))
    (back,) = lab.comparisons()
    assert back.sentence == saved.sentence
    assert back.agreement == saved.agreement
    assert (back.id, back.created) == (saved.id, saved.created)
    np.testing.assert_array_equal(back.a_s, saved.a_s)
    np.testing.assert_array_equal(back.b_s, saved.b_s)


@given(st.dictionaries(st.text(max_size=8), st.lists(st.floats(), max_size=20), max_size=4))
def test_samples_come_back_bit_for_bit(series: dict[str, list[float]]) -> None:
    arrays = {name: np.array(part, np.float64) for name, part in series.items()}
    back = codec.unpack(codec.pack(arrays))
    assert list(back) == list(arrays)
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
@settings(max_examples=200)
def test_facts_come_back_infinity_included(value: object) -> None:
    assert codec.load_json(codec.dump_json(value)) == value


def test_facts_take_numpy_and_refuse_what_is_no_data() -> None:
    facts = {"n": np.int64(3), "x": np.float32(0.5), "a": np.arange(3), "p": Path("a"), "nan": np.nan}
    back = codec.load_json(codec.dump_json(facts))
    assert np.isnan(back.pop("nan"))
    assert back == {"n": 3, "x": 0.5, "a": [0, 1, 2], "p": "a"}
    with pytest.raises(UsageError, match="settings is stored as JSON"):
        codec.dump_json({"net": object()}, "settings")


@pytest.mark.parametrize("blob", [b"", b"junk", codec.pack({"a": np.ones(4)})[:-3]])
def test_damaged_samples_are_reported(blob: bytes) -> None:
    with pytest.raises(ResultsError, match="damaged"):
        codec.unpack(blob)


def test_runs_are_listed_and_deleted_and_their_ids_are_not_given_again(lab: Store) -> None:
    for k in range(6):
        lab.add(made_up_run(stage=k, n=20))
    assert [run.stage for run in lab.runs()] == [0, 1, 2, 3, 4, 5]
    assert lab.delete([1, 2, 99]) == 2
    assert [run.id for run in lab.runs()] == [3, 4, 5, 6]
    assert lab.add(made_up_run()).id == 7
    for absent in (1, 2**63, -(2**70)):
        with pytest.raises(UsageError, match=f"no row {absent} among the runs"):
            lab.run(absent)
    assert lab.delete([2**63, -(2**70)]) == 0
    assert lab.delete(range(6, 10**30)) == 2


def test_predictions(lab: Store) -> None:
    saved = lab.add_prediction(Prediction("Which is faster?", ("PIL", "OpenCV"), "PIL"))
    lab.settle_prediction(saved.id, {"ratio": 1.4})
    assert lab.predictions()[0].result == {"ratio": 1.4}
    assert lab.predictions()[0].options == ("PIL", "OpenCV")
    with pytest.raises(UsageError, match="no row 9 among the predictions"):
        lab.settle_prediction(9, None)


def test_results_go_where_labkit_home_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "deep" / "home"))
    with Store() as here:
        assert here.path == tmp_path / "deep" / "home" / "lab.sqlite" == default_path()
    monkeypatch.delenv("LABKIT_HOME")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert default_path() == Path("results/lab.sqlite")
    project = tmp_path / "project"
    for room in ("labkit", "notebooks"):
        (project / room).mkdir(parents=True)
    monkeypatch.chdir(project / "notebooks")
    assert default_path() == project / "results" / "lab.sqlite"


def test_the_file_is_written_ahead_and_synchronised(lab: Store) -> None:
    assert lab._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert lab._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def version_1(path: Path, *runs: Run) -> Path:
    """A store of the first version that holds these runs."""
    with sqlite3.connect(path) as db:
        db.executescript(V1_FILE)
        for run in runs:
            row = codec.to_row(run) | {"created": "2020-01-01T00:00:00.000+00:00"}
            names = ", ".join(f'"{name}"' for name in row)
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", list(row.values()))
    db.close()
    return path


def test_version_1_is_migrated_with_its_rows(tmp_path: Path) -> None:
    run = made_up_run("origin_combined_cpu", settings={"baseline": "origin_combined_cpu"})
    path = version_1(tmp_path / "old.sqlite", run)
    with Store(path) as lab:
        assert lab.predictions() == []
        assert sweep_names(lab) == []
        np.testing.assert_array_equal(lab.run(1).latency_s, run.latency_s)
        assert lab.run(1).settings["baseline"] == lab.run(1).rung == "baseline_combined_cpu"
        assert lab._db.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION


def test_a_renamed_rung_is_read_from_an_export_under_its_new_name(lab: Store, tmp_path: Path) -> None:
    lab.add(made_up_run("origin_streams_cuda"))
    lab.add(made_up_comparison("origin_combined_cuda", "filter_origin_cuda"))
    lab.export(tmp_path / "out")
    found = load_export(tmp_path / "out")
    assert found.runs[0].rung == "baseline_streams_cuda"
    assert (found.comparisons[0].a, found.comparisons[0].b) == (
        "baseline_combined_cuda",
        "filter_baseline_cuda",
    )


def test_a_failed_migration_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = version_1(tmp_path / "old.sqlite")
    monkeypatch.setattr(schema, "MIGRATIONS", (schema.MIGRATIONS[0], ("CREATE TABLE new (a)", "NONSENSE")))
    with pytest.raises(ResultsError):
        Store(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 1
        assert not db.execute("SELECT name FROM sqlite_master WHERE name = 'new'").fetchall()
    db.close()


def test_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "lab.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()
    with pytest.raises(ResultsError, match=rf"newer than the {schema.VERSION} that"):
        Store(path)


def test_what_is_no_store_is_named_with_what_to_do(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all\n" * 99)
    with pytest.raises(ResultsError, match=r"notes\.txt is not a readable results store.*LABKIT_HOME"):
        Store(text)
    with pytest.raises(ResultsError, match=r"is a folder.*name a file in it"):
        Store(tmp_path)
    with pytest.raises(ResultsError, match="cannot write"):
        Store(text / "lab.sqlite")
    assert text.read_text().startswith("not a database")


@pytest.mark.skipif(os.name == "nt", reason="no pipe has a path there")
@pytest.mark.parametrize("read_only", [True, False])
def test_a_pipe_in_place_of_the_store_is_not_waited_for(tmp_path: Path, read_only: bool) -> None:
    os.mkfifo(tmp_path / "lab.sqlite")
    with pytest.raises(ResultsError, match=r"is a pipe, socket or device.*move it away"):
        Store(tmp_path / "lab.sqlite", read_only=read_only)


def test_a_closed_store_says_so(lab: Store) -> None:
    lab.close()
    with pytest.raises(ResultsError, match="has been closed"):
        lab.add(made_up_run())


SAVE_ONE = """
import os, sys
sys.path.insert(0, ".")
from labkit.core.errors import ResultsError
from labkit.results.store import Store
from records_made_up import made_up_run
run = made_up_run()
if os.geteuid() == 0:  # the superuser may write everywhere
    os.setgid(65534); os.setuid(65534)
try:
    Store(sys.argv[1]).add(run)
except ResultsError as error:
    print("ResultsError", error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
@pytest.mark.parametrize("existing", [False, True])
def test_a_read_only_folder(existing: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own is closed to other users
        folder = Path(name)
        if existing:
            with Store(folder / "lab.sqlite") as lab:
                lab.add(made_up_run())
        folder.chmod(0o555)
        command = [sys.executable, "-c", SAVE_ONE, str(folder / "lab.sqlite")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS, check=False)
        folder.chmod(0o755)
    assert "ResultsError cannot write" in done.stdout, done.stdout + done.stderr
    assert "make its folder writable" in done.stdout


FILL = """
import sys
import tempfile
sys.path.insert(0, ".")
from labkit.core.errors import ResultsError
from labkit.results.store import Store
from records_made_up import made_up_run
{limit}
saved = 0
store = Store(sys.argv[1])
try:
    while True:
        store.add(made_up_run(n=2000)); saved += 1
except ResultsError as error:
    print(saved, error)
"""


def fill(path: Path, limit: str = "") -> tuple[int, str]:
    command = [sys.executable, "-c", FILL.format(limit=limit), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS, check=False)
    assert done.returncode == 0, done.stderr
    saved, _, message = done.stdout.partition(" ")
    return int(saved), message


def test_a_file_that_may_not_grow_keeps_its_earlier_rows(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size are those of POSIX")
    assert resource
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))"
    saved, message = fill(tmp_path / "lab.sqlite", limit)
    assert saved > 0
    assert "earlier rows are as they were" in message
    with Store(tmp_path / "lab.sqlite") as lab:
        assert len(lab.runs()) == saved


def test_a_full_disk_keeps_the_earlier_rows(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mount"):
        pytest.skip("mounting a small disk needs Linux")
    if libc.mount(b"tmpfs", str(tmp_path).encode(), b"tmpfs", 0, b"size=1m"):
        pytest.skip(f"mounting a small disk is not permitted: {os.strerror(ctypes.get_errno())}")
    try:
        saved, message = fill(tmp_path / "lab.sqlite")
        assert saved > 0
        assert "no space left" in message
        assert "free space" in message
        with pytest.raises(ResultsError, match="cannot write"):
            write_atomic(tmp_path / "big.bin", bytes(2**20))
        assert not list(tmp_path.glob(".big*"))
        check = sqlite3.connect(tmp_path / "lab.sqlite")
        assert check.execute("SELECT count(*) FROM runs").fetchone()[0] == saved
        assert check.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        check.close()
    finally:
        assert libc.umount2(str(tmp_path).encode(), 2) == 0


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(TESTS / "store_writer.py"), str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_writers(path: Path, times: int) -> set[str]:
    """Kills writers at random moments after their first row; returns the rows that they reported.

    Rows are known by a name of their own: an id that a lost row had would be given out again.
    """
    moment = random.Random(5)
    acknowledged: set[str] = set()
    for kill in range(times):
        with writer(path, f"killed{kill}", 100_000) as process:
            assert process.stdout is not None
            acknowledged.add(process.stdout.readline().strip())
            time.sleep(moment.uniform(0, 0.05))  # the moment is what varies; nothing is waited for
            process.kill()
            lines = process.stdout.read().split("\n")
            acknowledged |= set(lines[:-1])  # a last line without its end is no report
    return acknowledged


@pytest.mark.extended
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("times", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_reported_row_is_lost_when_writers_are_killed(
    tmp_path: Path, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    acknowledged = kill_writers(tmp_path / "lab.sqlite", times)
    assert len(acknowledged) >= times
    with Store(tmp_path / "lab.sqlite") as lab:
        lost = acknowledged - {run.rung for run in lab.runs()}
        with capsys.disabled():
            print(f"\nrows lost in {times} kills: {len(lost)} of {len(acknowledged)} reported as saved")
        assert not lost
        assert lab._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


@pytest.mark.parametrize("rows", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_eight_processes_write_into_one_new_store(tmp_path: Path, rows: int) -> None:
    writers = [writer(tmp_path / "lab.sqlite", f"writer{k}", rows) for k in range(8)]
    reported = [process.communicate()[0].split() for process in writers]
    assert [len(ids) for ids in reported] == [rows] * 8
    with Store(tmp_path / "lab.sqlite") as lab:
        runs = lab.runs()
    assert len(runs) == 8 * rows == len({run.id for run in runs})
    assert {sum(run.rung.startswith(f"writer{k}-") for run in runs) for k in range(8)} == {rows}


@pytest.mark.parametrize("logged", [True, False], ids=["with a log", "without"])
@pytest.mark.parametrize("after", range(3))
def test_a_store_may_be_made_while_another_process_looks(tmp_path: Path, after: int, logged: bool) -> None:
    path = tmp_path / "lab.sqlite"
    with closing(database.open_for_writing(path)) as first:  # its header is there, its tables are not
        statements: list[str] = []

        def look(db: sqlite3.Connection) -> int:
            def made_by_another(statement: str) -> None:
                statements.append(statement)
                if len(statements) == after + 1:
                    Store(path).close()

            db.set_trace_callback(made_by_another)
            return schema._version(db, path)

        if not logged:
            first.close()
        assert database.read_untouched(path, look) in (0, schema.VERSION)
        assert len(statements) >= 3


def test_threads_share_a_store(lab: Store) -> None:
    threads = [
        threading.Thread(target=lambda: [lab.add(made_up_run(n=10)) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lab.runs()) == 80


def test_a_busy_store_is_said_to_be_busy(lab: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with Store(lab.path) as other:
        lab._db.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResultsError, match="another process has held"):
            other.add(made_up_run())
        lab._db.execute("COMMIT")
        other.add(made_up_run())


def test_a_wait_for_a_busy_store_is_told_while_it_lasts(lab: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "TELL_AFTER_S", 0.01)
    told: list[str] = []
    with Store(lab.path) as other:

        def tell(form: str, *words: object) -> None:
            told.append(form % words)
            other._db.execute("ROLLBACK")

        monkeypatch.setattr(logging.getLogger("labkit"), "warning", tell)
        other._db.execute("BEGIN IMMEDIATE")
        lab.add(made_up_run())
    assert told == [f"waiting for {lab.path}, which another process writes to; for 10 s at most"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (sqlite3.OperationalError('cannot read {"model_set": "full"}'), False),
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EACCES, "the disk is full"), False),
    ],
)
def test_a_full_disk_is_known_by_its_code(tmp_path: Path, error: Exception, full: bool) -> None:
    assert ("no space left" in database.advice(tmp_path / "lab.sqlite", error, None)) == full


def test_a_disturbed_result_says_so_once_in_its_first_line(capsys, monkeypatch) -> None:
    from labkit.cli import show_bench

    busy = [f"other programs used {share}% of the CPU" for share in (16, 31)]
    result = ResultSet(
        [made_up_run("a", disturbances=busy[:1]), made_up_run("b", disturbances=(busy[1], "a fan ran"))],
        [
            made_up_comparison("a", "b", disturbances=busy[:1], settings={"device": "cpu"}),
            made_up_comparison("a", "c"),
        ],
    )
    told = f"disturbed (3 of 4 results, at worst): {busy[1]}; a fan ran. To repeat: labkit bench a b"
    lines = str(result).splitlines()
    assert lines[0] == told
    assert not any("other programs" in line for line in lines[1:])
    assert result._repr_html_().startswith(f"<p>{told}</p>")
    assert "disturbed: other programs" in result.comparisons[0].sentence  # by itself it says so too
    assert ResultSet([made_up_run("a")]).disturbed() == ""
    assert str(ResultSet([made_up_run("a")])).splitlines()[0].split()[0] == "rung"

    monkeypatch.setattr(
        "sys.argv", ["/usr/bin/labkit", "bench", "a", "--source", "http://joe:s3cret@camera/live"]
    )
    show_bench.show(result)
    assert "s3cret" not in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["/usr/bin/labkit", "bench", "a", "--source", "a b.mp4"])
    show_bench.show(result)
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("disturbed (3 of 4 results")
    assert out.count("other programs") == 1
    assert "To repeat: labkit bench a --source 'a b.mp4'" in out
    show_bench.show_comparison(replace(result.comparisons[0], id=1), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"disturbed: {busy[0]}. To repeat: labkit")
    assert not any("other programs" in line for line in lines[2:])


def test_rates_of_fed_rungs_stand_below_their_closed_run():
    fed = [made_up_run("a", scenario="paced", settings={"paced_fps": fps}) for fps in (30, 0.5)]
    found = ResultSet([made_up_run("b"), *fed, made_up_run("a")])
    assert [(run.rung, run.scenario) for run in found._fed()] == [
        ("a", "closed"),
        ("a", "paced"),
        ("a", "paced"),
    ]
    assert [run.settings["paced_fps"] for run in found._fed()[1:]] == [0.5, 30]


def test_times_are_finite_and_not_negative():
    for wrong in (-1.0, np.inf, np.nan):
        with pytest.raises(ResultsError, match="seconds from 0"):
            check_seconds("x", np.array([1.0, wrong]))
    check_seconds("x", np.array([0.0, np.nan]), gaps=True)


def test_values_in_sentences_are_short():
    assert [describe(value) for value in ([1], {}, None, 1.5)] == ["a list", "an object", "nothing", "1.5"]
    assert len(describe("x" * 999)) < 80


def test_a_machine_without_a_table_of_mounts_has_no_doubtful_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: (tmp_path / "none").read_bytes())
    assert database.file_system(tmp_path) == "" and database.doubt(tmp_path) is None


def test_own_results_are_read_by_default_and_a_table_has_three_percentiles():
    assert len(result_set.results()) == 0
    with Store(default_path()) as lab:
        for each in (made_up_run("opencv"), made_up_run("other"), made_up_comparison("opencv", "tuned")):
            lab.add(each)
    assert [len(result_set.results(rung).comparisons) for rung in ("opencv", "tuned", "other")] == [1, 1, 0]
    run = made_up_run("a", n=2000)
    row = table([run]).iloc[0]
    percentiles = {f"p{q}": run.percentile_ms(q) for q in (50, 90, 99)}
    assert {name: row[f"{name}_ms"] for name in percentiles} == percentiles
    assert percentiles.items() <= run.to_json()["latency_ms"].items()
    assert run.to_json()["latency_ms"]["max"] == 1e3 * run.latency_s.max()


def test_amdahls_ceiling_of_each_span():
    run = made_up_run("a", spread=0.0)  # preprocess 0.12, infer 0.75, decode 0.08 of each frame
    table = ResultSet([run, made_up_run("fed", scenario="paced")]).ceilings().set_index("part")
    assert list(table["rung"]) == ["a"] * 3
    assert table["share of the frame"].to_dict() == {"preprocess": 0.12, "infer": 0.75, "decode": 0.08}
    assert table["ceiling"].to_dict() == {"preprocess": 1.14, "infer": 4.0, "decode": 1.09}
    assert table["ms per frame"].to_dict() == {"preprocess": 3.6, "infer": 22.5, "decode": 2.4}
    ahead = replace(run, spans_s={name: 1.2 * seconds for name, seconds in run.spans_s.items()})
    assert ResultSet([ahead]).ceilings()["ceiling"].isna().all()  # its parts overlap


def test_records_show_their_words_and_no_samples():
    run, fed = made_up_run("a"), made_up_run("a", scenario="paced", settings={"paced_fps": 30})
    assert repr(run).startswith("a: ") and "FPS" in repr(run) and "median latency" in repr(fed)
    assert repr(made_up_comparison("a", "b")) == made_up_comparison("a", "b").sentence
    assert repr(Frame(np.zeros((48, 64, 3), np.uint8), 3, 1.5)) == "Frame(index=3, 64x48 px, t_s=1.500)"


def test_a_history_of_two_runs_has_a_plot_and_one_without_runs_its_comparison():
    then, now = (made_up_run("a", created=f"2026-11-2{day}T10:00:00") for day in (1, 2))
    alone, both = History("a", (now,))._repr_html_(), History("a", (then, now))._repr_html_()
    assert "the day before" in both and "<img" in both and "<img" not in alone
    compared = made_up_comparison("slow", "a")
    assert str(History("a", (), (), (compared,))).endswith(f"by itself; {compared.finding}")


def test_a_noisy_run_is_doubted_wherever_its_rate_is_said():
    then, now = (made_up_run("a", created=f"2026-11-2{day}T10:00:00") for day in (1, 2))
    noisy = replace(now, disturbances=("other programs used 81% of the CPU",))
    assert "~" not in str(now) and "~ FPS" in str(noisy)
    assert "~ ms" in str(replace(noisy, scenario="paced", settings={**now.settings, "paced_fps": 30}))
    assert "~" not in str(History("a", (then, now)))
    for runs in ((noisy,), (then, noisy), (noisy, replace(now, created="2026-11-23T10:00:00"))):
        assert str(History("a", runs)).endswith("~: noisy, so doubt it")


def test_a_verdict_beyond_what_is_possible_is_none() -> None:
    shares = {"preprocess": 0.1, "infer": 0.8}
    latency_s = np.full(100, 0.03)
    about = {"device": "cpu", "weights": "random", "changes": "a"}
    runs = [
        made_up_run(
            name, n=100, latency_s=latency_s, done_s=np.cumsum(latency_s),
            spans_s={part: share * latency_s for part, share in shares.items()},
            settings={**about, "preparation": {"preprocess": name, "device": "cpu"}},
        )
        for name in "ab"
    ]  # fmt: skip
    claims = [made_up_comparison("a", "b", ratio=ratio, spread=0.002) for ratio in (1.09, 1.3)]
    possible, beyond = with_ceilings(claims, runs)
    assert [claim.verdict for claim in claims] == ["faster"] * 2
    assert possible.verdict == "faster" and possible.ceiling.gain == pytest.approx(1 / 0.9)
    assert beyond.verdict == "cannot tell"
    assert beyond.finding.startswith(
        "b vs a: cannot tell: the most possible is 1.11x, had preprocess cost nothing (1.3"
    )
    busy = replace(claims[1], settings={**claims[1].settings, "foreign_cpu": 0.81})
    assert "b vs a: cannot tell: other programs used 81% of the CPU (" in busy.finding
    stolen = replace(claims[1], settings={**claims[1].settings, "foreign_cpu": 0.1, "steal": 0.4})
    assert "the host gave 40% of this machine's CPU time to others (steal) (" in stolen.finding
    told = replace(busy, disturbances=(busy.refuted_by, "a fan ran")).sentence
    assert told.count("other programs") == 1 and told.endswith("; disturbed: a fan ran")
    result = ResultSet(runs, [beyond])
    assert beyond.finding in str(result) and list(result.gains()["verdict"]) == ["cannot tell"]
    elsewhere = [replace(run, fingerprint={"cpu": "Another"}) for run in runs]
    assert with_ceilings(claims, elsewhere) == claims
    on_gpu = [replace(run, settings={**run.settings, "device": "cuda"}) for run in runs]
    assert with_ceilings(claims, on_gpu)[1].ceiling is None  # the host's spans say nothing of a GPU


def test_a_network_file_system_is_doubted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Store(tmp_path / "lab.sqlite").warning is None
    monkeypatch.setattr(database, "file_system", lambda path: "nfs4")
    assert "nfs4" in str(Store(tmp_path / "lab.sqlite").warning)


def test_table_has_one_row_per_run_and_no_percentile_of_few_frames() -> None:
    runs = [made_up_run("a", n=130), made_up_run("b", agreement=None, spread=0.3)]
    shown = table(runs)
    assert list(shown["rung"]) == ["a", "b"]
    assert shown["fps"][0] == runs[0].fps
    assert (shown["fps_lo"] < shown["fps"]).all()
    assert shown["p90_ms"][0] == pytest.approx(np.percentile(runs[0].latency_s, 90) * 1e3)
    assert np.isnan(shown["p99_ms"][0])
    assert "None" not in str(ResultSet(runs[:1])) + ResultSet(runs[:1])._repr_html_()
    assert list(shown["noisy"]) == [False, True]
    assert shown["share_of_limit"][0] == pytest.approx(runs[0].fps * 10 / 1000)
    assert shown["machine"][0] == "Example CPU 3000, 8 cores"
    assert len(table([])) == 0


def exported(lab: Store, folder: Path) -> tuple[Run, Comparison]:
    run = lab.add(made_up_run(spans_s={"a/b": np.full(120, np.nan)}, limit={"x": float("nan")}))
    comparison = lab.add(made_up_comparison())
    lab.export(folder)
    return run, comparison


def test_an_export_reads_back_into_the_same_records(lab: Store, tmp_path: Path) -> None:
    lab.add(made_up_run("other", n=7))
    run, comparison = exported(lab, tmp_path / "out" / "machine")
    back = load_export(tmp_path / "out" / "machine")
    assert [r.rung for r in back.runs] == ["other", "opencv"]
    assert np.isnan(back.runs[1].limit["x"])
    for name, part in codec.series_of(run).items():
        np.testing.assert_array_equal(codec.series_of(back.runs[1])[name], part)
    assert (back.runs[1].id, back.runs[1].created) == (run.id, run.created)
    assert_same_run(back.runs[0], lab.runs()[0])
    assert back.comparisons[0].sentence == comparison.sentence
    assert back.fingerprint["cpu"] == "Example CPU 3000"
    for place in (tmp_path / "out", tmp_path / "out" / "machine"):
        assert [run.id for each in load_exports(place) for run in each.runs] == [1, 2]


def test_csv_holds_the_same_numbers_to_the_last_digit(lab: Store, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    run, _ = exported(lab, tmp_path)
    samples = pd.read_csv(tmp_path / "samples.csv", dtype={"seconds": str})
    latency = samples[samples["series"] == "latency_s"].sort_values("position")["seconds"]
    np.testing.assert_array_equal([float(text) for text in latency], run.latency_s)
    runs = pd.read_csv(tmp_path / "runs.csv", dtype={"fps": str})
    assert float(runs["fps"][0]) == run.fps
    assert json.loads(runs["settings"][0])["weights"] == "random"


def test_an_empty_store_is_exported_and_read(lab: Store, tmp_path: Path) -> None:
    files = lab.export(tmp_path / "empty")
    assert [file.name for file in files][-1] == "fingerprint.json"
    assert load_export(tmp_path / "empty").runs == ()


def test_an_export_with_a_file_missing_or_changed_is_noticed(lab: Store, tmp_path: Path) -> None:
    exported(lab, tmp_path / "a")
    (tmp_path / "a" / "samples.parquet").write_bytes(b"torn")
    with pytest.raises(ResultsError, match=r"samples\.parquet is not the file that was exported"):
        load_export(tmp_path / "a")
    (tmp_path / "a" / "samples.parquet").unlink()
    with pytest.raises(ResultsError, match="no complete Parquet export"):
        load_export(tmp_path / "a")
    with pytest.raises(UsageError, match="only saved records"):
        export([made_up_run()], [], tmp_path)


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomic(tmp_path / "new" / "a.txt", "first")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(ResultsError, match="No space left"):
        write_atomic(path, "second")
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o044


def test_a_point_of_a_sweep_is_one_row_with_one_run(lab: Store) -> None:
    about = {"rung": "opencv", "size": [64, 48]}
    row, run = keep_point(lab, "sweep", "a", about, made_up_run("first"))
    assert run is not None
    assert (row.sweep, row.point, row.about, row.run_id, row.reason) == ("sweep", "a", about, run.id, None)
    assert row.measured
    assert lab.run(run.id).rung == "first"
    again, none = keep_point(lab, "sweep", "a", about, made_up_run("second"))
    assert none is None
    assert again == row
    assert keep_point(lab, "sweep", "a", about, "it failed")[0] == row  # a run is never given up
    assert [run.rung for run in lab.runs()] == ["first"]
    keep_point(lab, "other", "a", about, made_up_run())
    assert sweep_names(lab) == ["sweep", "other"]
    assert sweep_points(lab, "sweep") == {"a": row}
    assert sweep_points(lab, "nosuch") == {}


def test_a_failed_point_has_a_reason_until_it_is_measured(lab: Store) -> None:
    row, run = keep_point(lab, "sweep", "a", {}, "its node left")
    assert run is None
    assert (row.run_id, row.reason, row.measured) == (None, "its node left", False)
    assert keep_point(lab, "sweep", "a", {}, "it failed again")[0].reason == "it failed again"
    assert keep_point(lab, "sweep", "a", {}, made_up_run())[0].measured
    assert len(sweep_points(lab, "sweep")) == 1
    with pytest.raises(UsageError, match="has a reason"):
        keep_point(lab, "sweep", "b", {}, " ")


def test_a_point_and_its_run_are_saved_together_or_not_at_all(lab: Store) -> None:
    lab._db.execute("CREATE TRIGGER full BEFORE INSERT ON sweep_points BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(ResultsError):
        keep_point(lab, "sweep", "a", {}, made_up_run())
    assert lab.runs() == []
    assert sweep_points(lab, "sweep") == {}
    with pytest.raises(UsageError, match="about is stored as JSON"):
        keep_point(lab, "sweep", "a", {"x": object()}, made_up_run())
    assert lab.runs() == []


def test_a_deleted_run_takes_its_point_along(lab: Store) -> None:
    _, run = keep_point(lab, "sweep", "a", {}, made_up_run())
    keep_point(lab, "sweep", "b", {}, made_up_run())
    assert lab.delete([run.id]) == 1
    assert list(sweep_points(lab, "sweep")) == ["b"]


def test_two_drivers_of_one_sweep_leave_one_row_per_point(tmp_path: Path) -> None:
    def drive(name: str) -> None:
        with Store(tmp_path / "lab.sqlite") as lab:
            for i in range(20):
                keep_point(lab, "sweep", str(i), {}, made_up_run(name, n=5))

    drivers = [threading.Thread(target=drive, args=(name,)) for name in ("one", "two")]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    with Store(tmp_path / "lab.sqlite") as lab:
        assert len(lab.runs()) == 20
        assert {row.run_id for row in sweep_points(lab, "sweep").values()} == {r.id for r in lab.runs()}


def flipped(path: Path, marker: bytes) -> None:
    """Flips a bit in the last letter of the first place in a file that holds these bytes."""
    content = bytearray(path.read_bytes())
    content[content.index(marker) + len(marker) - 1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("marker", [b'"model_set": "full"', b"rung1", b'{"device"', b"x\x9c"])
def test_a_damaged_row_is_named_and_hides_no_other(tmp_path: Path, marker: bytes) -> None:
    path = tmp_path / "lab.sqlite"
    with Store(path) as lab:
        for k in range(5):
            lab.add(made_up_run(f"rung{k}", seed=k))
    flipped(path, marker)
    for read_only in (True, False):
        with Store(path, read_only=read_only) as lab:
            assert len(lab.runs()) == 4
            (damage,) = lab.damaged
            assert damage.table == "runs"
            assert f"labkit results delete {damage.id}" in checksums.describe_damage(lab.damaged)[0]
            with pytest.raises(ResultsError, match="damaged"):
                lab.run(damage.id)
            assert lab.add(made_up_run()) if not read_only else True
    with Store(path) as lab:
        assert lab.delete([damage.id]) == 1
        assert len(lab.runs()) == 5
        assert not lab.damaged


def test_text_that_is_no_utf8_is_damage_and_no_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "lab.sqlite"
    with Store(path) as lab:
        lab.add(made_up_run())
    content = path.read_bytes()
    assert b'"model_set": "full"' in content
    path.write_bytes(content.replace(b'"model_set": "full"', b'"model_set": "f\xffll"'))
    with Store(path) as lab:
        assert lab.runs() == []
        assert "no UTF-8" in lab.damaged[0].reason


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_changes_a_row_unseen(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "lab.sqlite"
    with Store(path) as lab:
        for k in range(4):
            lab.add(made_up_run(f"rung{k}", seed=k))
        whole = {run.id: run.latency_s.tobytes() for run in lab.runs()}
    content, chance = bytearray(path.read_bytes()), random.Random(seed)
    with sqlite3.connect(path) as db:
        page = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    hit = 0
    for _ in range(60):
        place, bit = chance.randrange(page, len(content)), 1 << chance.randrange(8)
        content[place] ^= bit
        path.write_bytes(content)
        content[place] ^= bit
        with Store(path, read_only=True) as lab:
            found = {run.id: run.latency_s.tobytes() for run in lab.runs()}
            hit += bool(lab.damaged)
        assert found.items() <= whole.items()
        assert len(found) >= 3
        assert len(whole.keys() - found.keys()) <= len(lab.damaged)  # an id may be what was damaged
    assert hit


def test_a_damaged_id_hides_only_its_row(tmp_path: Path) -> None:
    path = tmp_path / "lab.sqlite"
    with Store(path) as lab:
        for k in range(4):
            lab.add(made_up_run(f"rung{k}", seed=k))
    content = bytearray(path.read_bytes())
    with sqlite3.connect(path) as db:
        size = db.execute("PRAGMA page_size").fetchone()[0]
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
    db.close()
    leaf = next(
        page for page in range(len(content) // size)
        if content[page * size] == 13 and int.from_bytes(content[page * size + 3 : page * size + 5]) > 1
        and (page + 1 == root or content[(root - 1) * size] == 5)
    )  # fmt: skip
    cell = leaf * size + int.from_bytes(content[leaf * size + 8 : leaf * size + 10])
    while content[cell] & 0x80:  # the length of the row, behind which its id stands
        cell += 1
    content[cell + 1] ^= 0x40
    path.write_bytes(content)
    with Store(path, read_only=True) as lab:
        assert len(lab.runs()) == 3 and len(lab.damaged) == 1


def test_rows_of_an_older_version_get_a_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = version_1(tmp_path / "lab.sqlite", made_up_run())
    before = path.read_bytes()
    with Store(path, read_only=True) as lab:
        assert len(lab.runs()) == 1
        with pytest.raises(ResultsError):
            lab.add(made_up_run())
    assert path.read_bytes() == before
    Store(path).close()
    flipped(path, b'"random"')
    assert Store(path).runs() == []
    later = (*schema.MIGRATIONS, ("ALTER TABLE runs ADD COLUMN source_sha256 TEXT",))
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    monkeypatch.setattr(schema, "VERSION", len(later))
    with Store(path) as lab:
        lab.add(made_up_run("after"))
        assert [run.rung for run in lab.runs()] == ["after"]  # a new column keeps checksums as they are
        assert [damage.id for damage in lab.damaged] == [1]


def test_a_store_is_read_without_a_change_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "shared" / "lab.sqlite"
    with Store(path) as lab:
        lab.add(made_up_run())
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    with Store(path, read_only=True) as lab:
        assert len(lab.runs()) == 1
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
    assert list(before) == ["lab.sqlite"]
    with Store(tmp_path / "nowhere" / "lab.sqlite", read_only=True) as lab:
        assert lab.runs() == []
    assert not (tmp_path / "nowhere").exists()
    with Store(path) as writing:
        writing.add(made_up_run())
        with Store(path, read_only=True) as lab:
            assert len(lab.runs()) == 2


def test_a_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE visits (url TEXT)")
    db.close()
    before = path.read_bytes(), path.stat().st_mtime_ns
    for read_only in (False, True):
        with pytest.raises(ResultsError, match="another program"):
            Store(path, read_only=read_only)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert os.listdir(tmp_path) == ["history.sqlite"]


def test_a_locked_store_is_tried_again_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(saving.tempfile, "tempdir", str(tmp_path / "spare"))
    (tmp_path / "spare").mkdir()
    path, heard = tmp_path / "lab.sqlite", []
    with Store(path) as other, saving.Saving(path, report=heard.append) as here:
        assert here.add(made_up_run("first")).id == 1
        other._db.execute("BEGIN IMMEDIATE")
        assert here.add(made_up_run("second")).id is None
        assert here.add(made_up_comparison()).id is None
        assert len(list((tmp_path / "spare").rglob("lab.sqlite"))) == 1  # safe from a kill already
        other._db.execute("COMMIT")
    assert "another process has held" in heard[0]
    assert here.notes == []
    assert not list((tmp_path / "spare").iterdir())
    with Store(path) as back:
        assert [run.rung for run in back.runs()] == ["first", "second"]
        assert len(back.comparisons()) == 1


def test_what_a_store_never_takes_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    with saving.Saving(tmp_path / "file" / "lab.sqlite") as here:
        here.add(made_up_run())
    spare = here.notes[0].split()[-1]
    assert f"labkit results add {spare}" in here.notes[0]
    assert len(Store(spare).runs()) == 1


def test_what_fits_into_the_spare_store_is_told_from_what_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    path, add = tmp_path / "file" / "lab.sqlite", Store.add
    for fits, words in (
        (0, "2 results could not be saved, and are only shown here"),
        (1, "1 of them, the others"),
    ):
        room = [True] * fits

        def add_while_there_is_room(store: Store, result: Run, room: list[bool] = room) -> Run:
            if not room:
                raise ResultsError("the disk is full")
            room.pop()
            return add(store, result)

        monkeypatch.setattr(Store, "add", add_while_there_is_room)
        with saving.Saving(path) as here:
            for _ in range(2):
                here.add(made_up_run())
        assert words in here.notes[0]
        assert len(list(tmp_path.glob("labkit-unsaved-*"))) == bool(fits)
    with Store(here.notes[0].split()[-1], read_only=True) as spare:
        assert len(spare.runs()) == 1


@pytest.mark.parametrize("kept", [0, 1])
def test_a_spare_store_without_runs_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(saving.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    with saving.store_or_spare(tmp_path / "file" / "lab.sqlite") as (store, refusal):
        assert refusal is not None and store.path.parent.name.startswith("labkit-unsaved-")
        for _ in range(kept):
            store.add(made_up_run())
    assert len(list(tmp_path.glob("labkit-unsaved-*"))) == kept
    with saving.store_or_spare(tmp_path / "lab.sqlite") as (store, refusal):
        assert refusal is None
    assert (tmp_path / "lab.sqlite").is_file()
    (tmp_path / "full" / "lab.sqlite").mkdir(parents=True)
    monkeypatch.setattr(saving.tempfile, "mkdtemp", lambda **_: str(tmp_path / "full"))
    with saving.Saving(tmp_path / "file" / "lab.sqlite") as here:
        here.add(made_up_run())
    assert "only shown here" in here.notes[0]
    assert not (tmp_path / "full").exists()


def test_points_that_a_store_does_not_take_are_kept_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told: list[str] = []
    with Store(tmp_path / "lab.sqlite") as lab:
        for frees in (True, False):
            sweep = f"sweep {frees}"
            with Saving(lab.path, report=told.append) as saving:
                assert saving.keep_point(sweep, "a", {}, made_up_run(seed=int(frees)))[1].id is not None
                lab._db.execute("BEGIN IMMEDIATE")
                row, run = saving.keep_point(sweep, "b", {}, made_up_run(seed=2 + frees))
                assert run is not None and row.reason is None
                assert saving.keep_point(sweep, "c", {}, "it failed")[0].reason == "it failed"
                if frees:
                    lab._db.execute("COMMIT")
            if not frees:
                lab._db.execute("COMMIT")
            assert "measured all the same" in told[-1]
            assert set(sweep_points(lab, sweep)) == ({"a", "b", "c"} if frees else {"a"})
            assert bool(saving.notes) == (not frees)
        path = saving.notes[0].split("labkit results add ")[1]
        assert "2 results could not be saved" in saving.notes[0]
        with Store(path) as spare:
            assert add_all(lab, spare.runs()) == 1
    assert len(list(tmp_path.glob("labkit-unsaved-*"))) == 1


def test_results_that_two_processes_add_at_once_are_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    run = made_up_run()

    def while_another_adds(other: Store) -> Iterator[Run]:
        with pytest.raises(ResultsError, match="another process has held"):
            add_all(other, [run])
        yield run

    with Store(tmp_path / "lab.sqlite") as lab, Store(tmp_path / "lab.sqlite") as other:
        assert add_all(lab, while_another_adds(other)) == 1
        assert add_all(other, [run]) == 0
        assert len(lab.runs()) == 1


def test_a_file_name_that_is_no_utf8_is_stored_in_readable_form(lab: Store) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    saved = lab.add(made_up_run(source={"spec": name, name: Path(name), "odd": "\ud800"}))
    assert lab.run(saved.id).source == {
        "spec": "caf\\xe9.mp4", "caf\\xe9.mp4": "caf\\xe9.mp4", "odd": "\\ud800",
    }  # fmt: skip


def test_recorded_runs_are_found_wherever_results_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    assert recorded_folder().is_dir()
    assert len(result_set.results(recorded=True)) > 0
    (tmp_path / "mine" / "reference" / "here").mkdir(parents=True)
    assert recorded_folder() == tmp_path / "mine" / "reference"
    assert recorded_folder("accuracy").is_dir()


def test_what_was_dropped_is_said_where_something_was() -> None:
    paced = made_up_run(scenario="paced", settings={"paced_fps": 30.0})
    assert "dropped" not in str(paced)
    assert str(replace(paced, offered=paced.offered + 3, dropped=3)).endswith("3 of 123 frames dropped")


def test_values_are_described_in_a_few_words() -> None:
    assert describe(10**30) == str(10**30)
    assert describe(10**30 + 1) == "a number of 100 bits"
    assert shortened("annotations", 11) == "annotations"
    assert shortened("annotations.json", 11) == "annotati..."


def test_a_comparison_in_one_pair_of_processes_says_one():
    assert made_up_comparison().processes == 1
    assert made_up_comparison(process=np.repeat([0.0, 1.0, 2.0], 4)[:11]).processes == 3


def test_a_run_without_frames_has_no_spread():
    nothing = made_up_run(latency_s=np.empty(0), done_s=np.empty(0), spans_s={}, offered=3, failed=3)
    assert nothing.iqr_ms == 0 and made_up_run().iqr_ms > 0


def test_a_table_of_results_has_two_decimals():
    numbers = ResultSet([made_up_run(period_s=0.0123456)]).table().select_dtypes("number")
    assert numbers.equals(numbers.round(2)) and not numbers.equals(numbers.round(1))


@pytest.mark.parametrize("changes", [False, True])
def test_a_file_that_cannot_be_read_is_read_again_if_it_has_changed(changes, tmp_path):
    path = tmp_path / "lab.sqlite"
    Store(path).close()
    times = []

    def fails_at_first(db):
        times.append(1)
        if len(times) == 1:
            if changes:
                path.write_bytes(path.read_bytes() + bytes(4096))
            raise sqlite3.DatabaseError("malformed")
        return "read"

    if changes:
        assert database.read_untouched(path, fails_at_first) == "read" and len(times) == 2
    else:
        with pytest.raises(sqlite3.DatabaseError, match="malformed"):
            database.read_untouched(path, fails_at_first)
        assert len(times) == 1


def test_a_run_as_json_has_its_agreement_or_none():
    shown = made_up_run(agreement=0.5).to_json()["agreement"]
    assert shown["share"] == 0.5 and made_up_run(agreement=None).to_json()["agreement"] is None


@pytest.mark.parametrize(
    ("device", "joules", "per_frame"),
    [
        ("cpu", {"cpu": 240.0}, 2.0),
        ("cpu", {"cpu": 240.0, "gpu": 120.0}, 2.0),
        ("cpu", {"gpu": 120.0}, None),
        ("cuda", {"cpu": 240.0, "gpu": 120.0}, 3.0),
        ("cuda", {"cpu": 240.0}, None),
        ("cpu", {}, None),
    ],
)
def test_energy_per_frame_is_of_what_works_on_the_frame(device, joules, per_frame):
    assert made_up_run(n=120, settings={"device": device, "energy_j": joules}).joules_per_frame == per_frame


def test_damaged_rows_are_named_by_ranges_that_the_command_takes():
    damage = [checksums.Damage("runs", row, "its checksum differs") for row in (7, 3, 5, 6)]
    damage += [checksums.Damage("comparisons", 2, "its checksum differs")]
    runs, comparisons = checksums.describe_damage(damage)
    assert "runs: 3, 5-7 (its checksum differs)" in runs
    assert runs.endswith("to delete: labkit results delete 3 5-7")
    assert comparisons.endswith("to delete: labkit results delete --table comparisons 2")


def test_cells_that_are_no_text_stay_as_they_are():
    mixed = pd.DataFrame({"cell": ["=1+1", 2, None, "cat"], "number": [1.0, 2.0, 3.0, 4.0]})
    assert exports._csv(mixed).decode().splitlines() == [
        "cell,number",
        "'=1+1,1.0",
        "2,2.0",
        ",3.0",
        "cat,4.0",
    ]


def test_units_of_memory_and_of_the_gpus_spans():
    run = made_up_run(n=3, peak_bytes=3 * 2**20, spans_gpu_s={"infer": np.array([0.002, np.nan, 0.004])})
    assert run.spans_gpu_ms == {"infer": pytest.approx(3.0)}
    assert table([run])["peak_mib"][0] == run.to_json()["peak_mib"] == 3.0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts the open files that Linux shows")
def test_what_is_written_leaves_no_file_open(tmp_path):
    write_atomic(tmp_path / "a.txt", "first")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        write_atomic(tmp_path / "a.txt", "again")
    assert len(os.listdir("/proc/self/fd")) < before + 20


@pytest.mark.parametrize("ended_by_sqlite", [False, True])
def test_a_row_that_cannot_be_read_stays_unsealed_and_a_full_disk_is_told(ended_by_sqlite, monkeypatch):
    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full" if ended_by_sqlite else "malformed row")

    monkeypatch.setattr(checksums, "row_ids", lambda db, name: [1])
    db = SimpleNamespace(execute=fails, in_transaction=not ended_by_sqlite)
    with pytest.raises(sqlite3.OperationalError, match="full") if ended_by_sqlite else nullcontext():
        checksums.seal_unsealed(db)
