"""A stream from its engine's side: whom to ask, whom to tell, and what is under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray

from labkit.core.errors import first_line
from labkit.fleet.shared_actors import ReaderHandle, RecorderHandle
from labkit.fleet.streams import Checkpoint, EndOfStream, FrameResult


@dataclass(eq=False)
class RequestQueue:
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

    reader: ReaderHandle
    recorder: RecorderHandle
    where: Any
    after: int = -1
    began_unix_s: float | None = None
    asked: int = 0
    in_hand: int = 0
    parcel: list[FrameResult] = field(default_factory=list)
    parcel_s: float = 0.0
    unconfirmed: list[Any] = field(default_factory=list)
    end: EndOfStream | None = None
    closed: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether frames may be asked for: it is known how far the stream is, and it is not over."""
        return self.where is None and self.end is None

    def hear_recorder(self) -> None:
        """Takes in what its recorder has answered by now; one that hangs holds up no other stream."""
        asked = self.awaited()
        if not asked:
            return
        for ref in ray.wait(asked, num_returns=len(asked), timeout=0)[0]:
            try:
                reply = ray.get(ref)
            except ray.exceptions.RayError as error:
                self.end = end_without("recorder", error)
                self.closed = self.closed or ref == self.where  # nobody is there to close it
            else:
                if ref == self.where:
                    self._begin(reply)
            if ref == self.where:
                self.where = None
            else:
                self.unconfirmed.remove(ref)

    def _begin(self, where: Checkpoint) -> None:
        self.after, self.began_unix_s = where.last, where.began_unix_s
        if where.closed:
            self.end, self.closed = EndOfStream(None, "", 0, "it was over before"), True

    def awaited(self) -> list[Any]:
        """Whatever its recorder has still to answer."""
        return [*self.unconfirmed, *([] if self.where is None else [self.where])]


def gone(actor: str, error: Exception) -> str:
    """What to say of an actor that Ray does not start again."""
    return f"its {actor} died too often or is broken ({first_line(error)})"


def end_without(actor: str, error: Exception) -> EndOfStream:
    """The end of a stream whose reader or recorder failed for good."""
    return EndOfStream(None, "", 0, gone(actor, error), failed=True)
