"""Parameter grid of a sweep: rungs x sizes x boxes x scenarios x repeats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from labkit.bench.plan import FULL, QUICK
from labkit.core.errors import UsageError
from labkit.core.types import Fit, Size, Workload
from labkit.fleet.sweep.point import Point, digest
from labkit.pipelines.ladder import rung
from labkit.sources.openers import absolute_spec

MAX_POINTS = 10_000


@dataclass(frozen=True)
class Grid:
    """The points of a sweep: the product of its lists.

    Attributes:
        rungs: names, in the order in which they are measured.
        sizes: (width, height) in px.
        objects: numbers of boxes kept per frame; classifiers of the whole frame use the first only.
        scenarios: "closed", "paced" or both.
        fps: rate of the paced scenario.
        seconds: length of each timed run; None for the default.
        quick: shorten the warm-ups, which marks the runs.
        repeats: measurements of each point; every point is measured once before any is repeated, so
            that a machine's drift affects all alike.
        source, fit, model_set, weights, seed, scenes, timeouts_s: the same for all points.
        points: the product, in the order of measuring.

    Raises:
        UsageError: a list is empty, a value is out of range, or a rung does not exist.
    """

    rungs: Sequence[str]
    sizes: Sequence[Size] = ((640, 480),)
    objects: Sequence[int] = (5,)
    scenarios: Sequence[str] = ("closed",)
    fps: float | None = None
    seconds: float | None = None
    quick: bool = False
    repeats: int = 1
    source: str = field(default="photos", repr=False)  # it may hold a password
    fit: Fit = "letterbox"
    model_set: str = "full"
    weights: str = "auto"
    seed: int = 0
    scenes: int = 0
    timeouts_s: tuple[float, float] = (5.0, 2.0)
    points: tuple[Point, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"--repeats must be 1 or more, not {self.repeats}")
        if self.fps is not None and "paced" not in self.scenarios:
            raise UsageError("--fps is the rate of the paced scenario; add --scenario paced")
        for what in ("rungs", "sizes", "objects", "scenarios"):
            if not getattr(self, what):
                raise UsageError(f"a sweep needs at least one value in {what}")
        points = tuple(dict.fromkeys(self._all()))
        if len(points) > MAX_POINTS:
            raise UsageError(f"a sweep has {MAX_POINTS} points at most, not {len(points)}; split it")
        for point in points:
            _ = point.plan  # raises what is wrong with it
        object.__setattr__(self, "points", points)

    @property
    def name(self) -> str:
        """Name of the sweep, derived from its points alone."""
        return digest([point.key for point in self.points])[:8]

    def _all(self) -> Iterator[Point]:
        source = absolute_spec(self.source)
        default = QUICK if self.quick else FULL
        seconds = default.seconds if self.seconds is None else self.seconds
        for repeat, scenario, size, name in product(
            range(self.repeats), self.scenarios, self.sizes, self.rungs
        ):
            fps = self.fps if scenario == "paced" else None
            boxes = self.objects if rung(name).prepare.task != "classify" else self.objects[:1]
            for n in boxes:
                workload = Workload(
                    self.model_set, self.weights, size, n, seed=self.seed, fit=self.fit  # type: ignore[arg-type]
                )  # fmt: skip
                yield Point(
                    name, source, workload, scenario, fps, seconds, self.quick, self.scenes, repeat,
                    self.timeouts_s,
                )  # fmt: skip

    def _workload(self, size: Size, objects: int) -> Workload:
        return Workload(
            model_set=self.model_set,  # type: ignore[arg-type]
            weights=self.weights,  # type: ignore[arg-type]
            size=size,
            objects=objects,
            seed=self.seed,
            fit=self.fit,
        )
