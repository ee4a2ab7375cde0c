"""One look for all figures: readable in print and on screen, on light and dark pages, for all eyes."""

from __future__ import annotations

import base64
import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from labkit.core.errors import UsageError
from labkit.results.plots.labels import LOSES, LOSES_WORDS, loses
from labkit.results.records import Comparison, Run, describe_disturbances

PAPER, INK, FAINT, GRID = "#F6F7F8", "#1A1A1A", "#5A5E63", "#D0D3D8"
"""A chart is a card of its own paper with an edge, so it is the same on a white page and on a black one.

A transparent one cannot be: no ink has a contrast of 4.5 to 1 with white and with #111."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Colours that people with any kind of colour vision tell apart (M. Okabe and K. Ito, 2008)."""

WIDTH_IN, PAD_IN = 8.2, 0.2
ROW_IN = 0.42
LABEL_CHARACTERS = 26
CAPTION_CHARACTERS = 105


class Chart(Figure):
    """A figure on a card that can say in words what it shows.

    Attributes:
        title: what it is about, in a few words.
        alt_text: what it shows, for those who cannot see it.
    """

    title: str = ""
    alt_text: str = ""

    def __init__(self, **settings: Any) -> None:
        super().__init__(facecolor=PAPER, edgecolor=GRID, linewidth=2.0, **settings)

    def png(self, dpi: int = 160) -> bytes:
        """The figure as a PNG file's bytes."""
        buffer = io.BytesIO()
        words = {"Title": self.title, "Description": self.alt_text}
        self.savefig(buffer, format="png", dpi=dpi, facecolor=self.get_facecolor(), metadata=words)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """HTML for a notebook: a picture with its alt text."""
        picture = base64.b64encode(self.png()).decode()
        alt = escape(self.alt_text)
        return f'<img src="data:image/png;base64,{picture}" alt="{alt}" style="width: min(100%, 50rem)">'


@contextmanager
def drawing(
    title: str, rows: float, records: Sequence[Run | Comparison], notes: Sequence[str] = ()
) -> Iterator[tuple[Chart, Axes]]:
    """A sheet about some results, with what they were measured on in its caption, and notes after it."""
    if not records:
        raise UsageError(f"there is nothing to draw for {title!r}: no results were given")
    with sheet(title, rows, caption_of(records, notes)) as parts:
        yield parts


@contextmanager
def sheet(title: str, rows: float, caption: str) -> Iterator[tuple[Chart, Axes]]:
    """A chart with one pair of axes, `rows` lines high, under a title and above a caption.

    The settings of matplotlib hold inside only; figures of others keep theirs.
    """
    heading = "\n".join(textwrap.wrap(title, 78))
    head_in, foot_in = 0.4 + 0.22 * heading.count("\n"), 0.4 + 0.15 * caption.count("\n")
    height_in = head_in + foot_in + 1.05 + ROW_IN * max(rows, 2)
    with mpl.rc_context(SETTINGS):
        chart = Chart(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasAgg(chart)
        chart.title = title
        engine: Any = chart.get_layout_engine()
        left, top = PAD_IN / WIDTH_IN, PAD_IN / height_in
        engine.set(rect=(left, foot_in / height_in, 1 - 2 * left, 1 - (head_in + foot_in) / height_in))
        chart.text(left, 1 - top, heading, fontsize=12, weight="bold", va="top")
        chart.text(left, top, caption, fontsize=7.5, color=FAINT, va="bottom")
        yield chart, chart.add_subplot()
        chart.canvas.draw()  # the layout is found now, under these settings, and then kept
        chart.set_layout_engine("none")


def as_caption(parts: Sequence[str]) -> str:
    """Caption of a chart: workload, machine and date, wrapped."""
    return "\n".join(textwrap.wrap("; ".join(map(plain, parts)), CAPTION_CHARACTERS, break_long_words=True))


def caption_of(records: Sequence[Run | Comparison], notes: Sequence[str] = ()) -> str:
    """Weights, scenario, source and machine of what is drawn, then notes, wrapped; nothing is left out."""
    runs = [record for record in records if isinstance(record, Run)]
    pairs = [record for record in records if isinstance(record, Comparison)]
    weights = sorted({str(record.settings.get("weights", "unknown")) for record in records})
    sources = {str(record.source.get("spec", "unknown source")) for record in records}
    parts = [
        " and ".join(weights) + f" weights{' (names mean nothing)' if 'random' in weights else ''}",
        " and ".join(sorted({run.scenario for run in runs})),
        "quick: shortened, for a first look only" if any(record.quick for record in records) else "",
        plain(sources.pop() if len(sources) == 1 else "several sources"),
        " and ".join(sorted({plain(record.machine) for record in records})),
        "~ (hollow or pale): noisy" if any(run.noisy for run in runs) else "",
        f"{LOSES}:\N{NO-BREAK SPACE}{LOSES_WORDS}" if any(map(loses, runs)) else "",
        describe_disturbances(pairs),
        *notes,
    ]
    return as_caption([part for part in parts if part])


def plain(text: str) -> str:
    """Text without signs that do not print."""
    return "".join(
        c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def row_labels(runs: Sequence[Run]) -> list[str]:
    """One label per run, wrapped: name; pace, number or place where a rung comes twice; signs of doubt."""
    seen = Counter(run.rung for run in runs)
    alike = Counter((run.rung, run.fed) for run in runs)
    labels = []
    for place, run in enumerate(runs, 1):
        mark = f" {run.fed}" if seen[run.rung] > 1 else ""
        mark = f" #{run.id or place}" if alike[run.rung, run.fed] > 1 else mark
        signs = f"{' ~' if run.noisy else ''}{f' {LOSES}' if loses(run) else ''}"
        labels.append(wrapped(f"{run.rung}{mark}{signs}"))
    return labels


def wrapped(text: str) -> str:
    """Text in one line of `LABEL_CHARACTERS` or two; what is too long loses its middle."""
    width = LABEL_CHARACTERS
    text = shortened(text, 2 * width - 4)
    if len(text) <= width:
        return text
    # Both lines fit wherever the cut is; a sign that words end with is the better place.
    cut = max(text.rfind(c, len(text) - width - 1, width) + 1 for c in " _-/") or width
    return text[:cut].rstrip() + "\n" + text[cut:]


def shortened(text: str, most: int) -> str:
    """Text of at most `most` characters, without its middle where it is longer."""
    text = plain(text)
    if len(text) <= most:
        return text
    return text[: most // 2] + "…" + text[len(text) - (most - 1 - most // 2) :]


def draw_interval(axes: Axes, interval: tuple[float, float], row: float) -> None:
    """An interval as a line with ends; nothing where it has no upper bound."""
    if np.isfinite(interval[1]):
        axes.plot(interval, [row, row], color=INK, linewidth=1.4, marker="|", markersize=8)


MARKERS = "os^Dv*"


def draw_series(
    axes: Axes,
    k: int,
    x: Sequence[float],
    y: Sequence[float],
    bounds: Sequence[tuple[float, ...]],
    noisy: Sequence[bool],
    label: str,
    ls: str = "none",
) -> str:
    """The k-th series of points with their intervals, noisy ones hollow; returns its colour."""
    marker, colour = MARKERS[k % len(MARKERS)], COLOURS[k % len(COLOURS)]
    errors = np.abs(np.transpose(bounds) - np.asarray(y))
    axes.errorbar(x, y, errors, marker=marker, color=colour, capsize=3, label=label, ls=ls)
    hollow = np.flatnonzero(noisy)
    face = {"markerfacecolor": PAPER, "zorder": 3}
    axes.plot(np.take(x, hollow), np.take(y, hollow), marker, color=colour, **face)  # type: ignore[arg-type]
    return colour


def write_beside(axes: Axes, text: str, at: tuple[float, float], right: float = 6, **options: Any) -> None:
    """A text to the right of a point."""
    options = {"va": "center", "fontsize": 8.5, "textcoords": "offset points", **options}
    axes.annotate(text, at, (right, 0), **options)


def ink_on(colour: str) -> str:
    """The paper's colour or the ink's, whichever stands out more on a colour."""
    red, green, blue = to_rgb(colour)
    return PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 0.46 else INK


def listed(parts: Iterable[str]) -> str:
    """Parts of an alt text as one sentence."""
    return "; ".join(parts) + "."


def set_rows(axes: Axes, labels: Sequence[str]) -> None:
    """One row per label from top to bottom, with room for each."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def wide_range(values: Sequence[float], factor: float = 15) -> bool:
    """True if values differ so much that only a logarithmic axis shows them all."""
    positive = [value for value in values if value > 0 and np.isfinite(value)]
    return len(positive) == len(values) > 1 and max(positive) > factor * min(positive)


def plain_log_ticks(axis: Axis, low: float, high: float, unit: str = "") -> None:
    """Round numbers as ticks of a logarithmic axis, nine at most, without powers of ten."""
    decade = 10.0 ** np.floor(np.log10(high))
    if high / low < 3:  # evenly spaced numbers
        choices = [decade * step * np.arange(1, 10 / step + 1) for step in (0.05, 0.1, 0.2, 0.5, 1)]
    else:
        decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
        choices = [
            np.outer(decades, steps).ravel() for steps in ([1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1])
        ]
    for ticks in choices:
        ticks = np.round(ticks[(ticks >= low / 1.01) & (ticks <= high * 1.01)], 9)
        if len(ticks) <= 9:
            break
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{unit}"))
    axis.set_minor_locator(NullLocator())


def legend_above(axes: Axes, handles: Sequence[Any] | None = None, columns: int = 4) -> None:
    """A legend over the plot, at its right end, outside it."""
    given = {} if handles is None else {"handles": handles}
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0.2, **given)


SETTINGS: Any = {
    "axes.facecolor": PAPER,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelsize": 9.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "font.family": ["DejaVu Sans"],
    "hatch.color": PAPER,
    "hatch.linewidth": 1.2,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}
"""Of matplotlib, while a chart is drawn."""
