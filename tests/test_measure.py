"""Measuring itself: simulated pipelines of known truth, and real child processes."""

import ctypes
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, cycle
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from records_made_up import made_up_run

from labkit.bench import noise as noise_module
from labkit.bench import run as run_module
from labkit.bench import worker as worker_module
from labkit.bench.agreement import Answers, match, measure_agreement, relative_error
from labkit.bench.context import EvaluationWorker, may_claim
from labkit.bench.frames import collect, frames_sha256
from labkit.bench.interleave import (
    FULL_ROUNDS,
    QUICK_PAIR,
    QUICK_ROUNDS,
    RoundPlan,
    time_interleaved,
)
from labkit.bench.noise import NoiseMonitor
from labkit.bench.plan import EXTENDED, QUICK, Plan
from labkit.bench.progress import legend
from labkit.bench.timing import Clock, Timing, measure
from labkit.bench.worker import Worker, restless
from labkit.core import fork_server
from labkit.core import gpu as gpu_module
from labkit.core.child import child_command, lives
from labkit.core.energy import EnergyMeter
from labkit.core.errors import LabError, UsageError, WorkerError
from labkit.core.gpu import gpu_noise_reasons, gpu_summary
from labkit.core.machine import fingerprint, fingerprint_differences, machine_name
from labkit.core.stats import throughput_interval
from labkit.core.trace import SpanRecord
from labkit.core.types import Detections, Preparation, Rung, Workload
from labkit.pipelines.ladder import rung
from labkit.results.codec import build_run, to_row
from labkit.results.records import Agreement

from conftest import TINY, further, make_frame  # isort: skip


class Simulated:
    """A clock that stands still until someone sleeps or works."""

    def __init__(self):
        self.t = 100.0

    def now(self):
        return self.t

    def sleep(self, seconds):
        self.t += seconds

    @property
    def clock(self):
        return Clock(self.now, self.sleep)


def worker_of(simulated, service_s, *, fail_at=(), twice_at=(), skip_at=()):
    """A schedule whose frame i takes service_s(i) seconds on the simulated clock."""

    def schedule(frames, net):
        for frame in frames:
            simulated.sleep(service_s(frame.index))
            if frame.index in fail_at:
                raise RuntimeError("this frame is not to its liking")
            if frame.index in skip_at:
                continue
            yield frame, Detections.empty(frame.size)
            if frame.index in twice_at:
                yield frame, Detections.empty(frame.size)

    return schedule


WARM_FOR = {"warm_frames": 5, "warm_s": 0.0, "warm_limit_s": 1.0}


def measured(service_s, plan, **faults):
    simulated = Simulated()
    return measure(
        worker_of(simulated, service_s, **faults), None, [make_frame(0)], plan, clock=simulated.clock
    )


def test_closed_throughput_and_latency_of_a_steady_pipeline():
    timed = measured(lambda i: 0.01, Plan(seconds=1.0, min_frames=10, **WARM_FOR))
    assert timed.latency_s == pytest.approx(np.full(100, 0.01))
    assert timed.done_s[-1] == pytest.approx(1.0)
    assert (timed.offered, timed.dropped, timed.failed) == (100, 0, 0)


@pytest.mark.parametrize(
    ("service_s", "n"),
    [
        (0.005, 400),  # there are enough after 2 s
        (0.04, 120),  # a little longer, and there are enough
        (0.0584, 35),  # 7 s would not do: 120 take 7.008 s
    ],
)
def test_a_quick_run_goes_on_where_that_gives_an_interval(service_s, n):
    timed = measured(lambda i: service_s, replace(QUICK, extend_to_s=EXTENDED * QUICK.seconds))
    assert abs(len(timed.done_s) - n) <= 1
    _, high = throughput_interval(timed.done_s)
    assert np.isfinite(high) == (n >= 120)


def test_progress_comes_in_steps_and_not_with_each_frame():
    simulated, shares = Simulated(), []
    pipeline, plan = worker_of(simulated, lambda i: 0.001), Plan(seconds=1.0, min_frames=10, **WARM_FOR)
    timed = measure(pipeline, None, [make_frame(0)], plan, clock=simulated.clock, progress=shares.append)
    assert len(timed.done_s) == 1000 and 40 < len(shares) <= 52
    assert shares == sorted(shares) and shares[-1] == 1


def test_warm_up_is_kept_apart_and_ends_when_times_settle():
    timed = measured(
        lambda i: 0.5 if i == 0 else 0.05 if i < 30 else 0.01,
        Plan(seconds=1.0, min_frames=10, warm_frames=20, warm_s=0.1, warm_limit_s=60),
    )
    assert timed.warmup_s[0] == pytest.approx(0.5)
    assert len(timed.warmup_s) >= 20
    assert timed.latency_s.max() <= 0.05 + 1e-9


def test_a_warm_up_ends_with_a_whole_group():
    simulated = Simulated()
    pipeline, plan = worker_of(simulated, lambda i: 0.01), Plan(seconds=0.2, min_frames=4, **WARM_FOR)
    timed = measure(pipeline, None, [make_frame(0)], plan, group=4, clock=simulated.clock)
    assert len(timed.warmup_s) >= 5 and len(timed.warmup_s) % 4 == 0


def test_a_warm_up_that_never_settles_is_bounded():
    plan = Plan(seconds=0.5, min_frames=2, warm_frames=20, warm_s=0.1, warm_limit_s=3.0)
    timed = measured(lambda i: 0.01 * 1.05**i, plan)  # each frame is slower than the one before
    assert 3.0 <= timed.warmup_s.sum() <= 3.3


def test_paced_latency_counts_from_when_a_frame_was_due():
    """Every 50th frame stalls for 0.3 s at 20 frames/s: its latency is the stall, and the frames
    that fell due meanwhile are dropped, all but the newest, which waited since it was due."""
    plan = Plan("paced", fps=20, seconds=50, **WARM_FOR)
    timed = measured(lambda i: 0.31 if i % 50 == 49 else 0.01, plan)
    stalled = timed.index % 50 == 49
    assert timed.latency_s[stalled] == pytest.approx(0.31, abs=1e-9)
    after = np.flatnonzero(stalled)[:-1] + 1
    assert timed.latency_s[after] == pytest.approx(0.01 + 0.01, abs=1e-9)  # 0.31 s = 6 periods + 0.01
    assert (np.diff(timed.index)[stalled[:-1]] == 6).all()
    assert timed.dropped == 5 * stalled.sum() or timed.dropped == 5 * (stalled.sum() - 1)
    assert timed.offered == 1000 == len(timed.latency_s) + timed.dropped
    assert np.percentile(timed.latency_s, 99) == pytest.approx(0.31, abs=0.001)


def test_a_paced_pipeline_that_is_too_slow_drops_and_stays_fresh():
    timed = measured(lambda i: 0.1, Plan("paced", fps=30, seconds=10, **WARM_FOR))
    assert timed.offered == 300
    assert len(timed.latency_s) == pytest.approx(100, abs=2)
    assert timed.latency_s.max() <= 0.1 + 1 / 30 + 1e-9


def test_a_paced_pipeline_that_is_quick_enough_drops_nothing():
    timed = measured(lambda i: 0.02, Plan("paced", fps=25, seconds=4, **WARM_FOR))
    assert (timed.offered, timed.dropped) == (100, 0)
    assert timed.latency_s == pytest.approx(np.full(100, 0.02))


def test_failed_frames_are_counted_and_the_run_goes_on():
    timed = measured(lambda i: 0.01, Plan(seconds=1.0, min_frames=10, **WARM_FOR), fail_at=(30, 60))
    assert timed.failed == 2
    assert timed.offered == len(timed.latency_s) + 2


def test_frames_that_a_schedule_keeps_are_counted_as_failed():
    timed = measured(lambda i: 0.01, Plan(seconds=1.0, min_frames=10, **WARM_FOR), skip_at=(40, 41))
    assert timed.failed == 2


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"fail_at": range(20, 40)}, "failed 3 time"),
        ({"fail_at": [0]}, "failed 1 time"),
        ({"twice_at": [30]}, "twice"),
    ],
)
def test_a_broken_schedule_is_an_error(faults, message):
    with pytest.raises(LabError, match=message):
        measured(lambda i: 0.01, Plan(seconds=1.0, min_frames=10, **WARM_FOR), **faults)


def test_a_schedule_that_invents_or_forgets_frames_is_an_error():
    def inventing(frames, net):
        for frame in frames:
            yield make_frame(frame.index + 1), Detections.empty(TINY)

    def forgetting(frames, net):
        for frame, _ in zip(frames, range(40), strict=False):
            yield frame, Detections.empty(TINY)

    for schedule, message in ((inventing, "never given"), (forgetting, "ended although")):
        with pytest.raises(LabError, match=message):
            measure(
                schedule, None, [make_frame(0)], Plan(seconds=5, warm_frames=3, warm_s=0, warm_limit_s=0.1)
            )


def test_a_pipeline_with_frames_in_flight_is_measured_by_its_results():
    """Two frames deep: throughput is that of the slower half, latency that of both."""
    simulated = Simulated()

    def two_deep(frames, net):
        before = None
        for frame in frames:
            simulated.sleep(0.01)
            if before is not None:
                yield before, Detections.empty(before.size)
            before = frame
        if before is not None:
            yield before, Detections.empty(before.size)

    plan = Plan(seconds=1.0, min_frames=10, **WARM_FOR)
    timed = measure(two_deep, None, [make_frame(0)], plan, clock=simulated.clock)
    assert len(timed.latency_s) / timed.done_s[-1] == pytest.approx(100, rel=0.02)
    assert np.median(timed.latency_s) == pytest.approx(0.02)
    assert timed.failed == 0


@pytest.mark.parametrize(
    "wrong", [{"scenario": "x"}, {"scenario": "paced"}, {"scenario": "paced", "fps": -1}, {"seconds": 0}]
)
def test_a_plan_says_what_is_wrong(wrong):
    with pytest.raises(UsageError):
        Plan(**wrong)


def test_energy_is_that_of_the_timed_part_by_the_counters_of_all_packages(tmp_path):
    def zone(name, kind, microjoules):
        folder = tmp_path / "sys/class/powercap" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(kind)
        (folder / "energy_uj").write_text(str(microjoules))
        (folder / "max_energy_range_uj").write_text("9999999")

    def read(first, second, memory):
        zone("intel-rapl:0", "package-0", first)
        zone("intel-rapl:1", "package-1", second)
        zone("intel-rapl:0:0", "dram", memory)
        zone("intel-rapl:2", "psys", memory)

    read(1_000_000, 9_000_000, 5)
    simulated, meter = Simulated(), EnergyMeter(root=tmp_path)

    def schedule(frames, net):
        for frame in frames:
            simulated.sleep(0.01)
            if frame.index == 100:
                read(4_000_000, 1_000_000, 8_000_000)  # one counter has begun anew
            yield frame, Detections.empty(frame.size)

    plan = Plan(seconds=1.0, min_frames=10, **WARM_FOR)
    timed = measure(schedule, None, [make_frame(0)], plan, clock=simulated.clock, meter=meter)
    assert timed.joules == {"cpu": 5.0} and timed.no_energy == {}
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    meter.start()
    assert meter.joules() == {} and "chmod a+r" in meter.missing["cpu"]
    none = EnergyMeter("cuda", root=tmp_path / "nothing")
    none.start()
    assert none.joules() == {} and "virtual machine" in none.missing["cpu"]


@pytest.mark.parametrize(
    ("readings", "joules"), [((5.0, 7.5), {"gpu": 2.5}), ((None, 7.5), {}), ((5.0, None), {})]
)
def test_energy_of_a_gpu_is_what_its_counter_went_on_by(readings, joules, monkeypatch, tmp_path):
    told = iter(readings)
    monkeypatch.setattr(EnergyMeter, "_read_gpu", lambda self: next(told))
    meter = EnergyMeter("cuda", root=tmp_path)
    meter.start()
    assert meter.joules() == joules


class Noisy:
    """A rung whose times have a known median."""

    def __init__(self, seconds, seed, sigma=0.03):
        self.seconds, self.random, self.sigma = seconds, np.random.default_rng(seed), sigma

    def time_frames(self, n_frames):
        return float(np.mean(self.seconds * self.random.lognormal(0, self.sigma, n_frames)))


def test_a_comparison_finds_a_known_ratio():
    seeds = iter(range(1, 100))

    def fresh():
        return {"a": Noisy(0.010, next(seeds)), "b": Noisy(0.005, next(seeds))}

    plan = RoundPlan(rounds=11, frames=8)
    result = time_interleaved(fresh(), plan, renew=fresh).comparison("a", "b")
    low, high = result.interval
    assert low < 2.0 < high
    assert high - low < 0.2
    assert (result.verdict, result.a, result.b, result.rounds) == ("faster", "a", "b", 11)
    assert "2.0" in result.sentence or "1.9" in result.sentence


def test_turns_come_in_random_order_and_equal_number():
    seen = []

    class Logged(Noisy):
        def __init__(self, name):
            super().__init__(0.1, 0)
            self.name = name

        def time_frames(self, n_frames):
            seen.append(self.name)
            return super().time_frames(n_frames)

    time_interleaved(
        {name: Logged(name) for name in "abc"}, RoundPlan(rounds=20, frames=2, warm_up=1), seed=5
    )
    rounds = [tuple(seen[i : i + 3]) for i in range(3, 63, 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) >= 4


@pytest.mark.parametrize(
    ("weights", "share", "nan", "score", "claimed"),
    [
        ("pretrained", 1.0, 0, {}, True),
        ("pretrained", 0.5, 0, {}, False),
        ("pretrained", 1.0, 0, {"loses": True}, False),
        ("random", 0.5, 0, {}, False),
        ("random", 0.5, 0, {"loses": False}, True),  # trained models decide
        ("random", 0.5, 3, {"loses": False}, False),
    ],
)
def test_a_rung_that_disagrees_claims_no_gain(weights, share, nan, score, claimed):
    agreement = Agreement("a", 8, share, None, 0.9, nan)
    agrees = may_claim(agreement, score, {"weights": weights})
    timed = {"a": Noisy(0.010, 1), "b": Noisy(0.005, 2)}
    result = time_interleaved(timed, RoundPlan(rounds=9, frames=4)).comparison("a", "b", agrees)
    assert result.agrees == claimed
    assert ("not a like-for-like gain" in result.sentence) != claimed


class Touchy:
    """A reference whose random weights answer otherwise as soon as one value of a frame does."""

    def __init__(self, weights):
        self.ready = SimpleNamespace(settings={"weights": weights})

    def answers(self, frames):
        firsts = [int(frame.image[0, 0, 0]) for frame in frames]
        xyxy = np.array([[0, 0, 4, 4]], np.float32)
        found = [
            Detections(xyxy, np.ones(1, np.float32), np.array([first]), ("x",), (8, 8)) for first in firsts
        ]
        return Answers("touchy", found, {})


@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_a_difference_says_nothing_where_the_reference_differs_from_itself(weights):
    frames = SimpleNamespace(spread=lambda: [make_frame(k, (8, 8)) for k in range(5)])
    itself = replace(rung("detr_pil_cpu"), name="touchy", reference="touchy")
    reference = run_module._answers(itself, Touchy(weights), SimpleNamespace(frames=frames))
    agreement = measure_agreement(reference, reference)
    assert agreement.agrees == (agreement.unjudged == "") == (weights == "pretrained")
    if weights == "random":
        assert "touchy finds only 0% of its own boxes again" in agreement.unjudged
        shown = replace(made_up_run(created="2026-11-29T00:00:00Z"), agreement=agreement)
        assert agreement.unjudged in " ".join(legend([shown])) and shown.agreed is None
        assert build_run({**to_row(shown), "id": 1}).agreement == agreement
        timed = {"a": Noisy(0.010, 1), "b": Noisy(0.005, 2)}
        rounds = time_interleaved(timed, RoundPlan(rounds=9, frames=4))
        sentence = rounds.comparison("a", "b", False, agreement=agreement).sentence
        assert "cannot be judged" in sentence and "differ" not in sentence


@pytest.mark.parametrize("plan", [FULL_ROUNDS, QUICK_ROUNDS, QUICK_PAIR])
def test_fast_and_slow_rungs_have_turns_of_the_same_time(plan):
    """A rung of 2 ms beside a baseline of half a second."""
    spent = {"fast": [], "slow": []}

    class Steady:
        def __init__(self, name, pace_s):
            self.name, self.pace_s = name, pace_s

        def time_frames(self, n_frames):
            spent[self.name].append(n_frames * self.pace_s)
            return self.pace_s

    fresh = lambda: {"fast": Steady("fast", 0.002), "slow": Steady("slow", 0.5)}  # noqa: E731
    found = time_interleaved(fresh(), plan, renew=fresh).comparison("slow", "fast")
    turns = {name: [s for s in each if s > 0.1][-plan.rounds :] for name, each in spent.items()}
    assert min(turns["fast"]) >= max(plan.turn_s, 0.5)
    assert max(turns["slow"]) <= max(turns["fast"]) + 0.5
    assert found.processes == plan.processes
    assert (
        list(np.unique(found.process, return_counts=True)[1])
        == [plan.rounds // plan.processes] * plan.processes
    )


@pytest.mark.parametrize("wrong", [{"rounds": 8}, {"frames": 0}])
def test_turns_say_what_is_wrong(wrong):
    with pytest.raises(UsageError):
        RoundPlan(**wrong)
    with pytest.raises(UsageError):
        time_interleaved({"a": Noisy(1, 1)})


def found(*boxes, label=None, fine=None, size=(100, 100)):
    n = len(boxes)
    result = Detections(
        np.array(boxes, np.float32).reshape(n, 4),
        np.full(n, 0.9, np.float32),
        np.array(label if label is not None else [1] * n, np.int64),
        ("x",) * n,
        size,
    )
    if fine is not None:
        result = result.with_fine(np.array(fine, np.int64), np.ones(n, np.float32), ("y",) * n)
    return result


def test_matching_uses_each_box_once_and_respects_labels():
    a = found((0, 0, 10, 10), (0, 0, 10, 10), (50, 50, 60, 60), label=[1, 1, 2])
    b = found((0, 0, 10, 10), (50, 50, 60, 60), (50, 50, 60, 60), label=[1, 3, 2])
    assert sorted(match(a, b)) == [(0, 0), (2, 2)]
    assert match(found(), b) == []


def test_agreement_counts_boxes_names_and_nan():
    a = Answers(
        "a", [found((0, 0, 10, 10), (20, 20, 30, 30), fine=[5, 6])], {"x": [np.ones((2, 4), np.float32)]}
    )
    raw = np.ones((2, 4), np.float32)
    raw[0, 0] = 1.2
    b = Answers("b", [found((0, 0, 10, 9), (70, 70, 80, 80), fine=[5, 6])], {"x": [raw]})
    result = measure_agreement(a, b)
    assert (result.share, result.same_name, result.nan_count) == (0.5, 1.0, 0)
    assert result.relative_error == pytest.approx(0.2 / np.sqrt(8))
    assert not result.agrees
    raw[1, 1] = np.nan
    assert measure_agreement(a, b).nan_count == 1
    assert measure_agreement(a, a).agrees


def scored(*pairs, size=(100, 100)):
    """Detections of one label from (left edge, score): boxes of 10 px in a row."""
    boxes = found(*((x, 0, x + 10, 10) for x, _ in pairs), size=size)
    return replace(boxes, score=np.array([score for _, score in pairs], np.float32))


@pytest.mark.parametrize(
    ("reference", "other", "objects", "extra"),
    [
        ([(0, 0.9)], [(0, 0.9), (20, 0.8), (40, 0.7), (60, 0.6)], 5, 0.75),
        ([(0, 0.9)], [(0, 0.9), (1, 0.9)], 5, 0.5),  # one object twice
        ([(0, 0.9)], [(0, 0.9), (20, 0.04)], 5, 0.0),  # near a threshold of 0
        ([(0, 0.9), (20, 0.5)], [(0, 0.9), (20, 0.5), (40, 0.54)], 2, 0.0),  # near the last of those kept
        ([(0, 0.9), (20, 0.5)], [(0, 0.9), (20, 0.5), (40, 0.56)], 2, 1 / 3),
        ([(0, 0.9), (20, 0.5)], [(0, 0.9), (20, 0.5), (40, 0.1)], 2, 0.0),  # there was no room for it
        ([], [(0, 0.9)], 5, 1.0),
        ([(0, 0.9)], [], 5, 0.0),
    ],
)
def test_boxes_that_the_reference_has_not_count(reference, other, objects, extra):
    a, b = (Answers(name, [scored(*each)], {}) for name, each in (("a", reference), ("b", other)))
    agreement = measure_agreement(a, b, objects)
    assert agreement.extra == pytest.approx(extra)
    if agreement.share == 1:
        told = f"{extra:.0%} of its boxes are extra: a has no box for them"
        assert agreement.differences == ((told,) if extra else ()) and agreement.agrees == (not extra)
    stored = made_up_run(created="2026-11-29T00:00:00Z")
    assert build_run({**to_row(replace(stored, agreement=agreement)), "id": 1}).agreement == agreement


def test_a_box_in_the_place_of_another_is_told_once():
    a, b = (Answers(name, [scored((x, 0.9), (50, 0.9))], {}) for name, x in (("a", 0), ("b", 20)))
    agreement = measure_agreement(a, b)
    assert (agreement.share, agreement.extra) == (0.5, 0.5)
    (told,) = agreement.differences
    assert told.startswith("only 50% of boxes have the same label and place")


def test_a_threshold_is_where_boxes_begin_to_count():
    a, b = (Answers(name, [scored(*each)], {}) for name, each in (("a", []), ("b", [(0, 0.54), (20, 0.56)])))
    assert measure_agreement(a, b, threshold=0.5).extra == 1.0
    assert measure_agreement(a, Answers("b", [scored((0, 0.54))], {}), threshold=0.5).agrees


def test_relative_error_of_batched_and_single_outputs_is_that_of_all_rows():
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    assert relative_error({"x": [rows[:2], rows[2:]]}, {"x": [row[None] for row in rows]}) == 0
    assert relative_error({"x": [rows]}, {"x": [rows[:4]]}) is None


def test_frames_of_a_benchmark_are_known_by_their_hash():
    first, again, other = (
        collect("scenes", TINY, 3),
        collect("scenes", TINY, 3),
        collect("scenes", TINY, 3, seed=1),
    )
    assert first.source["sha256"] == again.source["sha256"] != other.source["sha256"]
    assert [frame.index for frame in first.frames] == [0, 1, 2]
    assert frames_sha256(first.frames[:2]) != first.source["sha256"]
    assert len(collect("photos", TINY, 1).spread(8)) == 1


def test_the_fingerprint_names_machine_and_software():
    mark = fingerprint()
    keys = {"cpu", "cores", "os", "python", "versions", "threads", "labkit", "commit", "load_1min", "gpu"}
    assert keys <= mark.keys()
    assert mark["versions"]["torch"]
    assert fingerprint_differences(mark, mark) == []
    other = {**mark, "cores": 96, "versions": {**mark["versions"], "torch": "1.0"}}
    assert len(fingerprint_differences(mark, other)) == 2
    assert machine_name({"cpu": "Xeon", "cores": 4, "gpu": {"name": "H100"}}) == "Xeon, 4 cores, H100"
    assert machine_name({"gpu": None}) == "unknown machine"


def test_a_gpu_is_judged_while_it_works():
    idle = {"utilization": 0, "sm_clock_mhz": 345, "sm_clock_max_mhz": 1980, "throttle_reasons": 1}
    full = {"utilization": 90, "sm_clock_mhz": 1900, "sm_clock_max_mhz": 1980, "throttle_reasons": 0}
    slow = {**full, "sm_clock_mhz": 1200, "throttle_reasons": 0x4}  # at a laptop's power cap
    assert (
        gpu_noise_reasons([]) == gpu_noise_reasons([idle] * 9) == gpu_noise_reasons([idle, *[full] * 8]) == []
    )
    assert gpu_noise_reasons([idle, *[slow] * 8, idle]) == []  # low all the time: a fact, and no noise
    assert gpu_summary([idle, *[slow] * 8])["clock_mhz"] == [1200, 1200, 1200]
    assert gpu_summary([idle, *[slow] * 8])["at_power_cap"] == 1.0
    varied = [*[full] * 4, *[slow] * 4]
    assert gpu_noise_reasons(varied) == ["the GPU's clock varied from 1200 to 1900 MHz"]
    assert gpu_noise_reasons([*[full] * 9, slow]) == []  # one look out of ten
    assert gpu_noise_reasons([full, {**full, "throttle_reasons": 0x20}]) == ["heat slowed the GPU down"]
    assert (
        gpu_noise_reasons([{**full, "throttle_reasons": 0x2}]) == []
    )  # clocks that an application asked for
    assert gpu_noise_reasons([{**full, "foreign_utilization": 40}]) == ["other programs used 40% of the GPU"]


class Nvml:
    """NVIDIA's library with two GPUs, of which CUDA sees the second only.

    Args:
        processes: on the second GPU, with the percent of it that each takes.
    """

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, processes=()):
        self.depth = self.really_opened = self.looks = 0
        self.processes = [SimpleNamespace(pid=pid, smUtil=used) for pid, used in dict(processes).items()]

    def nvmlInit(self):  # noqa: N802
        self.really_opened += self.depth == 0
        self.depth += 1

    def nvmlShutdown(self):  # noqa: N802
        self.depth -= 1

    def nvmlDeviceGetClockInfo(self, device, kind):  # noqa: N802
        self.looks += 1
        return (700, 1400)[self.looks % 2]

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return f"GPU-{index}"

    def nvmlDeviceGetHandleByUUID(self, name):  # noqa: N802
        if name not in ("GPU-0", "GPU-1"):
            raise self.NVMLError(name)
        return name

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetName": lambda device: {"GPU-0": "display card", "GPU-1": "H100"}[device],
            "nvmlDeviceGetMaxClockInfo": lambda *_: 1980,
            "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=99),
            "nvmlDeviceGetComputeRunningProcesses": lambda d: self.processes if d == "GPU-1" else [],
            "nvmlDeviceGetProcessUtilization": lambda *_: self.processes,
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: 5000,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 80_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda _: 115_000,
            "nvmlDeviceGetTemperature": lambda device, sensor: {0: 61}[sensor],
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=3 * 2**20, total=7 * 2**20),
        }

        def refuse(*_):
            raise self.NVMLError(name)

        return answers.get(name, refuse)


def test_a_gpu_is_watched_without_opening_its_library_at_each_look(monkeypatch):
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(noise_module, "LOOK_S", 0.01)
    with NoiseMonitor() as watch:
        while len(watch._states) < 8:
            threading.Event().wait(0.01)
    assert "the GPU's clock varied from 700 to 1400 MHz" in watch.disturbances()
    assert watch.state()["during"]["gpu"]["clock_mhz"][0] == 700
    assert library.depth == 0
    assert library.really_opened <= 2  # to see whether there is one, and for all looks


@pytest.mark.parametrize(("used", "name"), [("GPU-1", "H100"), (None, "display card"), ("?", "display card")])
def test_nvml_is_asked_for_the_gpu_that_torch_uses(monkeypatch, used, name):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.setattr(gpu_module, "cuda_uuid", lambda: used)
    state = {"name": name, "power_limit_w": 80.0, "power_default_w": 115.0, "temperature_c": 61}
    assert gpu_module.gpu_state().items() >= {**state, "memory_used_mib": 3, "memory_mib": 7}.items()
    assert gpu_module.gpu_energy_j() == 5.0


def test_own_processes_on_a_gpu_are_no_other_users(monkeypatch):
    monkeypatch.setattr(gpu_module, "cuda_uuid", lambda: "GPU-1")
    waiting = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as worker:
        monkeypatch.setitem(sys.modules, "pynvml", Nvml({os.getpid(): 1, worker.pid: 90}))
        alone = gpu_module.gpu_state()
        monkeypatch.setitem(sys.modules, "pynvml", Nvml({worker.pid: 60, 2**22 + 7: 38}))
        shared = gpu_module.gpu_state()
        monkeypatch.setitem(sys.modules, "pynvml", Nvml({2**22 + 7: 90}))  # seen from inside a container
        unknown = gpu_module.gpu_state()
    assert (alone["other_processes"], alone["foreign_utilization"]) == (0, 0)
    assert (shared["other_processes"], shared["foreign_utilization"]) == (1, 38)
    assert "foreign_utilization" not in unknown


def test_quota_heat_and_a_clock_that_falls_are_noise(monkeypatch):
    clocks = chain([4200.0], cycle([4200.0] * 4 + [2900.0] * 4))
    periods, stops = iter([{"g": (100, 9)}, {"g": (200, 39)}]), iter([5, 8])
    monkeypatch.setattr(noise_module, "LOOK_S", 0.005)
    monkeypatch.setattr(noise_module, "AT_WORK", -1.0)
    monkeypatch.setattr(noise_module, "clock_mhz", lambda: next(clocks))
    monkeypatch.setattr(noise_module, "temperature_c", lambda: 97.0)
    monkeypatch.setattr(noise_module, "throttling", lambda: next(periods))
    monkeypatch.setattr(noise_module, "heat_stops", lambda: next(stops))
    with NoiseMonitor() as watch:
        while len(watch._clocks) < 24:
            threading.Event().wait(0.01)
    told = watch.disturbances()
    assert "the CPU quota stopped it in 30% of the time slices" in told
    assert "the CPU slowed down 3 times because of heat" in told
    assert "the CPU's clock varied from 2.9 to 4.2 GHz" in told
    state = watch.state()
    assert state["before"]["clock_mhz"] == 4200.0
    assert state["during"]["clock_mhz"][0] == 2900
    assert (state["during"]["quota_stopped"], state["during"]["temperature_c"]) == (0.3, 97.0)
    assert state["during"]["heat_stops"] == 3


@pytest.mark.skipif(not hasattr(psutil.cpu_times(), "steal"), reason="this system counts no stolen time")
def test_stolen_time_is_told_in_plain_words(monkeypatch):
    now = psutil.cpu_times()
    nothing = now._replace(**dict.fromkeys(now._fields, 0.0))
    times = iter([nothing, nothing._replace(idle=0.77, steal=0.23)])
    monkeypatch.setattr(noise_module.psutil, "cpu_times", lambda: next(times))
    with NoiseMonitor() as watch:
        pass
    assert "the host gave 23% of this machine's CPU time to others (steal)" in watch.disturbances()
    assert watch.foreign == pytest.approx(0, abs=1e-9) and "other programs" not in " ".join(
        watch.disturbances()
    )


def let_machine_be_busy(monkeypatch, busy_s, idle_s):
    """The cores work for so long and idle for so long while a monitor watches, whatever else runs here."""
    now = psutil.cpu_times()
    nothing = now._replace(**dict.fromkeys(now._fields, 0.0))
    times = iter([nothing, nothing._replace(user=busy_s, idle=idle_s)])
    monkeypatch.setattr(noise_module.psutil, "cpu_times", lambda: next(times))


@pytest.mark.parametrize(("own", "low", "high"), [(True, 0.0, 0.05), (False, 0.4, 0.8)])
def test_processes_that_come_and_go_are_the_measurements_own(monkeypatch, own, low, high):
    """Two children work for 0.4 s each on a machine that does nothing else, and is idle for 0.2 s."""
    let_machine_be_busy(monkeypatch, busy_s=0.8, idle_s=0.2)
    code = "import time\nwhile time.process_time() < 0.4: pass"
    with NoiseMonitor() as watch:
        children = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(2)]
        if own:
            watch.include(tuple(child.pid for child in children))
            assert [child.wait() for child in children] == [0, 0]
    for child in children:
        child.kill()
        child.wait()
    assert low <= watch.foreign <= high


@pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux")
def test_forked_processes_that_have_ended_are_the_measurements_own(tmp_path, monkeypatch):
    """As those of a comparison, which are made anew within it: they are children of the server."""
    burn = "import time\ndef main(arguments, handed):\n    while time.process_time() < 0.8: pass\n"
    (tmp_path / "burning.py").write_text(burn)
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, **worker_module.worker_environment()}
    server = fork_server.fork_server(environment)
    let_machine_be_busy(monkeypatch, busy_s=0.8, idle_s=0.8)
    with NoiseMonitor() as watch, open(tmp_path / "said", "wb") as said:
        child = server.fork("burning", [], environment, said, said.fileno())
        assert child.wait(60) == 0
    assert watch.foreign < 0.05


def test_rounds_are_shared_by_several_processes():
    """One starts slow, as a process does whose memory lies badly; the others know nothing of it."""
    begun = []

    class Process:
        def __init__(self, pace_s):
            self.pace_s, self.calls = pace_s, 0

        def time_frames(self, n_frames):
            self.calls += 1
            return self.pace_s

    def renew():
        begun.append({"a": Process(0.010), "b": Process(0.011 if len(begun) == 0 else 0.009)})
        return begun[-1]

    first = {"a": Process(0.010), "b": Process(0.010)}
    plan = RoundPlan(rounds=9, frames=4, processes=3)
    result = time_interleaved(first, plan, renew=renew).comparison("a", "b")
    assert len(begun) == 2
    assert [each["a"].calls for each in (first, *begun)] == [2 + 3] * 3  # two that are not counted
    assert sorted(result.b_s) == [0.009] * 3 + [0.010] * 3 + [0.011] * 3
    assert result.interval[0] < 1 < result.interval[1]
    with pytest.raises(UsageError, match="1 to 9 processes"):
        RoundPlan(rounds=9, processes=10)


def test_a_busy_neighbour_is_noticed():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        with NoiseMonitor() as watch:
            threading.Event().wait(1.0)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert any("other programs" in reason for reason in watch.disturbances())


# --- child processes -------------------------------------------------------------------------


def killing_itself(frames, net):
    for frame in frames:
        if frame.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield frame, Detections.empty(frame.size)


def failing(frames, net):
    raise ValueError("this schedule has a fault")
    yield


def bad(schedule):
    return Rung("bad", 1, schedule, Preparation("classify"), None, "bad", "a test")


TINY_WORK = Workload(weights="random", size=TINY)


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)


@pytest.fixture
def from_nothing(monkeypatch):
    """Children are started by themselves, as where nothing can be forked."""
    monkeypatch.setattr(worker_module, "fork_server", lambda environment: None)


def test_what_others_use_of_a_gpu_is_each_process_at_its_busiest(monkeypatch):
    samples = [SimpleNamespace(pid=pid, smUtil=share) for pid, share in ((1, 90), (2, 30), (2, 20), (3, 40))]
    nvml = SimpleNamespace(nvmlDeviceGetProcessUtilization=lambda *_: samples)
    monkeypatch.setattr(gpu_module, "_own_pids", lambda: {1})
    monkeypatch.setattr(gpu_module, "_pids", lambda *_: {1, 2, 3})
    assert gpu_module._foreign_utilization(nvml, None) == 70
    samples.append(SimpleNamespace(pid=4, smUtil=60))
    assert gpu_module._foreign_utilization(nvml, None) == 100
    monkeypatch.setattr(gpu_module, "_pids", lambda *_: {77})
    assert gpu_module._foreign_utilization(nvml, None) is None


def test_what_a_worker_says_on_the_way_is_passed_on():
    said = iter([("report", "a"), ("progress", 0.5), ("startled", 1), ("done", 7)])
    reports, shares = [], []
    worker = SimpleNamespace(_receive=lambda _: next(said), _report=reports.append)
    assert Worker._reply(worker, "done", 1.0, shares.append) == 7
    assert (reports, shares) == (["a"], [0.5])


def test_a_worker_answers_runs_and_is_timed_in_rounds(frames):
    shares = []
    with Worker(rung("resnet_opencv_cpu"), TINY_WORK, frames) as worker:
        assert worker.ready.settings["weights"] == "random"
        assert worker.ready.startup_s > 0
        answers = worker.answers(frames[:2])
        assert len(answers.found) == 2
        assert answers.raw["classifier.logits"][0].shape == (1, 1000)
        plan = Plan(seconds=0.2, min_frames=5, warm_frames=2, warm_s=0, warm_limit_s=1, quick=True)
        timed = worker.run(plan, shares.append)
        assert len(timed.latency_s) >= 5
        assert set(timed.per_span()) == {"preprocess", "infer", "decode"}
        assert shares[-1] == 1.0
        assert 0 < worker.time_frames(3) < 5
        held = worker.footprint()
        assert held.peak_bytes > held.host_bytes > 50 * 2**20
        assert held.gpu_bytes is None
        pid = worker.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.extended
def test_another_rung_takes_the_place_of_the_first_and_answers_as_it_would_alone(frames):
    with Worker(rung("resnet_opencv_cpu"), TINY_WORK, frames) as worker:
        pid = worker.pid
        worker.become(rung("resnet_pil_cpu"), TINY_WORK, frames)
        assert (worker.pid, worker.alive) == (pid, True)
        after = worker.answers(frames[:2])
    assert not worker.alive
    with Worker(rung("resnet_pil_cpu"), TINY_WORK, frames) as alone:
        expected = alone.answers(frames[:2])
    assert after.rung == "resnet_pil_cpu"
    np.testing.assert_array_equal(after.raw["classifier.logits"], expected.raw["classifier.logits"])


def test_the_death_of_a_worker_is_an_error_with_its_cause(frames, importable):
    with (
        pytest.raises(WorkerError, match="SIGKILL, as when memory runs out"),
        Worker(bad(killing_itself), TINY_WORK, frames) as worker,
    ):
        worker.run(QUICK)


@pytest.mark.parametrize(
    ("at_start", "message"),
    [
        ("import os; print('no room', file=sys.stderr, flush=True); os._exit(7)", r"exit code 7.*no room"),
        ("import time; print('waiting', flush=True); time.sleep(60)", r"sent nothing for 4 s.*waiting"),
        ("import os, time; os.close(int(sys.orig_argv[7])); time.sleep(60)", "closed its connection"),
    ],
)
@pytest.mark.usefixtures("from_nothing")
def test_a_worker_that_never_reads_its_order_is_noticed(frames, tmp_path, monkeypatch, at_start, message):
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nif 'labkit' in sys.orig_argv[2]: {at_start}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(worker_module, "CONNECT_TIMEOUT_S", 4)
    with pytest.raises(WorkerError, match=f"measuring resnet_opencv_cpu .*{message}"):
        Worker(rung("resnet_opencv_cpu"), TINY_WORK, frames)


HANGING = {  # what a child does once it is connected; the pipe is `end`
    "reads no order": "time.sleep(60)",
    "answers with half a message": "end.recv(); os.write(end.fileno(), b'\\0\\0\\1\\0abc'); time.sleep(60)",
    "leaves the pipe to a child of its own": "end.recv(); os.fork() or time.sleep(20); os._exit(3)",
}


@pytest.mark.parametrize("way", HANGING)
@pytest.mark.extended
@pytest.mark.usefixtures("from_nothing")
def test_no_wait_for_a_worker_goes_beyond_its_deadline(tmp_path, monkeypatch, way):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "from multiprocessing.connection import Connection\n"
        "if 'labkit.core.child' in sys.orig_argv:\n"
        "    end = Connection(int(sys.orig_argv[7]))\n"
        "    end.send(('connected', None))\n"
        f"    {HANGING[way]}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(worker_module, "READY_TIMEOUT_S", 1.5)
    large = [make_frame(k, (1280, 960)) for k in range(3)]  # more than a pipe holds
    begun = time.monotonic()
    with pytest.raises(WorkerError, match=r"measuring resnet_opencv_cpu .*(was ended|died \(exit code 3\))"):
        Worker(rung("resnet_opencv_cpu"), TINY_WORK, large)
    assert time.monotonic() - begun < 30


def hanging(frames, net):
    time.sleep(60)
    yield


def exiting(frames, net):
    print("out of ideas", flush=True)
    os._exit(7)
    yield


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_forked_workers_are_new_processes_whose_ends_are_told(frames, importable, monkeypatch):
    monkeypatch.setenv("LABKIT_TRIED", "yes")
    opencv = rung("resnet_opencv_cpu")
    with Worker(opencv, TINY_WORK, frames) as first, Worker(opencv, TINY_WORK, frames) as second:
        server = psutil.Process(first.pid).parent()
        assert psutil.Process(second.pid).parent() == server != psutil.Process()
        assert first.pid != second.pid
        assert psutil.Process(second.pid).cwd() == os.getcwd()
        second._process.kill()
        with ThreadPoolExecutor(8) as pool:  # a child's end can be asked for once
            assert set(pool.map(lambda _: second._process.wait(5), range(8))) == {-signal.SIGKILL}
        assert len(first.answers(frames[:1]).found) == 1
    with pytest.raises(WorkerError, match=r"exit code 7\); it printed: out of ideas"):
        Worker(bad(exiting), TINY_WORK, frames)
    monkeypatch.setattr(worker_module, "READY_TIMEOUT_S", 1.5)
    with pytest.raises(WorkerError, match=r"sent nothing for 1.5 s and was ended"):
        Worker(bad(hanging), TINY_WORK, frames)
    assert server.is_running()
    assert server.children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_a_fork_server_waits_for_orders_only_while_a_child_runs(monkeypatch):
    monkeypatch.setattr(fork_server, "IDLE_S", 0.05)
    monkeypatch.setattr(os, "fork", lambda: 4321)
    monkeypatch.setattr(os, "waitpid", lambda pid, _: (pid, 0))
    owner, server = socket.socketpair()
    with owner, server, ThreadPoolExecutor(1) as pool:
        assert fork_server._serve(server) is None  # nobody asks, and nothing runs
        served = pool.submit(fork_server._serve, server)
        owner.send(b"{}")
        assert owner.recv(99) == b"4321"
        with pytest.raises(TimeoutError):
            served.result(0.3)
        owner.send(b'{"status": 4321}')
        assert owner.recv(99) == b"0"
        assert served.result(5) is None


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_a_fork_that_the_system_refuses_is_told_and_ends_no_server(monkeypatch):
    def refused():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(fork_server._serve, theirs)
        for _ in range(2):
            ours.send(b"{}")
            assert "Resource temporarily unavailable" in json.loads(ours.recv(4096))
        ours.shutdown(socket.SHUT_RDWR)
        assert serving.result(5) is None


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("import no_such_module", 1, "No module named 'no_such_module'"),
        ("", 1, "has no attribute 'main'"),
        ("def main(*_): raise ValueError('a fault')", 1, "ValueError: a fault"),
        ("def main(*_): raise SystemExit(7)", 7, ""),
        ("import os, signal\ndef main(*_): os.kill(os.getpid(), signal.SIGABRT)", -6, ""),
    ],
)
def test_what_ends_a_forked_child_is_told(module, code, words, tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    server = fork_server.fork_server({**os.environ, **worker_module.worker_environment()})
    with open(tmp_path / "said", "w+b") as said:
        child = server.fork("faulty", [], environment={}, output=said, handed=said.fileno())
        assert child.wait(60) == child.poll() == code
        child.kill()  # which has ended: nothing is to be done
        said.seek(0)
        assert words in said.read().decode()
    assert server.alive


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_a_fork_server_that_talks_nonsense_or_hangs_is_ended():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    killed = []
    server = object.__new__(fork_server.ForkServer)
    server._lock, server._channel = threading.Lock(), ours
    server._process = SimpleNamespace(poll=lambda: None, kill=lambda: killed.append("killed"))
    ours.settimeout(0.05)
    theirs.send(b"nonsense")
    with pytest.raises(WorkerError, match="does not answer"):
        server._ask({"status": 1})
    assert server.status(1) == -signal.SIGKILL  # it says nothing
    assert killed == ["killed"] * 2
    theirs.close()
    with pytest.raises(WorkerError, match="takes no order"):
        server._ask({"status": 1})


def test_a_thread_that_cannot_be_started_is_told(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuse)
    worker = SimpleNamespace(_death=WorkerError, _end_overdue=lambda: None)
    told = r"cannot be waited for \(can't start new thread; .* that ulimit -a shows"
    with pytest.raises(WorkerError, match=told), Worker._ended_after(worker, 1.0):
        pass


def test_a_process_that_cannot_be_started_is_told(frames, monkeypatch):
    class Refusing:
        def fork(self, *_):
            raise WorkerError("no process can be started")

    def refuse(*_, **__):
        raise BlockingIOError(11, "out of processes")

    monkeypatch.setattr(worker_module, "fork_server", lambda _: Refusing())
    monkeypatch.setattr(subprocess, "Popen", refuse)  # what is tried where a server does not fork
    with pytest.raises(WorkerError, match=r"resnet_opencv_cpu .*out of processes.* that ulimit -a shows"):
        Worker(rung("resnet_opencv_cpu"), TINY_WORK, frames)


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
@pytest.mark.parametrize("how", ["owner", *further("server")])
def test_forked_workers_end_with_their_server_and_its_owner(how, importable):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_OF_WORKERS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 3
        os.kill(pids[0] if how == "server" else owner.pid, signal.SIGKILL)
        until(lambda: not any(lives(pid) for pid in pids), 5.0)
        if how == "server":
            assert "died (SIGKILL" in owner.communicate()[0]


def crashing(frames, net):
    import warnings

    warnings.warn("numpy is deprecated", stacklevel=1)
    ctypes.string_at(0)
    yield


@pytest.mark.extended
def test_a_crash_is_explained_by_its_own_words(frames, importable):
    with pytest.raises(
        WorkerError, match=r"SIGSEGV\); it printed: Fatal Python error: .* / File .*(crashing|string_at)$"
    ):
        Worker(bad(crashing), TINY_WORK, frames)


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("a.py:3: UserWarning: old\n  warnings.warn(x)\n", ""),
        ("loading\na.py:3: FutureWarning: old\n  warn(x)\n", "loading"),
        (
            "Traceback (most recent call last):\n  File x\nKeyError: 3\nlater.py:1: UserWarning: x\n",
            "KeyError: 3",
        ),
        ("terminate called\n  what():  bad\n[W] warning: slow\n", "terminate called / what():  bad"),
        ("one\ntwo\nthree\nfour\n", "two / three / four"),
        ("", ""),
    ],
)
def test_last_words_are_those_of_the_end(printed, words):
    assert worker_module.last_words(printed) == words


OWNER = """
import subprocess, sys, time
from labkit.core.child import child_command
busy = "import os; os.write(1, b'busy\\\\n')\\n" + sys.argv[1]
children = [subprocess.Popen(child_command("timeit", "-n", "1", "-r", "1", "-s", busy, "pass"))
            for _ in range(int(sys.argv[2]))]
print(*(child.pid for child in children), flush=True)
time.sleep(100)
"""
OWNER_OF_WORKERS = """
import psutil
from labkit.bench.frames import collect
from labkit.bench.worker import Worker, restless
from labkit.core.types import Workload
from labkit.pipelines.ladder import rung
work = Workload(weights="random", size=(160, 128))
workers = [Worker(rung("resnet_opencv_cpu"), work, collect("photos", work.size).frames) for _ in range(2)]
print(psutil.Process(workers[0].pid).ppid(), *(worker.pid for worker in workers), flush=True)
try:
    while True: workers[0].time_frames(3)
except Exception as error: print(error)
"""
BUSY = (  # in Python; and in one call of a library that lets no other thread of Python in
    "while True: pass",
    "import ctypes; ctypes.PyDLL(None).sleep(90)",
)


def orphans_after(signal_number, busy, count, seconds=2.0):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, busy, str(count)], stdout=subprocess.PIPE, text=True
    ) as owner:
        lines = [owner.stdout.readline() for _ in range(count + 1)]  # once all are at work
        assert lines.count("busy\n") == count
        children = [int(pid) for pid in " ".join(lines).replace("busy", "").split()]
        assert len(children) == count
        owner.send_signal(signal_number)
    threading.Event().wait(seconds)
    return [pid for pid in children if lives(pid)]


def until(condition, seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread looks")
@pytest.mark.parametrize("busy", BUSY)
def test_a_child_ends_with_its_parent(busy):
    assert orphans_after(signal.SIGKILL, busy, 3) == []


STARTS_BY_SHELL = """
import subprocess
from labkit.core.child import child_command
subprocess.run(["sh", "-c", '"$@" & echo $!; wait', "sh", *child_command("sleeps", direct=False)])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no sh")
def test_a_child_that_another_program_started_ends_with_its_owner(tmp_path):
    (tmp_path / "sleeps.py").write_text("import time\nprint('at work', flush=True)\ntime.sleep(90)\n")
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_BY_SHELL], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as owner:
        child = int(owner.stdout.readline())
        assert owner.stdout.readline() == "at work\n" and lives(child)
        owner.kill()
    until(lambda: not lives(child), seconds=2.0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread looks")
def test_sixty_children_end_with_their_parents(capsys):
    left = [orphans_after(number, busy, 15) for number in (signal.SIGKILL, signal.SIGTERM) for busy in BUSY]
    with capsys.disabled():
        print(f"\norphans 2 s after the end of their parent: {len([*chain.from_iterable(left)])} of 60")
    assert [*chain.from_iterable(left)] == []


def test_what_a_worker_prints_is_no_message(frames, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nos.write(1, b'\\x00\\x00\\x00\\x08 hello' * 9999)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with Worker(rung("resnet_opencv_cpu"), TINY_WORK, frames) as worker:
        assert len(worker.answers(frames[:1]).found) == 1


def working_on(frames, net):
    block = bytes(2**20)

    def work():
        while True:
            hashlib.sha256(block)

    threading.Thread(target=work, daemon=True).start()
    for frame in frames:
        yield frame, Detections.empty(frame.size)


def test_a_process_that_works_while_it_waits_is_told(frames, importable):
    with Worker(bad(working_on), TINY_WORK, frames) as worker:
        assert worker.restless == 0  # networks and frames that are taken in are no work of a waiting one
        time.sleep(1.0)
        worker.footprint()
        (sentence,) = restless([worker])
    assert sentence.startswith(f"{worker.rung.name} used ")
    assert sentence.endswith("% of a core while others had their turn")


@pytest.mark.extended
def test_threads_that_spin_for_their_next_work_rest_while_others_have_their_turn(frames, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with Worker(rung("spin_cpu"), TINY_WORK, frames) as worker:
        worker.time_frames(2)
        time.sleep(1.0)
        worker.footprint()
        assert worker.restless == 0


def test_a_fault_in_a_schedule_reaches_the_caller(frames, importable):
    with pytest.raises(WorkerError, match="this schedule has a fault"):
        Worker(bad(failing), TINY_WORK, frames)


@pytest.mark.extended
def test_an_examiner_outlives_a_rung_that_fails(frames, importable):
    told = []
    with EvaluationWorker(told.append) as evaluator:
        with pytest.raises(WorkerError, match="this schedule has a fault"):
            evaluator.prepare(bad(failing), TINY_WORK, frames, None)
        first = evaluator.prepare(rung("resnet_opencv_cpu"), TINY_WORK, frames, None)
        with pytest.raises(WorkerError, match="this schedule has a fault"):
            evaluator.prepare(bad(failing), TINY_WORK, frames, None)
        assert not first.alive
        again = evaluator.prepare(rung("resnet_opencv_cpu"), TINY_WORK, frames, None)
        assert evaluator.prepare(rung("resnet_pil_cpu"), TINY_WORK, frames, None) is again
        assert len(again.answers(frames[:1]).found) == 1
    assert not again.alive


def test_a_schedule_that_cannot_travel_is_explained(frames):
    with pytest.raises(WorkerError, match="function of a module"):
        Worker(bad(lambda frames, net: iter(())), TINY_WORK, frames)


def test_a_span_that_repeats_in_a_frame_is_summed():
    timed = Timing(np.ones(2), np.ones(2), np.array([7, 8]), np.ones(1), 2, 0, 0)
    timed.spans = [SpanRecord("filter", i, 0, s * 10**9) for i, s in ((7, 1), (8, 2), (7, 3), (9, 4))]
    timed.spans.append(SpanRecord("infer", 8, 0, 10**9, gpu_ms=500.0))
    assert {name: s.tolist() for name, s in timed.per_span().items() if name == "filter"} == {
        "filter": [4, 2]
    }
    assert {name: s[1] for name, s in timed.per_span(gpu=True).items()} == {"infer": 0.5}


def test_only_a_child_of_the_main_thread_is_ended_by_the_system():
    kinds = [child_command("x")[4], child_command("x", direct=False)[4]]
    thread = threading.Thread(target=lambda: kinds.append(child_command("x")[4]))
    thread.start()
    thread.join()
    assert kinds == ["process", "thread", "thread"]


def test_the_children_of_a_server_that_has_ended_were_killed():
    assert fork_server.ForkServer.status(SimpleNamespace(alive=False), 5) == -signal.SIGKILL
