"""One measurement of a sweep, as data sent to the node that makes it, and the progress of all.

Imports nothing heavy: a node unpickles a point before it lifts Ray's limits (see
`labkit.fleet.sweep.node_task`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from labkit.core.types import Workload

if TYPE_CHECKING:
    from labkit.bench.plan import Plan
    from labkit.results.records import Run
    from labkit.results.sweeps import SweepPoint


@dataclass(frozen=True)
class Point:
    """Settings of one measurement.

    Attributes:
        rung: name of the rung.
        source: as for `open_source`.
        workload: model set, weights, frame size, boxes.
        scenario: "closed" or "paced".
        fps: rate at which frames fall due; paced only.
        seconds: length of the timed run.
        quick: shorten the warm-up, which marks the run.
        scenes: number of scenes for accuracy; 0 for none.
        repeat: number of the repetition, from 0.
        timeouts_s: longest waits for the source to open, and for a frame; they define no point.
    """

    rung: str
    source: str = field(repr=False)  # it may hold a password
    workload: Workload
    scenario: str = "closed"
    fps: float | None = None
    seconds: float = 10.0
    quick: bool = False
    scenes: int = 0
    repeat: int = 0
    timeouts_s: tuple[float, float] = field(default=(5.0, 2.0), compare=False)

    @cached_property
    def key(self) -> str:
        """Hash of what defines the point, under which it is stored."""
        plain = asdict(self)
        del plain["timeouts_s"]
        workload = plain["workload"]  # points stored before there was a choice keep their key
        for name, default in (("fit", "letterbox"), ("detector", None), ("classifier", None)):
            if workload[name] == default:
                del workload[name]
        return digest(plain)[:16]

    @property
    def plan(self) -> Plan:
        """Timing of its run."""
        from labkit.bench.plan import FULL, QUICK

        plan = QUICK if self.quick else FULL
        return replace(plan, scenario=self.scenario, fps=self.fps, seconds=self.seconds)

    @property
    def first_repeat(self) -> Point:
        """The point's first repetition, by which its repetitions are grouped."""
        return replace(self, repeat=0)

    def describe(self) -> dict[str, Any]:
        """Convert to plain data; an address loses its credentials."""
        from labkit.sources.spec import redact

        return json.loads(json.dumps(asdict(self))) | {"source": redact(self.source)}

    def __str__(self) -> str:
        width, height = self.workload.size
        rate = f" at {self.fps:g} FPS" if self.fps else ""
        boxes = "1 box" if self.workload.objects == 1 else f"{self.workload.objects} boxes"
        again = f", no. {self.repeat + 1}" if self.repeat else ""
        return f"{self.rung} {width}x{height}, {boxes}, {self.scenario}{rate}{again}"


class SweepProgress:
    """Receives a sweep's progress and shows nothing; override what is to be shown."""

    def planned(self, total: int, stored: int) -> None:
        """The sweep has `total` points, of which `stored` are there from before."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def stored(self, point: Point, row: SweepPoint, run: Run | None) -> None:
        """A point is stored, with its run unless it failed."""


def digest(value: Any) -> str:
    """SHA-256 of plain data, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
