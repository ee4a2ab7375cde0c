"""Speed against accuracy, and speed against what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.font_manager import FontProperties

from labkit import stats
from labkit.errors import UsageError
from labkit.plots.style import Chart, drawing, number, plain_log_ticks, row_labels, set_rows, wide_range
from labkit.records import Run

MARKERS = "osD^vP*X"
METRICS = (
    ("map_50", "mAP at IoU 0.5"),
    ("map", "mAP at IoU 0.5 to 0.95"),
    ("top1", "share of right names (top-1)"),
)
AGREEMENT = "agreement with the reference rung"


def accuracy_of(run: Run, metric: str | None = None) -> tuple[float, tuple[float, float] | None, str]:
    """What a run's answers are worth: value, 95% interval where there is one, and its name.

    Args:
        run: a run.
        metric: key of `Run.accuracy`; without it the first one known, else the agreement
            with the reference rung. Its interval is the entry `<metric>_interval`.
    """
    names = dict(METRICS)
    keys = [metric] if metric else [key for key in names if key in run.accuracy]
    for key in keys:
        if run.accuracy.get(key) is not None:
            bounds = run.accuracy.get(f"{key}_interval")
            return (
                float(run.accuracy[key]),
                None if bounds is None else (bounds[0], bounds[1]),
                names.get(key, key),
            )
    if metric or run.fidelity is None:
        return float("nan"), None, names.get(metric or "", metric or AGREEMENT)
    return run.fidelity.agreement, None, AGREEMENT


def speed_accuracy(runs: Sequence[Run], *, metric: str | None = None, theme: str = "light") -> Chart:
    """Throughput against accuracy with intervals, and the front of rungs that no other one beats.

    The same measure of accuracy is used for all runs: the one asked for, or the first that
    all of them have; runs without it are left out.

    Raises:
        UsageError: no run has that measure.
    """
    metric = metric or next(
        (key for key, _ in METRICS if runs and all(key in run.accuracy for run in runs)), None
    )
    known = runs if metric else [run for run in runs if run.fidelity is not None]
    found = [(run, *(accuracy_of(run, metric) if metric else _agreement(run))) for run in known]
    found = [row for row in found if np.isfinite(row[1])]
    if not found:
        raise UsageError(f"none of the {len(runs)} runs has {metric or 'an agreement or accuracy'} to draw")
    shown = [row[0] for row in found]
    labels = [label.replace("\n", " ") for label in row_labels(shown)]
    with drawing("Speed and accuracy", max(7.0, 0.62 * len(shown)), theme, shown) as (chart, axes, look):
        fps, accuracy = np.array([run.fps for run in shown]), np.array([row[1] for row in found])
        best = stats.is_pareto(fps, accuracy)
        for k, (run, value, bounds, _) in enumerate(found):
            colour = look.colours[k % 6]
            low, high = run.fps_interval
            if np.isfinite(high):
                axes.plot([low, high], [value, value], color=colour, linewidth=1.6)
            if bounds is not None:
                axes.plot([run.fps, run.fps], bounds, color=colour, linewidth=1.6)
            axes.plot(
                run.fps, value, MARKERS[(k // 6 + k) % len(MARKERS)], color=colour, markersize=8, ls="",
                markerfacecolor=look.paper if run.noisy else colour,
                label=labels[k] + ("  (front)" if best[k] else ""),
            )  # fmt: skip
        order = np.argsort(fps[best])
        axes.step(
            fps[best][order], accuracy[best][order], where="pre",
            color=look.faint, linestyle="--", linewidth=1.2, zorder=1,
        )  # fmt: skip
        if wide_range(list(fps)):
            axes.set_xscale("log")
            plain_log_ticks(axes.xaxis, *axes.get_xlim())
        else:
            axes.set_xlim(0, fps.max() * 1.12)
        bottom = min(0.9, accuracy.min() - 0.02) if accuracy.min() > 0.6 else 0.0
        axes.set_ylim(bottom, 1 + 0.06 * (1 - bottom))
        axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= 1.0001])
        axes.set_xlabel("throughput (frames per second)")
        axes.set_ylabel(f"{found[0][3]} (share)")
        axes.grid()
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
        legend.set_title("front: nothing is faster\nand as accurate", FontProperties(size=7.5))
        chart.alt_text = (
            f"Throughput against {found[0][3]}: "
            + "; ".join(
                f"{run.rung} {number(run.fps)} FPS at {value:.3f}{', on the front' if front else ''}"
                for (run, value, _, _), front in zip(found, best, strict=True)
            )
            + "."
        )
    return chart


def roofline(runs: Sequence[Run], *, theme: str = "light") -> Chart:
    """Each run's arithmetic per second as a share of the machine's measured peak, with interval.

    Raises:
        UsageError: no run knows its work per frame and the machine's peak.
    """
    known = [run for run in runs if run.share_of_limit is not None]
    if not known:
        raise UsageError(f"none of the {len(runs)} runs knows its work per frame and the machine's peak")
    with drawing("Share of what this machine can do", len(known), theme, known) as (chart, axes, look):
        for row, run in enumerate(known):
            share = 100 * (run.share_of_limit or 0)
            low, high = (100 * bound / run.fps * share / 100 for bound in run.fps_interval)
            axes.barh(row, share, 0.55, color=look.colours[0], alpha=0.45 if run.noisy else 1, linewidth=0)
            end = share
            if np.isfinite(high):
                axes.plot([low, high], [row, row], color=look.ink, linewidth=1.4, marker="|", markersize=7)
                end = max(end, high)
            text = f"{number(share)}%" + (f" of {_peak(run)}" if _peak(run) else "")
            axes.annotate(text, (end, row), (6, 0), textcoords="offset points", va="center", fontsize=8.5)
        most = max(100 * (run.share_of_limit or 0) for run in known)
        axes.axvline(100, color=look.faint, linewidth=1.2, linestyle="--")
        axes.set_xlim(0, max(most * 1.5, 104))
        set_rows(axes, row_labels(known))
        axes.set_xlabel("share of the measured peak of matrix products in the same precision (%)")
        chart.alt_text = (
            "Share of the machine's measured peak: "
            + "; ".join(f"{run.rung} {number(100 * (run.share_of_limit or 0))}%" for run in known)
            + "."
        )
    return chart


def _agreement(run: Run) -> tuple[float, None, str]:
    return (float("nan") if run.fidelity is None else run.fidelity.agreement), None, AGREEMENT


def _peak(run: Run) -> str:
    peak, precision = run.limit.get("peak_gflops"), run.limit.get("precision")
    return f"{number(peak)} GFLOP/s{f' ({precision})' if precision else ''}" if peak else ""
