"""The roofline of a machine, with the rungs on it (Williams, Waterman and Patterson, 2009)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from labkit.core.errors import UsageError
from labkit.results.format import format_number
from labkit.results.plots.style import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    Chart,
    drawing,
    listed,
    plain_log_ticks,
    row_labels,
)
from labkit.results.records import Run

PRECISIONS = {"fp32": "o", "bf16": "s", "fp16": "D", "int8": "^"}
ROOM = 1.6  # factor that the axes go beyond what is drawn


def has_ceiling(run: Run) -> bool:
    """True if a run has its work, its bytes and the peaks of its machine, which it does not beat."""
    wanted = ("gflop_per_frame", "mb_per_frame", "peak_gflops")
    known = all(run.limit.get(key) for key in wanted) and run.limit.get("peaks", {}).get("copy_gb_s")
    return bool(known) and not run.beats_peak


def intensity(run: Run) -> float:
    """Arithmetic per byte that has to be moved, in FLOP per byte."""
    return 1e3 * run.limit["gflop_per_frame"] / run.limit["mb_per_frame"]


def _reached(run: Run) -> float:
    """Arithmetic per second, in GFLOP."""
    return run.fps * float(run.limit["gflop_per_frame"])


def roofline(runs: Sequence[Run]) -> Chart:
    """Arithmetic per second against arithmetic per byte, under the roofs of the machine.

    The slanted roof is what memory allows, a level one what arithmetic in a precision allows. Bytes
    are the least that a frame moves (weights once, and the frame), so points stand as far to the right
    as they can. The legend has the order of the points, the fastest arithmetic first.

    Raises:
        UsageError: no run knows its work, its bytes and the machine's peaks.
    """
    known = sorted((run for run in runs if has_ceiling(run)), key=_reached, reverse=True)
    if not known:
        raise UsageError(f"none of the {len(runs)} runs knows its work, its bytes and the machine's peaks")
    notes = ["bytes: every weight once per pass, and the frame; what passes between layers is left out"]
    title = "Roofline of this machine"
    with drawing(title, max(9.0, 0.62 * len(known) + 3), known, notes) as (chart, axes):
        peaks = {k: max(run.limit["peaks"].get(k, 0.0) for run in known) for k in (*PRECISIONS, "copy_gb_s")}
        roofs = {precision: peaks[precision] for precision in PRECISIONS if peaks[precision]}
        reached = [_reached(run) for run in known]
        low = min([intensity(run) for run in known] + [peak / peaks["copy_gb_s"] for peak in roofs.values()])
        right = ROOM * max(intensity(run) for run in known)
        _roofs(axes, roofs, peaks["copy_gb_s"], (low / ROOM, right))
        for k, (run, label) in enumerate(zip(known, row_labels(known), strict=True)):
            _point(axes, k, run, label.replace("\n", " "))
        axes.set_xscale("log")
        axes.set_yscale("log")
        limits = (low / ROOM, right), (min(reached) / ROOM, ROOM * max(roofs.values()))
        for axis, bounds in zip((axes.xaxis, axes.yaxis), limits, strict=True):
            plain_log_ticks(axis, *bounds)
        axes.set(xlim=limits[0], ylim=limits[1])
        axes.set_xlabel("arithmetic per byte moved (FLOP per byte, logarithmic)")
        axes.set_ylabel("arithmetic (GFLOP per second, logarithmic)")
        axes.grid()
        shapes = [
            Line2D([], [], ls="", marker=PRECISIONS[p], color=FAINT, label=f"computes in {p}")
            for p in dict.fromkeys(run.limit["precision"] for run in known)
        ]
        handles = [*axes.get_legend_handles_labels()[0], *shapes]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
        heights = ", ".join(f"{format_number(peak)} GFLOP/s in {name}" for name, peak in roofs.items())
        places = [
            f"{run.rung} {format_number(rate)} GFLOP/s at {format_number(intensity(run))} FLOP per byte"
            for run, rate in zip(known, reached, strict=True)
        ]
        chart.alt_text = (
            f"Roofs: {format_number(peaks['copy_gb_s'])} GB/s, {heights}. Rungs: {listed(places)}"
        )
    return chart


def _roofs(axes: Axes, roofs: dict[str, float], copy_gb_s: float, span: tuple[float, float]) -> None:
    top = max(roofs.values())
    slope = np.array([span[0], top / copy_gb_s])
    axes.plot(slope, slope * copy_gb_s, color=INK, linewidth=1.4)
    axes.annotate(
        f"memory: {format_number(copy_gb_s)} GB/s", (slope[1], top), (8, 8), textcoords="offset points",
        fontsize=8.5, color=FAINT, ha="left",
    )  # fmt: skip
    for precision, peak in roofs.items():
        axes.plot([peak / copy_gb_s, span[1]], [peak, peak], color=INK, linewidth=1.4)
        axes.annotate(
            f"{precision}: {format_number(peak)}", (span[1], peak), (-4, 4), textcoords="offset points",
            fontsize=8.5, ha="right",
        )  # fmt: skip


def _point(axes: Axes, k: int, run: Run, label: str) -> None:
    colour, x, work = COLOURS[k % 6], intensity(run), run.limit["gflop_per_frame"]
    low, high = run.fps_interval
    if np.isfinite(high):
        axes.plot([x, x], [low * work, high * work], color=colour, linewidth=1.6, alpha=0.8)
    axes.plot(
        x, _reached(run), PRECISIONS.get(run.limit["precision"], "x"), color=colour, markersize=8, ls="",
        markerfacecolor=PAPER if run.noisy else colour,
        label=f"{label}  {format_number(100 * (run.share_of_limit or 0))}%",
    )  # fmt: skip
