"""Throughput of one rung over all its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from labkit.results.format import format_number
from labkit.results.plots.style import Chart, draw_series, drawing, legend_above
from labkit.results.records import Run


def over_time(rung: str, runs: Sequence[Run], *, label: Callable[[Run], str] = lambda run: "") -> Chart:
    """FPS with its interval for each run in the order of time, one colour per machine.

    Args:
        rung: name, for the title.
        runs: oldest first.
        label: what is written under a run's time, such as the version of its source.
    """
    with drawing(f"{rung}: all runs", 6, runs) as (chart, axes):
        machines = list(dict.fromkeys(run.machine for run in runs))
        for i, machine in enumerate(machines):
            places = [x for x, run in enumerate(runs) if run.machine == machine]
            own = [runs[x] for x in places]
            fps = [run.fps for run in own]
            bounds = [r.fps_interval if np.isfinite(r.fps_interval[1]) else (r.fps, r.fps) for r in own]
            draw_series(axes, i, places, fps, bounds, [run.noisy for run in own], machine, ls=":")
        axes.set_xticks(range(len(runs)))
        axes.set_xticklabels([_tick(run, label) for run in runs], fontsize=7)
        axes.set_ylabel("throughput (frames per second)")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        if len(machines) > 1:
            legend_above(axes, columns=2)
        figures = "; ".join(f"{run.created[:16]} {format_number(run.fps)} FPS" for run in runs)
        chart.alt_text = f"Throughput of {rung} in {len(runs)} runs: {figures}."
    return chart


def _tick(run: Run, label: Callable[[Run], str]) -> str:
    return "\n".join(part for part in (run.created[5:10], run.created[11:16], label(run)) if part)
