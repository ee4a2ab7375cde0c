"""Speed-up of one change round by round, and the ladder's gains step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from labkit.core import stats
from labkit.results.format import format_number
from labkit.results.plots.style import (
    Chart,
    Theme,
    drawing,
    legend_above,
    plain,
    plain_log_ticks,
    set_rows,
    shortened,
    wrapped,
)
from labkit.results.records import Comparison, Run

FURTHEST = 2.5
"""A ceiling beyond the axis by more than this factor is given in words; drawn, it would squeeze the bars."""


SMALL = 0.001
"""A part with less of the frame is noise, when it is asked which part changed."""


@dataclass(frozen=True)
class Ceiling:
    """The most that a change can gain (G. Amdahl, 1967).

    Attributes:
        parts: the spans that the change is about.
        gain: of the whole, if these had cost nothing at all.
    """

    parts: tuple[str, ...]
    gain: float

    @property
    def words(self) -> str:
        """The parts in a few words."""
        if len(self.parts) > 2:
            return f"{shortened(self.parts[0], 12)} and {len(self.parts) - 1} more"
        return shortened(", ".join(self.parts), 24)


@dataclass(frozen=True)
class _Bar:
    """One row: a comparison, the speed at which its bar starts, and its ceiling where one is known."""

    comparison: Comparison
    start: float
    limit: Ceiling | None

    @property
    def bounds(self) -> tuple[float, float, float]:
        """End of the bar and its interval; the end itself where there are no bounds."""
        low, high = self.comparison.interval
        end = self.start * self.comparison.ratio
        known = np.isfinite(high) and low > 0
        return (end, self.start * low, self.start * high) if known else (end, end, end)

    def mark(self, furthest: float) -> float | None:
        """Position of the ceiling; None where it is not known or lies too far out to be drawn."""
        at = self.start * self.limit.gain if self.limit else np.inf
        return at if at <= furthest else None

    def words(self, furthest: float) -> str:
        """The figures beside the bar."""
        low, high = self.comparison.interval
        text = f"{format_number(self.comparison.ratio)}x  ({format_number(low)} to {format_number(high)})"
        if self.limit is None:
            return text
        far = "" if self.mark(furthest) else " \N{RIGHTWARDS ARROW}"
        return f"{text}\nceiling {format_number(self.limit.gain)}x{far} ({self.limit.words})"

    @property
    def sentence(self) -> str:
        """The row for those who cannot see it."""
        if self.limit is None:
            return self.comparison.sentence
        return (
            f"{self.comparison.sentence}; at most {format_number(self.limit.gain)} times, had "
            f"{plain(' and '.join(self.limit.parts))} cost nothing"
        )


def compare_two(comparison: Comparison, *, theme: str = "light") -> Chart:
    """The ratio of each round, the speed-up with its 95% interval, and the band that counts as same."""
    with drawing(plain(comparison.sentence), 5, theme, [comparison]) as (chart, axes, look):
        low, high = comparison.interval
        rounds = np.arange(1, comparison.rounds + 1)
        axes.axhspan(*stats.SAME, color=look.grid, alpha=0.8, linewidth=0, label="same speed (within 2%)")
        axes.axhline(1, color=look.faint, linewidth=1)
        colour = _colour(comparison, look)
        for begin in np.flatnonzero(np.diff(comparison.process)) + 1.5:
            axes.axvline(begin, color=look.faint, linewidth=0.8, linestyle=":")
        if np.isfinite(high):
            axes.axhspan(low, high, color=colour, alpha=0.22, linewidth=0, label="95% interval")
        axes.axhline(comparison.ratio, color=colour, linewidth=1.8, label=f"speed-up {comparison.ratio:.3f}")
        axes.plot(
            rounds,
            comparison.ratios,
            "o",
            color=colour,
            markersize=6,
            markeredgecolor=look.paper,
            label="one round",
        )
        axes.set_xlabel(
            f"round (turns of {comparison.frames_per_turn} frames or the same time; lines: fresh processes)"
        )
        axes.set_ylabel("speed ratio (times)")
        axes.set_xlim(0.4, comparison.rounds + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.12)
        axes.grid(axis="y")
        legend_above(axes)
        chart.alt_text = (
            f"{comparison.sentence}. Ratios of the rounds: "
            + ", ".join(f"{ratio:.2f}" for ratio in comparison.ratios)
            + "."
        )
    chart.title = f"{comparison.a} against {comparison.b}"
    return chart


def waterfall(comparisons: Sequence[Comparison], *, runs: Sequence[Run] = (), theme: str = "light") -> Chart:
    """The gain of each change with its interval; a change of the one above starts where that ended.

    Args:
        comparisons: one row each.
        runs: of the same rungs, where there are any: from the parts of the rung before, a thin mark
            says how far the change could have led at most.
        theme: "light" or "dark".
    """
    limits = [ceiling(each, runs) for each in comparisons]
    bars = [_Bar(*parts) for parts in zip(comparisons, _starts(comparisons), limits, strict=True)]
    rows = 1.25 * len(bars) + 0.8
    with drawing("Gain of each change, with 95% intervals", rows, theme, comparisons) as (chart, axes, look):
        axes.set_xscale("log")
        extent = [1.0, *(x for bar in bars for x in (bar.start, *bar.bounds))]
        furthest = max(extent) * FURTHEST
        for row, bar in enumerate(bars):
            _step(axes, row, bar, furthest, look)
        axes.axvline(1, color=look.faint, linewidth=1)
        low, high = min(extent), max([*extent, *(bar.mark(furthest) or 1 for bar in bars)])
        room = 0.85 if any(limits) else 0.36  # for the words beside the longest bar
        axes.set_xlim(low / (high / low) ** 0.04 / 1.01, high * (high / low) ** room * 1.05)
        plain_log_ticks(axes.xaxis, *axes.get_xlim(), unit="x")
        set_rows(axes, [wrapped(c.b) + "\n" + shortened("vs " + c.a, 34) for c in comparisons])
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("speed, relative to the first rung of a chain (times, logarithmic)")
        legend_above(axes, _legend(look, comparisons, any(bar.mark(furthest) for bar in bars)), columns=3)
        chart.alt_text = "Gains: " + ". ".join(bar.sentence for bar in bars) + "."
    return chart


def ceiling(comparison: Comparison, runs: Sequence[Run]) -> Ceiling | None:
    """Amdahl's ceiling of a change, from the parts of the rung before it.

    Which parts a change is about is known from the two preparations. Where these are alike and only
    the schedule differs, it is the part whose time changed most, relative to itself.

    Returns:
        None where a run of either is missing, where no part of the rung before is meant (work was
        added, or everything changed), or where spans overlap, so that none has a share of the frame.
    """
    known = {run.rung: run for run in runs if run.scenario == "closed" and run.n_frames}
    if comparison.a not in known or comparison.b not in known:
        return None
    before, after = known[comparison.a], known[comparison.b]
    parts_s = _parts_s(before)
    changed = _changed(before, after)
    if not changed or any(_overlap(run) for run in (before, after)):
        return None
    share = sum(parts_s[name] for name in changed) / _frame_s(before)
    return Ceiling(changed, 1 / (1 - share)) if share < 1 else None


def _changed(before: Run, after: Run) -> tuple[str, ...]:
    """The spans of `before` that the change is about."""
    first, second = (run.settings.get("preparation", {}) for run in (before, after))
    keys = {key for key in {*first, *second} if first.get(key) != second.get(key)}
    if keys & {"task", "form", "device"}:
        return ()
    if keys:
        meant = {part for key in keys for part in _parts_of(key)}
        return tuple(name for name in before.spans_s if name in meant)
    earlier, later = _parts_s(before), _parts_s(after)
    if earlier.keys() != later.keys():
        return ()
    large = [name for name in earlier if earlier[name] > SMALL * _frame_s(before) and later[name] > 0]
    return (max(large, key=lambda name: abs(np.log(earlier[name] / later[name]))),) if large else ()


def _parts_of(key: str) -> tuple[str, ...]:
    """The spans that a line of a preparation decides."""
    if key == "preprocess":
        return ("preprocess", "crop")
    return ("filter",) if key.startswith("filter") else ("infer", "detect", "classify")


def _parts_s(run: Run) -> dict[str, float]:
    """Mean seconds per frame of each span."""
    return {name: float(np.nansum(seconds)) / run.n_frames for name, seconds in run.spans_s.items()}


def _overlap(run: Run) -> bool:
    """True if its spans overlap: together they last longer than the frame."""
    return sum(_parts_s(run).values()) > _frame_s(run)


def _frame_s(run: Run) -> float:
    """Mean seconds from one frame to the next."""
    return run.wall_s / run.n_frames


def _ceiling_look(look: Theme) -> dict[str, Any]:
    return {"color": look.ink, "linewidth": 1.1, "linestyle": (0, (2, 1.5))}


def _starts(comparisons: Sequence[Comparison]) -> list[float]:
    """Start of each bar: the speed of its rung a, if a bar above led there, else 1."""
    reached: dict[str, float] = {}
    starts = []
    for comparison in comparisons:
        start = reached.get(comparison.a, 1.0)
        starts.append(start)
        reached[comparison.b] = start * comparison.ratio
    return starts


def _step(axes: Axes, row: int, bar: _Bar, furthest: float, look: Theme) -> None:
    end, low, high = bar.bounds
    axes.barh(
        row, end - bar.start, 0.5, bar.start, color=_colour(bar.comparison, look), linewidth=0,
        hatch=None if bar.comparison.agrees else "///",
    )  # fmt: skip
    axes.plot((low, high), (row, row), color=look.ink, linewidth=1.4, marker="|", markersize=7)
    mark = bar.mark(furthest)
    if mark is not None:
        axes.plot([mark, mark], [row - 0.36, row + 0.36], **_ceiling_look(look))
    words_at = max(bar.start, high, mark or 0.0)
    axes.annotate(
        bar.words(furthest), (words_at, row), (6, 0), textcoords="offset points", va="center", fontsize=8.5,
        bbox={"facecolor": look.paper, "edgecolor": "none", "pad": 0.8},  # the grid does not cross figures
    )  # fmt: skip


def _colour(comparison: Comparison, look: Theme) -> str:
    by_verdict = {
        "faster": look.colours[2],
        "slower": look.colours[5],
        "same": look.colours[0],
        "cannot tell": look.colours[1],
    }
    return by_verdict[comparison.verdict]


def _legend(look: Theme, comparisons: Sequence[Comparison], ceilings: bool) -> list[Patch | Line2D]:
    shown: dict[str, Patch | Line2D] = {}
    for comparison in comparisons:
        shown.setdefault(comparison.verdict, Patch(color=_colour(comparison, look), label=comparison.verdict))
    if not all(comparison.agrees for comparison in comparisons):
        shown["differs"] = Patch(
            facecolor=look.faint, hatch="///", label="answers differ: no like-for-like gain"
        )
    if ceilings:
        shown["ceiling"] = Line2D([], [], label="ceiling: the changed part at no cost", **_ceiling_look(look))
    return list(shown.values())
