"""The picture of a training run, drawn from its log."""

from __future__ import annotations

import csv
from pathlib import Path

from labkit.errors import UsageError

LOSSES = ("dense_label", "dense_l1", "dense_giou", "set_label", "set_l1", "set_giou", "label")
SCORES = ("recall", "precision", "mean_iou", "top1")


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

    Args:
        logs: title -> log file.
        path: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(logs), 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(logs), squeeze=False)
    for column, (title, log) in enumerate(logs.items()):
        series = read_log(log)
        above, below = axes[0][column], axes[1][column]
        for name in LOSSES:
            if series.get(name):
                steps, values = zip(*series[name], strict=True)
                above.semilogy(steps, values, linewidth=0.8, label=name)
        for name in SCORES:
            if series.get(name):
                steps, values = zip(*series[name], strict=True)
                below.plot(steps, values, marker=".", label=name)
        above.set(title=title, ylabel="loss")
        below.set(xlabel="step", ylabel="score of the averaged weights", ylim=(0, 1.02))
        for part in (above, below):
            part.grid(alpha=0.3)
            part.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return path
