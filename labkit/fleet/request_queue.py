"""Outstanding requests of an engine to one stream's reader and recorder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import ray

from labkit.core.errors import first_line
from labkit.fleet.shared_actors import StreamHandle
from labkit.fleet.streams import Checkpoint, EndOfStream, FrameResult


@dataclass(eq=False)
class RequestQueue:
    """A stream as its engine sees it.

    Attributes:
        reader, recorder: of the stream.
        checkpoint: future of the recorder's checkpoint; None once it has been read.
        after: index of the last frame that was taken.
        requested: sequence number of the last frame request; the smallest has waited longest.
        in_flight: frames taken whose results are not there yet.
        batch, batch_begun_s: results to be sent together, and when the first of them was added.
        unconfirmed: futures of batches that the recorder has not confirmed.
        end: how the stream ended; None while it runs.
        closed: True once the recorder has been sent the end, or is lost.
    """

    reader: StreamHandle
    recorder: StreamHandle
    checkpoint: Any
    after: int = -1
    began_unix_s: float | None = None
    requested: int = 0
    in_flight: int = 0
    batch: list[FrameResult] = field(default_factory=list)
    batch_begun_s: float = 0.0
    unconfirmed: list[Any] = field(default_factory=list)
    end: EndOfStream | None = None
    closed: bool = False

    @property
    def awaited(self) -> list[Any]:
        """Futures of what the recorder has still to reply."""
        return [*self.unconfirmed, *([] if self.checkpoint is None else [self.checkpoint])]

    def may_request(self, max_unconfirmed: int) -> bool:
        """Read the recorder's replies; True if a frame may be requested from the reader."""
        if self.end is not None or self.closed:
            return False
        self.read_recorder_replies()
        known = self.checkpoint is None and self.end is None
        return known and len(self.unconfirmed) + self.in_flight <= max_unconfirmed

    def read_recorder_replies(self) -> None:
        """Read replies without waiting for them: a recorder that hangs blocks no other stream."""
        awaited = self.awaited
        if not awaited:
            return
        for ref in ray.wait(awaited, num_returns=len(awaited), timeout=0)[0]:
            is_checkpoint = ref == self.checkpoint
            try:
                reply = ray.get(ref)
            except ray.exceptions.RayError as error:
                self.end = failed_end("recorder", error)
                self.closed = self.closed or is_checkpoint  # there is no recorder to close
            else:
                if is_checkpoint:
                    self._resume_after(reply)
            if is_checkpoint:
                self.checkpoint = None
            else:
                self.unconfirmed.remove(ref)

    def add(self, result: FrameResult) -> None:
        """Add the result of a frame in flight to the batch."""
        self.in_flight -= 1
        self.batch_begun_s = self.batch_begun_s if self.batch else time.perf_counter()
        self.batch.append(result)

    def send_batch(self, min_age_s: float) -> None:
        """Send the batch to the recorder if its first result is so old, or if the stream is over."""
        age_s = time.perf_counter() - self.batch_begun_s
        if self.batch and (self.end is not None or age_s >= min_age_s):
            self.unconfirmed.append(self.recorder.call("append", self.batch))
            self.batch = []

    def close_if_ended(self) -> None:
        """Close the recorder once the stream is over and all of its results are sent."""
        if self.end is not None and not self.in_flight and not self.batch and not self.closed:
            self.closed = True
            self.unconfirmed.append(self.recorder.call("close", self.end))

    def _resume_after(self, checkpoint: Checkpoint) -> None:
        self.after, self.began_unix_s = checkpoint.last, checkpoint.began_unix_s
        if checkpoint.closed:
            self.end, self.closed = EndOfStream(None, "", 0, "it was over before"), True


def describe_failure(actor: str, error: Exception) -> str:
    """Describe the loss of a stream's actor that Ray does not restart."""
    return f"its {actor} died too often or is broken ({first_line(error)})"


def failed_end(actor: str, error: Exception) -> EndOfStream:
    """The end of a stream whose reader or recorder is lost for good."""
    return EndOfStream(None, "", 0, describe_failure(actor, error), failed=True)
