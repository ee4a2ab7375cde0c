"""What one change brings: a comparison round by round, and the ladder's gains step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from labkit import stats
from labkit.plots.style import (
    Chart,
    Theme,
    drawing,
    legend_above,
    number,
    plain,
    plain_log_ticks,
    set_rows,
    shortened,
    wrapped,
)
from labkit.records import Comparison


def compare_two(comparison: Comparison, *, theme: str = "light") -> Chart:
    """The ratio of each round, its median with the 95% interval, and the band that counts as same."""
    with drawing(plain(comparison.sentence), 5, theme, [comparison]) as (chart, axes, look):
        low, high = comparison.interval
        rounds = np.arange(1, comparison.rounds + 1)
        axes.axhspan(*stats.SAME, color=look.grid, alpha=0.8, linewidth=0, label="same speed (within 2%)")
        axes.axhline(1, color=look.faint, linewidth=1)
        colour = _colour(comparison, look)
        if np.isfinite(high):
            axes.axhspan(low, high, color=colour, alpha=0.22, linewidth=0, label="95% interval of the median")
        axes.axhline(comparison.ratio, color=colour, linewidth=1.8, label=f"median {comparison.ratio:.3f}")
        axes.plot(
            rounds,
            comparison.ratios,
            "o",
            color=colour,
            markersize=6,
            markeredgecolor=look.paper,
            label="one round",
        )
        axes.set_xlabel(f"round ({comparison.frames_per_turn} frames of each rung, in turns)")
        axes.set_ylabel("speed ratio (times)")
        axes.set_xlim(0.4, comparison.rounds + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.12)
        axes.grid(axis="y")
        legend_above(axes)
        chart.alt_text = (
            f"{comparison.sentence} Ratios of the rounds: "
            + ", ".join(f"{ratio:.2f}" for ratio in comparison.ratios)
            + "."
        )
    chart.title = f"{comparison.a} against {comparison.b}"
    return chart


def waterfall(comparisons: Sequence[Comparison], *, theme: str = "light") -> Chart:
    """The gain of each change with its interval; a change of the one above starts where that ended."""
    with drawing(
        "Gain of each change, with 95% intervals", 1.25 * len(comparisons) + 0.8, theme, comparisons
    ) as (
        chart,
        axes,
        look,
    ):
        axes.set_xscale("log")
        extent = [1.0]
        for row, (comparison, start) in enumerate(zip(comparisons, _starts(comparisons), strict=True)):
            extent += [start, *_step(axes, row, comparison, start, look)]
        axes.axvline(1, color=look.faint, linewidth=1)
        low, high = min(extent), max(extent)
        axes.set_xlim(low / (high / low) ** 0.04 / 1.01, high * (high / low) ** 0.36 * 1.05)
        plain_log_ticks(axes.xaxis, *axes.get_xlim(), unit="x")
        set_rows(axes, [wrapped(c.b) + "\n" + shortened("vs " + c.a, 34) for c in comparisons])
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("speed, relative to the first rung of a chain (times)")
        legend_above(axes, _legend(look, comparisons))
        chart.alt_text = "Gains: " + " ".join(comparison.sentence for comparison in comparisons)
    return chart


def _starts(comparisons: Sequence[Comparison]) -> list[float]:
    """Where each bar starts: at the speed of its rung a, if a bar above led there, else at 1."""
    reached: dict[str, float] = {}
    starts = []
    for comparison in comparisons:
        start = reached.get(comparison.a, 1.0)
        starts.append(start)
        reached[comparison.b] = start * comparison.ratio
    return starts


def _step(axes: Axes, row: int, comparison: Comparison, start: float, look: Theme) -> tuple[float, ...]:
    low, high = comparison.interval
    end = start * comparison.ratio
    axes.barh(
        row, end - start, 0.5, start, color=_colour(comparison, look), linewidth=0,
        hatch=None if comparison.agrees else "///",
    )  # fmt: skip
    bounds = (start * low, start * high) if np.isfinite(high) and low > 0 else (end, end)
    axes.plot(bounds, (row, row), color=look.ink, linewidth=1.4, marker="|", markersize=7)
    text = f"{number(comparison.ratio)}x  ({number(low)} to {number(high)})"
    axes.annotate(
        text, (max(start, end, bounds[1]), row), (6, 0), textcoords="offset points", va="center", fontsize=8.5
    )
    return end, *bounds


def _colour(comparison: Comparison, look: Theme) -> str:
    by_verdict = {
        "faster": look.colours[2],
        "slower": look.colours[5],
        "same": look.colours[0],
        "cannot tell": look.colours[1],
    }
    return by_verdict[comparison.verdict]


def _legend(look: Theme, comparisons: Sequence[Comparison]) -> list[Patch]:
    shown: dict[str, Patch] = {}
    for comparison in comparisons:
        shown.setdefault(comparison.verdict, Patch(color=_colour(comparison, look), label=comparison.verdict))
    if not all(comparison.agrees for comparison in comparisons):
        shown["differs"] = Patch(
            facecolor=look.faint, hatch="///", label="answers differ: no like-for-like gain"
        )
    return list(shown.values())
