"""Accuracy of a rung in words, for plots, tables and pages.

Whether a rung loses too much against its reference is decided where it is examined
(`labkit.bench.accuracy.against`) and stands in its row; here it is only read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from labkit.results.records import Run

METRICS = {
    "map": "mAP at IoU 0.5 to 0.95",
    "map_50": "mAP at IoU 0.5",
    "top1": "share of right names, top-1",
}
"""Measures of accuracy, the strictest first: at IoU 0.5 nearly everything is found, and losses hide."""

AGREEMENT = "agreement with the reference rung"
PRECISION = "mAP@[.5:.95]"
LOSES = "!"
LOSES_WORDS = "loses more than 1 point of mAP, or changes more than 1% of names, against its reference"


def accuracy_of(run: Run, metric: str) -> tuple[float, tuple[float, float] | None]:
    """Accuracy of a run: value (NaN if unknown), and 95% interval where there is one.

    Args:
        run: a run.
        metric: `AGREEMENT`, or a key of `Run.accuracy`, whose interval is the entry `<metric>_interval`.
    """
    if metric == AGREEMENT:
        return float("nan") if run.agreed is None else run.agreed, None
    value, bounds = run.accuracy.get(metric), run.accuracy.get(f"{metric}_interval")
    return float("nan" if value is None else value), None if bounds is None else (bounds[0], bounds[1])


def loses(run: Run) -> bool:
    """True if the evaluation found that it loses too much; False for a rung never evaluated."""
    return bool(run.accuracy.get("loses", False))


def format_loss(run: Run) -> str:
    """Largest loss of a run against its reference; empty where nothing is lost or known.

    A loss is given exactly as it was evaluated: without an interval, from the same scenes.
    """
    losses = {key: run.accuracy.get(f"{key}_loss") or 0.0 for key in METRICS}
    key = max(losses, key=lambda name: losses[name])
    changed = run.accuracy.get("names_changed") or 0.0
    if changed > losses[key] and loses(run):
        return f"{100 * changed:.1f}% of names changed"
    if losses[key] <= 0:
        return ""
    if key == "top1":
        return f"{100 * losses[key]:.1f}% of right names"
    return f"{100 * losses[key]:.1f} points of {PRECISION if key == 'map' else 'mAP@0.5'}"


def format_precision(run: Run) -> str:
    """The precision of the boxes as tables show it: value, mark where it loses, and interval."""
    return _format(run, "map", mark=True)


def format_names(run: Run) -> str:
    """The share of right names as tables show it; it has the mark where there is no precision."""
    return _format(run, "top1", mark=run.accuracy.get("map") is None)


def evaluated_on(runs: Iterable[Run]) -> str:
    """On what accuracy was measured; empty where it was not."""
    drawn: dict[str, None] = {}
    photographs: dict[str, None] = {}
    for run in runs:
        about, task = run.accuracy, run.settings.get("preparation", {}).get("task")
        if about.get("on") == "photographs":
            photographs[f"{about.get('n_images', about.get('n_scenes'))} photographs"] = None
        elif about.get("n_scenes"):
            what = "objects cut from drawn scenes" if task == "classify" else "drawn scenes"
            drawn[f"{about['n_scenes']} {what}"] = None
    parts = [f"the lab's small models, prepared alike, on {' and '.join(drawn)}"] if drawn else []
    parts += [f"the same weights on {' and '.join(photographs)}"] if photographs else []
    return "; ".join(parts)


def describe_losses(runs: Sequence[Run]) -> str:
    """The mark's meaning and which rungs bear it, with what each loses; empty if none does."""
    lost = [f"{run.rung} {format_loss(run)}".rstrip() for run in runs if loses(run)]
    return f"{LOSES}: {LOSES_WORDS} ({'; '.join(dict.fromkeys(lost))})" if lost else ""


def _format(run: Run, metric: str, *, mark: bool) -> str:
    value, bounds = accuracy_of(run, metric)
    if math.isnan(value):
        return "-"
    sign = LOSES if mark and loses(run) else ""
    shown = f"{100 * value:.1f}%" if metric == "top1" else f"{value:.3f}"
    if bounds is None or metric == "top1":
        return shown + sign
    return f"{shown}{sign} ({bounds[0]:.3f} to {bounds[1]:.3f})"
