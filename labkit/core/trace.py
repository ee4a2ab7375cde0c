"""Spans: named stretches of a frame's time, for profilers and for the lab's own measurements.

    with span("infer", frame):
        y = net.infer(x)

A span emits an NVTX range of the same name (visible to Nsight Systems) and, while a
recording is open, notes host times and, with a GPU, two CUDA events on the current
stream. It never synchronises: GPU times are resolved when the recording is read, for which the host
waits for those events alone, never for the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labkit.core.types import Frame

try:
    import nvtx
except ImportError:  # a profiler then sees no ranges; the lab's own clocks still work
    nvtx = None

DOMAIN = "labkit"


@dataclass(slots=True)
class SpanRecord:
    """One closed span.

    Attributes:
        name: what was done.
        index: index of the frame it was done for.
        start_ns, stop_ns: host clock (`time.perf_counter_ns`).
        gpu_ms: GPU time between the span's two events; None without a GPU.
        gpu_start_ms: GPU time from the first event of the recording to this span's first one.
    """

    name: str
    index: int
    start_ns: int
    stop_ns: int
    gpu_ms: float | None = None
    gpu_start_ms: float | None = None


@dataclass
class Recording:
    """Spans and taps recorded so far.

    Attributes:
        taps: named raw outputs in order, kept only when the recording asked for them.
    """

    keep_taps: bool = False
    cuda: bool = False
    taps: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _open: list[tuple[str, int, int, int, Any, Any]] = field(default_factory=list)

    def spans(self) -> list[SpanRecord]:
        """All closed spans; waits for the last CUDA event of each stream, if it has not passed yet."""
        for *_, last in reversed(self._open):  # once it has passed, so have the earlier ones of its stream
            if last is not None and not last.query():
                last.synchronize()
        origin: Any = next((first for *_, first, _ in self._open if first is not None), None)
        return [
            SpanRecord(name, index, start, stop)
            if first is None
            else SpanRecord(name, index, start, stop, first.elapsed_time(last), origin.elapsed_time(first))
            for name, index, start, stop, first, last in self._open
        ]

    def complete(self) -> bool:
        """True once the GPU is done with all spans, so that reading them waits for nothing."""
        return all(last is None or last.query() for *_, last in self._open)

    def clear(self) -> None:
        """Drop everything recorded so far, e.g. at the end of the warm-up."""
        self._open.clear()
        self.taps.clear()


_recording: Recording | None = None  # the innermost open one
_open_recordings: list[Recording] = []
_taken = -1  # index of the frame that a loop took last


@contextmanager
def recording(*, taps: bool = False) -> Iterator[Recording]:
    """Record the spans (and, with `taps`, the raw outputs) of everything run inside.

    One recording at a time: an inner one hides the outer one until it ends. Recordings of two
    threads may end in any order.
    """
    global _recording
    mine = Recording(keep_taps=taps, cuda=_cuda_in_use())
    _open_recordings.append(mine)
    _recording = mine
    try:
        yield mine
    finally:
        # By identity: recordings compare by content, and the innermost need not be the first to end.
        _open_recordings[:] = [each for each in _open_recordings if each is not mine]
        _recording = _open_recordings[-1] if _open_recordings else None


@dataclass(slots=True, eq=False)
class span:  # noqa: N801 - used as a statement: `with span("infer", frame):`
    """Marks the enclosed work as `name`, done for `frame`; an NVTX range of the same name.

    Args:
        name: of the span: "preprocess", "infer", "decode", or one of your own.
        frame: the frame that it works on; times are kept per frame. Without one it is the frame that
            the loop took last.

    Example:
        >>> import labkit
        >>> def loop(frames, net):
        ...     for frame in frames:
        ...         with labkit.span("infer", frame):
        ...             found = net(frame.image)
        ...         yield frame, found
    """

    name: str
    frame: Frame | None = None
    _recording: Recording | None = field(init=False)
    _first: Any = field(init=False)
    _start: int = field(init=False)

    def __enter__(self) -> None:
        if nvtx is not None:
            nvtx.push_range(self.name, domain=DOMAIN)
        self._recording = _recording
        self._first = _record_event() if _recording is not None and _recording.cuda else None
        self._start = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        stop = time.perf_counter_ns()
        if self._recording is not None:
            last = _record_event() if self._first is not None else None
            index = _taken if self.frame is None else self.frame.index
            self._recording._open.append((self.name, index, self._start, stop, self._first, last))
        if nvtx is not None:
            nvtx.pop_range(domain=DOMAIN)


def note_taken(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames; each one taken is the one that spans without a frame belong to."""
    global _taken
    for frame in frames:
        _taken = frame.index
        yield frame


def tap(name: str, value: Any) -> None:
    """Hands a raw network output to a recording that asked for it; else costs one comparison.

    Args:
        name: what the output is, e.g. "detr.logits".
        value: array or tensor of any device; copied to host memory as float32.
    """
    if _recording is None or not _recording.keep_taps:
        return
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    _recording.taps.setdefault(name, []).append(np.array(value, dtype=np.float32))


def _cuda_in_use() -> bool:
    torch = sys.modules.get("torch")
    return bool(torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized())


def _record_event() -> Any:
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


Interval = tuple[float, float]
"""(start, stop) in ms."""


def span_interval_ms(span: SpanRecord) -> Interval:
    """Start and stop of a span, in ms: on the GPU's clock where it has one, else on the host's."""
    if span.gpu_ms is not None and span.gpu_start_ms is not None:
        return span.gpu_start_ms, span.gpu_start_ms + span.gpu_ms
    return span.start_ns / 1e6, span.stop_ns / 1e6


def hidden_share(spans: Sequence[SpanRecord], work: Collection[str], behind: Collection[str]) -> float | None:
    """Share of some steps' time during which other steps ran.

    Args:
        spans: of several frames.
        work: names of the steps that should be hidden, e.g. {"upload", "filter"}.
        behind: names of the steps that should hide them, e.g. {"infer"}.

    Returns:
        0 (nothing overlaps) to 1 (all of it costs nothing); None where no time went into `work`.
    """
    cover = merge_intervals([span_interval_ms(span) for span in spans if span.name in behind])
    total = hidden = 0.0
    for span in spans:
        if span.name in work:
            start, stop = span_interval_ms(span)
            total += stop - start
            hidden += sum(max(0.0, min(stop, high) - max(start, low)) for low, high in cover)
    return hidden / total if total > 0 else None


def merge_intervals(intervals: Sequence[Interval]) -> list[Interval]:
    """Merge overlapping intervals; sorted."""
    out: list[Interval] = []
    for start, stop in sorted(intervals):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((start, stop))
    return out
