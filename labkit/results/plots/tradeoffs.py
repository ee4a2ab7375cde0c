"""Speed against accuracy, and speed against what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from labkit.core import stats
from labkit.core.errors import UsageError
from labkit.results.format import format_number
from labkit.results.plots.labels import (
    AGREEMENT,
    LOSES,
    METRICS,
    accuracy_of,
    evaluated_on,
    format_loss,
    loses,
)
from labkit.results.plots.style import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    Chart,
    draw_interval,
    drawing,
    listed,
    plain_log_ticks,
    row_labels,
    set_rows,
    wide_range,
    write_beside,
)
from labkit.results.records import Run

MARKERS = "osD^vP*X"
TASKS = {
    "classify": "naming the whole frame",
    "detect": "finding boxes",
    "combined": "finding boxes and naming each",
}
LEAST_SPAN = 0.02  # of the accuracy axis: a point of loss is then seen, and noise is not blown up
RING: dict[str, Any] = {
    "marker": "o", "markersize": 15, "ls": "", "fillstyle": "none", "color": INK, "markeredgewidth": 1.5,
}  # fmt: skip
SPREAD = 4.0  # of speeds, from which a logarithmic axis tells neighbours apart


@dataclass(frozen=True, eq=False)
class _Point:
    """One run in the picture.

    Attributes:
        run, label: what stands for it.
        value, bounds: accuracy and its 95% interval, where there is one.
        front: nothing is faster and as accurate.
    """

    run: Run
    label: str
    value: float
    bounds: tuple[float, float] | None
    front: bool

    @property
    def words(self) -> str:
        """The point for those who cannot see it."""
        interval = "" if self.bounds is None else " ({:.3f} to {:.3f})".format(*self.bounds)
        front = ", on the front" if self.front else ""
        lost = f", marked: it loses {format_loss(self.run)}" if loses(self.run) else ""
        return f"{self.run.rung} {format_number(self.run.fps)} FPS at {self.value:.3f}{interval}{front}{lost}"

    @property
    def legend(self) -> str:
        """The point's line in the legend."""
        line = self.label + ("  (front)" if self.front else "")
        return f"{line}\nloses {format_loss(self.run)}" if loses(self.run) else line


def speed_accuracy(runs: Sequence[Run]) -> Chart:
    """Throughput against accuracy with intervals, and the front of rungs that no other one beats.

    The same measure of accuracy is used for all runs, the strictest that all of them have; without one,
    their agreement with their references. Who loses too much against its reference is ringed.

    Raises:
        UsageError: no run has that measure.
    """
    metric = next((key for key in METRICS if runs and all(key in run.accuracy for run in runs)), None)
    moved = [run for run in runs if metric and _moves_boxes(run)]
    points = _points([run for run in runs if run not in moved], metric)
    if not points:
        raise UsageError(f"none of the {len(runs)} runs has an agreement or accuracy to draw")
    shown = [point.run for point in points]
    name = METRICS[metric] if metric else AGREEMENT
    on = evaluated_on(shown) if metric else ""
    notes = [f"accuracy: {on}"] if on else []
    if moved:
        names = ", ".join(run.rung for run in moved)
        notes.append(f"left out: {names}, whose loss shows in moving pictures only")
    rows = max(7.0, 0.62 * len(points) + 0.4 * sum(map(loses, shown)) + 1)
    with drawing(_title(shown), rows, shown, notes) as (chart, axes):
        for k, point in enumerate(points):
            _draw(axes, k, point)
        key = _front(axes, points)
        _speed_axis(axes, [run.fps for run in shown])
        _accuracy_axis(axes, points)
        axes.set_ylabel(f"{name} (0 to 1)")
        axes.grid()
        handles = [*axes.get_legend_handles_labels()[0], *key]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
        chart.alt_text = f"Throughput against {name}: " + listed(point.words for point in points)
    return chart


def share_of_peak(runs: Sequence[Run]) -> Chart:
    """Each run's arithmetic per second as a share of the machine's measured peak, with interval.

    What a run's own speed refutes is not drawn: a share above 100%, and the part of an interval there.

    Raises:
        UsageError: no run knows its work per frame and the machine's peak.
    """
    known = [run for run in runs if run.share_of_limit is not None]
    if not known:
        own = any("loop_sha256" in run.settings for run in runs)
        why = "; in a loop of your own, what torch computes uncompiled is counted" if own else ""
        raise UsageError(
            f"none of the {len(runs)} runs knows its work per frame and a peak that it does not beat{why}"
        )
    notes = ["peak: the fastest large product or convolution measured in the rung's precision"]
    left_out = [run.rung for run in runs if run.beats_peak]
    notes += [f"left out, since they beat the measured peak: {', '.join(left_out)}"] if left_out else []
    with drawing("Share of what this machine can do", len(known), known, notes) as (chart, axes):
        words = []
        for row, run in enumerate(known):
            share = 100 * (run.share_of_limit or 0)
            low, high = (bound / run.fps * share for bound in run.fps_interval)
            axes.barh(row, share, 0.55, color=COLOURS[0], alpha=0.45 if run.noisy else 1, linewidth=0)
            draw_interval(axes, (low, min(high, 100.0) if np.isfinite(high) else high), row)
            text = f"{format_number(share)}%" + (f" of {_peak(run)}" if _peak(run) else "")
            # Beside the plot, where neither the bars nor the line of the peak run through the figures.
            write_beside(axes, text, (1, row), xycoords=axes.get_yaxis_transform(), annotation_clip=False)
            words.append(f"{run.rung} {text}")
        axes.axvline(100, color=FAINT, linewidth=1.2, linestyle="--")
        axes.set_xlim(0, 103)
        set_rows(axes, row_labels(known))
        axes.set_xlabel("share of the measured peak, the best of matrix products and convolutions (%)")
        chart.alt_text = "Share of the machine's measured peak: " + listed(words)
    return chart


def _moves_boxes(run: Run) -> bool:
    """True of one that follows boxes between detections: on single pictures it is as without that."""
    return run.settings.get("preparation", {}).get("every", 1) != 1


def _points(runs: Sequence[Run], metric: str | None) -> list[_Point]:
    """The runs that have the measure (None: the agreement with their references)."""
    worth = [(run, *accuracy_of(run, metric or AGREEMENT)) for run in runs]
    known = [each for each in worth if np.isfinite(each[1])]
    labels = row_labels([run for run, _, _ in known])
    front = stats.is_pareto([run.fps for run, _, _ in known], [value for _, value, _ in known])
    return [
        _Point(run, label.replace("\n", " "), value, bounds, bool(best))
        for (run, value, bounds), label, best in zip(known, labels, front, strict=True)
    ]


def _title(runs: Sequence[Run]) -> str:
    tasks = {run.settings.get("preparation", {}).get("task") for run in runs}
    task = TASKS.get(str(tasks.pop())) if len(tasks) == 1 else None
    return "Speed and accuracy" + (f": {task}" if task else "")


def _draw(axes: Axes, k: int, point: _Point) -> None:
    run, value = point.run, point.value
    colour = COLOURS[k % 6]
    low, high = run.fps_interval
    if np.isfinite(high):
        axes.plot([low, high], [value, value], color=colour, linewidth=1.6, alpha=0.8)
    if point.bounds is not None:
        axes.plot([run.fps, run.fps], point.bounds, color=colour, linewidth=1.6, alpha=0.8)
    axes.plot(
        run.fps, value, MARKERS[(k // 6 + k) % len(MARKERS)], color=colour, markersize=8, ls="",
        markerfacecolor=PAPER if run.noisy else colour, label=point.legend,
    )  # fmt: skip
    if loses(run):
        axes.plot(run.fps, value, **RING)
        axes.annotate(LOSES, (run.fps, value), (9, 6), textcoords="offset points", fontsize=13, weight="bold")


def _front(axes: Axes, points: Sequence[_Point]) -> list[Line2D]:
    """Draws the line of what nothing beats; legend of it, and of the ring."""
    best = sorted((point for point in points if point.front), key=lambda point: point.run.fps)
    style: dict[str, Any] = {"color": FAINT, "linestyle": "--", "linewidth": 1.2}
    fps, value = [point.run.fps for point in best], [point.value for point in best]
    axes.step(fps, value, where="pre", zorder=1, **style)
    key = [Line2D([], [], label="front: nothing is faster\nand as accurate", **style)]
    if any(loses(point.run) for point in points):
        words = (
            f"ring and {LOSES}: loses over 1 point\nof mAP or changes over 1%\nof names against its reference"
        )
        key.append(Line2D([], [], label=words, **{**RING, "markersize": 11}))
    return key


def _speed_axis(axes: Axes, fps: Sequence[float]) -> None:
    log = wide_range(fps, SPREAD)
    axes.set_xlabel(f"throughput (frames per second{', logarithmic' if log else ''})")
    if log:
        axes.set_xscale("log")
        limits = axes.get_xlim()
        plain_log_ticks(axes.xaxis, *limits)
        axes.set_xlim(limits)
    else:
        axes.set_xlim(0, max(fps) * 1.12)


def _accuracy_axis(axes: Axes, points: Sequence[_Point]) -> None:
    """From the lowest bound to the highest; never beyond what a share can be."""
    ends = [end for point in points for end in (point.value, *(point.bounds or ()))]
    low, high = min(ends), max(ends)
    span = max(high - low, LEAST_SPAN)
    limits = max(0.0, min(low, high - span)) - 0.1 * span, high + 0.1 * span
    axes.set_ylim(limits)
    axes.set_yticks([tick for tick in axes.get_yticks() if max(0.0, limits[0]) <= tick <= 1.0001])
    axes.set_ylim(limits)  # ticks have widened it


def _peak(run: Run) -> str:
    peak, precision = run.limit.get("peak_gflops"), run.limit.get("precision")
    return f"{format_number(peak)} GFLOP/s{f' ({precision})' if precision else ''}" if peak else ""
