"""A stream from its engine's side: whom to ask, whom to tell, and what is under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from labkit.fleet.shared import ReaderOf, RecorderOf
from labkit.fleet.streams import Answer, End


@dataclass(eq=False)
class Line:
    """A stream as its engine sees it.

    Attributes:
        reader, recorder: whom to ask and to tell.
        where: the recorder's answer on how far the stream is, until it is there and read.
        after: index of the last frame that was taken.
        asked: position in the order of asking; the smallest has waited longest.
        in_hand: frames taken and not answered yet.
        parcel: answers that go to the recorder together, and when the first of them was there.
        unconfirmed: parcels that the recorder has not confirmed.
    """

    reader: ReaderOf
    recorder: RecorderOf
    where: Any
    after: int = -1
    began_unix_s: float | None = None
    asked: int = 0
    in_hand: int = 0
    parcel: list[Answer] = field(default_factory=list)
    parcel_s: float = 0.0
    unconfirmed: list[Any] = field(default_factory=list)
    end: End | None = None
    closed: bool = False

    def awaited(self) -> list[Any]:
        """Whatever its recorder has still to answer."""
        return [*self.unconfirmed, *([] if self.where is None else [self.where])]
