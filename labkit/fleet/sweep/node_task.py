"""Measurement of one point of a sweep on a node, in a process that Ray starts for it alone.

torch reads its environment once, so nothing heavy may be imported before the environment is as it
would be without Ray. Ray therefore calls `run_on_node`, and passes it bytes.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from labkit.core.errors import UnavailableError, WorkerError

if TYPE_CHECKING:
    from labkit.fleet.sweep.point import Point
    from labkit.results.records import Run

FAILED = "failed: "  # prefix of `labkit.bench` for a rung that broke, unlike one that cannot run


def run_on_node(work: bytes) -> Run:
    """Unpickle (function, point) and call the function with the point, without Ray's limits."""
    with _without_ray_limits():
        measure, point = pickle.loads(work)
        return measure(point)


def measure_point(point: Point) -> Run:
    """Measure a point on this machine, as `labkit bench` would.

    Raises:
        WorkerError: the process that measures it died or broke; a retry may succeed.
        UnavailableError: this machine cannot run the rung.
        LabError: the source or the weights cannot be had.
    """
    from labkit.bench.run import run_benchmark
    from labkit.pipelines.ladder import rung

    outcome = run_benchmark(
        [rung(point.rung)],
        source=point.source,
        workload=point.workload,
        plan=point.plan,
        rounds=None,
        store=None,
        opening={"open_timeout_s": point.timeouts_s[0], "read_timeout_s": point.timeouts_s[1]},
        scenes=point.scenes,
    )
    if outcome.runs:
        return _with_niceness(outcome.runs[0])
    why = outcome.skipped.get(point.rung, "left no result")
    if why.startswith(FAILED):
        raise WorkerError(why.removeprefix(FAILED))
    raise UnavailableError(f"{point.rung} {why}")


@contextmanager
def _without_ray_limits() -> Iterator[None]:
    """Lift the limits on a Ray worker that would change a measurement: thread bound, low priority.

    Ray bounds the threads of a task by OMP_NUM_THREADS, unless its node was started with one.
    """
    import psutil

    added = None
    if "OMP_NUM_THREADS" not in psutil.Process().environ():  # as this process was started
        added = os.environ.pop("OMP_NUM_THREADS", None)
    with suppress(OSError, AttributeError):  # only root may; no such call on Windows
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    try:
        yield
    finally:
        if added is not None:
            os.environ["OMP_NUM_THREADS"] = added


def _with_niceness(run: Run) -> Run:
    """The run, marked as disturbed if its process had a low priority."""
    niceness = os.nice(0) if hasattr(os, "nice") else 0
    if niceness <= 0:
        return run
    warning = f"Ray ran it at niceness {niceness}; start the node with RAY_worker_niceness=0"
    return replace(run, disturbances=(*run.disturbances, warning))
