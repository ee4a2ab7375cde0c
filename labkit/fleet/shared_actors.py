"""Actors that hold the readers or the recorders of several streams.

An idle Ray process costs some CPU time and 100 MB or more, so streams share processes. Each stream
still has its own reader and recorder with its own thread: a camera or disk that blocks delays no
other stream. `StreamHandle` is one stream's view of such a process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.fleet.cores import lower_process_priority, use_one_opencv_thread
from labkit.fleet.stream_reader import Reader
from labkit.fleet.stream_recorder import Recorder
from labkit.fleet.streams import Stream


class Readers:
    """The readers of several streams, each created at its first call.

    After a restart of the process, only sources that are still requested are opened again.

    Args:
        streams: the streams to read.
        niceness: added to the reading threads' niceness, so that the networks get the cores first.
    """

    def __init__(self, streams: Sequence[Stream], niceness: int = 0) -> None:
        if niceness:
            use_one_opencv_thread()
        self._niceness = niceness
        self._streams = {stream.position: stream for stream in streams}
        self._readers: dict[int, Reader] = {}
        self._lock = threading.Lock()

    def ready(self) -> None:
        """Return once every source is open or has failed to open."""
        for reader in [self._reader(position) for position in self._streams]:
            reader.ready()

    def call(self, position: int, method: str, *args: Any) -> Any:
        """Call a method of a stream's `Reader`."""
        return getattr(self._reader(position), method)(*args)

    def _reader(self, position: int) -> Reader:
        with self._lock:
            if position not in self._readers:
                self._readers[position] = Reader(self._streams[position], self._niceness)
            return self._readers[position]


class Recorders:
    """The recorders of several streams, each created at its first call.

    Start it with a `concurrency_group` of one thread per stream: calls for one stream run in order,
    and in parallel with those for others.

    Args:
        kind: the recorder class.
        streams: each with the folder of its parts; None keeps none.
        period_s, facts: as for `Recorder`.
        niceness: added to the process's niceness, so that the networks get the cores first.
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

    def call(self, position: int, method: str, *args: Any) -> Any:
        """Call a method of a stream's `Recorder`."""
        if position not in self._recorders:  # only this stream's thread gets here
            stream, folder = self._streams[position]
            self._recorders[position] = self._kind(stream, folder, self._period_s, self._facts)
        return getattr(self._recorders[position], method)(*args)


@dataclass(frozen=True)
class StreamHandle:
    """The reader or the recorder of one stream, in whichever process it runs.

    Attributes:
        actor: handle of the `Readers` or `Recorders` that hold it.
        position: of the stream.
        group: concurrency group of the calls; None for the actor's default.
    """

    actor: Any
    position: int
    group: str | None = None

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the `Reader` or `Recorder`; returns Ray's future of its result."""
        call = self.actor.call
        if self.group is not None:
            call = call.options(concurrency_group=self.group)
        return call.remote(self.position, method, *args)


def concurrency_group(position: int) -> str:
    """The name of a stream's concurrency group in `Recorders`."""
    return f"stream{position}"
