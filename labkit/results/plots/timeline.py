"""When each step of each frame ran: one row per thread or stream, one colour per frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.patches import Patch

from labkit.core.errors import UsageError
from labkit.core.trace import Interval, SpanRecord, span_interval_ms
from labkit.results.format import format_bounds
from labkit.results.plots.style import (
    COLOURS,
    PAPER,
    Chart,
    as_caption,
    ink_on,
    legend_above,
    set_rows,
    sheet,
)

LETTERS_PER_CHART = 110  # of the font that steps are written in, across the plot
THINNEST = 300  # a step is drawn at least as wide as this part of the plot, or it would not be seen


def timeline(
    spans: Sequence[SpanRecord],
    rows: Mapping[str, str],
    *,
    title: str = "When each step ran",
    about: Sequence[str] = (),
) -> Chart:
    """Draws spans as bars over time.

    Args:
        spans: of a few frames; those whose name has no row are left out.
        rows: span name -> name of its row (a thread, a stream); rows stand in this order.
        title, about: what is shown, and parts of the caption.

    Raises:
        UsageError: no span belongs to a row.
    """
    drawn = [(span, span_interval_ms(span)) for span in spans if span.name in rows]
    if not drawn:
        raise UsageError(f"no span is named {' or '.join(rows)}; there is nothing to draw")
    names = list(dict.fromkeys(rows.values()))
    frames = sorted({span.index for span, _ in drawn})
    zero = min(start for _, (start, _) in drawn)
    length = max(stop for _, (_, stop) in drawn) - zero
    with sheet(title, 1.3 * len(names), as_caption(about)) as (chart, axes):
        thin = length / THINNEST
        for span, (start, stop) in drawn:
            colour = COLOURS[frames.index(span.index) % len(COLOURS)]
            row, width = names.index(rows[span.name]), stop - start
            edge = {"edgecolor": PAPER, "linewidth": 0.8} if width > 3 * thin else {"linewidth": 0}
            axes.barh(row, max(width, thin), 0.7, start - zero, align="center", color=colour, **edge)
            label = f"{span.name} {span.index}"
            if width * LETTERS_PER_CHART > len(label) * length:
                middle = start + width / 2 - zero
                axes.text(middle, row, label, ha="center", va="center", fontsize=7.5, color=ink_on(colour))
        axes.set_xlim(0, length * 1.01 or 1)
        set_rows(axes, names)
        axes.set_xlabel("time (ms)")
        colours = [
            Patch(color=COLOURS[i % len(COLOURS)], label=f"frame {index}")
            for i, index in enumerate(frames[: len(COLOURS)])
        ]
        legend_above(axes, colours, columns=min(6, len(colours)))
        chart.alt_text = _in_words(
            [(span.name, span.index, interval) for span, interval in drawn], rows, zero
        )
    return chart


def _in_words(drawn: Sequence[tuple[str, int, Interval]], rows: Mapping[str, str], zero: float) -> str:
    parts = [
        f"{name} of frame {index} on {rows[name]} from {format_bounds((start - zero, stop - zero))}"
        for name, index, (start, stop) in drawn[:24]
    ]
    more = f"; and {len(drawn) - 24} more" if len(drawn) > 24 else ""
    return "In milliseconds: " + "; ".join(parts) + more
