"""The picture of a training run, drawn from its log."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from labkit.core.errors import UsageError

# column -> what it is called, colour (M. Okabe and K. Ito, 2008), and how it is drawn
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


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Columns of a training log as (step, value) pairs; empty cells are left out.

    Raises:
        UsageError: the file is no training log.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "step" not in rows[0]:
        raise UsageError(f"{path} is no training log: it has no column 'step' or no rows")
    columns = [name for name in rows[0] if name != "step"]
    return {name: [(int(row["step"]), float(row[name])) for row in rows if row[name]] for name in columns}


def draw_curves(logs: dict[str, Path], path: Path) -> Path:
    """Draws losses (above) and scores on held-out scenes (below) of each log into a PNG.

    The words for those who cannot see it stand in the file's description.

    Args:
        logs: title -> log file.
        path: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(logs), 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(logs), squeeze=False, sharex="col")
    words = []
    for column, (title, log) in enumerate(logs.items()):
        series = read_log(log)
        above, below = axes[0][column], axes[1][column]
        _draw(above, series, LOSSES, linewidth=1.0)
        _draw(below, series, SCORES, markersize=4)
        lines = (len(above.lines) + 1) // 2  # of the legend, which the title stands above
        above.set_title(title, loc="left", weight="bold", pad=8 + 15 * lines)
        above.set(ylabel="loss (no unit, logarithmic)", yscale="log")
        _plain_ticks(above)
        below.set(xlabel="training (steps)", ylabel="score of the averaged weights (0 to 1)", ylim=(0, 1.02))
        last = (f"{SCORES[name][0]} {series[name][-1][1]:.3f}" for name in SCORES if series.get(name))
        words.append(f"{title}: losses fall; at last {', '.join(last) or 'no score was taken'}")
    figure.savefig(path, dpi=130, metadata={"Description": "; ".join(words) + "."})
    return path


def _draw(
    axes: Any, series: dict[str, list[tuple[int, float]]], names: dict[str, tuple[str, str, str]], **look: Any
) -> None:
    """One line per column that is there, and a legend above the axes' frame, where no line runs."""
    for name, (label, colour, style) in names.items():
        if series.get(name):
            steps, values = zip(*series[name], strict=True)
            axes.plot(steps, values, style, color=colour, label=label, **look)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False)


def _plain_ticks(axes: Any) -> None:
    """1, 2 and 5 of each power of ten, written without exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
