"""What travels between the actors of a fleet, and the account of every frame.

A stream's frames are numbered by `index` as the camera offers them, taken or not. What a reader
hands out is also numbered by `number`, from 1. From the two follows what became of every frame,
whichever actor died meanwhile: indices without a number were dropped, numbers without an answer
have failed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import LabError, UsageError
from labkit.core.types import Detections, Size


@dataclass(frozen=True)
class Stream:
    """One camera or recording of a fleet.

    Attributes:
        position: its place among the fleet's streams, from 0.
        spec: what is opened, with credentials if there are any: for the reader's eyes only.
        shown: the same without credentials.
        size: (width, height) px of its frames.
        fps: rate at which a recording plays; None for its own.
        seconds: end after so long; None for a recording's own end.
    """

    position: int
    spec: str
    shown: str
    size: Size
    fps: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UsageError(f"fps is above 0 and at most 1000, not {self.fps}")
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"seconds is more than 0, not {self.seconds}")

    def __repr__(self) -> str:  # a traceback or log must not show what spec may hold
        return f"Stream({self.position}, {self.shown!r})"


@dataclass(frozen=True, eq=False)
class CapturedFrame:
    """A frame that a reader hands out.

    Attributes:
        index: among all frames that the stream offered.
        reader: which start of the reader hands it out.
        number: how many frames that reader has handed out, this one included.
        began_unix_s: when the stream began, whoever read it then.
        captured_unix_s: when the frame was captured or was due.
        image: (H, W, 3) uint8 RGB.
    """

    index: int
    reader: str
    number: int
    began_unix_s: float
    captured_unix_s: float
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class NoFrame:
    """A reader's reply where no frame came in time; `note` says why, if it knows."""

    note: str = ""


@dataclass(frozen=True)
class EndOfStream:
    """A reader's reply once its stream is over.

    Attributes:
        offered: frames that the stream offered in all; None if nobody can know.
        reader, taken: which start of the reader, and how many frames it has handed out.
        why: in a sentence.
        failed: whether it ended by a fault.
    """

    offered: int | None
    reader: str
    taken: int
    why: str
    failed: bool = False


Reply = CapturedFrame | NoFrame | EndOfStream
"""A reader's reply to a request for a frame."""


@dataclass(frozen=True)
class Checkpoint:
    """How far a stream's account is.

    Attributes:
        last: index of the last frame that is accounted for; -1 for none.
        began_unix_s: when the stream began; None if that is not known yet.
        closed: whether it is over.
    """

    last: int
    began_unix_s: float | None
    closed: bool


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What an engine found in a frame.

    Attributes:
        index, reader, number, began_unix_s, captured_unix_s: as in `Take`.
        age_s: from capture to answer, by the clocks of both machines.
        engine: which start of which engine answered.
        found: the detections.
    """

    index: int
    reader: str
    number: int
    began_unix_s: float
    captured_unix_s: float
    age_s: float
    engine: str
    found: Detections


@dataclass(frozen=True)
class Counts:
    """Frames of a stream, every one accounted for: offered = processed + dropped + failed."""

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
    """A stream's account up to a frame, as one start after another of its actors continues it.

    Attributes:
        counts: of all frames up to and including `last`.
        last: index of the newest frame that was answered, or offered at the end; -1 at first.
        reader, number: of that frame.
        began_unix_s: when the stream began; None before its first answer.
    """

    counts: Counts = Counts()
    last: int = -1
    reader: str = ""
    number: int = 0
    began_unix_s: float | None = None

    def answered(self, answer: FrameResult) -> Ledger | None:
        """With one more answer; None for a frame that is not newer than what is known."""
        if answer.index <= self.last:
            return None
        gap = self._gap(answer.index, answer.reader, answer.number - 1)
        counts = self.counts + gap + Counts(1, 1)
        return replace(
            self,
            counts=counts,
            last=answer.index,
            reader=answer.reader,
            number=answer.number,
            began_unix_s=answer.began_unix_s,
        )

    def ended(self, end: EndOfStream) -> Ledger:
        """With the frames after the last answer, of which none will come."""
        before = self.number if end.reader == self.reader else 0
        offered = self.last + 1 + end.taken - before if end.offered is None else end.offered
        if offered <= self.last + 1:
            return self
        counts = self.counts + self._gap(offered, end.reader, end.taken)
        return replace(self, counts=counts, last=offered - 1, reader=end.reader, number=end.taken)

    def _gap(self, index: int, reader: str, taken: int) -> Counts:
        """The frames between the last answer and `index`: handed out in vain, or never."""
        n = index - self.last - 1
        before = self.number if reader == self.reader else 0
        failed = min(max(0, taken - before), n)
        return Counts(n, 0, n - failed, failed)

    def to_json(self) -> dict[str, Any]:
        """Plain data, kept in each part on disk."""
        return {**vars(self), "counts": self.counts.row()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ledger:
        """Reads `to_json` back."""
        return cls(**{**data, "counts": Counts(*data["counts"])})


@dataclass(frozen=True)
class StreamState:
    """How a stream is doing.

    Attributes:
        position, shown: which.
        counts: its frames so far.
        fps: answers per second of late; None before there are two.
        age_ms: median and 90th percentile of the answers' age of late, each None where too few.
        parts: files written.
        restarts: how often the reader or engine that its answers come from was another one than before.
        note: what is the matter, in words; empty while all is well.
        ended: why it is over, in a sentence; None while it goes on.
        failed: whether it ended by a fault.
    """

    position: int
    shown: str
    counts: Counts = Counts()
    fps: float | None = None
    age_ms: tuple[float | None, float | None] = (None, None)
    parts: int = 0
    restarts: int = 0
    note: str = ""
    ended: str | None = None
    failed: bool = False
