"""All exhibits in one picture: how many times too high or too low each wrong figure is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.core.errors import UsageError
from labkit.lessons.pitfalls.result import Exhibit, size_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from labkit.results.plots.style import Chart, Theme

TOO_WIDE = 1e6


def picture(exhibits: Sequence[Exhibit], *, theme: str = "light") -> Chart:
    """One row per exhibit that has figures, on a logarithmic axis around "right".

    Raises:
        UsageError: none of them has figures.
    """
    from labkit.results.plots.style import as_caption, set_rows, sheet, wrapped

    shown = [exhibit for exhibit in exhibits if exhibit.skipped is None]
    missing = [exhibit.name for exhibit in exhibits if exhibit.skipped is not None]
    if not shown:
        raise UsageError("no exhibit has figures to draw; run one that this machine can show")
    notes = [" and ".join(sorted({exhibit.machine or "unknown machine" for exhibit in shown}))]
    notes += ["lines: 95% intervals of the ratio, from 5 rounds on"]
    notes += ["recorded elsewhere: hollow"] if any(exhibit.recorded for exhibit in shown) else []
    notes += [f"not shown here: {', '.join(missing)}"] if missing else []
    title = "How far wrong each way of measuring is"
    with sheet(title, len(shown), theme, as_caption(notes)) as (chart, axes, look):
        axes.set_xscale("log")
        for row, exhibit in enumerate(shown):
            _row(axes, row, exhibit, look)
        axes.axvline(1, color=look.faint, linewidth=1.2)
        _set_axis(axes, [exhibit.ratio for exhibit in shown])
        set_rows(axes, [wrapped(_label(exhibit)) for exhibit in shown])
        axes.set_xlabel("wrong figure / right figure (times)")
        chart.alt_text = "Wrong over right figure of each exhibit: " + "; ".join(
            f"{exhibit.name}: {size_of(exhibit.ratio)}" for exhibit in shown
        ) + "."  # fmt: skip
    return chart


def _label(exhibit: Exhibit) -> str:
    return exhibit.name.replace("the observer's cost: ", "observer: ")


def _row(axes: Axes, row: int, exhibit: Exhibit, look: Theme) -> None:
    colour = look.colours[5] if exhibit.ratio >= 1 else look.colours[0]
    low, high = exhibit.interval
    axes.plot([1, exhibit.ratio], [row, row], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
    if high < TOO_WIDE and low > 0:
        axes.plot([low, high], [row, row], color=look.ink, linewidth=1.3, marker="|", markersize=7)
    face = look.paper if exhibit.recorded else colour
    axes.plot(exhibit.ratio, row, "o", color=colour, markersize=6.5, markerfacecolor=face)
    right = exhibit.ratio >= 1
    ends = [exhibit.ratio, *(bound for bound in (low, high) if 0 < bound < TOO_WIDE)]
    end = max(ends) if right else min(ends)
    axes.annotate(
        size_of(exhibit.ratio), (end, row), (8 if right else -8, 0), textcoords="offset points",
        va="center", ha="left" if right else "right", fontsize=8.5,
    )  # fmt: skip


def _set_axis(axes: Axes, ratios: Sequence[float]) -> None:
    from labkit.results.plots.style import plain_log_ticks

    low, high = min(0.8, *ratios), max(1.25, *ratios)
    room = (high / low) ** 0.42
    axes.set_xlim(low / (room if low < 0.79 else 1.3), high * room)
    plain_log_ticks(axes.xaxis, low, high)
