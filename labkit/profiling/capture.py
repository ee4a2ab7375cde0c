"""Capture of a profiler: ranges, GPU work, waits and reads on one clock.

All times are ns since the capture began, so that what different clocks noted can be laid
side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ANCHOR_DOMAIN = "labkit.profile"
"""NVTX domain of the one range that marks where a capture begins and ends."""
ANCHOR = "capture"


@dataclass(frozen=True, slots=True)
class Range:
    """One named stretch of the host's time.

    Attributes:
        name: as the program named it; with "domain:" before it outside labkit's own domain.
        start_ns, stop_ns: since the capture began.
        thread: who ran it, or None where the profiler does not know.
    """

    name: str
    start_ns: int
    stop_ns: int
    thread: int | None = None

    @property
    def duration_ns(self) -> int:
        """Duration on the host."""
        return self.stop_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class GpuWork:
    """One kernel, copy or fill on the GPU.

    Attributes:
        launched_ns, thread: when and by whom the host asked for it; None where unknown.
    """

    kind: Literal["kernel", "copy", "fill"]
    name: str
    start_ns: int
    stop_ns: int
    stream: int
    launched_ns: int | None = None
    thread: int | None = None

    @property
    def duration_ns(self) -> int:
        """Duration on the GPU."""
        return self.stop_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class Read:
    """One tensor's value taken by the host: on a GPU the host waits for it, each time.

    Attributes:
        at_ns: when it was done.
        what: "item", "tolist", "int", ..., or "waits" where CUDA itself reported a wait.
        path, line: the source line outside torch that asked for it.
        device: where the tensor lived.
        thread: who read.
    """

    at_ns: int
    what: str
    path: str
    line: int
    device: str
    thread: int | None = None


@dataclass(frozen=True)
class Capture:
    """Everything that one profiled stretch left behind.

    Attributes:
        profiler: name and version of what watched.
        ranges: by start.
        gpu: by start; empty without a GPU.
        waits: CUDA calls in which the host waited for the GPU.
        reads: tensors read by the host, in order.
        file: the report, for the profiler's own viewer.
        notes: what the reader must know, e.g. that ranges are missing and why.
        has_gpu: whether a GPU was there to be watched.
        command: the command line that made the report; empty where none was needed.
    """

    profiler: str
    ranges: tuple[Range, ...]
    gpu: tuple[GpuWork, ...] = ()
    waits: tuple[Range, ...] = ()
    reads: tuple[Read, ...] = ()
    file: Path | None = None
    notes: tuple[str, ...] = ()
    has_gpu: bool = False
    command: tuple[str, ...] = ()

    def counts(self) -> Counter[str]:
        """Number of times each range was entered."""
        return Counter(r.name for r in self.ranges)

    @property
    def n_frames(self) -> int:
        """Number of frames: entries of the first range seen."""
        return self.counts()[self.ranges[0].name] if self.ranges else 0

    def first_frames(self, n: int) -> tuple[int, int]:
        """Start and stop, in ns, of the first `n` frames; of everything where there are fewer."""
        if not self.ranges:
            return 0, 0
        starts = [r.start_ns for r in self.ranges if r.name == self.ranges[0].name]
        last = max(r.stop_ns for r in self.ranges)
        return starts[0], starts[n] if n < len(starts) else last


def inside(range_: Range, at_ns: int | None, thread: int | None) -> bool:
    """True if something that `thread` did at `at_ns` was done within the range."""
    if at_ns is None or not range_.start_ns <= at_ns <= range_.stop_ns:
        return False
    return range_.thread is None or thread is None or range_.thread == thread


def innermost(ranges: Sequence[Range], at_ns: int, thread: int | None) -> str:
    """Name of the shortest range around that moment; empty where there is none."""
    around = [r for r in ranges if inside(r, at_ns, thread)]
    return min(around, key=lambda r: r.duration_ns).name if around else ""
