"""What a sweep measures: rungs times sizes times boxes times scenarios, a few times over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from labkit.errors import UsageError
from labkit.measure import FULL, Plan
from labkit.pipelines import rung
from labkit.sources import redact
from labkit.sources.spec import scheme_of
from labkit.types import Size, Workload

MAX_POINTS = 10_000


@dataclass(frozen=True)
class Point:
    """One measurement of a sweep.

    Attributes:
        rung: name of the rung.
        source: see `open_source`.
        workload, plan: as for `labkit.bench.bench`.
        scenes: scenes on which accuracy is measured; 0 for none.
        repeat: which of the repetitions this is, from 0.
    """

    rung: str
    source: str
    workload: Workload
    plan: Plan
    scenes: int = 0
    repeat: int = 0

    @cached_property
    def key(self) -> str:
        """A name that depends on what defines the point, and on nothing else."""
        return _digest(asdict(self))[:16]

    @property
    def device(self) -> str:
        """What it runs on: "cpu" or "cuda"."""
        return rung(self.rung).prepare.device

    def describe(self) -> dict[str, Any]:
        """What defines the point, as plain data; an address without its credentials."""
        return json.loads(json.dumps(asdict(self))) | {"source": redact(self.source)}

    def __str__(self) -> str:
        width, height = self.workload.size
        rate = f" at {self.plan.fps:g} FPS" if self.plan.fps else ""
        boxes = f", {self.workload.objects} boxes" if _has_boxes(self.rung) else ""
        again = f" (no. {self.repeat + 1})" if self.repeat else ""
        return f"{self.rung} {width}x{height}{boxes}, {self.plan.scenario}{rate}{again}"


@dataclass(frozen=True)
class Grid:
    """The points of a sweep, as lists of what varies.

    Attributes:
        rungs: names; in the order in which they are measured.
        sizes: (width, height) in px.
        objects: numbers of boxes kept per frame; rungs that name the whole frame use the first only.
        plans: of the timed runs, one per scenario.
        repeats: how often each is measured; a whole round ends before the next begins, so that a
            machine's drift falls on all alike.
        source, model_set, weights, seed, scenes: the same for all points.

    Raises:
        UsageError: a list is empty, a value is out of range, or a rung does not exist.
    """

    rungs: Sequence[str]
    sizes: Sequence[Size] = ((640, 480),)
    objects: Sequence[int] = (5,)
    plans: Sequence[Plan] = (FULL,)
    repeats: int = 1
    source: str = "photos"
    model_set: str = "full"
    weights: str = "auto"
    seed: int = 0
    scenes: int = 0
    points: tuple[Point, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"a point is measured once or more (--repeats), not {self.repeats} times")
        for what in ("rungs", "sizes", "objects", "plans"):
            if not getattr(self, what):
                raise UsageError(f"a sweep needs at least one of its {what}")
        object.__setattr__(self, "points", tuple(dict.fromkeys(self._all())))
        if len(self.points) > MAX_POINTS:
            raise UsageError(f"a sweep has {MAX_POINTS} points at most, not {len(self.points)}; split it")

    @property
    def name(self) -> str:
        """A name for the sweep that depends on its points, and on nothing else."""
        return _digest([point.key for point in self.points])[:8]

    def _all(self) -> Iterator[Point]:
        source = _whole_path(self.source)
        for repeat in range(self.repeats):
            for plan in self.plans:
                for size in self.sizes:
                    for name in self.rungs:
                        for objects in self.objects if _has_boxes(name) else self.objects[:1]:
                            yield Point(
                                name, source, self._workload(size, objects), plan, self.scenes, repeat
                            )

    def _workload(self, size: Size, objects: int) -> Workload:
        return Workload(
            model_set=self.model_set,  # type: ignore[arg-type]
            weights=self.weights,  # type: ignore[arg-type]
            size=size,
            objects=objects,
            seed=self.seed,
        )


def _has_boxes(name: str) -> bool:
    return rung(name).prepare.task != "classify"


def _whole_path(source: str) -> str:
    """A file or folder by its whole path: a node's working folder is another one."""
    recorded = source not in ("photos", "scenes") and scheme_of(source) is None and Path(source).exists()
    return str(Path(source).resolve()) if recorded else source


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
