"""Sweeps on a real Ray cluster of two nodes: every point exactly once, across deaths."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

ray = pytest.importorskip("ray")

import measuring_fakes as fakes  # noqa: E402
from records_made_up import made_up_run  # noqa: E402

from labkit.cli.main import main  # noqa: E402
from labkit.core import interrupt  # noqa: E402
from labkit.core.child import PR_SET_PDEATHSIG  # noqa: E402
from labkit.core.errors import UnavailableError, UsageError  # noqa: E402
from labkit.core.interrupt import interrupt_after  # noqa: E402
from labkit.core.machine import fingerprint  # noqa: E402
from labkit.fleet import cluster as cluster_module  # noqa: E402
from labkit.fleet import guards  # noqa: E402
from labkit.fleet.cluster import Node, cluster, measuring_nodes, nodes  # noqa: E402
from labkit.fleet.sweep import run_sweep as sweep_module  # noqa: E402
from labkit.fleet.sweep.grid import Grid  # noqa: E402
from labkit.fleet.sweep.point import SweepProgress  # noqa: E402
from labkit.fleet.sweep.run_sweep import sweep, unused_name  # noqa: E402
from labkit.results.store import Store  # noqa: E402
from labkit.results.sweeps import keep_point, sweep_points  # noqa: E402

TESTS = Path(__file__).parent
RUNG = "detr_opencv_cpu"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two measuring nodes that this process is connected to."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))  # the nodes import the fakes
        head = {"num_cpus": 1, "resources": {"measuring": 1}, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(num_cpus=1, resources={"measuring": 1})
        with cluster(made.address):
            yield made
        made.shutdown()


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "lab.sqlite") as store:
        yield store


@pytest.fixture
def folder(tmp_path):
    """Folder of the fakes' notes; the source of the points."""
    path = tmp_path / "notes"
    path.mkdir()
    return path


def grid_of(folder, objects=(1, 2, 3, 4), **other):
    return Grid((RUNG,), sizes=((64, 48),), objects=objects, source=str(folder), model_set="lab", **other)


def until(true, patience_s=PATIENCE_S):
    deadline_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline_s, "the condition did not become true in time"
        time.sleep(0.02)


def check_once(grid, store, name=None):
    """Assert that the store holds every point of the grid exactly once, and so every run."""
    rows = sweep_points(store, name or grid.name)
    assert Counter(list(rows)) == Counter(point.key for point in grid.points)
    runs = Counter(row.run_id for row in rows.values() if row.measured)
    assert set(runs.values()) <= {1}
    assert len(store.runs()) == len(runs)


# the grid


def test_a_grid_is_the_product_of_its_lists_repeated_in_rounds():
    grid = Grid(
        (RUNG, "resnet_linear_cpu"), sizes=((64, 48), (96, 64)), objects=(1, 5),
        scenarios=("closed", "paced"), fps=5, repeats=2,
    )  # fmt: skip
    assert len(grid.points) == 2 * 2 * 2 * 3  # the classifier has no boxes to vary
    assert [point.repeat for point in grid.points] == [0] * 12 + [1] * 12
    assert {(point.scenario, point.fps) for point in grid.points} == {("closed", None), ("paced", 5)}
    assert len({point.key for point in grid.points}) == 24


def test_a_key_depends_on_the_settings_of_a_point_alone():
    one, same = (Grid((RUNG,), objects=(3,)).points[0] for _ in range(2))
    assert one.key == same.key
    workload = one.workload
    others = [
        replace(one, rung="detr_pil_cpu"), replace(one, source="scenes"), replace(one, repeat=1),
        replace(one, scenario="paced", fps=5.0), replace(one, seconds=2.0), replace(one, quick=True),
        replace(one, scenes=4), replace(one, workload=replace(workload, size=(64, 48))),
        replace(one, workload=replace(workload, objects=4)), replace(one, workload=replace(workload, seed=1)),
        replace(one, workload=replace(workload, model_set="lab")),
        replace(one, workload=replace(workload, weights="random")),
        replace(one, workload=replace(workload, detector="d_fine_s")),
    ]  # fmt: skip
    assert len({one.key, *(other.key for other in others)}) == 1 + len(others)
    assert one.key == "3322ad2fcf253095"  # as in the stores that there are: sweeps go on


def test_a_source_of_a_sweep_is_a_path_only_where_it_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("webcam", "photos", "clips"):
        (tmp_path / name).mkdir()
    sources = {name: Grid((RUNG,), source=name).points[0].source for name in ("webcam", "photos", "clips")}
    assert sources == {"webcam": "webcam", "photos": "photos", "clips": str((tmp_path / "clips").resolve())}
    unusable = "x" * 5000  # longer than a path may be: told when it is opened, not here
    assert Grid((RUNG,), source=unusable).points[0].source == str(tmp_path / unusable)


def test_stored_addresses_have_no_credentials():
    sources = [f"rtsp://user:secret@camera/1?key={key}" for key in ("secret", "other")]
    points = [Grid((RUNG,), source=each).points[0] for each in [*sources, "token secret http://camera/1"]]
    assert "secret" not in json.dumps([point.describe() for point in points])
    assert points[0].key != points[1].key


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"repeats": 0}, "1 or more, not 0"), ({"fps": 5.0}, "--scenario paced"),
        ({"sizes": ()}, "value in sizes"),
        ({"scenarios": ("paced",)}, "needs a rate"), ({"scenarios": ("live",)}, "not 'live'"),
        ({"seconds": 0.0}, "more than 0"), ({"rungs": ("nosuch",)}, "nosuch"), ({"objects": (900,)}, "900"),
        ({"repeats": 20_000}, "20000"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_refused_with_the_reason(wrong, words):
    with pytest.raises(UsageError, match=words):
        Grid(**({"rungs": (RUNG,)} | wrong))


# on two nodes


def test_the_nodes_of_a_cluster_are_listed(two_nodes):
    assert [(node.cpus, node.measuring) for node in nodes()] == [(1, 1), (1, 1)]
    assert measuring_nodes() == nodes()


def test_every_point_is_measured_once_and_one_at_a_time_per_node(two_nodes, store, folder):
    grid = grid_of(folder, objects=(1, 3), repeats=2)
    progress = RecordedProgress()
    result = sweep(grid, store=store, address=two_nodes.address, measure=fakes.quick, progress=progress)
    check_once(grid, store)
    assert [point for point, *_ in result.rows] == list(grid.points)
    assert [run.settings["objects"] for run in result.runs] == [p.workload.objects for p in grid.points]
    assert not result.failed
    assert progress.plans == [(4, 0)]
    assert sorted(progress.points) == sorted(point.key for point in grid.points)
    done = fakes.ended(folder)
    assert len({note["node"] for note in done}) == 2
    assert len({note["pid"] for note in done}) == len(grid.points)  # a fresh process each
    for node in {note["node"] for note in done}:
        spans = sorted((n["begun_s"], n["ended_s"]) for n in done if n["node"] == node)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


@pytest.mark.extended
def test_stored_points_are_not_measured_again(two_nodes, store, folder):
    grid = grid_of(folder, objects=(1, 2))
    first = sweep(grid, store=store, address=two_nodes.address, measure=fakes.without_source)
    assert [(str(p), why) for p, why in first.failed] == [
        (f"{RUNG} 64x48, 2 boxes, closed", "film.mp4 is not on this machine; copy it there")
    ]
    assert len(fakes.executions(folder)) == 2  # a missing source is no reason to try again
    again = sweep(grid, store=store, address=two_nodes.address, measure=fakes.quick)
    assert again.reused == 2
    assert len(fakes.executions(folder)) == 2
    healed = sweep(grid, store=store, address=two_nodes.address, measure=fakes.quick, retry_failed=True)
    assert healed.reused == 1
    assert not healed.failed
    assert len(fakes.executions(folder)) == 3
    check_once(grid, store)
    wider = grid_of(folder, objects=(1, 2, 3))
    sweep(wider, store=store, name=grid.name, address=two_nodes.address, measure=fakes.quick)
    assert len(fakes.executions(folder)) == 4
    check_once(wider, store, grid.name)


@pytest.mark.extended
def test_a_point_whose_process_dies_or_breaks_is_retried(two_nodes, store, folder):
    grid = grid_of(folder, objects=(1, 2, 3))
    result = sweep(grid, store=store, address=two_nodes.address, measure=fakes.failing_once)
    assert not result.failed
    check_once(grid, store)
    begun = Counter(note["boxes"] for note in fakes.executions(folder))
    assert begun == {1: 1, 2: 2, 3: 2}


@pytest.mark.extended
def test_a_point_that_always_dies_is_stored_as_failed_with_the_reason(two_nodes, store, folder):
    grid = grid_of(folder, objects=(1, 2))
    result = sweep(grid, store=store, address=two_nodes.address, measure=fakes.dying, retries=1)
    check_once(grid, store)
    ((point, why),) = result.failed
    assert point.workload.objects == fakes.SPECIAL
    assert "the process measuring it died" in why
    assert "2 attempts" in why
    assert len(fakes.executions(folder, point.key)) == 2


@pytest.mark.extended
def test_a_programming_error_is_reported_in_one_line(two_nodes, store, folder):
    grid = grid_of(folder, objects=(2,))
    result = sweep(grid, store=store, address=two_nodes.address, measure=fakes.broken)
    assert result.failed[0][1] == f"KeyError: '{grid.points[0].key}'"
    assert len(fakes.executions(folder)) == 1


@pytest.mark.extended
def test_a_lost_node_costs_no_point(two_nodes, store, folder):
    grid = grid_of(folder, objects=(2, 1), repeats=3)
    third = two_nodes.add_node(num_cpus=1, resources={"measuring": 1})
    try:
        gone = Leaving(two_nodes, third, folder)
        result = sweep(grid, store=store, address=two_nodes.address, measure=fakes.waiting, progress=gone)
    finally:
        if third in two_nodes.worker_nodes:
            two_nodes.remove_node(third, allow_graceful=False)
    assert gone.left
    check_once(grid, store)
    assert not result.failed
    assert any(note["node"] == third.node_id for note in fakes.executions(folder))
    assert len(fakes.executions(folder)) > len(grid.points)  # what ran there was begun again


@pytest.mark.extended
def test_points_that_no_node_can_measure_fail_with_the_reason(two_nodes, store, folder, monkeypatch):
    cuda = Grid(("resnet_cuda",), source=str(folder))
    result = sweep(cuda, store=store, address=two_nodes.address, measure=fakes.quick)
    assert "a GPU" in result.failed[0][1]
    grid = grid_of(folder, objects=(2,))
    monkeypatch.setattr(sweep_module, "nodes", list)  # as if every node had left
    monkeypatch.setattr(sweep_module, "POLL_S", 0.1)
    result = sweep(grid, store=store, address=two_nodes.address, measure=fakes.waiting, grace_s=0.3)
    assert "no node that can measure it was left" in result.failed[0][1]


def test_without_a_measuring_node_the_error_says_how_to_start_one(two_nodes, store, folder, monkeypatch):
    monkeypatch.setattr(cluster_module, "nodes", lambda: [Node("a", "host", 4, 0, 0)])
    with pytest.raises(UnavailableError, match=r"ray start .*--resources='\{\"measuring\": 1\}'"):
        sweep(grid_of(folder), store=store, address=two_nodes.address, measure=fakes.quick)


def test_another_cluster_than_the_connected_one_is_refused(two_nodes):
    with pytest.raises(UsageError, match="another Ray cluster"), cluster("192.0.2.7:6379"):
        pass


@pytest.mark.extended
def test_a_real_rung_is_measured_as_without_ray(two_nodes, store, tmp_path):
    grid = Grid(("resnet_linear_cpu",), sizes=((64, 48),), model_set="lab", seconds=0.2, quick=True)
    result = sweep(grid, store=store, address=two_nodes.address, measure=fakes.without_peaks)
    (run,) = result.runs
    assert not result.failed
    assert (run.rung, run.settings["model_set"], run.quick) == ("resnet_linear_cpu", "lab", True)
    assert run.fps > 0
    here = fingerprint()
    assert run.fingerprint["threads"] == here["threads"]  # the node has one core for Ray, not for torch
    assert run.fingerprint["cpu"] == here["cpu"]


@pytest.mark.extended
def test_a_killed_sweep_is_resumed(two_nodes, store, folder):
    sizes, boxes = "64x48", "1,3,4,2"  # the last one waits
    arguments = ["sweep", RUNG, "--size", sizes, "--objects", boxes, "--source", str(folder)]
    arguments += ["--model-set", "lab", "--name", "killed", "--address", two_nodes.address]
    with running("waiting", *arguments, home=store.path.parent):
        until(lambda: len(sweep_points(store, "killed")) == 3 and len(fakes.executions(folder)) >= 4)
    kept = {key: row.run_id for key, row in sweep_points(store, "killed").items()}
    (folder / "go").touch()
    with running("waiting", *arguments, home=store.path.parent) as driver:
        out, err = driver.communicate(timeout=90)
    assert driver.returncode == 0, err
    rows = sweep_points(store, "killed")
    assert len(rows) == 4
    assert {key: rows[key].run_id for key in kept} == kept
    begun = Counter(note["key"] for note in fakes.executions(folder) if note["key"] in kept)
    assert begun == dict.fromkeys(kept, 1)
    assert "3 of 4 points are there from before" in err
    assert "4 points measured, 0 failed" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert RUNG in out


# on this machine alone


@pytest.mark.extended
def test_ctrl_c_ends_cleanly_and_leaves_nothing_behind(store, folder):
    arguments = ["sweep", RUNG, "--size", "64x48", "--objects", "1,2", "--source", str(folder)]
    name = Grid((RUNG,), sizes=((64, 48),), objects=(1, 2), source=str(folder)).name
    with running("waiting", *arguments, home=store.path.parent) as driver:
        until(lambda: len(sweep_points(store, name)) == 1 and len(fakes.executions(folder)) >= 2)
        started = psutil.Process(driver.pid)
        processes = started.children(recursive=True)
        assert any("raylet" in process.name() for process in processes)
        places = {c.laddr for p in [started, *processes] for c in connections(p) if c.status == "LISTEN"}
        assert {place.ip for place in places} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        (private,) = Path("/tmp").glob(f"labkit-ray-{driver.pid}-*")
        assert private.stat().st_mode & 0o777 == 0o700
        driver.send_signal(signal.SIGINT)
        out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130
    message = " ".join(err.split())  # lines are wrapped
    assert "1 of 2 points are kept" in message
    assert "the same command resumes" in message
    assert "Traceback" not in out + err
    _, left = psutil.wait_procs(processes, timeout=20)
    assert not left
    assert not list(Path("/tmp").glob(f"labkit-ray-{driver.pid}-*"))


@pytest.mark.skipif(psutil.virtual_memory().available < 12 * 2**30, reason="needs 12 GiB of free memory")
@pytest.mark.extended
def test_only_the_point_that_runs_out_of_memory_fails(store, folder):
    """Ray kills its process at a memory threshold a little above the current use."""
    memory = psutil.virtual_memory()
    bound = (memory.total - memory.available + 3 * 2**30) / memory.total
    arguments = ["sweep", RUNG, "--size", "64x48", "--objects", "1,2,3", "--source", str(folder)]
    arguments += ["--model-set", "lab", "--name", "hungry"]
    settings = {"RAY_memory_usage_threshold": f"{bound:.4f}", "RAY_task_oom_retries": "1",
                "RAY_task_oom_retry_delay_base_ms": "100"}  # fmt: skip
    with running("hungry", *arguments, home=store.path.parent, **settings) as driver:
        out, err = driver.communicate(timeout=200)
    rows = sweep_points(store, "hungry")
    assert sorted(row.measured for row in rows.values()) == [False, True, True], err
    (why,) = (row.reason for row in rows.values() if row.reason is not None)
    assert "its node ran out of memory" in why
    assert "2 points measured, 1 failed" in out
    begun = Counter(note["boxes"] for note in fakes.executions(folder))
    assert begun[fakes.SPECIAL] == 2
    assert "Traceback" not in out + err


def test_ctrl_c_is_deferred_and_a_second_one_is_not():
    went_on = []

    def interrupted(times):
        with interrupt_after("it was tried"):
            for number in range(times):
                signal.raise_signal(signal.SIGINT)
                went_on.append(number)

    for times in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            interrupted(times)
        assert went_on == [0] * times
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is kept")
def test_a_library_cannot_take_over_a_termination_signal():
    import ctypes

    received = []

    def takes_over(*_, **__):
        ignored = ctypes.c_void_p(1)
        ctypes.CDLL(None).signal(signal.SIGTERM, ignored)  # beneath Python
        limit = time.monotonic() + PATIENCE_S
        while not received and time.monotonic() < limit:
            signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def own(*_):
        received.append(1)

    before = signal.signal(signal.SIGTERM, own)
    try:
        guards.init(SimpleNamespace(init=takes_over), "local")
        assert received and signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("words", "tries"), [("The current node timed out during startup.", 2), ("no disk", 1)]
)
def test_ray_that_started_too_slowly_is_started_once_more(words, tries):
    tried = []

    def init(address, **settings):
        tried.append(address)
        raise RuntimeError(words)

    with pytest.raises(RuntimeError, match=words):
        guards.init(SimpleNamespace(init=init, shutdown=lambda: None), "local")
    assert tried == ["local"] * tries


STARTS_RAY = """
import ctypes, os, sys, threading
from contextlib import suppress
from types import SimpleNamespace
from labkit.cli import main as cli
from labkit.fleet import guards
def init(*_, **__):
    os.write(2, b"*** SIGTERM received\\n")  # as Ray's library does
    print("Python's own", file=sys.stderr)
    print("starting", flush=True)
    ctypes.CDLL(None).sleep(60)
threading.Thread(target=ctypes.CDLL(None).sleep, args=(60,)).start()
def app(_):
    with suppress(*[KeyboardInterrupt] * (sys.argv[1] == "0")):
        try:
            guards.init(SimpleNamespace(init=init, shutdown=None), "local")
        finally:
            print("and afterwards", file=sys.stderr)
cli._add_commands()
cli.app = app
raise SystemExit(cli.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGTERM, 0)]
)
def test_a_command_ends_at_once_while_ray_starts(number, code):
    arguments = [sys.executable, "-c", STARTS_RAY, str(code)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True) as command:
        assert command.stdout.readline() == "starting\n"
        command.send_signal(number)
        assert command.wait(20) == code
        assert command.stderr.read() == "Python's own\nand afterwards\n"


GUARDED = """
import subprocess, sys, time
from pathlib import Path
from labkit.fleet.guards import ended_with_owner
with ended_with_owner(Path(sys.argv[1]), lambda: None):
    started = [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(4)]
    parentless = subprocess.check_output(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], text=True)
    print(*[each.pid for each in started], parentless, end="", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="what is started there is called otherwise")
def test_the_guard_ends_what_a_killed_command_had_started_and_then_itself(tmp_path):
    folder = tmp_path / "ray"
    folder.mkdir()
    command = [sys.executable, "-c", GUARDED, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        pids = {int(pid) for pid in owner.stdout.readline().split()}
        (guard,) = [each for each in psutil.Process(owner.pid).children() if each.pid not in pids]
        owner.kill()
    until(lambda: not folder.exists())
    _, left = psutil.wait_procs([guard], timeout=5)
    assert not left and not any(guards.lives(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody asks for that")
@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_what_an_abandonable_call_raises_is_raised(error):
    def fails():
        raise error

    with pytest.raises(type(error)):
        interrupt.abandonable(fails)


def test_what_an_abandonable_call_starts_outlives_it():
    """Ray asks Linux to end its processes with the thread that started them."""
    started = []

    def starts():
        asking = f"import ctypes, time; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, 9); "
        command = [sys.executable, "-c", f"{asking}print('up', flush=True); time.sleep(60)"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[0].stdout.readline() == "up\n"

    interrupt.abandonable(starts)
    with started[0] as process:
        time.sleep(0.3)
        assert process.poll() is None
        process.kill()


@pytest.mark.extended
def test_messages_of_ray_stay_out_of_the_output(tmp_path):
    code = """
import time
from labkit.fleet.cluster import cluster
with cluster() as ray:
    from ray._private.worker import print_to_stdstream
    print_to_stdstream({"lines": ["WARNING: 8 workers"], "pid": "raylet", "is_err": False}, False)
    print("ours")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["ours"], "")


# without Ray


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:99999999", "ray://host:10001"])
def test_a_wrong_address_is_refused(address):
    with pytest.raises(UsageError, match=r"HOST:PORT"), cluster(address):
        pass


def test_an_address_without_a_server_is_reported_soon():
    with pytest.raises(UnavailableError, match=r"reached at 127.0.0.1:9 .*a cluster begins with: ray start"):
        cluster_module._connect(ray, "127.0.0.1:9")


@pytest.mark.extended
def test_a_server_that_is_not_ray_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(cluster_module, "ANSWER_TIMEOUT_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"does not answer as Ray within 3 s"):
            cluster_module._connect(ray, address)


def test_without_ray_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError, match=r"pip install 'labkit\[scale\]'"), cluster():
        pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "nosuch"), (["--size", "64"], "WIDTHxHEIGHT"),
        (["--size", "64x48,"], "--size must be a list"),
        (["--objects", "1,many"], "'many'"), (["--scenario", "live"], "not 'live'"),
        (["--fps", "5"], "--scenario paced"), (["--repeats", "0"], "1 or more, not 0"),
        (["--address", "nonsense"], "HOST:PORT"),
    ],
)  # fmt: skip
def test_command_line_errors_are_one_sentence(arguments, words, capsys):
    assert main(["sweep", *arguments]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err + shown.out


def test_a_name_that_is_used_gets_a_number(store):
    assert unused_name(store, "a") == "a"
    for name in ("a", "a-2"):
        keep_point(store, name, "key", {}, made_up_run())
    assert unused_name(store, "a") == "a-3"


class RecordedProgress(SweepProgress):
    def __init__(self):
        self.plans, self.points = [], []

    def planned(self, total, stored):
        self.plans.append((total, stored))

    def stored(self, point, row, run):
        assert (run is None) == (row.reason is not None)
        self.points.append(point.key)


class Leaving(SweepProgress):
    """Kills a node once it has begun a point, and then ends all waiting."""

    def __init__(self, made, node, folder):
        import threading

        self.made, self.node, self.folder, self.left = made, node, folder, False
        threading.Thread(target=self._leave, daemon=True).start()

    def _leave(self):
        try:
            until(self._waiting_there)
            self.made.remove_node(self.node, allow_graceful=False)
            self.left = True
            for pid in self._waiting_there():  # with a real machine its processes go at once, too
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
        finally:
            (self.folder / "go").touch()

    def _waiting_there(self):
        """Processes of the node that have begun a point which waits."""
        begun = fakes.executions(self.folder)
        return [n["pid"] for n in begun if n["node"] == self.node.node_id and n["boxes"] == fakes.SPECIAL]


@contextmanager
def running(fake, *arguments, home, **settings):
    """Run the command line in another process with a fake measurement; killed at the end."""
    driver = subprocess.Popen(
        [sys.executable, str(TESTS / "sweep_driver.py"), fake, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LABKIT_HOME": str(home), "COLUMNS": "80", **settings},
    )
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def connections(process):
    try:
        return process.net_connections("tcp")
    except psutil.Error:
        return []
