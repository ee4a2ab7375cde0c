"""What a fleet costs and gains, measured: `python -m labkit.fleet.benchmark.fleet_benchmark FILE.json`.

The same rung and the same recordings of photographs, 1, 2, 4 and 8 of them at once. A fleet, which
is offered more than it can take, is compared with the best that one process does of the same job:
it reads the recordings in turn at its own pace, finds, and writes the same files. The two take
turns for several rounds, the process before and after each fleet, the fleets in random order, and
only that time counts in which all streams run: how fast a shared machine is changes by more than what
a fleet costs. Beside them stands a process that has its frames in memory, and neither reads nor writes.

Also measured: which processes of a fleet use how much of the cores; groups of 1 to 8 frames; the
fleet's own work per frame; how long it takes until answers come again after an engine was killed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.core.errors import LabError
from labkit.core.files import write_atomic
from labkit.core.stats import ratio_interval
from labkit.core.types import Detections, Frame, Preparation, Rung, Workload
from labkit.fleet.benchmark.cpu_usage import CpuUsage
from labkit.fleet.benchmark.steady_state import FleetResults
from labkit.fleet.fleet_plan import Plan as FleetPlan
from labkit.fleet.fleet_plan import with_group
from labkit.fleet.streams import Counts

if TYPE_CHECKING:
    from labkit.fleet.benchmark.single_process import SingleProcess

STREAMS = (1, 2, 4, 8)
GROUPS = (1, 2, 4, 8)
SETTLE_S = 3.0
"""Left out once the last stream has begun; streams also end up to so much later than the first."""
ROUNDS = 9
LOOK_S = 1.0  # states come so often
OFFERED = 1.5
"""How much more than its engine can take a fleet is offered."""
MOST_FILM_FRAMES = 900


def no_op(frames: Iterable[Frame], net: Any) -> Iterator[tuple[Frame, Detections]]:
    """A pipeline that finds nothing in no time: what is left is the fleet's own work."""
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
    """All figures of a rung on this machine; Ray runs only while fleets do.

    Args:
        rung, workload: what fleets and the one process do with each frame.
        seconds: measured part of each fleet's turn.
        rounds: turns of each fleet; fewer than 5 give no interval.
        report: hears how far it is, and of turns that could not be measured.
    """
    from labkit.bench.frames import collect
    from labkit.bench.plan import Plan
    from labkit.core.machine import fingerprint
    from labkit.fleet.benchmark.single_process import SingleProcess
    from labkit.fleet.cluster import cluster

    frames = collect("photos", workload.size).frames
    plan = Plan(seconds=max(4.0, seconds / 2), min_frames=32, warm_frames=8, warm_limit_s=20.0)
    rungs = [with_group(rung, n) for n in GROUPS] if "frames" in rung.prepare.options else [rung]
    groups = [_from_memory(one, workload, frames, plan) for one in rungs]
    memory_fps = next(group["fps"] for group in groups if group["frames"] == rung.prepare.group)
    length = min(MOST_FILM_FRAMES, int(OFFERED * memory_fps * (seconds + 2 * SETTLE_S)) + 30)
    with _test_video(workload, length) as film, cluster():
        one = FleetPlan((film,), rung, workload, seconds=seconds + 2 * SETTLE_S)
        plans = {
            n: replace(one, sources=(film,) * n, fps=min(1000.0, OFFERED * memory_fps / n)) for n in STREAMS
        }
        with SingleProcess(one) as alone:
            fleets = _interleaved(alone, plans, seconds / 2, rounds, report)
        recovery_s = _recovery(rung, workload, film, memory_fps)
        overhead_ms = _overhead(workload)
    return {
        "rung": rung.name,
        "model_set": workload.model_set,
        "size": list(workload.size),
        "memory_fps": memory_fps,
        "fleets": fleets,
        "overhead_ms": overhead_ms,
        "groups": groups,
        "recovery_s": recovery_s,
        "fingerprint": fingerprint(),
    }


def _from_memory(rung: Rung, workload: Workload, frames: Sequence[Frame], plan: Any) -> dict[str, Any]:
    """A closed run in a process of its own, which neither reads nor writes."""
    from labkit.bench.worker import Worker

    with Worker(rung, workload, frames) as worker:
        timed = worker.run(plan)
    return {
        "frames": rung.prepare.group,
        "fps": len(timed.done_s) / float(timed.done_s[-1]),
        "latency_ms": 1e3 * float(np.median(timed.latency_s)),
        "n": len(timed.done_s),
    }


def _interleaved(
    alone: SingleProcess,
    plans: Mapping[int, FleetPlan],
    alone_s: float,
    rounds: int,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Fleets of several sizes in turns with the one process that does their job."""
    order = np.random.default_rng(0)
    turns: dict[int, list[tuple[_Round, float]]] = {n: [] for n in plans}
    before_fps = alone.watch(next(iter(plans.values())), alone_s)
    for i in range(rounds):
        for n in order.permutation(list(plans)).tolist():
            try:
                turn = _fleet(plans[n])
            except LabError as error:  # as where others keep the machine busy
                report(f"a turn of {n} streams was not measured: {error}")
                continue
            after_fps = alone.watch(plans[n], alone_s)
            turns[n].append((turn, (before_fps + after_fps) / 2))
            before_fps = after_fps
            report(f"round {i + 1} of {rounds}, {n} streams: {turn.answers.fps / turns[n][-1][1]:.3f}")
    if not all(turns.values()):
        raise LabError("some fleets could not be measured at all; let each run for longer")
    return [_summary(n, turns[n]) for n in plans]


def _summary(n: int, turns: Sequence[tuple[_Round, float]]) -> dict[str, Any]:
    fleets = [turn for turn, _ in turns]
    rates = [(turn.answers.fps, single_fps) for turn, single_fps in turns]
    shares = [fps / single_fps for fps, single_fps in rates]
    fps, single_fps = (float(np.median(each)) for each in zip(*rates, strict=True))
    ages = FleetResults(*(np.concatenate([getattr(each.answers, name) for each in fleets])
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
        "share_interval": [float(bound) for bound in ratio_interval(shares)],
        "rounds_fps": rates,
        "extra_ms_per_frame": 1e3 * float(np.median([1 / fps - 1 / single for fps, single in rates])),
    }


@dataclass(frozen=True)
class _Round:
    """One turn of a fleet: its answers while all streams ran, all its frames, and who used the cores."""

    answers: FleetResults
    counts: Counts
    cores: dict[str, float]


def _fleet(plan: FleetPlan) -> _Round:
    """What a fleet does that is offered more than it can take, while all of its streams run."""
    from labkit.fleet.benchmark.steady_state import run_to_end

    seconds = plan.seconds
    assert seconds is not None
    usage = CpuUsage()
    ends_s: list[float] = []

    def look(fleet: Any, states: Sequence[Any]) -> None:
        """From when all streams have begun to before the first may end, which writes its last part."""
        now_s = time.monotonic()
        if not ends_s:
            ends_s.append(now_s + seconds - SETTLE_S)
        begun = all(state.counts.processed for state in states)
        if (begun and not len(usage)) or (len(usage) == 1 and now_s >= ends_s[0] - LOOK_S):
            usage.look()

    summary, answers = run_to_end(plan, look)
    return _Round(answers.steady(SETTLE_S), summary.counts, usage.cores())


def _recovery(rung: Rung, workload: Workload, film: str, single_fps: float) -> float:
    """Seconds without an answer after the engine of two streams was killed."""
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
        sources=(film,) * 2, rung=rung, workload=workload, fps=max(0.5, 0.2 * single_fps), seconds=90.0
    )
    _, answers = run_to_end(plan, kill_once, every_s=0.25)
    after = answers.done_s[answers.done_s > (killed or [np.inf])[0] + 0.5]
    if not len(after):
        raise LabError("no answer came after the engine was killed; use a longer film, or a faster rung")
    return float(after[0] - killed[0])


def _overhead(workload: Workload) -> float:
    """Milliseconds per frame of a fleet whose pipeline does nothing; frames of the workload's size."""
    from labkit.fleet.benchmark.steady_state import run_to_end

    empty = Rung("nothing", 9, no_op, Preparation("classify"), None, "nothing", "no work")
    plan = FleetPlan(
        sources=("photos",) * 4, rung=empty, workload=workload, fps=250.0, seconds=4 + 2 * SETTLE_S,
        open_net=open_no_networks,
    )  # fmt: skip
    _, answers = run_to_end(plan)
    return 1e3 / answers.steady(SETTLE_S).fps


@contextmanager
def _test_video(workload: Workload, n: int) -> Iterator[str]:
    """A recording of the photographs, so that readers have something to decode."""
    import cv2

    from labkit.sources.openers import open_source

    with tempfile.TemporaryDirectory() as folder, open_source("photos", workload.size, limit=n) as photos:
        path = str(Path(folder) / "film.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 30.0, workload.size)
        for frame in photos:
            writer.write(np.ascontiguousarray(frame.image[..., ::-1]))
        writer.release()
        yield path


def main() -> None:
    """Reads the arguments, measures, writes."""
    from labkit.pipelines.ladder import rung

    reader = argparse.ArgumentParser(
        prog="python -m labkit.fleet.benchmark.fleet_benchmark", description=__doc__
    )
    reader.add_argument("path", type=Path, help="JSON file to write")
    reader.add_argument("--rung", default="grouped_bf16_cpu")
    reader.add_argument("--model-set", default="full", choices=("full", "lab"))
    reader.add_argument("--seconds", type=float, default=10.0, help="measured part of each fleet's turn")
    reader.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each fleet")
    given = reader.parse_args()
    workload = Workload(model_set=given.model_set)
    say = partial(print, file=sys.stderr, flush=True)
    found = run_benchmark(rung(given.rung), workload, given.seconds, given.rounds, say)
    write_atomic(given.path, json.dumps(found, indent=2, default=str) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "fingerprint"}, indent=2))


if __name__ == "__main__":
    main()
