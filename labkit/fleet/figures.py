"""What a fleet costs and gains, measured: `python -m labkit.fleet.figures FILE.json`.

The same rung and the same recordings of photographs, 1, 2, 4 and 8 of them at once. A fleet, which
is offered more than it can take, is compared with the best that one process does of the same job:
it reads the recordings in turn at its own pace, finds, and writes the same files. The two take
turns, the process before and after each fleet, and only that time counts in which all streams run.
Beside them stands a process that has its frames in memory, and neither reads nor writes.

Also measured: which processes of a fleet use how much of the cores; groups of 1 to 8 frames; the
fleet's own work per frame; how long it takes until answers come again after an engine was killed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.errors import LabError
from labkit.files import write_whole
from labkit.fleet.plan import Plan as FleetPlan
from labkit.fleet.plan import with_group
from labkit.fleet.usage import Usage
from labkit.types import Detections, Frame, Preparation, Rung, Workload

if TYPE_CHECKING:
    from labkit.fleet.alone import Alone

STREAMS = (1, 2, 4, 8)
GROUPS = (1, 2, 4, 8)
SETTLE_S = 3.0
"""Left out once the last stream has begun; streams also end up to so much later than the first."""
OFFERED = 1.5
"""How much more than its engine can take a fleet is offered."""
MOST_FILM_FRAMES = 900


def nothing(frames: Iterable[Frame], net: Any) -> Iterator[tuple[Frame, Detections]]:
    """A pipeline that finds nothing in no time: what is left is the fleet's own work."""
    for frame in frames:
        yield frame, Detections.empty(frame.size)


def open_nothing(rung: Rung, workload: Workload) -> tuple[None, dict[str, Any]]:
    """No networks."""
    return None, {}


def figures(rung: Rung, workload: Workload, seconds: float) -> dict[str, Any]:
    """All figures of a rung on this machine; Ray runs only while fleets do."""
    from labkit.fleet.alone import Alone
    from labkit.fleet.cluster import cluster
    from labkit.measure import Plan, collect, fingerprint

    frames = collect("photos", workload.size).frames
    plan = Plan(seconds=max(4.0, seconds / 3), min_frames=32, warm_frames=8, warm_limit_s=20.0)
    rungs = [with_group(rung, n) for n in GROUPS] if "frames" in rung.prepare.options else [rung]
    groups = [_from_memory(one, workload, frames, plan) for one in rungs]
    memory_fps = next(group["fps"] for group in groups if group["frames"] == _group(rung))
    length = min(MOST_FILM_FRAMES, int(OFFERED * memory_fps * (seconds + 2 * SETTLE_S)) + 30)
    with _film(workload, length) as film, cluster():
        with Alone(FleetPlan((film,), rung, workload)) as alone:
            fleets = [_beside(alone, rung, workload, film, n, memory_fps, seconds) for n in STREAMS]
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
    from labkit.measure import Worker

    with Worker(rung, workload, frames) as worker:
        timed = worker.run(plan)
    return {
        "frames": _group(rung),
        "fps": len(timed.done_s) / float(timed.done_s[-1]),
        "latency_ms": 1e3 * float(np.median(timed.latency_s)),
        "n": len(timed.done_s),
    }


def _beside(
    alone: Alone, rung: Rung, workload: Workload, film: str, streams: int, about_fps: float, seconds: float
) -> dict[str, Any]:
    """A fleet, with the one process that does its job before and after it."""
    plan = FleetPlan(
        sources=(film,) * streams,
        rung=rung,
        workload=workload,
        fps=min(1000.0, OFFERED * about_fps / streams),
        seconds=seconds + 2 * SETTLE_S,
    )
    before_fps = alone.watch(plan, seconds / 2)
    fleet = _fleet(plan)
    turns_fps = [before_fps, alone.watch(plan, seconds / 2)]
    single_fps = float(np.mean(turns_fps))
    return {
        **fleet,
        "single_fps": single_fps,
        "single_turns_fps": turns_fps,
        "share_of_single": fleet["fps"] / single_fps,
        "extra_ms_per_frame": 1e3 * (1 / fleet["fps"] - 1 / single_fps),
    }


def _fleet(plan: FleetPlan) -> dict[str, Any]:
    """What a fleet does that is offered more than it can take, while all of its streams run."""
    from labkit.fleet.steady import watched

    assert plan.seconds is not None
    usage = Usage()
    looks_s = [SETTLE_S, plan.seconds - SETTLE_S]  # after all streams have begun
    begun_s: list[float] = []

    def look(fleet: Any, states: Sequence[Any]) -> None:
        if not begun_s and all(state.counts.processed for state in states):
            begun_s.append(time.monotonic())
        if begun_s and looks_s and time.monotonic() - begun_s[0] >= looks_s[0]:
            del looks_s[0]
            usage.look()

    summary, answers = watched(plan, look)
    answers = answers.steady(SETTLE_S)
    offered, processed, dropped, failed = summary.counts.row()
    return {
        "streams": len(plan.sources),
        "fps": answers.fps,
        "n": len(answers),
        "age_p50_ms": answers.age_ms(50),
        "age_p90_ms": answers.age_ms(90),
        "offered": offered,
        "processed": processed,
        "dropped": dropped,
        "failed": failed,
        "cores_used": usage.cores(),
    }


def _recovery(rung: Rung, workload: Workload, film: str, single_fps: float) -> float:
    """Seconds without an answer after the engine of two streams was killed."""
    import ray

    from labkit.fleet.steady import watched

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
    _, answers = watched(plan, kill_once, every_s=0.25)
    after = answers.done_s[answers.done_s > (killed or [np.inf])[0] + 0.5]
    if not len(after):
        raise LabError("no answer came after the engine was killed; use a longer film, or a faster rung")
    return float(after[0] - killed[0])


def _overhead(workload: Workload) -> float:
    """Milliseconds per frame of a fleet whose pipeline does nothing; frames of the workload's size."""
    from labkit.fleet.steady import watched

    empty = Rung("nothing", 9, nothing, Preparation("classify"), None, "nothing", "no work")
    plan = FleetPlan(
        sources=("photos",) * 4, rung=empty, workload=workload, fps=250.0, seconds=4 + 2 * SETTLE_S,
        open_net=open_nothing,
    )  # fmt: skip
    _, answers = watched(plan)
    return 1e3 / answers.steady(SETTLE_S).fps


def _group(rung: Rung) -> int:
    return int(rung.prepare.options.get("frames", 1))


@contextmanager
def _film(workload: Workload, n: int) -> Iterator[str]:
    """A recording of the photographs, so that readers have something to decode."""
    import cv2

    from labkit.sources import open_source

    with tempfile.TemporaryDirectory() as folder, open_source("photos", workload.size, limit=n) as photos:
        path = str(Path(folder) / "film.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 30.0, workload.size)
        for frame in photos:
            writer.write(np.ascontiguousarray(frame.image[..., ::-1]))
        writer.release()
        yield path


def main() -> None:
    """Reads the arguments, measures, writes."""
    from labkit.pipelines import rung

    reader = argparse.ArgumentParser(prog="python -m labkit.fleet.figures", description=__doc__)
    reader.add_argument("path", type=Path, help="JSON file to write")
    reader.add_argument("--rung", default="grouped_bf16_cpu")
    reader.add_argument("--model-set", default="full", choices=("full", "lab"))
    reader.add_argument("--seconds", type=float, default=12.0, help="measured part of each fleet's run")
    given = reader.parse_args()
    workload = Workload(model_set=given.model_set)
    found = figures(rung(given.rung), workload, given.seconds)
    write_whole(given.path, json.dumps(found, indent=2, default=str) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "fingerprint"}, indent=2))


if __name__ == "__main__":
    main()
