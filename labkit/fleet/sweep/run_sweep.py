"""A sweep: every point of a grid measured once, on whichever nodes there are.

Ray places the points, repeats those whose worker or node died, and brings the results back;
what is kept here is what Ray does not have: which points are settled, in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.core.errors import LabError, WorkerError, first_line
from labkit.fleet.cluster import MEASURING, Node, cluster, measuring_nodes, nodes
from labkit.fleet.sweep.grid import Grid
from labkit.fleet.sweep.node_task import measure_point, run_on_node
from labkit.fleet.sweep.point import Point
from labkit.fleet.sweep.sweep_progress import SweepProgress
from labkit.pipelines.ladder import rung
from labkit.results.records import Run
from labkit.results.store import Store
from labkit.results.sweeps import SweepPoint, keep_point, sweep_names, sweep_points

RETRIES = 2
"""How often a point is tried again after its process or its node died."""

GRACE_S = 60.0
"""How long a point waits for a node that can measure it, once the last one has left."""

POLL_S = 2.0
REASON_CHARACTERS = 300

Measure = Callable[[Point], Run]


@dataclass(frozen=True, eq=False)
class SweepResult:
    """A sweep as it stands in the store.

    Attributes:
        name: of the sweep.
        rows: the grid's points in its order, each with its row and its run (None if it failed).
        reused: how many of them were settled before.
    """

    name: str
    rows: tuple[tuple[Point, SweepPoint, Run | None], ...]
    reused: int

    @property
    def runs(self) -> list[Run]:
        """The runs of the measured points."""
        return [run for *_, run in self.rows if run is not None]

    @property
    def failed(self) -> list[tuple[Point, str]]:
        """The points that failed, with the reason."""
        return [(point, row.reason) for point, row, _ in self.rows if row.reason is not None]


def sweep(
    grid: Grid,
    *,
    store: Store,
    name: str | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    dashboard: bool = False,
    reporter: SweepProgress | None = None,
    measure: Measure = measure_point,
    retries: int = RETRIES,
    grace_s: float = GRACE_S,
) -> SweepResult:
    """Measures the points of a grid that its sweep does not have yet; each is stored at once.

    Args:
        grid: what to measure.
        store: where the points and their runs go; written by this process alone.
        name: of the sweep; the grid's own if None.
        address: of a Ray cluster; None starts Ray on this machine.
        retry_failed: also measure the points that failed before.
        dashboard: see `labkit.fleet.cluster.cluster`.
        reporter: hears of each point.
        measure: what a node does for a point; a function of a module.
        retries: how often a point is tried again after a `WorkerError` or a death.
        grace_s: how long a point waits when no node that could measure it is left.

    Raises:
        UnavailableError: Ray is missing, the cluster does not answer, or no node of it measures.
    """
    name, reporter = name or grid.name, reporter or SweepProgress()
    known = sweep_points(store, name)
    todo = [p for p in grid.points if p.key not in known or (retry_failed and not known[p.key].measured)]
    reporter.planned(len(grid.points), len(grid.points) - len(todo))
    if todo:
        with cluster(address, dashboard=dashboard) as ray:
            work = _Tasks(ray, measuring_nodes(), measure, retries, grace_s)
            for point, result in work.results(todo):
                row, run = keep_point(store, name, point.key, point.describe(), result)
                reporter.settled(point, row, run)
    return load_sweep(grid, store, name, reused=len(grid.points) - len(todo))


def load_sweep(grid: Grid, store: Store, name: str, reused: int = 0) -> SweepResult:
    """The grid's points of a sweep as far as the store has them."""
    known = sweep_points(store, name)
    rows = [(point, known[point.key]) for point in grid.points if point.key in known]
    full = ((p, row, None if row.run_id is None else store.run(row.run_id)) for p, row in rows)
    return SweepResult(name, tuple(full), reused)


def unused_name(store: Store, name: str) -> str:
    """The name, or with -2, -3, ... behind it: the first that no sweep of the store has."""
    taken = set(sweep_names(store))
    tried, number = name, 1
    while tried in taken:
        number += 1
        tried = f"{name}-{number}"
    return tried


@dataclass(frozen=True, eq=False)
class _Tasks:
    """Points on their way through Ray.

    Attributes:
        machines: the nodes that may measure, as the sweep begins.
    """

    ray: Any
    machines: Sequence[Node]
    measure: Measure
    retries: int
    grace_s: float

    def results(self, points: Sequence[Point]) -> Iterator[tuple[Point, Run | str]]:
        """Each point once, as it ends, with its run or why it failed."""
        waiting: dict[Any, Point] = {}
        task = self.ray.remote(
            max_calls=1,  # a fresh process each time: nothing of the last point is left in it
            max_retries=self.retries,
            retry_exceptions=[WorkerError],
        )(run_on_node)  # one function for all points, which Ray therefore takes in their order
        try:
            for point in points:
                if self._able(point, self.machines):
                    waiting[self._submit(task, point)] = point
                else:
                    yield (
                        point,
                        f"no node that may measure has what it needs ({_wanted(self._demand(point))})",
                    )
            yield from self._collect(waiting)
        finally:
            for ref in waiting:
                self.ray.cancel(ref, force=True)

    def _collect(self, waiting: dict[Any, Point]) -> Iterator[tuple[Point, Run | str]]:
        alone_since_s: dict[Any, float] = {}
        while waiting:
            ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
            for ref in ready:
                yield waiting.pop(ref), self._result(ref)
            if ready:
                continue
            alive = nodes()
            for ref, point in list(waiting.items()):
                if self._able(point, alive):
                    alone_since_s.pop(ref, None)
                elif time.monotonic() - alone_since_s.setdefault(ref, time.monotonic()) >= self.grace_s:
                    self.ray.cancel(ref, force=True)
                    yield waiting.pop(ref), f"no node that can measure it was left for {self.grace_s:.0f} s"

    def _submit(self, task: Any, point: Point) -> Any:
        demand = self._demand(point)
        placed = task.options(
            num_cpus=demand["CPU"],
            num_gpus=demand["GPU"],
            resources={MEASURING: demand[MEASURING]},
        )
        return placed.remote(self.ray.cloudpickle.dumps((self.measure, point)))

    def _demand(self, point: Point) -> dict[str, float]:
        """What a point takes of a node: its GPU, or as many cores as the smallest node has."""
        on_gpu = rung(point.rung).prepare.device == "cuda"
        cores = 1 if on_gpu else min(node.cpus for node in self.machines)
        return {"CPU": cores, "GPU": int(on_gpu), MEASURING: 1}

    def _able(self, point: Point, machines: Sequence[Node]) -> bool:
        want = self._demand(point)
        return any(
            node.cpus >= want["CPU"] and node.gpus >= want["GPU"] and node.measuring >= want[MEASURING]
            for node in machines
        )

    def _result(self, ref: Any) -> Run | str:
        try:
            return self.ray.get(ref)
        except Exception as error:
            return _reason(error, self.retries + 1)


def _wanted(demand: dict[str, float]) -> str:
    return "a GPU" if demand["GPU"] else f"{demand['CPU']:g} cores"


def _reason(error: Exception, attempts: int) -> str:
    """Why a point failed, in a sentence without Ray's tracebacks."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, LabError):
        tried = f" ({attempts} attempts)" if isinstance(cause, WorkerError) else ""
        return f"{_shortly(cause)}{tried}"
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {_shortly(cause)}"
    deaths = {
        "WorkerCrashedError": "the process measuring it died, as when memory runs out",
        "NodeDiedError": "its node left",
        "OutOfMemoryError": "its node ran out of memory",
        "ObjectLostError": "its result was lost with its node",
    }
    kind = type(error).__name__
    return f"{deaths.get(kind) or f'{kind}: {_shortly(error)}'} ({attempts} attempts)"


def _shortly(error: Exception) -> str:
    return first_line(error)[:REASON_CHARACTERS]
