"""Accuracy lost by each change, on clean and on noisy scenes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from labkit.core.errors import UsageError
from labkit.results.ablation import NAMES, POINT, AblationRow
from labkit.results.plots.style import (
    COLOURS,
    FAINT,
    Chart,
    as_caption,
    legend_above,
    set_rows,
    sheet,
    wrapped,
)

MAP = NAMES["map"]
MARKERS = "osD^v"
TICKS = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)


def robustness(rows: Sequence[AblationRow], *, about: str = "") -> Chart:
    """Points lost by each change, with their intervals; one marker per strength of noise.

    The axis is even up to two points, where most changes lie, and logarithmic beyond.

    Args:
        rows: the unchanged network first; it is the zero of the axis.
        about: machine, for the caption.

    Raises:
        UsageError: there is no change to draw.
    """
    changes = list(dict.fromkeys(row.change for row in rows))[1:]
    if not changes:
        raise UsageError("there is nothing to draw: no change was evaluated beside the unchanged network")
    noises = sorted({row.noise for row in rows})
    zero = "; ".join(f"{row.map} {_noise(row.noise)}" for row in rows if row.change not in changes)
    scenes = f"{rows[0].n_scenes} drawn scenes that training never saw"
    scale = "axis even up to 2 points, logarithmic beyond"
    caption = [f"{rows[0].change}: {MAP} is {zero}", scenes, "the lab's small models", scale]
    caption += [about] if about else []
    known = any(row.lost_map.low is not None for row in rows)
    title = "What a change costs in accuracy" + (", with 95% intervals" if known else "")
    with sheet(title, 1.3 * len(changes), as_caption(caption)) as (chart, axes):
        axes.set_xscale("symlog", linthresh=2, linscale=1.2)
        axes.axvline(0, color=FAINT, linewidth=1)
        for k, noise in enumerate(noises):
            colour, shift = COLOURS[k % 6], 0.24 * (k - (len(noises) - 1) / 2)
            for row in (row for row in rows if row.noise == noise and row.change in changes):
                y, lost = changes.index(row.change) + shift, row.lost_map
                if lost.low is not None and lost.high is not None:
                    axes.plot([lost.low / POINT, lost.high / POINT], [y, y], color=colour, linewidth=1.6)
                axes.plot(
                    lost.value / POINT, y, MARKERS[k % 5], color=colour, markersize=6.5, ls="",
                    label=_noise(noise) if row.change == changes[0] else None,
                )  # fmt: skip
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -1.2), max(high, 1.2))
        axes.xaxis.set_major_locator(
            FixedLocator([tick for tick in TICKS if low <= tick <= high or abs(tick) <= 1])
        )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        set_rows(axes, [wrapped(change) for change in changes])
        axes.set_xlabel(f"lost, {MAP} (points; below 0: gained)")
        legend_above(axes)
        words = " ".join(_words(rows, change) for change in changes)
        chart.alt_text = f"Points lost, {MAP}. {words}"
    return chart


def _words(rows: Sequence[AblationRow], change: str) -> str:
    some = (f"{r.lost_map.points} {_noise(r.noise)}" for r in rows if r.change == change)
    return f"{change}: {'; '.join(some)}."


def _noise(noise: float) -> str:
    return "clean" if noise == 0 else f"with noise of {noise:g} grey levels"
