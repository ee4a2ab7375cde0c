"""Processes that several streams share: one for readers, one for recorders.

A process of Ray's costs a core some time even where it has nothing to do, and 100 MB or more. So
streams share them, and each still has its own reader and recorder with a thread of its own: one
that waits, for a camera or a disk, holds up no other. `ReaderOf` and `RecorderOf` are what whoever
deals with one stream sees of them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.fleet.cores import lower_process_priority, use_one_opencv_thread
from labkit.fleet.stream_reader import Reader
from labkit.fleet.stream_recorder import Recorder
from labkit.fleet.streams import (
    Checkpoint,
    EndOfStream,
    FrameResult,
    Reply,
    Stream,
    StreamState,
)


class Readers:
    """The readers of several streams, each made when its stream is first asked for.

    So a new start of the process opens those sources again that are still wanted, and no other.

    Args:
        streams: which.
        niceness: how far back reading steps behind the networks on the same cores.
    """

    def __init__(self, streams: Sequence[Stream], niceness: int = 0) -> None:
        if niceness:
            use_one_opencv_thread()
        self._niceness = niceness
        self._streams = {stream.position: stream for stream in streams}
        self._readers: dict[int, Reader] = {}
        self._making = threading.Lock()

    def ready(self) -> None:
        """Returns once each source is open, or cannot be opened."""
        for reader in [self._of(position) for position in self._streams]:
            reader.ready()

    def take(self, position: int, after: int, began_unix_s: float | None) -> Reply:
        """See `Reader.take`."""
        return self._of(position).take(after, began_unix_s)

    def stop(self, position: int, why: str, failed: bool) -> EndOfStream:
        """See `Reader.stop`."""
        return self._of(position).stop(why, failed)

    def _of(self, position: int) -> Reader:
        with self._making:
            if position not in self._readers:
                self._readers[position] = Reader(self._streams[position], self._niceness)
            return self._readers[position]


@dataclass(frozen=True)
class ReaderHandle:
    """A stream's reader, in whatever process it is; what is asked is answered by Ray's futures."""

    actor: Any
    position: int

    def take(self, after: int, began_unix_s: float | None) -> Any:
        """A future of `Reader.take`."""
        return self.actor.take.remote(self.position, after, began_unix_s)

    def stop(self, why: str = "it was stopped", failed: bool = False) -> Any:
        """A future of `Reader.stop`."""
        return self.actor.stop.remote(self.position, why, failed)


class Recorders:
    """The recorders of several streams, each made when its stream is first spoken of.

    To be started with a concurrency group of one thread for each stream, see `groups`: what is
    said of one stream is done in order, and beside what is done for others.

    Args:
        kind: the class that records.
        streams: which, and the folder of each stream's parts.
        period_s, facts: as for `Recorder`.
        niceness: how far back this process steps behind the networks on the same cores.
    """

    def __init__(
        self,
        kind: type[Recorder],
        streams: Sequence[tuple[Stream, str | None]],
        period_s: float,
        facts: Mapping[str, Any],
        niceness: int = 0,
    ) -> None:
        if niceness:
            lower_process_priority(niceness)
        self._kind = kind
        self._streams = {stream.position: (stream, folder) for stream, folder in streams}
        self._period_s, self._facts = period_s, dict(facts)
        self._recorders: dict[int, Recorder] = {}

    @staticmethod
    def groups(streams: Sequence[Stream]) -> dict[str, int]:
        """Concurrency groups: one thread per stream."""
        return {_group(stream.position): 1 for stream in streams}

    def where(self, position: int) -> Checkpoint:
        """See `Recorder.where`."""
        return self._of(position).where()

    def append(self, position: int, answers: Sequence[FrameResult]) -> int:
        """See `Recorder.append`."""
        return self._of(position).append(answers)

    def note(self, position: int, text: str) -> None:
        """See `Recorder.note`."""
        self._of(position).note(text)

    def close(self, position: int, end: EndOfStream) -> None:
        """See `Recorder.close`."""
        self._of(position).close(end)

    def state(self, position: int) -> StreamState:
        """See `Recorder.state`."""
        return self._of(position).state()

    def _of(self, position: int) -> Recorder:
        if position not in self._recorders:  # by this stream's thread alone
            stream, folder = self._streams[position]
            self._recorders[position] = self._kind(stream, folder, self._period_s, self._facts)
        return self._recorders[position]


@dataclass(frozen=True)
class RecorderHandle:
    """A stream's recorder, in whatever process it is; what is asked is answered by Ray's futures."""

    actor: Any
    position: int

    def where(self) -> Any:
        """A future of `Recorder.where`."""
        return self._ask("where")

    def append(self, answers: Sequence[FrameResult]) -> Any:
        """A future of `Recorder.append`."""
        return self._ask("append", answers)

    def note(self, text: str) -> Any:
        """A future of `Recorder.note`."""
        return self._ask("note", text)

    def close(self, end: EndOfStream) -> Any:
        """A future of `Recorder.close`."""
        return self._ask("close", end)

    def state(self) -> Any:
        """A future of `Recorder.state`."""
        return self._ask("state")

    def _ask(self, what: str, *given: Any) -> Any:
        method = getattr(self.actor, what).options(concurrency_group=_group(self.position))
        return method.remote(self.position, *given)


def _group(position: int) -> str:
    return f"stream{position}"
