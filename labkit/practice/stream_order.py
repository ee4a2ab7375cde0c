"""Order of operations on streams that run at the same time: which was surely done before which.

Nothing really runs late here. Instead each piece of memory remembers who read and wrote it, and
an access that nothing orders after an earlier one of another stream is a race, whether or not
it would go well today. The clocks are those of torch's own sanitizer for CUDA streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.cuda._sanitizer import StreamSynchronizations

from labkit.practice.source_line import SourceLine

HOST = -1
"""In place of a stream's number: the host."""

NOT_ARRIVED = 0xA5
"""Each byte of page-locked memory while a copy into it is under way."""


class GpuError(RuntimeError):
    """A fault that a GPU would refuse, or sometimes get wrong without a word."""


class RaceWarning(UserWarning):
    """Two streams, or a stream and the host, use the same memory with nothing that orders them."""


class Use(NamedTuple):
    """One use of a piece of memory by an operation.

    Attributes:
        stream: number of the operation's stream; 0 is the default stream.
        number: of the operation, counted over all streams.
        what: name of the operation.
        line: of the learner's code.
    """

    stream: int
    number: int
    what: str
    line: SourceLine


@dataclass(eq=False)
class Memory:
    """One piece of the GPU's memory.

    Attributes:
        stream: for which it was allocated; after it is freed that stream gets it again.
        nbytes: its size.
        holds: type and shape of the tensor for which it was allocated.
        write: the last operation that wrote it.
        reads: the last operation of each stream that read it since.
        kept_for: streams that `record_stream` named.
        raced: it was part of a race; that it is then freed early follows from it.
    """

    stream: int
    nbytes: int
    holds: str = ""
    write: Use | None = None
    reads: dict[int, Use] = field(default_factory=dict)
    kept_for: set[int] = field(default_factory=set)
    raced: bool = False


@dataclass(eq=False)
class HostCopy:
    """A copy between the GPU and page-locked memory that may still be under way.

    Attributes:
        use: the copy, as an operation.
        host: the memory's host side.
        values: what is copied, as it was when the copy was asked for.
        arrives: at the host, rather than leaving it.
    """

    use: Use
    host: torch.Tensor
    values: torch.Tensor
    arrives: bool


@dataclass(frozen=True)
class Race:
    """Two uses of the same memory in no certain order.

    Attributes:
        kind: "read early", "overwritten early", "freed early", "changed during a copy" or
            "read during a copy".
        first: the use that may not be over yet.
        second: the use, on a stream or by the host, that did not wait.
        memory: the piece of memory; None where it is the host's.
    """

    kind: str
    first: Use
    second: Use
    memory: Any = None


class Order:
    """The clocks of all streams and of the host."""

    def __init__(self) -> None:
        self.clocks: Any = StreamSynchronizations()
        self.copies: list[HostCopy] = []
        self._number = 0

    def done(
        self, stream: int, reads: list[Memory], writes: list[Memory], what: str, line: SourceLine
    ) -> tuple[Use, list[Race]]:
        """Notes an operation on a stream.

        Returns:
            The operation, and the races: another stream may be writing what it reads, or using
            what it writes.
        """
        self._number += 1
        self.clocks.update_seq_num(stream, self._number)
        now, races = Use(stream, self._number, what, line), []
        for memory in reads:
            races += self._unordered("read early", now, memory, [memory.write])
            memory.reads[stream] = now
        for memory in writes:
            races += self._unordered("overwritten early", now, memory, [memory.write, *memory.reads.values()])
            memory.write, memory.reads = now, {}
        return now, races

    def _unordered(self, kind: str, now: Use, memory: Memory, before: list[Use | None]) -> list[Race]:
        found = [use for use in before if use is not None and not self._before(use, now.stream)]
        memory.raced = memory.raced or bool(found)
        return [Race(kind, use, now, memory) for use in found[:1]]

    def _before(self, use: Use, stream: int) -> bool:
        return self.clocks.is_ordered_after(stream, use.number, use.stream)

    def freed(self, memory: Memory, line: SourceLine) -> Race | None:
        """The race that freeing memory is, if another stream may still use it."""
        for use in filter(None, [memory.write, *memory.reads.values()] if not memory.raced else []):
            if use.stream not in memory.kept_for and not self._before(use, memory.stream):
                return Race("freed early", use, Use(memory.stream, 0, "free", line), memory)
        return None

    def recorded(self, event: int, stream: int) -> None:
        """An event is put onto a stream."""
        self.clocks.create_event(event)
        self.clocks.record_state(event, stream)

    def stream_waits(self, stream: int, event: int) -> None:
        """Makes what comes next on the stream wait for the event."""
        self.clocks.stream_wait_for_event(stream, event)

    def host_waits(
        self, line: SourceLine, *, stream: int | None = None, event: int | None = None
    ) -> list[Race]:
        """The host waits for an event, a stream, or everything; copies that are over arrive.

        Returns:
            Races: page-locked memory was written while it was copied from.
        """
        if event is not None:
            self.clocks.all_streams_wait_for_event(event)
        elif stream is not None:
            self.clocks.all_streams_wait_for_stream(stream)
        else:
            self.clocks.sync_all_streams()
        races = [race for copy in self.copies for race in self._changed(copy, line)]
        over = [copy for copy in self.copies if self._over(copy)]
        self.copies = [copy for copy in self.copies if copy not in over]
        for copy in over:
            if copy.arrives:
                with torch.inference_mode():  # in which the host's side may have been made
                    copy.host.copy_(copy.values)
        return races

    def last(self, stream: int) -> int:
        """Number of the last operation on a stream; -1 before the first."""
        return int(self.clocks.current_sync_states.get(stream, {}).get(stream, -1))

    def host_knows(self, stream: int, number: int) -> bool:
        """True if the host has waited for an operation of a stream."""
        return number < 0 or self.clocks.host_sync_state.get(stream, -1) >= number

    def under_way(self, copy: HostCopy) -> list[Race]:
        """A copy begins; until it is over nobody should look, or write, at its host side."""
        same = [other for other in self.copies if _overlap(other.host, copy.host)]
        races = [race for other in same for race in self._changed(other, copy.use.line)]
        if copy.arrives:
            unknown = torch.full((copy.host.element_size(),), NOT_ARRIVED, dtype=torch.uint8)
            with torch.inference_mode():
                copy.host.copy_(unknown.view(copy.host.dtype))
        self.copies.append(copy)
        return races

    def arriving(self, host: torch.Tensor) -> HostCopy | None:
        """The copy that is still on its way into a host tensor's memory, if there is one."""
        return next((copy for copy in self.copies if copy.arrives and _overlap(copy.host, host)), None)

    def _over(self, copy: HostCopy) -> bool:
        return self.host_knows(copy.use.stream, copy.use.number)

    def _changed(self, copy: HostCopy, line: SourceLine) -> list[Race]:
        if copy.arrives or torch.equal(_bytes(copy.host), _bytes(copy.values)):
            return []
        copy.values = copy.host.clone()  # told once
        return [Race("changed during a copy", copy.use, Use(HOST, 0, "the host", line))]


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """True if the bytes between the first and the last of two tensors have some in common."""
    (a_first, a_end), (b_first, b_end) = _span(a), _span(b)
    return max(a_first, b_first) < min(a_end, b_end)


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    if not tensor.numel():
        return 0, 0
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)  # a NaN equals itself
