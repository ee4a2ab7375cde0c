"""Workers on a machine, or a GPU, whose memory is short."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from labkit.bench import headroom as headroom_module
from labkit.bench import run as run_module
from labkit.bench.context import Context
from labkit.bench.headroom import CONTEXT_BYTES, Footprint, Headroom
from labkit.bench.interleave import QUICK_ROUNDS
from labkit.bench.progress import Reporter
from labkit.core.child import child_command
from labkit.core.errors import WorkerError
from labkit.core.types import Workload
from labkit.pipelines.ladder import rung
from labkit.results.records import Agreement
from labkit.results.result_set import ResultSet

GIB = 2**30
CPU = [rung(name) for name in ("resnet_pil_cpu", "resnet_opencv_cpu", "resnet_linear_cpu")]
CUDA = [replace(each, prepare=replace(each.prepare, device="cuda")) for each in CPU]


@dataclass
class Machine:
    """A machine whose processes hold memory; nothing on it may hold more than there is.

    Attributes:
        memory, gpu: bytes.
        takes: (host, GPU) bytes of a process by rung; "else" for all others.
    """

    memory: int
    gpu: int = 0
    takes: dict = field(default_factory=dict)
    live: list = field(default_factory=list)
    most: int = 0
    started: list = field(default_factory=list)
    lock: object = field(default_factory=threading.Lock)

    def left(self, kind=0):
        return (self.memory, self.gpu)[kind] - sum(each.takes[kind] for each in self.live)

    def gpu_state(self):
        used = self.gpu - self.left(1)
        return {"memory_mib": self.gpu >> 20, "memory_used_mib": used >> 20} if self.gpu else None

    def start(self, one, _context):
        with self.lock:  # pairs are started at the same time
            return self._start(one)

    def _start(self, one):
        worker = FakeWorker(self, one, self.takes.get(one.name, self.takes["else"]))
        if self.left(0) < worker.takes[0] or (worker.takes[1] and self.left(1) < worker.takes[1]):
            raise WorkerError(f"the process measuring {one.name} died (SIGKILL, as when memory runs out)")
        self.live.append(worker)
        self.started.append(one.name)
        self.most = max(self.most, len(self.live))
        return worker


@dataclass(eq=False)
class FakeWorker:
    machine: Machine
    rung: object
    takes: tuple

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def alive(self):
        return self in self.machine.live

    def close(self):
        if self.alive:
            self.machine.live.remove(self)

    def footprint(self):
        host, gpu = self.takes
        if not gpu:
            return Footprint(host)
        held = gpu - GIB // 2  # the rest is CUDA's context
        return Footprint(host, held, held, self.machine.left(1), self.machine.gpu)


class Notes(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def measured(monkeypatch):
    """Runs a group of rungs on a made-up machine; gives its results, notes and comparisons."""

    def measure(machine, rungs):
        result, compared = ResultSet(), []
        same = Agreement("x", 1, 1.0, None, 0.0, 0)
        monkeypatch.setattr(headroom_module, "available_memory", machine.left)
        monkeypatch.setattr(headroom_module, "gpu_state", machine.gpu_state)
        monkeypatch.setattr(run_module, "_worker", machine.start)
        monkeypatch.setattr(run_module, "_answer_reference", lambda *_: None)
        monkeypatch.setattr(run_module, "_check", lambda *_: same)
        monkeypatch.setattr(run_module, "_evaluate", lambda *_: {})
        monkeypatch.setattr(
            run_module,
            "_compare",
            lambda them, workers, *_: compared.append([w.alive for w in workers.values()]),
        )
        reporter = Notes()
        context = Context(
            None, Workload(), {}, None, QUICK_ROUNDS, {}, reporter, None, SimpleNamespace(close=lambda: None)
        )
        run_module._measure_group(rungs, context, result, to_come=0)
        assert not machine.live  # whatever happened, nothing is left behind
        return result, reporter.notes, compared

    return measure


def test_where_there_is_room_all_workers_wait_for_one_comparison(measured):
    machine = Machine(64 * GIB, takes={"else": (GIB, 0)})
    result, notes, compared = measured(machine, CPU)
    assert (machine.most, compared, notes, result.skipped) == (3, [[True] * 3], [], {})


def test_workers_are_closed_before_the_limit_is_reached(measured):
    """A container of 4 GiB, of which the benchmark itself takes one: the first two fit, a third does not."""
    machine = Machine(3 * GIB, takes={"else": (int(1.1 * GIB), 0)})
    result, notes, compared = measured(machine, CPU)
    assert machine.started[:3] == [each.name for each in CPU]
    assert machine.most == 2
    assert result.skipped == {}
    assert all(pair == [True, True] for pair in compared)
    assert len(compared) == 3  # each with the one that it changes, and with the first
    assert notes == [
        "a process needs up to 1.1 GiB of memory, and 0.8 are left: "
        "rungs are measured one by one and compared in pairs"
    ]


def test_where_two_do_not_fit_each_is_measured_and_the_comparison_says_why_not(measured):
    machine = Machine(int(1.6 * GIB), takes={"else": (GIB, 0)})
    result, _, compared = measured(machine, CPU)
    assert machine.started[:3] == [each.name for each in CPU]
    assert (machine.most, compared) == (1, [])
    assert set(result.skipped.values()) == {
        "left out: 2 processes need up to 2.0 GiB of memory, and 1.6 are left"
    }


def test_a_card_of_8_gb_completes_the_ladder(measured):
    machine = Machine(64 * GIB, 8 * GIB, takes={"else": (GIB, 3 * GIB)})
    result, notes, compared = measured(machine, CUDA)
    assert (machine.most, result.skipped) == (2, {})
    assert compared and all(pair == [True, True] for pair in compared)
    assert "GPU memory" in notes[0]


def test_a_rung_that_needs_more_than_those_before_is_tried_again_by_itself(measured):
    machine = Machine(64 * GIB, 8 * GIB, takes={"else": (GIB, GIB), CUDA[2].name: (GIB, 7 * GIB)})
    result, _, compared = measured(machine, CUDA)
    assert machine.started[2] == CUDA[2].name
    assert CUDA[2].name not in result.skipped
    assert all("left out" in why for why in result.skipped.values())
    machine = Machine(64 * GIB, 8 * GIB, takes={"else": (GIB, GIB), CUDA[2].name: (GIB, 9 * GIB)})
    result, _, compared = measured(machine, CUDA)
    assert "memory runs out" in result.skipped[CUDA[2].name]  # not even by itself
    assert compared


def test_what_a_process_takes_is_its_peak_and_its_context():
    def process(free, idle=GIB, peak=3 * GIB):
        return SimpleNamespace(alive=True, footprint=lambda: Footprint(GIB, peak, idle, free, 8 * GIB))

    known = Headroom()
    known.note(process(free=5 * GIB), gpu_used_before=GIB)  # it uses 2 now, of which torch holds one
    assert known.needs == {"cpu": GIB, "cuda": 4 * GIB}
    unknown = Headroom()
    unknown.note(process(free=5 * GIB))
    assert unknown.needs["cuda"] == 3 * GIB + CONTEXT_BYTES
    assert "4.0 GiB of GPU memory, and 4.0 are left" in known.lacking(CUDA[0], [process(free=4 * GIB)])
    assert known.lacking(CPU[0], [process(free=0)]) == ""


@pytest.mark.parametrize(("state", "used"), [(None, None), ({}, None), ({"memory_used_mib": 3}, 3 * 2**20)])
def test_what_is_used_on_a_gpu_is_told_in_bytes(monkeypatch, state, used):
    monkeypatch.setattr(headroom_module, "gpu_state", lambda: state)
    assert headroom_module.gpu_used() == used


def test_a_child_is_ended_before_its_parent_where_memory_runs_out(tmp_path):
    if not Path("/proc/self/oom_score_adj").exists():
        pytest.skip("only Linux has it")
    (tmp_path / "told.py").write_text("print(open('/proc/self/oom_score_adj').read())")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        child_command("told"),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert int(done.stdout) > int(Path("/proc/self/oom_score_adj").read_text())
