"""Throughput, latency and time per span of each rung."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from labkit.results.format import format_bounds, format_number
from labkit.results.plots.labels import format_loss, loses
from labkit.results.plots.style import (
    COLOURS,
    GRID,
    INK,
    PAPER,
    Chart,
    draw_interval,
    drawing,
    legend_above,
    listed,
    plain,
    plain_log_ticks,
    row_labels,
    set_rows,
    wide_range,
    write_beside,
)
from labkit.results.records import Run

THINNEST = 150  # parts of the plot's width: from here on a part has a seam of its own
PARTS = ("preprocess", "infer", "decode", "detect", "crop", "classify", "name", "filter")
"""Spans of the lab's own pipelines: each has the same colour in every picture."""
PERCENTILES = ((50, "o", "median"), (90, "^", "p90"), (99, "s", "p99"))


def throughput(runs: Sequence[Run]) -> Chart:
    """Frames per second of each run with its 95% interval."""
    with drawing("Throughput, with 95% intervals", len(runs), runs) as (chart, axes):
        log = wide_range([run.fps for run in runs])
        ends = [max(run.fps, run.fps_interval[1] if np.isfinite(run.fps_interval[1]) else 0) for run in runs]
        axes.set_xscale("log" if log else "linear")
        for row, (run, end) in enumerate(zip(runs, ends, strict=True)):
            face = PAPER if run.noisy else COLOURS[0]
            axes.plot(run.fps, row, "o", color=COLOURS[0], markersize=7, markerfacecolor=face)
            draw_interval(axes, run.fps_interval, row)
            write_beside(axes, format_number(run.fps), (end, row), 7, fontsize=9)
        if log:
            axes.set_xlim(right=max(ends) * 1.4)
            plain_log_ticks(axes.xaxis, *axes.get_xlim())
        else:
            axes.set_xlim(0, max(*ends, 1e-9) * 1.12)
        set_rows(axes, row_labels(runs))
        axes.set_xlabel(f"throughput (frames per second{', logarithmic' if log else ''})")
        chart.alt_text = "Throughput in frames per second: " + listed(
            f"{run.rung} {format_number(run.fps)} (95% interval: {format_bounds(run.fps_interval)})"
            + (f", which loses {format_loss(run)}" if loses(run) else "")
            for run in runs
        )
    return chart


def latency(runs: Sequence[Run]) -> Chart:
    """Distribution of latency over the frames of each run, with median, p90 and p99 where known.

    A ridge says how many frames took about so long; the line through it goes from the fastest frame
    to the slowest.
    """
    runs = [run for run in runs if run.n_frames]
    with drawing("Latency per frame", 1.25 * len(runs), runs) as (chart, axes):
        log = wide_range([float(end) for run in runs for end in (run.latency_s.min(), run.latency_s.max())])
        axes.set_xscale("log" if log else "linear")
        for row, run in enumerate(runs):
            _ridge(axes, row, run.latency_s * 1e3)
            for q, marker, _ in PERCENTILES:
                value = run.percentile_ms(q)
                if value is not None:
                    axes.plot(value, row, marker, color=INK, markersize=5.5, markeredgecolor=PAPER)
        set_rows(axes, row_labels(runs))
        axes.set_ylim(len(runs) - 0.6, -0.8)
        if log:
            plain_log_ticks(axes.xaxis, *axes.get_xlim())
        else:
            axes.set_xlim(left=0)
        axes.set_xlabel(f"latency (ms{', logarithmic' if log else ''})")
        legend_above(axes, _latency_key(runs), columns=5)
        chart.alt_text = "Latency per frame in milliseconds: " + listed(
            f"{run.rung} {'' if run.scenario == 'closed' else f'at {run.fed} '}"
            + ", ".join(f"{name} {_ms(run.percentile_ms(q))}" for q, _, name in PERCENTILES)
            for run in runs
        )
    return chart


def where_time_goes(runs: Sequence[Run]) -> Chart:
    """Mean host time of each span per frame, and what no span covers as "other".

    Means are shown since only they add up. Where spans of several frames overlap they may
    sum to more than the latency; then nothing is left over.
    """
    runs = [run for run in runs if run.n_frames]
    names = list(dict.fromkeys(name for run in runs for name in run.spans_s))
    notes = ["other: in no span, such as waiting for other frames"]
    with drawing("Where a frame's time goes", len(runs) + 0.8, runs, notes) as (chart, axes):
        parts = np.array([[_mean_ms(run, name) for name in names] + [_rest_ms(run)] for run in runs])
        left = np.zeros(len(runs))
        seam = parts.sum(axis=1).max() / THINNEST  # seams would hide thinner parts
        for column, (name, colour) in enumerate([*_coloured(names), ("other", 0)]):
            other = column == len(names)
            axes.barh(
                range(len(runs)), parts[:, column], 0.62, left,
                label=plain(f" {name}" if name.startswith("_") else name),  # a leading underscore hides
                color=GRID if other else COLOURS[colour % len(COLOURS)],
                hatch="//" if colour >= len(COLOURS) else None,
                edgecolor=PAPER, linewidth=np.where(parts[:, column] > seam, 0.8, 0.0),
            )  # fmt: skip
            left += parts[:, column]
        for row, total in enumerate(left):
            write_beside(axes, format_number(total), (total, row), 5, fontsize=9)
        axes.set_xlim(0, left.max() * 1.1)
        set_rows(axes, row_labels(runs))
        axes.set_xlabel("mean time per frame (ms)")
        legend_above(axes, columns=min(5, len(names) + 1))
        figures = (
            [f"{n} {format_number(x)}" for n, x in zip([*names, "other"], r, strict=True)] for r in parts
        )
        chart.alt_text = "Mean milliseconds per frame: " + listed(
            f"{run.rung} {', '.join(row)}" for run, row in zip(runs, figures, strict=True)
        )
    return chart


def _coloured(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with the number of its colour; unknown ones come after the known."""
    others = [name for name in names if name not in PARTS]
    return [(name, [*PARTS, *others].index(name)) for name in names]


def _latency_key(runs: Sequence[Run]) -> list[Line2D | Patch]:
    """Legend of ridge and line, and of the percentiles that at least one run has."""
    shown = [one for one in PERCENTILES if any(run.percentile_ms(one[0]) is not None for run in runs)]
    return [
        Patch(color=COLOURS[0], alpha=0.45, linewidth=0, label="how many frames"),
        Line2D([], [], color=COLOURS[0], linewidth=1, label="fastest to slowest"),
        *(Line2D([], [], ls="", marker=marker, color=INK, label=name) for _, marker, name in shown),
    ]


def _ridge(axes: Axes, row: int, values_ms: np.ndarray) -> None:
    """The distribution as a symmetric ridge over the row; few frames as a stroke each."""
    log = axes.get_xscale() == "log"
    scaled = np.log10(values_ms) if log else values_ms
    low, high = scaled.min(), scaled.max()
    if len(values_ms) < 5 or high <= low:
        axes.plot(values_ms, np.full(len(values_ms), row), "|", color=COLOURS[0], markersize=14)
        return
    quartiles = np.percentile(scaled, [25, 75])
    spread = min(scaled.std(), (quartiles[1] - quartiles[0]) / 1.349) or scaled.std()
    width = 0.9 * spread * len(scaled) ** -0.2
    grid = np.linspace(low - 2 * width, high + 2 * width, 400)
    density = np.exp(-0.5 * ((grid[:, None] - scaled[None, :2000]) / width) ** 2).sum(axis=1)
    half = 0.38 * density / density.max()
    where = 10**grid if log else grid
    axes.fill_between(where, row - half, row + half, color=COLOURS[0], alpha=0.45, linewidth=0)
    axes.plot([values_ms.min(), values_ms.max()], [row, row], color=COLOURS[0], linewidth=1)


def _mean_ms(run: Run, name: str) -> float:
    part = run.spans_s.get(name)
    return 0.0 if part is None else float(np.nansum(part)) / run.n_frames * 1e3


def _rest_ms(run: Run) -> float:
    covered = sum(_mean_ms(run, name) for name in run.spans_s)
    return max(0.0, float(run.latency_s.mean()) * 1e3 - covered)


def _ms(value: float | None) -> str:
    return "unknown (too few frames)" if value is None else format_number(value)
