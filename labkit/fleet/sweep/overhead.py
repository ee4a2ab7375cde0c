"""What Ray costs a sweep: points that do nothing, through a sweep and called plainly.

python -m labkit.fleet.sweep.overhead [POINTS]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from labkit.fleet.cluster import cluster
from labkit.fleet.sweep.grid import Grid
from labkit.fleet.sweep.point import Point
from labkit.fleet.sweep.run_sweep import sweep
from labkit.fleet.sweep.sweep_progress import SweepReporter
from labkit.results.records import Run
from labkit.results.store import Store
from labkit.results.sweeps import SweepPoint


@dataclass(frozen=True)
class Overhead:
    """What was found.

    Attributes:
        points: how many were measured.
        start_s: starting Ray on this machine.
        per_point_s: median time from one settled point to the next, its row in the store included.
        plain_call_s: the same work as a call in this process, its row in the store not included.
    """

    points: int
    start_s: float
    per_point_s: float
    plain_call_s: float


def nothing(point: Point) -> Run:
    """A made-up run of the size of a real one, at once."""
    done_s = np.linspace(0.01, 10, 1000)
    return Run(
        rung=point.rung, stage=0, scenario="closed", quick=True, latency_s=np.full(1000, 0.01), done_s=done_s,
        spans_s={}, warmup_s=np.empty(0), offered=1000, dropped=0, failed=0, startup_s=0.0, peak_bytes=0,
        settings={}, source={},
    )  # fmt: skip


class _Times(SweepReporter):
    def __init__(self) -> None:
        self.at_s: list[float] = []

    def settled(self, point: Point, row: SweepPoint, run: Run | None) -> None:
        """Notes when a point was there."""
        self.at_s.append(time.perf_counter())


def overhead(points: int = 20) -> Overhead:
    """Measures a sweep of points that do nothing on this machine; about a second a point."""
    grid, times = Grid(("resnet_linear_cpu",), repeats=points), _Times()
    begun_s = time.perf_counter()
    with cluster(), tempfile.TemporaryDirectory() as folder:
        start_s = time.perf_counter() - begun_s
        with Store(Path(folder) / "lab.sqlite") as store:
            sweep(grid, store=store, reporter=times, measure=nothing)
    begun_s = time.perf_counter()
    for point in grid.points:
        nothing(point)
    plain_s = (time.perf_counter() - begun_s) / points
    return Overhead(points, start_s, median(np.diff(times.at_s)), plain_s)


if __name__ == "__main__":
    print(json.dumps(asdict(overhead(int(sys.argv[1]) if len(sys.argv) > 1 else 20)), indent=2))
