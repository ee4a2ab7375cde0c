"""Messages between a fleet's actors, and exactly-once accounting of every frame.

`index` numbers a stream's frames as the camera offers them, taken or not; `number` those that a
reader hands out, from 1. Together they tell what became of every frame, whichever actor died
meanwhile: an index without a number was dropped, a number without a result has failed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import LabError, UsageError
from labkit.core.types import Detections, Fit, Placement, Size


@dataclass(frozen=True)
class Stream:
    """One camera or recording of a fleet.

    Attributes:
        position: index among the fleet's streams, from 0.
        spec: source specification, possibly with credentials: for the reader alone.
        shown: the same without credentials.
        size: (width, height) px of its frames.
        fit: how images of another shape are brought to that size.
        open_timeout_s, read_timeout_s: longest waits for it to open, and for a frame.
        fps: rate at which a recording plays; None for its own.
        seconds: duration after which it ends; None for a recording's own end.
    """

    position: int
    spec: str
    shown: str
    size: Size
    fps: float | None = None
    seconds: float | None = None
    fit: Fit = "letterbox"
    open_timeout_s: float = 5.0
    read_timeout_s: float = 2.0

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UsageError(f"fps must be above 0 and at most 1000, not {self.fps}")
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"seconds must be above 0, not {self.seconds}")

    def __repr__(self) -> str:  # a traceback or log must not show what spec may hold
        return f"Stream({self.position}, {self.shown!r})"


@dataclass(frozen=True, eq=False)
class CapturedFrame:
    """A reader's reply that holds a frame.

    Attributes:
        index: among all frames that the stream offered.
        reader: id of the reader; a restarted reader has another one.
        number: frames that this reader has handed out, this one included.
        began_unix_s: when the stream began, also before a restart.
        captured_unix_s: when the frame was captured or was due.
        image: (H, W, 3) uint8 RGB.
        placed: where the original's pixels are in it; None where it is the original.
        time_s: its own time in a recording, in seconds from the start; None of a camera.
    """

    index: int
    reader: str
    number: int
    began_unix_s: float
    captured_unix_s: float
    image: NDArray[np.uint8]
    placed: Placement | None = None
    time_s: float | None = None


@dataclass(frozen=True)
class NoFrame:
    """A reader's reply if no frame came in time; `note` is the reason, if it is known."""

    note: str = ""


@dataclass(frozen=True)
class EndOfStream:
    """A reader's reply once its stream is over.

    Attributes:
        offered: frames that the stream offered in all; None if unknown.
        reader, taken: id of the reader, and frames that it has handed out.
        why: reason, as a sentence.
        failed: True if it ended by an error.
    """

    offered: int | None
    reader: str
    taken: int
    why: str
    failed: bool = False


Reply = CapturedFrame | NoFrame | EndOfStream
"""A reader's reply to a request for a frame."""


@dataclass(frozen=True)
class EndOfRun:
    """An engine's last message of a run.

    Attributes:
        lost: position of each stream whose reader is lost -> why; their accounts are still open.
        error: why the networks failed, as a sentence; empty if they did not.
    """

    lost: dict[int, str]
    error: str = ""


def check_frame_size(given: Size, size: Size) -> None:
    """Check that a frame that was not fitted has the size for which the networks are prepared.

    Raises:
        UsageError: it has not.
    """
    if given != size:
        raise UsageError(
            f"its frames are {given[0]}x{given[1]}, and with --fit none they must be {size[0]}x{size[1]}; "
            "use another --fit, or that --size"
        )


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The detections of an engine in a frame.

    Attributes:
        index, reader, number, began_unix_s, captured_unix_s: as in `CapturedFrame`.
        age_s: from capture to result, by the clocks of both machines.
        engine: id of the engine; a restarted engine has another one.
        found: the detections, with boxes in pixels of the original.
        time_s: as in `CapturedFrame`.
    """

    index: int
    reader: str
    number: int
    began_unix_s: float
    captured_unix_s: float
    age_s: float
    engine: str
    found: Detections
    time_s: float | None = None

    @classmethod
    def of(cls, frame: CapturedFrame, age_s: float, engine: str, found: Detections) -> FrameResult:
        """The result of a captured frame, of detections in its image."""
        found = found if frame.placed is None else frame.placed.to_original(found)
        return cls(
            frame.index, frame.reader, frame.number, frame.began_unix_s, frame.captured_unix_s,
            age_s, engine, found, frame.time_s,
        )  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """Number of a stream's frames by outcome: offered = processed + dropped + failed.

    Raises:
        LabError: they do not add up, or one is negative.
    """

    offered: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        if self.offered != self.processed + self.dropped + self.failed or min(vars(self).values()) < 0:
            raise LabError(f"frames were miscounted: {self}")

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(self.row(), other.row(), strict=True)))

    def row(self) -> tuple[int, int, int, int]:
        """Offered, processed, dropped, failed."""
        return self.offered, self.processed, self.dropped, self.failed


@dataclass(frozen=True)
class Ledger:
    """Accounting of a stream up to a frame, which goes on where its actors are started again.

    Attributes:
        counts: of all frames up to and including `last`.
        last: index of the newest frame with a result, or offered at the end; -1 at first.
        reader, number: of that frame.
        began_unix_s: when the stream began; None before its first result.
    """

    counts: Counts = Counts()
    last: int = -1
    reader: str = ""
    number: int = 0
    began_unix_s: float | None = None

    def with_result(self, result: FrameResult) -> Ledger | None:
        """The ledger with one more result; None for a frame that is not newer than the last."""
        if result.index <= self.last:
            return None
        counts = self.counts + self._gap(result.index, result.reader, result.number - 1) + Counts(1, 1)
        return Ledger(counts, result.index, result.reader, result.number, result.began_unix_s)

    def with_end(self, end: EndOfStream) -> Ledger:
        """The ledger with the frames after the last result, which will have none."""
        before = self.number if end.reader == self.reader else 0
        offered = self.last + 1 + end.taken - before if end.offered is None else end.offered
        if offered <= self.last + 1:
            return self
        counts = self.counts + self._gap(offered, end.reader, end.taken)
        return replace(self, counts=counts, last=offered - 1, reader=end.reader, number=end.taken)

    def _gap(self, index: int, reader: str, taken: int) -> Counts:
        """The frames between the last result and `index`: handed out in vain (failed), or never (dropped)."""
        n = index - self.last - 1
        before = self.number if reader == self.reader else 0
        failed = min(max(0, taken - before), n)
        return Counts(n, 0, n - failed, failed)


@dataclass(frozen=True)
class StreamState:
    """Current state of a stream.

    Attributes:
        position, shown: of the stream.
        counts: its frames so far.
        fps: recent results per second; None before there are two.
        age_ms: median and 90th percentile of the recent results' age, each None if there are too few.
        parts: files written.
        restarts: changes of the reader or engine that its results come from.
        unsaved: results that could not be written.
        note: current problem, in words; empty if there is none.
        ended: why it is over, as a sentence; None while it runs.
        failed: True if it ended by an error.
    """

    position: int
    shown: str
    counts: Counts = Counts()
    fps: float | None = None
    age_ms: tuple[float | None, float | None] = (None, None)
    parts: int = 0
    restarts: int = 0
    unsaved: int = 0
    note: str = ""
    ended: str | None = None
    failed: bool = False
