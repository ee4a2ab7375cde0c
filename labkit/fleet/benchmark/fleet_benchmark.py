"""Benchmark of a fleet: `python -m labkit.fleet.benchmark.fleet_benchmark FILE.json`.

Fleets of 1, 2, 4 and 8 streams of the same recording, offered more than they can take, are compared
with a single process that reads the recordings in turn at its own pace, detects, and writes the same
files. Rounds are interleaved, the process before and after each fleet and the fleets in random order,
because the speed of a shared machine changes by more than what a fleet costs. Only time in which all
streams run counts. A process with its frames in memory, which neither reads nor writes, is also measured.

Further figures: cores used by each kind of process; the fleet's overhead per frame; the time until
results come again after an engine was killed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from labkit.core.errors import LabError, ResultsError
from labkit.core.files import write_atomic
from labkit.core.scratch import scratch_folder
from labkit.core.stats import ratio_interval
from labkit.core.types import Detections, Frame, Preparation, Rung, Workload
from labkit.fleet.benchmark.steady_state import FleetResults
from labkit.fleet.fleet_plan import Plan as FleetPlan
from labkit.fleet.streams import Counts

if TYPE_CHECKING:
    from labkit.fleet.benchmark.single_process import SingleProcess

STREAMS = (1, 2, 4, 8)
SETTLE_S = 3.0
"""Left out once the last stream has begun; streams may also end so much later than the first."""
ROUNDS = 9
STATES_S = 1.0  # interval of a fleet's states
OFFERED = 1.5
"""Frames offered to a fleet, as a multiple of what its engine can take."""
MAX_VIDEO_FRAMES = 900
KINDS = {"ray::Engine": "engines", "ray::Readers": "readers"}
"""Start of the title of an actor's process -> kind."""
DRIVER, RAY = "this process", "Ray itself"


def no_op(frames: Iterable[Frame], net: Any) -> Iterator[tuple[Frame, Detections]]:
    """A pipeline without detections that takes no time, which leaves the fleet's overhead."""
    for frame in frames:
        yield frame, Detections.empty(frame.size)


def open_no_networks(rung: Rung, workload: Workload) -> tuple[None, dict[str, Any]]:
    """No networks."""
    return None, {}


def run_benchmark(
    rung: Rung,
    workload: Workload,
    seconds: float,
    rounds: int = ROUNDS,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure all figures of a rung on this machine; Ray runs only while fleets do.

    Args:
        rung, workload: the processing of every frame.
        seconds: measured part of each fleet's run.
        rounds: runs of each fleet; fewer than 5 give no interval.
        report: called with progress, and with an error for each run that could not be measured.
    """
    from labkit.core.machine import fingerprint
    from labkit.fleet.benchmark.single_process import SingleProcess
    from labkit.fleet.cluster import cluster

    memory_fps = _memory_fps(rung, workload, max(4.0, seconds / 2))
    n_frames = min(MAX_VIDEO_FRAMES, int(OFFERED * memory_fps * (seconds + 2 * SETTLE_S)) + 30)
    with _test_video(workload, n_frames) as video, cluster():
        one = FleetPlan((video,), rung, workload, seconds=seconds + 2 * SETTLE_S)
        plans = {
            n: replace(one, sources=(video,) * n, fps=min(1000.0, OFFERED * memory_fps / n)) for n in STREAMS
        }
        with SingleProcess(one) as process:
            fleets = _interleaved(process, plans, seconds / 2, rounds, report)
        recovery_s = _recovery(rung, workload, video, memory_fps)
        overhead_ms = _overhead(workload)
    return {
        "rung": rung.name,
        "model_set": workload.model_set,
        "size": list(workload.size),
        "memory_fps": memory_fps,
        "fleets": fleets,
        "overhead_ms": overhead_ms,
        "recovery_s": recovery_s,
        "fingerprint": fingerprint(),
    }


def _memory_fps(rung: Rung, workload: Workload, seconds: float) -> float:
    """Frames per second of a process with its frames in memory, which neither reads nor writes."""
    from labkit.bench.frames import collect
    from labkit.bench.plan import Plan
    from labkit.bench.worker import Worker

    with Worker(rung, workload, collect("photos", workload.size).frames) as worker:
        timed = worker.run(Plan(seconds=seconds, min_frames=32, warm_frames=8, warm_limit_s=20.0))
    return len(timed.done_s) / float(timed.done_s[-1])


def _interleaved(
    process: SingleProcess,
    plans: Mapping[int, FleetPlan],
    process_s: float,
    rounds: int,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure fleets of several sizes, each between two measurements of the single process."""
    order = np.random.default_rng(0)
    measured: dict[int, list[tuple[_Round, float]]] = {n: [] for n in plans}
    before_fps = process.measure_fps(next(iter(plans.values())), process_s)
    for i in range(rounds):
        for n in order.permutation(list(plans)).tolist():
            try:
                one = _measure_fleet(plans[n])
            except LabError as error:  # such as too few results, on a busy machine
                report(f"a run of {n} streams could not be measured: {error}")
                continue
            after_fps = process.measure_fps(plans[n], process_s)
            measured[n].append((one, (before_fps + after_fps) / 2))
            before_fps = after_fps
            report(f"round {i + 1} of {rounds}, {n} streams: {one.results.fps / measured[n][-1][1]:.3f}")
    if not all(measured.values()):
        raise LabError("some fleets could not be measured at all; let each run for longer (--seconds)")
    return [_summary(n, measured[n]) for n in plans]


def _summary(n: int, rounds: Sequence[tuple[_Round, float]]) -> dict[str, Any]:
    fleets = [one for one, _ in rounds]
    rates = [(one.results.fps, single_fps) for one, single_fps in rounds]
    shares = [fps / single_fps for fps, single_fps in rates]
    interval = [float(bound) for bound in ratio_interval(shares)]
    fps, single_fps = (float(np.median(each)) for each in zip(*rates, strict=True))
    ages = FleetResults(*(np.concatenate([getattr(each.results, name) for each in fleets])
                     for name in ("done_s", "age_s", "stream")))  # fmt: skip
    offered, processed, dropped, failed = sum((each.counts for each in fleets), Counts()).row()
    kinds = sorted({kind for each in fleets for kind in each.cores})
    return {
        "streams": n,
        "fps": fps,
        "n": len(ages),
        "age_p50_ms": ages.age_ms(50),
        "age_p90_ms": ages.age_ms(90),
        "offered": offered,
        "processed": processed,
        "dropped": dropped,
        "failed": failed,
        "cores_used": {
            kind: round(float(np.mean([each.cores[kind] for each in fleets if kind in each.cores])), 3)
            for kind in kinds
        },
        "single_fps": single_fps,
        "share_of_single": float(np.median(shares)),
        **({"share_interval": interval} if np.isfinite(interval).all() else {}),  # else too few rounds
        "rounds_fps": rates,
        "extra_ms_per_frame": 1e3 * float(np.median([1 / fps - 1 / single for fps, single in rates])),
    }


class CpuUsage:
    """CPU time of this process and its children, by kind, sampled at several times."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, dict[str, float]]] = []

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self) -> None:
        """Read the CPU time of all processes, which takes some milliseconds."""
        used_s: dict[str, float] = {}
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended meanwhile
                times = process.cpu_times()
                kind = DRIVER if process == here else _kind(process)
                used_s[kind] = used_s.get(kind, 0.0) + times.user + times.system
        self._samples.append((time.monotonic(), used_s))

    def cores(self) -> dict[str, float]:
        """Mean number of cores in use between the first and last sample; empty before there are two."""
        if len(self._samples) < 2:
            return {}
        (begun_s, before), (ended_s, after) = self._samples[0], self._samples[-1]
        return {
            kind: round((after[kind] - before.get(kind, 0.0)) / (ended_s - begun_s), 3)
            for kind in sorted(after)
        }


def _kind(process: psutil.Process) -> str:
    title = " ".join(process.cmdline())
    return next((kind for start, kind in KINDS.items() if title.startswith(start)), RAY)


@dataclass(frozen=True)
class _Round:
    """One run of a fleet: results while all streams ran, counts of all frames, cores used by kind."""

    results: FleetResults
    counts: Counts
    cores: dict[str, float]


def _measure_fleet(plan: FleetPlan) -> _Round:
    """Run a fleet that is offered more than it can take."""
    from labkit.fleet.benchmark.steady_state import run_to_end

    seconds = plan.seconds
    assert seconds is not None
    usage = CpuUsage()
    ends_s: list[float] = []

    def sample(fleet: Any, states: Sequence[Any]) -> None:
        """Sample when all streams have begun, and before the first may end and write its last part."""
        now_s = time.monotonic()
        if not ends_s:
            ends_s.append(now_s + seconds - SETTLE_S)
        begun = all(state.counts.processed for state in states)
        if (begun and not len(usage)) or (len(usage) == 1 and now_s >= ends_s[0] - STATES_S):
            usage.sample()

    summary, results = run_to_end(plan, sample)
    return _Round(results.steady(SETTLE_S), summary.counts, usage.cores())


def _recovery(rung: Rung, workload: Workload, video: str, single_fps: float) -> float:
    """Seconds without a result after the engine of two streams was killed."""
    import ray

    from labkit.fleet.benchmark.steady_state import run_to_end

    killed: list[float] = []

    def kill_once(fleet: Any, states: Sequence[Any]) -> None:
        if killed and all(state.restarts for state in states):
            fleet.stop()
        elif not killed and all(state.counts.processed >= 4 for state in states):
            killed.append(time.time())
            ray.kill(fleet.engines[0], no_restart=False)

    plan = FleetPlan(
        sources=(video,) * 2, rung=rung, workload=workload, fps=max(0.5, 0.2 * single_fps), seconds=90.0
    )
    _, results = run_to_end(plan, kill_once, every_s=0.25)
    after = results.done_s[results.done_s > (killed or [np.inf])[0] + 0.5]
    if not len(after):
        raise LabError("no result came after the engine was killed; use a faster rung")
    return float(after[0] - killed[0])


def _overhead(workload: Workload) -> float:
    """Milliseconds per frame of a fleet whose pipeline does nothing."""
    from labkit.fleet.benchmark.steady_state import run_to_end

    empty = Rung("nothing", 9, no_op, Preparation("classify"), None, "nothing", "no work")
    plan = FleetPlan(
        sources=("photos",) * 4, rung=empty, workload=workload, fps=250.0, seconds=4 + 2 * SETTLE_S,
        open_net=open_no_networks,
    )  # fmt: skip
    _, results = run_to_end(plan)
    return 1e3 / results.steady(SETTLE_S).fps


@contextmanager
def _test_video(workload: Workload, n: int) -> Iterator[str]:
    """A recording of the photographs, for readers to decode."""
    import cv2

    from labkit.sources.openers import open_source

    with scratch_folder("video") as folder, open_source("photos", workload.size, limit=n) as photos:
        path = str(folder / "video.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 30.0, workload.size)
        for frame in photos:
            writer.write(np.ascontiguousarray(frame.image[..., ::-1]))
        writer.release()
        yield path


def main() -> None:
    """Run the benchmark from the command line."""
    from labkit.pipelines.ladder import rung

    parser = argparse.ArgumentParser(
        prog="python -m labkit.fleet.benchmark.fleet_benchmark", description=__doc__
    )
    parser.add_argument("path", type=Path, help="JSON file to write")
    parser.add_argument("--rung", default="grouped_bf16_cpu")
    parser.add_argument("--model-set", default="full", choices=("full", "lab"))
    parser.add_argument("--seconds", type=float, default=10.0, help="measured part of each fleet's run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each fleet")
    args = parser.parse_args()
    workload = Workload(model_set=args.model_set)
    report = partial(print, file=sys.stderr, flush=True)
    found = run_benchmark(rung(args.rung), workload, args.seconds, args.rounds, report)
    print(json.dumps({key: value for key, value in found.items() if key != "fingerprint"}, indent=2))
    try:
        write_atomic(args.path, json.dumps(found, indent=2, default=str) + "\n")
    except ResultsError as error:  # the figures stand above
        sys.exit(f"labkit: {error}")


if __name__ == "__main__":
    main()
