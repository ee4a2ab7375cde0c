"""What a fleet costs and gains, measured: `python -m labkit.fleet.figures FILE.json`.

The same rung on the same frames, alone in a process of its own and in fleets of 1, 2, 4 and 8
recordings that together offer more than it can take; groups of 1 to 8 frames; how long it takes
until answers come again after an engine was killed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.errors import LabError
from labkit.files import write_whole
from labkit.fleet.plan import Plan as FleetPlan
from labkit.fleet.plan import with_group
from labkit.types import Detections, Frame, Preparation, Rung, Workload

STREAMS = (1, 2, 4, 8)
GROUPS = (1, 2, 4, 8)
SETTLE_S = 3.0
"""The beginning of a fleet's run that is left out: streams begin one after another."""
OFFERED = 1.5
"""How much more than its engine can take a fleet is offered."""
MOST_FILM_FRAMES = 900

Rows = dict[str, NDArray[np.float64]]


def nothing(frames: Iterable[Frame], net: Any) -> Iterator[tuple[Frame, Detections]]:
    """A pipeline that finds nothing in no time: what is left is the fleet's own work."""
    for frame in frames:
        yield frame, Detections.empty(frame.size)


def open_nothing(rung: Rung, workload: Workload) -> tuple[None, dict[str, Any]]:
    """No networks."""
    return None, {}


def figures(rung: Rung, workload: Workload, seconds: float) -> dict[str, Any]:
    """All figures of a rung on this machine; Ray runs only while fleets do."""
    from labkit.fleet.cluster import cluster
    from labkit.measure import Plan, collect, fingerprint

    frames = collect("photos", workload.size).frames
    plan = Plan(seconds=max(4.0, seconds / 3), min_frames=32, warm_frames=8, warm_limit_s=20.0)
    rungs = [with_group(rung, n) for n in GROUPS] if "frames" in rung.prepare.options else [rung]
    groups = [_alone(one, workload, frames, plan) for one in rungs]
    single = max(group["fps"] for group in groups if group["frames"] == _group(rung))
    length = min(MOST_FILM_FRAMES, int(OFFERED * single * (seconds + SETTLE_S)) + 30)
    with _film(workload, length) as film, cluster():
        fleets = [_fleet(rung, workload, film, n, single, seconds) for n in STREAMS]
        recovery_s = _recovery(rung, workload, film, single)
        overhead_ms = _overhead(workload, film)
    for fleet in fleets:
        fleet["share_of_single"] = fleet["fps"] / single
        fleet["extra_ms_per_frame"] = 1e3 * (1 / fleet["fps"] - 1 / single)
    return {
        "rung": rung.name,
        "model_set": workload.model_set,
        "size": list(workload.size),
        "single_fps": single,
        "fleets": fleets,
        "overhead_ms": overhead_ms,
        "groups": groups,
        "recovery_s": recovery_s,
        "fingerprint": fingerprint(),
    }


def _alone(rung: Rung, workload: Workload, frames: Sequence[Frame], plan: Any) -> dict[str, Any]:
    """A closed run in a process of its own."""
    from labkit.measure import Worker

    with Worker(rung, workload, frames) as worker:
        timed = worker.run(plan)
    return {
        "frames": _group(rung),
        "fps": len(timed.done_s) / float(timed.done_s[-1]),
        "latency_ms": 1e3 * float(np.median(timed.latency_s)),
        "n": len(timed.done_s),
    }


def _fleet(
    rung: Rung, workload: Workload, film: str, streams: int, single_fps: float, seconds: float
) -> dict[str, Any]:
    """A fleet of recordings that together offer more than the engine takes."""
    plan = FleetPlan(
        sources=(film,) * streams,
        rung=rung,
        workload=workload,
        fps=min(1000.0, OFFERED * single_fps / streams),
        seconds=seconds + SETTLE_S,
    )
    summary, rows = _run(plan)
    late = rows["done_s"] >= rows["done_s"][0] + SETTLE_S
    ages_ms = 1e3 * rows["age_s"][late]
    offered, processed, dropped, failed = summary.counts.row()
    return {
        "streams": streams,
        "fps": _rate(rows["done_s"][late]),
        "age_p50_ms": float(np.median(ages_ms)),
        "age_p90_ms": float(np.percentile(ages_ms, 90)) if len(ages_ms) >= 64 else None,
        "offered": offered,
        "processed": processed,
        "dropped": dropped,
        "failed": failed,
    }


def _recovery(rung: Rung, workload: Workload, film: str, single_fps: float) -> float:
    """Seconds without an answer after the engine of two streams was killed."""
    import ray

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
    _, rows = _run(plan, kill_once)
    after = rows["done_s"][rows["done_s"] > (killed or [np.inf])[0] + 0.5]
    if not len(after):
        raise LabError("no answer came after the engine was killed; use a longer film, or a faster rung")
    return float(after[0] - killed[0])


def _overhead(workload: Workload, film: str) -> float:
    """Milliseconds per frame of a fleet whose pipeline does nothing; frames of the workload's size."""
    empty = Rung("nothing", 9, nothing, Preparation("classify"), None, "nothing", "no work")
    plan = FleetPlan(
        sources=("photos",) * 4, rung=empty, workload=workload, fps=250.0, seconds=4 + SETTLE_S,
        open_net=open_nothing,
    )  # fmt: skip
    _, rows = _run(plan)
    return 1e3 / _rate(rows["done_s"][rows["done_s"] >= rows["done_s"][0] + SETTLE_S])


def _run(
    plan: FleetPlan, at_each: Callable[[Any, Any], None] = lambda fleet, states: None
) -> tuple[Any, Rows]:
    """A fleet to its end: its summary, and when each answer was there, in order."""
    from labkit.fleet.fleet import Fleet

    with tempfile.TemporaryDirectory() as out:
        with Fleet(replace(plan, out=Path(out))) as fleet:
            for states in fleet.states(every_s=0.25):
                at_each(fleet, states)
            summary = fleet.summary()
        assert summary.folder is not None
        rows = _rows(summary.folder)
    if len(rows["done_s"]) < 2:
        raise LabError("; ".join(str(state.ended) for state in summary.streams))
    return summary, rows


def _rows(folder: Path) -> Rows:
    import pandas as pd

    parts = [pd.read_parquet(path, columns=["captured_utc", "age_ms"]) for path in folder.rglob("*.parquet")]
    table = pd.concat(parts) if parts else pd.DataFrame({"captured_utc": [], "age_ms": []})
    since = pd.to_datetime(table["captured_utc"], utc=True) - pd.Timestamp(0, tz="UTC")
    age_s = table["age_ms"].to_numpy(np.float64) / 1e3
    done_s = since.dt.total_seconds().to_numpy(np.float64) + age_s
    order = np.argsort(done_s)
    return {"done_s": done_s[order], "age_s": age_s[order]}


def _rate(done_s: NDArray[np.float64]) -> float:
    """Answers per second. Answers of one group come at once; the first group's time is not known."""
    new_group = np.flatnonzero(np.diff(done_s) > 0.01)
    if len(new_group) < 2:
        return (len(done_s) - 1) / float(done_s[-1] - done_s[0])
    first, last = new_group[0], new_group[-1]
    return float(last - first) / float(done_s[last] - done_s[first])


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
