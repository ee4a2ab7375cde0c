"""Settings and summary of a fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labkit.core.errors import UsageError
from labkit.core.types import Rung, Workload
from labkit.fleet.stream_recorder import PERIOD_S
from labkit.fleet.streams import Counts, Stream, StreamState
from labkit.sources.openers import absolute_spec
from labkit.sources.spec import redact

RESTARTS = 3
"""Restarts of an actor before its streams are given up."""
DEADLINE_S = 0.02

OpenNetworks = Callable[[Rung, Workload], tuple[Any, dict[str, Any]]]
"""Prepares a rung's networks; returns them and plain data on them."""


@dataclass(frozen=True)
class Plan:
    """Settings of a fleet.

    Attributes:
        sources: as for `labkit.sources.open_source`; files must have the same path on every machine.
        rung, workload: the processing of every frame.
        fps: rate at which recordings play; None for their own.
        seconds: duration; None to run until all streams are over.
        out: folder in which this run's detections get a folder of their own; None keeps none.
        period_s: time span of a part of a stream's detections.
        deadline_s: longest wait of a frame for those of other streams, with a rung for groups.
        engines: number of engines; each has a GPU, or its share of the cores.
        restarts: of an actor that dies.
        open_net: prepares the networks; None prepares the rung's own.
        timeouts_s: longest waits for a camera to open, and for a frame of it.

    Raises:
        UsageError: a value is out of range.
    """

    sources: tuple[str, ...] = field(repr=False)  # they may hold passwords
    rung: Rung
    workload: Workload
    fps: float | None = None
    seconds: float | None = None
    out: Path | None = None
    period_s: float = PERIOD_S
    deadline_s: float = DEADLINE_S
    engines: int = 1
    restarts: int = RESTARTS
    open_net: OpenNetworks | None = None
    timeouts_s: tuple[float, float] = (5.0, 2.0)

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("a fleet needs at least one source; name files, addresses or cameras")
        if not 1 <= self.engines <= len(self.sources):
            raise UsageError(
                f"a fleet of {len(self.sources)} streams can have from 1 to {len(self.sources)} engines, "
                f"not {self.engines}"
            )
        if not 0 <= self.deadline_s <= 10:
            raise UsageError(f"a deadline must be from 0 to 10 s, not {self.deadline_s:g}")
        if not self.period_s > 0:
            raise UsageError(f"a part's period must be above 0 s, not {self.period_s:g}")

    def streams(self) -> list[Stream]:
        """The streams, numbered in the order of the sources."""
        settings = (self.workload.size, self.fps, self.seconds, self.workload.fit, *self.timeouts_s)
        return [
            Stream(i, absolute_spec(spec), redact(spec), *settings) for i, spec in enumerate(self.sources)
        ]


@dataclass(frozen=True)
class Summary:
    """Frames processed by a fleet.

    Attributes:
        streams: their last states.
        seconds: from the first frame request to the end.
        folder: of the parts; None if none were kept.
        no_folder: why there is no folder although one was asked for.
    """

    streams: tuple[StreamState, ...]
    seconds: float
    folder: Path | None
    no_folder: str = ""

    @property
    def unsaved(self) -> list[str]:
        """Sentences on results that could not be saved."""
        lost = [f"{s.unsaved} results of {s.shown}: {s.note}" for s in self.streams if s.unsaved]
        return [self.no_folder, *lost] if self.no_folder else lost

    @property
    def counts(self) -> Counts:
        """Frames of all streams."""
        return sum((state.counts for state in self.streams), Counts())

    @property
    def fps(self) -> float:
        """Results per second, of all streams together."""
        return self.counts.processed / self.seconds if self.seconds > 0 else 0.0


def with_group(rung: Rung, frames: int | None) -> Rung:
    """The rung with so many frames per pass; None leaves it as it is.

    Raises:
        UsageError: it takes one frame at a time.
    """
    if frames is None:
        return rung
    if "frames" not in rung.prepare.options:
        raise UsageError(
            f"{rung.name} takes one frame at a time; use --batch with a rung for groups, "
            "such as grouped_bf16_cpu"
        )
    options = {**rung.prepare.options, "frames": frames}
    return replace(rung, prepare=replace(rung.prepare, options=options))
