"""What was surely done before what, on streams that run at the same time.

Nothing really runs late here. Instead each piece of memory remembers who read and wrote it, and
an access that nothing orders after an earlier one of another stream is a race, whether or not
it would go well today. The clocks are those of torch's own sanitizer for CUDA streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.cuda._sanitizer import StreamSynchronizations


class GpuError(RuntimeError):
    """What a GPU would refuse, or sometimes get wrong without a word."""


@dataclass(eq=False)
class Memory:
    """One piece of the GPU's memory.

    Attributes:
        stream: for which it was allocated; after it is freed that stream gets it again.
        write: (stream, number) of the last operation that wrote it.
        reads: the same of those that read it since.
        kept_for: streams that `record_stream` named.
    """

    stream: int
    nbytes: int
    write: tuple[int, int] | None = None
    reads: list[tuple[int, int]] = field(default_factory=list)
    kept_for: set[int] = field(default_factory=set)


@dataclass(eq=False)
class HostCopy:
    """A copy between the GPU and page-locked memory that may still be under way.

    Attributes:
        values: what is copied, as it was when the copy was asked for.
        arrives: at the host, rather than leaving it.
    """

    stream: int
    number: int
    host: torch.Tensor
    values: torch.Tensor
    arrives: bool


class Order:
    """The clocks of all streams and of the host."""

    def __init__(self) -> None:
        self.clocks = StreamSynchronizations()
        self.copies: list[HostCopy] = []
        self._number = 0

    def done(self, stream: int, reads: list[Memory], writes: list[Memory], what: str) -> int:
        """Notes an operation on a stream.

        Returns:
            Its number.

        Raises:
            GpuError: another stream may be writing what it reads, or using what it writes.
        """
        self._number += 1
        self.clocks.update_seq_num(stream, self._number)
        now = (stream, self._number)
        for memory in reads:
            self._after(now, [memory.write], f"{what} reads what stream {{}} may still be writing")
            memory.reads.append(now)
        for memory in writes:
            self._after(
                now, [memory.write, *memory.reads], f"{what} overwrites what stream {{}} may still use"
            )
            memory.write, memory.reads = now, []
        return self._number

    def _after(self, now: tuple[int, int], before: list[tuple[int, int] | None], race: str) -> None:
        for stream, number in filter(None, before):
            if not self.clocks.is_ordered_after(now[0], number, stream):
                raise GpuError(f"race on stream {now[0]}: {race.format(stream)}")

    def freed(self, memory: Memory) -> str | None:
        """Why memory must not be handed out again yet, if so."""
        for stream, number in filter(None, [memory.write, *memory.reads]):
            if stream not in memory.kept_for and not self.clocks.is_ordered_after(
                memory.stream, number, stream
            ):
                return f"memory of stream {memory.stream} was freed while stream {stream} may still use it"
        return None

    def recorded(self, event: int, stream: int) -> None:
        """An event is put onto a stream."""
        self.clocks.create_event(event)
        self.clocks.record_state(event, stream)

    def stream_waits(self, stream: int, event: int) -> None:
        """What comes next on the stream waits for the event."""
        self.clocks.stream_wait_for_event(stream, event)

    def host_waits(self, *, stream: int | None = None, event: int | None = None) -> None:
        """The host waits for an event, a stream, or everything; copies that are over arrive."""
        if event is not None:
            self.clocks.all_streams_wait_for_event(event)
        elif stream is not None:
            self.clocks.all_streams_wait_for_stream(stream)
        else:
            self.clocks.sync_all_streams()
        for copy in self.copies:
            if self._over(copy) and copy.arrives:
                copy.host.copy_(copy.values)
        for copy in [copy for copy in self.copies if not copy.arrives]:
            self._untouched(copy)
        self.copies = [copy for copy in self.copies if not self._over(copy)]

    def under_way(self, copy: HostCopy) -> None:
        """A copy begins; until it is over nobody should look, or write, at its host side."""
        for other in self.copies:
            if other.host.untyped_storage().data_ptr() == copy.host.untyped_storage().data_ptr():
                self._untouched(other)
        self.copies.append(copy)
        if copy.arrives:
            copy.host.view(torch.uint8).fill_(0xA5)

    def _over(self, copy: HostCopy) -> bool:
        return self.clocks.host_sync_state.get(copy.stream, -1) >= copy.number

    def _untouched(self, copy: HostCopy) -> None:
        if not copy.arrives and not torch.equal(copy.host, copy.values):
            raise GpuError("race: page-locked memory was written while it was still being copied from")
