"""The ladder's gains step by step, each with its ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from labkit.results.ceilings import with_ceilings
from labkit.results.format import format_bounds, format_number
from labkit.results.plots.style import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    Chart,
    drawing,
    legend_above,
    plain,
    plain_log_ticks,
    set_rows,
    shortened,
    wrapped,
    write_beside,
)
from labkit.results.records import Comparison, Run

FURTHEST = 2.5
"""A ceiling beyond the axis by more than this factor is given in words; drawn, it would squeeze the bars."""
CEILING: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (2, 1.5))}


@dataclass(frozen=True)
class _Bar:
    """One row: a comparison, and the speed at which its bar starts."""

    comparison: Comparison
    start: float

    @property
    def bounds(self) -> tuple[float, float, float]:
        """End of the bar and its interval; the end itself where there are no bounds."""
        low, high = self.comparison.interval
        end = self.start * self.comparison.ratio
        known = np.isfinite(high) and low > 0
        return (end, self.start * low, self.start * high) if known else (end, end, end)

    def mark(self, furthest: float) -> float | None:
        """Position of the ceiling; None where it is not known or lies too far out to be drawn."""
        limit = self.comparison.ceiling
        at = self.start * limit.gain if limit else np.inf
        return at if at <= furthest else None

    def words(self, furthest: float) -> str:
        """The figures beside the bar."""
        limit = self.comparison.ceiling
        bounds = format_bounds(self.comparison.interval, few="too few rounds")
        text = f"{format_number(self.comparison.ratio)}x  ({bounds})"
        if limit is None:
            return text
        far = "" if self.mark(furthest) else " \N{RIGHTWARDS ARROW}"
        most = shortened(limit.parts[0], 12) if len(limit.parts) > 2 else ", ".join(limit.parts)
        more = f" and {len(limit.parts) - 1} more" if len(limit.parts) > 2 else ""
        return f"{text}\nceiling {format_number(limit.gain)}x{far} ({shortened(most, 24)}{more})"

    @property
    def sentence(self) -> str:
        """The row for those who cannot see it."""
        limit = self.comparison.ceiling
        if limit is None:
            return self.comparison.finding
        return (
            f"{self.comparison.finding}; at most {format_number(limit.gain)} times, had "
            f"{plain(' and '.join(limit.parts))} cost nothing"
        )


def waterfall(comparisons: Sequence[Comparison], *, runs: Sequence[Run] = ()) -> Chart:
    """The gain of each change with its interval; a change of the one above starts where that ended.

    Args:
        comparisons: one row each.
        runs: of the same rungs, where there are any: from the parts of the rung before, a thin mark
            says how far the change could have led at most.
    """
    comparisons = with_ceilings(comparisons, runs)
    bars = [_Bar(*parts) for parts in zip(comparisons, _starts(comparisons), strict=True)]
    rows = 1.25 * len(bars) + 0.8
    with drawing("Gain of each change, with 95% intervals", rows, comparisons) as (chart, axes):
        axes.set_xscale("log")
        extent = [1.0, *(x for bar in bars for x in (bar.start, *bar.bounds))]
        furthest = max(extent) * FURTHEST
        for row, bar in enumerate(bars):
            _step(axes, row, bar, furthest)
        axes.axvline(1, color=FAINT, linewidth=1)
        low, high = min(extent), max([*extent, *(bar.mark(furthest) or 1 for bar in bars)])
        room = (
            0.85 if any(each.ceiling for each in comparisons) else 0.36
        )  # for the words beside the longest bar
        axes.set_xlim(low / (high / low) ** 0.04 / 1.01, high * (high / low) ** room * 1.05)
        plain_log_ticks(axes.xaxis, *axes.get_xlim(), unit="x")
        set_rows(axes, [wrapped(c.b) + "\n" + shortened("vs " + c.a, 34) for c in comparisons])
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("speed, relative to the first rung of a chain (times, logarithmic)")
        legend_above(axes, _legend(comparisons, any(bar.mark(furthest) for bar in bars)), columns=3)
        chart.alt_text = "Gains: " + ". ".join(bar.sentence for bar in bars) + "."
    return chart


def _starts(comparisons: Sequence[Comparison]) -> list[float]:
    """Start of each bar: the speed of its rung a, if a bar above led there, else 1."""
    reached: dict[str, float] = {}
    starts = []
    for comparison in comparisons:
        start = reached.get(comparison.a, 1.0)
        starts.append(start)
        reached[comparison.b] = start * comparison.ratio
    return starts


def _step(axes: Axes, row: int, bar: _Bar, furthest: float) -> None:
    end, low, high = bar.bounds
    axes.barh(
        row, end - bar.start, 0.5, bar.start, color=_colour(bar.comparison), linewidth=0,
        hatch=None if bar.comparison.agrees else "///",
    )  # fmt: skip
    axes.plot((low, high), (row, row), color=INK, linewidth=1.4, marker="|", markersize=7)
    mark = bar.mark(furthest)
    if mark is not None:
        axes.plot([mark, mark], [row - 0.36, row + 0.36], **CEILING)
    words_at = max(bar.start, high, mark or 0.0)
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}  # the grid does not cross figures
    write_beside(axes, bar.words(furthest), (words_at, row), bbox=paper)


def _colour(comparison: Comparison) -> str:
    place = {"faster": 2, "slower": 5, "same": 0, "cannot tell": 1}
    return COLOURS[place[comparison.verdict]]


def _legend(comparisons: Sequence[Comparison], ceilings: bool) -> list[Patch | Line2D]:
    shown: dict[str, Patch | Line2D] = {}
    for comparison in comparisons:
        shown.setdefault(comparison.verdict, Patch(color=_colour(comparison), label=comparison.verdict))
    if not all(comparison.agrees for comparison in comparisons):
        shown["differs"] = Patch(facecolor=FAINT, hatch="///", label="answers differ: no like-for-like gain")
    if ceilings:
        shown["ceiling"] = Line2D([], [], label="ceiling: the changed part at no cost", **CEILING)
    return list(shown.values())
