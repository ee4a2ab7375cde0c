"""One measurement of a sweep, as data that travels to the node that makes it.

Nothing heavy is imported here: a node reads a point before it undoes what Ray set (see
`labkit.fleet.sweep.node_task`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from labkit.core.types import Workload

if TYPE_CHECKING:
    from labkit.bench.plan import Plan


@dataclass(frozen=True)
class Point:
    """What is measured, once.

    Attributes:
        rung: name of the rung.
        source: see `open_source`.
        workload: model set, weights, frame size, boxes.
        scenario: "closed" or "paced".
        fps: rate at which frames fall due; paced only.
        seconds: length of the timed run.
        quick: whether the warm-up is shortened, which marks the run.
        scenes: scenes on which accuracy is measured; 0 for none.
        repeat: which of the repetitions this is, from 0.
    """

    rung: str
    source: str
    workload: Workload
    scenario: str = "closed"
    fps: float | None = None
    seconds: float = 10.0
    quick: bool = False
    scenes: int = 0
    repeat: int = 0

    @cached_property
    def key(self) -> str:
        """A name that depends on what defines the point, and on nothing else."""
        return digest(asdict(self))[:16]

    @property
    def plan(self) -> Plan:
        """How its run is timed."""
        from labkit.bench.plan import FULL, QUICK

        plan = QUICK if self.quick else FULL
        return replace(plan, scenario=self.scenario, fps=self.fps, seconds=self.seconds)

    @property
    def once(self) -> Point:
        """The same whichever repetition it is."""
        return replace(self, repeat=0)

    def describe(self) -> dict[str, Any]:
        """What defines the point, as plain data; an address without its credentials."""
        from labkit.sources.spec import redact

        return json.loads(json.dumps(asdict(self))) | {"source": redact(self.source)}

    def __str__(self) -> str:
        width, height = self.workload.size
        rate = f" at {self.fps:g} FPS" if self.fps else ""
        boxes = "1 box" if self.workload.objects == 1 else f"{self.workload.objects} boxes"
        again = f", no. {self.repeat + 1}" if self.repeat else ""
        return f"{self.rung} {width}x{height}, {boxes}, {self.scenario}{rate}{again}"


def digest(value: Any) -> str:
    """SHA-256 of plain data, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
