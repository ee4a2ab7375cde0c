"""What ran while something else ran: arithmetic on spans."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from labkit.core.trace import SpanRecord

Interval = tuple[float, float]
"""(start, stop) in ms."""


def interval_ms(span: SpanRecord) -> Interval:
    """When a span's work was done: on the GPU's clock where it has one, else on the host's."""
    if span.gpu_ms is not None and span.gpu_start_ms is not None:
        return span.gpu_start_ms, span.gpu_start_ms + span.gpu_ms
    return span.start_ns / 1e6, span.stop_ns / 1e6


def hidden_share(spans: Sequence[SpanRecord], work: Collection[str], behind: Collection[str]) -> float | None:
    """The share of some steps' time that passed while other steps ran.

    Args:
        spans: of several frames.
        work: names of the steps that should be hidden, e.g. {"upload", "filter"}.
        behind: names of the steps that should hide them, e.g. {"infer"}.

    Returns:
        0 (nothing overlaps) to 1 (all of it costs nothing); None where no time went into `work`.
    """
    cover = merged([interval_ms(span) for span in spans if span.name in behind])
    total = hidden = 0.0
    for span in spans:
        if span.name in work:
            start, stop = interval_ms(span)
            total += stop - start
            hidden += sum(max(0.0, min(stop, high) - max(start, low)) for low, high in cover)
    return hidden / total if total > 0 else None


def merged(intervals: Sequence[Interval]) -> list[Interval]:
    """The same stretches of time without overlaps, in order."""
    out: list[Interval] = []
    for start, stop in sorted(intervals):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((start, stop))
    return out
