"""Plot of pitfalls: the factor by which each wrong figure is too high or too low."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from labkit.core.errors import UsageError
from labkit.lessons.pitfalls.pitfall import PitfallResult, size_of
from labkit.results.plots.style import (
    COLOURS,
    FAINT,
    INK,
    Chart,
    as_caption,
    plain_log_ticks,
    set_rows,
    sheet,
    wrapped,
)

TOO_WIDE = 1e6


def plot_pitfalls(results: Sequence[PitfallResult]) -> Chart:
    """One row per pitfall that has figures, on a logarithmic axis around 1.

    Raises:
        UsageError: none of them has figures.
    """
    shown = [result for result in results if result.skipped is None]
    skipped = [result.name for result in results if result.skipped is not None]
    if not shown:
        raise UsageError("no pitfall has figures to plot; run one that this machine can measure")
    notes = [shown[0].machine, "lines: 95% intervals of the ratio, from 5 rounds on"]
    notes += [f"not measured here: {', '.join(skipped)}"] if skipped else []
    title = "Error of each wrong way of measuring"
    with sheet(title, len(shown), as_caption(notes)) as (chart, axes):
        axes.set_xscale("log")
        for row, result in enumerate(shown):
            _row(axes, row, result)
        axes.axvline(1, color=FAINT, linewidth=1.2)
        _set_axis(axes, [result.ratio for result in shown])
        set_rows(axes, [wrapped(result.name) for result in shown])
        axes.set_xlabel("wrong figure / right figure (times)")
        errors = "; ".join(f"{result.name}: {size_of(result.ratio)}" for result in shown)
        chart.alt_text = f"Wrong over right figure of each pitfall: {errors}."
    return chart


def _row(axes: Axes, row: int, result: PitfallResult) -> None:
    too_high = result.ratio >= 1
    colour = COLOURS[5] if too_high else COLOURS[0]
    low, high = result.interval
    axes.plot([1, result.ratio], [row, row], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
    if high < TOO_WIDE and low > 0:
        axes.plot([low, high], [row, row], color=INK, linewidth=1.3, marker="|", markersize=7)
    axes.plot(result.ratio, row, "o", color=colour, markersize=6.5)
    ends = [result.ratio, *(bound for bound in (low, high) if 0 < bound < TOO_WIDE)]
    end = max(ends) if too_high else min(ends)
    axes.annotate(
        size_of(result.ratio), (end, row), (8 if too_high else -8, 0), textcoords="offset points",
        va="center", ha="left" if too_high else "right", fontsize=8.5,
    )  # fmt: skip


def _set_axis(axes: Axes, ratios: Sequence[float]) -> None:
    low, high = min(0.8, *ratios), max(1.25, *ratios)
    room = (high / low) ** 0.42
    axes.set_xlim(low / (room if low < 0.79 else 1.3), high * room)
    plain_log_ticks(axes.xaxis, low, high)
