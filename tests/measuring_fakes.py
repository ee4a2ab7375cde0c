"""Fake measurements of sweep points that are cheap, and fail or die on purpose.

Each writes a file per execution into the folder that its point has as source.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from pathlib import Path

from records_made_up import made_up_run

from labkit.core.errors import SourceError, WorkerError
from labkit.fleet.sweep.node_task import measure_point
from labkit.fleet.sweep.point import Point
from labkit.results.records import Run

SPECIAL = 2
"""Number of boxes of the points that fail, die or wait."""


def quick(point: Point) -> Run:
    begun_s = time.time()
    _note(point)
    return _run(point, begun_s)


def failing_once(point: Point) -> Run:
    """Kills its process at special points and raises at those with one box more, the first time."""
    if not executions(point.source, point.key):
        if point.workload.objects == SPECIAL:
            _note(point)
            os.kill(os.getpid(), signal.SIGKILL)
        if point.workload.objects == SPECIAL + 1:
            _note(point)
            raise WorkerError("the process measuring it died (SIGKILL)")
    return quick(point)


def dying(point: Point) -> Run:
    """Kills its process at special points, each time."""
    if point.workload.objects == SPECIAL:
        _note(point)
        os.kill(os.getpid(), signal.SIGKILL)
    return quick(point)


def hungry(point: Point) -> Run:
    """Special points allocate memory until they are killed, up to 6 GiB."""
    if point.workload.objects == SPECIAL:
        _note(point)
        taken = []
        for _ in range(6 * 16):
            taken.append(bytearray(os.urandom(2**20) * 64))  # of no two pages the same
            time.sleep(0.02)
        raise WorkerError("it was not killed")
    return quick(point)


def without_source(point: Point) -> Run:
    """The source of special points is missing."""
    if point.workload.objects == SPECIAL:
        _note(point)
        raise SourceError("film.mp4 is not on this machine; copy it there")
    return quick(point)


def broken(point: Point) -> Run:
    """Raises a `KeyError` at special points."""
    if point.workload.objects == SPECIAL:
        _note(point)
        return {}[point.key]
    return quick(point)


def waiting(point: Point) -> Run:
    """Special points wait until there is a file `go` in the folder."""
    begun_s = time.time()
    _note(point)
    while point.workload.objects == SPECIAL and not (Path(point.source) / "go").exists():
        if time.time() > begun_s + 60:
            raise WorkerError("there was no file `go`")
        time.sleep(0.02)
    return _run(point, begun_s)


def without_peaks(point: Point) -> Run:
    """A real measurement, except for the machine's peak, which takes several seconds."""
    from labkit.bench import run

    run.cached_peaks = lambda *_: {"fp32": 100.0}  # an invented peak is not to be kept
    return measure_point(point)


def executions(folder: str | Path, key: str = "") -> list[dict]:
    """Executions that began, of all points or one."""
    notes = [json.loads(path.read_text()) for path in sorted(Path(folder).glob(f"{key or '*'}.*.json"))]
    return [note for note in notes if "ended_s" not in note]


def ended(folder: str | Path) -> list[dict]:
    """Executions that ended, with their times and nodes."""
    notes = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    return [note for note in notes if "ended_s" in note]


def _run(point: Point, begun_s: float) -> Run:
    _note(point, begun_s=begun_s, ended_s=time.time())
    return made_up_run(point.rung, n=70, seed=point.repeat, settings=_settings(point))


def _note(point: Point, **more: float) -> None:
    import ray

    node = ray.get_runtime_context().get_node_id()
    note = {"key": point.key, "boxes": point.workload.objects, "node": node, "pid": os.getpid(), **more}
    path = Path(point.source) / f"{point.key}.{time.time_ns()}-{uuid.uuid4().hex}"
    path.with_suffix(".part").write_text(json.dumps(note))
    path.with_suffix(".part").rename(f"{path}.json")


def _settings(point: Point) -> dict:
    return {
        "device": "cpu", "weights": "random", "model_set": "lab", "size": list(point.workload.size),
        "objects": point.workload.objects, "paced_fps": point.fps,
    }  # fmt: skip
