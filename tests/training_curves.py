"""The picture of a training run, drawn from its log."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from labkit.core.errors import UsageError

# column -> name, colour (M. Okabe and K. Ito, 2008), and look of its line
LOSSES = {
    "dense_label": ("label, dense", "#0072B2", "--"),
    "dense_l1": ("box distance (L1), dense", "#D55E00", "--"),
    "dense_giou": ("box overlap (GIoU), dense", "#009E73", "--"),
    "set_label": ("label, set", "#0072B2", "-"),
    "set_l1": ("box distance (L1), set", "#D55E00", "-"),
    "set_giou": ("box overlap (GIoU), set", "#009E73", "-"),
    "label": ("label", "#0072B2", "-"),
}
SCORES = {
    "recall": ("recall", "#0072B2", "o-"),
    "precision": ("precision", "#D55E00", "s-"),
    "mean_iou": ("mean IoU of what is found", "#009E73", "^-"),
    "top1": ("share of right names", "#0072B2", "o-"),
}


def read_log(path: Path) -> pd.DataFrame:
    """A training log, by step.

    Raises:
        UsageError: the file is no training log.
    """
    log = pd.read_csv(path)
    if log.empty or "step" not in log:
        raise UsageError(f"{path} is no training log: it has no column 'step' or no rows")
    return log.set_index("step")


def draw_curves(logs: dict[str, Path], path: Path) -> Path:
    """Draws losses (above) and scores on held-out scenes (below) of each log, title by title, into a PNG.

    The words for those who cannot see it stand in the file's description.
    """
    figure = Figure(figsize=(5 * len(logs), 7), layout="constrained")
    axes = figure.subplots(2, len(logs), squeeze=False, sharex="col")
    words = []
    for column, (title, file) in enumerate(logs.items()):
        log = read_log(file)
        for row, names in enumerate((LOSSES, SCORES)):
            for name, (label, colour, style) in names.items():
                if name in log:
                    log[name].dropna().plot(ax=axes[row, column], style=style, color=colour, label=label)
            axes[row, column].grid(alpha=0.3)
            axes[row, column].legend(fontsize=8, frameon=False)
        axes[0, column].set(title=title, ylabel="loss (no unit, logarithmic)", yscale="log")
        axes[1, column].set(
            xlabel="training (steps)", ylabel="score of the averaged weights (0 to 1)", ylim=(0, 1.02)
        )
        last = (f"{SCORES[name][0]} {log[name].dropna().iloc[-1]:.3f}" for name in SCORES if name in log)
        words.append(f"{title}: losses fall; at last {', '.join(last) or 'no score was taken'}")
    figure.savefig(path, dpi=130, metadata={"Description": "; ".join(words) + "."})
    return path
