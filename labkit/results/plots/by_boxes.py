"""Time per frame over the number of boxes, and the line through it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labkit.core.stats import Line, fit_line
from labkit.results.format import format_number
from labkit.results.plots.style import Chart, draw_series, drawing, legend_above, listed
from labkit.results.records import Run


def lines(runs: Sequence[Run]) -> dict[str, Line]:
    """Fitted ms per frame against boxes, of each rung that was measured with two numbers of boxes or more."""
    found = {}
    for rung in dict.fromkeys(run.rung for run in runs):
        own = [run for run in runs if run.rung == rung]
        boxes = [run.settings["objects"] for run in own]
        if len(set(boxes)) > 1:
            found[rung] = fit_line(boxes, [1e3 / run.fps for run in own])
    return found


def cost_of_boxes(runs: Sequence[Run]) -> Chart:
    """Milliseconds per frame against the number of boxes that are named, and each rung's fitted line.

    The lines begin at no boxes: there they say what the detector takes alone.
    """
    with drawing("Time per frame against boxes per frame", 6, runs) as (chart, axes):
        words, fitted = [], lines(runs)
        most = max(*(run.settings["objects"] for run in runs), 1)
        for i, rung in enumerate(dict.fromkeys(run.rung for run in runs)):
            own = sorted((run for run in runs if run.rung == rung), key=lambda run: run.settings["objects"])
            boxes = [run.settings["objects"] for run in own]
            ms = [1e3 / run.fps for run in own]
            bounds = [tuple(1e3 / end if 0 < end < np.inf else t for end in run.fps_interval[::-1])
                      for t, run in zip(ms, own, strict=True)]  # fmt: skip
            slope = _slope(fitted[rung]) if rung in fitted else ""
            label = f"{rung}: {slope}" if slope else rung
            colour = draw_series(axes, i, boxes, ms, bounds, [run.noisy for run in own], label)
            if slope:
                ends = np.array([0, most])
                axes.plot(ends, fitted[rung].start + fitted[rung].slope * ends, color=colour, linewidth=1)
            figures = [f"{format_number(t)} ms at {b}" for b, t in zip(boxes, ms, strict=True)]
            words.append(f"{rung} {', '.join([*figures, slope] if slope else figures)}")
        axes.set_xlabel("boxes named per frame (number)")
        axes.set_ylabel("time per frame (ms)")
        counts = {run.settings["objects"] for run in runs}
        axes.set_xticks(sorted({0, *counts}))
        axes.set_xlim(0, 1.04 * most)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        legend_above(axes, columns=2)
        chart.alt_text = "Time per frame against boxes per frame: " + listed(words)
    return chart


def _slope(line: Line) -> str:
    low, high = line.slope_interval
    interval = f" ({low:.2f} to {high:.2f})" if np.isfinite(high) else ""
    return f"{line.slope:.2f} ms per box{interval}"
