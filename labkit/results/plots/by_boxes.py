"""Time per frame over the number of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labkit.results.format import format_number
from labkit.results.plots.style import Chart, drawing, legend_above
from labkit.results.records import Run

MARKERS = "os^Dv*"


def cost_of_boxes(runs: Sequence[Run], *, theme: str = "light") -> Chart:
    """Milliseconds per frame against the number of boxes that are named, one line per rung."""
    with drawing("Time per frame against boxes per frame", 6, theme, runs) as (chart, axes, look):
        words = []
        for i, rung in enumerate(dict.fromkeys(run.rung for run in runs)):
            own = sorted((run for run in runs if run.rung == rung), key=lambda run: run.settings["objects"])
            boxes = [run.settings["objects"] for run in own]
            ms = np.array([1e3 / run.fps for run in own])
            low, high = (
                np.array([_ms(run.fps_interval[side], 1e3 / run.fps) for run in own]) for side in (1, 0)
            )
            marker, colour = MARKERS[i % len(MARKERS)], look.colours[i % len(look.colours)]
            axes.errorbar(
                boxes, ms, [ms - low, high - ms], marker=marker, color=colour, capsize=3, label=rung
            )
            for x, y in ((x, y) for x, y, run in zip(boxes, ms, own, strict=True) if run.noisy):
                axes.plot(x, y, marker, color=colour, markerfacecolor=look.paper, zorder=3)
            words.append(
                f"{rung} "
                + ", ".join(f"{format_number(t)} ms at {b}" for b, t in zip(boxes, ms, strict=True))
            )
        axes.set_xlabel("boxes named per frame (number)")
        axes.set_ylabel("time per frame (ms)")
        counts = {run.settings["objects"] for run in runs}
        axes.set_xticks(sorted({0, *counts}))
        axes.set_xlim(0, 1.04 * max(*counts, 1))  # at the left edge a line tells what no box costs
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        legend_above(axes, columns=3)
        chart.alt_text = "Time per frame against boxes per frame: " + "; ".join(words) + "."
    return chart


def _ms(fps: float, otherwise: float) -> float:
    return 1e3 / fps if 0 < fps < float("inf") else otherwise
