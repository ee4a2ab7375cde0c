"""CUDA streams by name, and the waits between them.

A stream of the device runs what is put on it in order, while other streams run at
the same time. Nothing waits for anything on another stream unless it is told to. A schedule
names streams and says what waits for what; whether they are CUDA streams, or one and the same
queue where there is no GPU, is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


class Streams:
    """Streams by name; here without a GPU: the host does everything itself, one thing after the other."""

    def on(self, stream: str) -> AbstractContextManager[None]:
        """Work that is launched inside goes onto this stream."""
        return nullcontext()

    def after(self, later: str, earlier: str) -> None:
        """The next work on `later` waits for all that `earlier` was given so far."""

    def keep(self, tensor: Tensor, stream: str) -> None:
        """The tensor's memory is not handed out again before this stream is done with it."""

    def mark(self, stream: str) -> Any:
        """A point on a stream that the host can wait for."""

    def wait(self, mark: Any) -> None:
        """The host waits for a mark, and for nothing else."""

    def drain(self) -> None:
        """The host waits until every stream is empty."""


class CudaStreams(Streams):
    """CUDA streams. CuPy kernels of the lab follow, since they launch on torch's current stream.

    Attributes:
        delay_cycles: GPU clock cycles that a stream idles each time work is put on it; a test sets
            them to see whether an answer depends on luck.
    """

    def __init__(self, streams: Sequence[str]) -> None:
        self._streams = {stream: torch.cuda.Stream() for stream in streams}
        for stream in self._streams.values():
            stream.wait_stream(torch.cuda.current_stream())  # weights and buffers are made there
        self.delay_cycles: dict[str, int] = {}

    @contextmanager
    def on(self, stream: str) -> Iterator[None]:
        """Makes the stream's stream torch's current one."""
        with torch.cuda.stream(self._streams[stream]):
            if self.delay_cycles.get(stream):
                torch.cuda._sleep(self.delay_cycles[stream])
            yield

    def after(self, later: str, earlier: str) -> None:
        """An event is recorded on `earlier`, and `later` waits for it; the host does not."""
        self._streams[later].wait_stream(self._streams[earlier])

    def keep(self, tensor: Tensor, stream: str) -> None:
        """For tensors made on one stream and read on another; the allocator knows only the first."""
        tensor.record_stream(self._streams[stream])

    def mark(self, stream: str) -> torch.cuda.Event:
        """An event on the stream."""
        event = torch.cuda.Event()
        event.record(self._streams[stream])
        return event

    def wait(self, mark: torch.cuda.Event) -> None:
        """Waits for one event."""
        mark.synchronize()

    def drain(self) -> None:
        """Waits for every stream."""
        for stream in self._streams.values():
            stream.synchronize()


def streams_for(device: str, streams: Sequence[str]) -> Streams:
    """CUDA streams on a GPU, else one queue."""
    return CudaStreams(streams) if device == "cuda" else Streams()
