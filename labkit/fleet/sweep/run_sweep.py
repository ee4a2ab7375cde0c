"""Measure every point of a grid once, on the nodes of a Ray cluster.

Ray places the points, retries those whose worker or node died, and returns the results. The store
keeps which points are done, so that a sweep that was stopped can be resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from labkit.core.errors import LabError, ResultsError, WorkerError, first_line
from labkit.fleet.cluster import MEASURING, Node, cluster, measuring_nodes, nodes
from labkit.fleet.sweep.grid import Grid
from labkit.fleet.sweep.node_task import measure_point, run_on_node
from labkit.fleet.sweep.point import Point, SweepProgress
from labkit.pipelines.ladder import rung
from labkit.results.records import Run
from labkit.results.saving import Saving
from labkit.results.store import Store
from labkit.results.sweeps import SweepPoint, sweep_names, sweep_points

RETRIES = 2
"""Retries of a point whose process or node died."""

GRACE_S = 60.0
"""Longest wait of a point for a node that can measure it, once the last one has left."""

POLL_S = 2.0
REASON_CHARACTERS = 300
DEATHS = {
    "WorkerCrashedError": "the process measuring it died, as when memory runs out",
    "NodeDiedError": "its node left",
    "OutOfMemoryError": "its node ran out of memory",
    "ObjectLostError": "its result was lost with its node",
}
"""Ray's errors for lost tasks, in words."""

Measure = Callable[[Point], Run]


@dataclass(frozen=True, eq=False)
class SweepResult:
    """A sweep as stored.

    Attributes:
        name: of the sweep.
        rows: the grid's points in its order, each with its row and its run (None if it failed).
        reused: number of points that were stored before.
        notes: sentences on what could not be saved, and how to save it.
    """

    name: str
    rows: tuple[tuple[Point, SweepPoint, Run | None], ...]
    reused: int
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Run]:
        """Runs of the measured points."""
        return [run for *_, run in self.rows if run is not None]

    @property
    def failed(self) -> list[tuple[Point, str]]:
        """Points that failed, with the reason."""
        return [(point, row.reason) for point, row, _ in self.rows if row.reason is not None]


def sweep(
    grid: Grid,
    *,
    store: Store,
    name: str | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    dashboard: bool = False,
    progress: SweepProgress | None = None,
    measure: Measure = measure_point,
    retries: int = RETRIES,
    grace_s: float = GRACE_S,
) -> SweepResult:
    """Measure the points of a grid that its sweep lacks, and store each at once.

    Args:
        grid: points to measure.
        store: of the points and their runs; written by this process alone.
        name: of the sweep; None derives it from the grid.
        address: of a Ray cluster; None starts Ray on this machine.
        retry_failed: also measure the points that failed before.
        dashboard: see `labkit.fleet.cluster.cluster`.
        progress: called for each point.
        measure: measures a point on a node; a function at the top level of a module.
        retries: of a point after a `WorkerError` or a death.
        grace_s: how long a point waits when no node that could measure it is left.

    Raises:
        UnavailableError: Ray is missing, the cluster does not answer, or no node of it measures.
    """
    name, progress = name or grid.name, progress or SweepProgress()
    known = sweep_points(store, name)
    todo = [p for p in grid.points if p.key not in known or (retry_failed and not known[p.key].measured)]
    progress.planned(len(grid.points), len(grid.points) - len(todo))
    runs = {run.id: run for run in store.runs()}
    measured: dict[str, Run | None] = {}
    with Saving(store.path, report=progress.note) as saving:
        if todo:
            with cluster(address, dashboard=dashboard) as ray:
                tasks = _Tasks(ray, measuring_nodes(), measure, retries, grace_s)
                for point, result in tasks.results(todo):
                    kept = saving.keep_point(name, point.key, point.describe(), result)
                    known[point.key], measured[point.key] = kept
                    progress.stored(point, *kept)
    with suppress(ResultsError):
        runs |= {run.id: run for run in store.runs()}
    rows = [(point, known[point.key]) for point in grid.points if point.key in known]
    full = ((p, row, measured.get(p.key) or runs.get(row.run_id)) for p, row in rows)
    return SweepResult(name, tuple(full), reused=len(grid.points) - len(todo), notes=tuple(saving.notes))


def unused_name(store: Store, name: str) -> str:
    """The first of NAME, NAME-2, NAME-3, ... that no sweep of the store has."""
    taken = set(sweep_names(store))
    return next(each for each in chain([name], (f"{name}-{n}" for n in count(2))) if each not in taken)


@dataclass(frozen=True, eq=False)
class _Tasks:
    """Points as Ray tasks.

    Attributes:
        machines: the nodes that may measure when the sweep begins.
    """

    ray: Any
    machines: Sequence[Node]
    measure: Measure
    retries: int
    grace_s: float

    def results(self, points: Sequence[Point]) -> Iterator[tuple[Point, Run | str]]:
        """Yield each point once, as it ends, with its run or why it failed."""
        pending: dict[Any, Point] = {}
        task = self.ray.remote(
            max_calls=1,  # a fresh process each time: nothing of the last point is left in it
            max_retries=self.retries,
            retry_exceptions=[WorkerError],
        )(run_on_node)  # one function for all points, which Ray therefore starts in their order
        try:
            for point in points:
                if self._can_run(point, self.machines):
                    pending[self._submit(task, point)] = point
                else:
                    demand = self._demand(point)
                    needs = "a GPU" if demand["GPU"] else f"{demand['CPU']:g} cores"
                    yield point, f"no node that may measure has what it needs ({needs})"
            yield from self._collect(pending)
        finally:
            for ref in pending:
                self.ray.cancel(ref, force=True)

    def _collect(self, pending: dict[Any, Point]) -> Iterator[tuple[Point, Run | str]]:
        without_node_since_s: dict[Any, float] = {}
        while pending:
            ready, _ = self.ray.wait(list(pending), num_returns=1, timeout=POLL_S)
            for ref in ready:
                yield pending.pop(ref), self._result(ref)
            if ready:
                continue
            alive, now_s = nodes(), time.monotonic()
            for ref, point in list(pending.items()):
                if self._can_run(point, alive):
                    without_node_since_s.pop(ref, None)
                elif now_s - without_node_since_s.setdefault(ref, now_s) >= self.grace_s:
                    self.ray.cancel(ref, force=True)
                    yield pending.pop(ref), f"no node that can measure it was left for {self.grace_s:.0f} s"

    def _submit(self, task: Any, point: Point) -> Any:
        demand = self._demand(point)
        resources = {MEASURING: demand[MEASURING]}
        placed = task.options(num_cpus=demand["CPU"], num_gpus=demand["GPU"], resources=resources)
        return placed.remote(self.ray.cloudpickle.dumps((self.measure, point)))

    def _demand(self, point: Point) -> dict[str, float]:
        """Resources of a point: a GPU, or as many cores as the smallest node has."""
        on_gpu = rung(point.rung).prepare.device == "cuda"
        cores = 1 if on_gpu else min(node.cpus for node in self.machines)
        return {"CPU": cores, "GPU": int(on_gpu), MEASURING: 1}

    def _can_run(self, point: Point, machines: Sequence[Node]) -> bool:
        need = self._demand(point)
        return any(
            node.cpus >= need["CPU"] and node.gpus >= need["GPU"] and node.measuring >= need[MEASURING]
            for node in machines
        )

    def _result(self, ref: Any) -> Run | str:
        try:
            return self.ray.get(ref)
        except Exception as error:
            return _reason(error, self.retries + 1)


def _reason(error: Exception, attempts: int) -> str:
    """Describe the failure of a point in a sentence without Ray's tracebacks."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, LabError):
        tried = f" ({attempts} attempts)" if isinstance(cause, WorkerError) else ""
        return f"{_short(cause)}{tried}"
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {_short(cause)}"
    kind = type(error).__name__
    return f"{DEATHS.get(kind) or f'{kind}: {_short(error)}'} ({attempts} attempts)"


def _short(error: Exception) -> str:
    return first_line(error)[:REASON_CHARACTERS]
