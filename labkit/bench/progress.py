"""Progress and results in the terminal: bars, tables of 80 columns, lines of text."""

from __future__ import annotations

import html
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from labkit.core.errors import UsageError
from labkit.core.interrupt import Interrupted
from labkit.core.terminal import print_text, printable
from labkit.results.format import format_number, format_percent
from labkit.results.records import Comparison, Run

NOTE_STYLE = "#c75000"
"""Colour of doubts, readable on white and on black: a notebook shows terminal yellow as olive."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Reporter:
    """Receives the progress of a benchmark; this one is silent."""

    def step(self, text: str) -> None:
        """Begins a new step."""

    def progress(self, share: float) -> None:
        """Updates the finished share of the step, from 0 to 1."""

    def note(self, text: str) -> None:
        """Shows one line to the user."""

    def finished(self, result: Run | Comparison) -> None:
        """Receives a finished result, with its id if it was stored."""


class ProgressBar(Reporter):
    """A progress bar on standard error."""

    def __init__(self, console: Console = err) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("starting", total=1.0)
        self._shown: set[str] = set()
        self.saved = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        """A new step, with an empty bar."""
        self._progress.start()
        self._progress.reset(self._task, description=escape(printable(text)), total=1.0)

    def progress(self, share: float) -> None:
        """Fills the bar."""
        self._progress.update(self._task, completed=share)

    def note(self, text: str) -> None:
        """A line above the bar; the same one is shown once."""
        if text in self._shown:
            return
        self._shown.add(text)
        print_lines([text], style=NOTE_STYLE, console=self._progress.console)

    def finished(self, result: Run | Comparison) -> None:
        """A line with the result's main figure."""
        self.saved += result.id is not None
        if isinstance(result, Run):
            print_lines([str(result)], console=self._progress.console)


class NotebookProgress(Reporter):
    """One line of progress under a notebook's cell; notes and results stay above it."""

    def __enter__(self) -> NotebookProgress:
        from IPython.display import HTML, display

        self._html = HTML
        self._step, self._share = "starting", 0.0
        self._notes: set[str] = set()
        self._kept: list[str] = []
        self._line = display(HTML(""), display_id=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._line.update(self._html(""))
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            kept = ", ".join(dict.fromkeys(self._kept))
            rest = f"kept (labkit.results() shows them): {kept}" if kept else "nothing was measured yet"
            raise Interrupted(f"stopped at {self._step!r}; {rest}") from None

    def step(self, text: str) -> None:
        """A new step, with an empty bar."""
        self._step, self._share = text, 0.0
        self._show()

    def progress(self, share: float) -> None:
        """Fills the bar, in steps of a twentieth: each one is a message to the page."""
        if share - self._share >= 0.05:
            self._share = share
            self._show()

    def note(self, text: str) -> None:
        """A line that stays; the same one is shown once."""
        if text not in self._notes:
            self._notes.add(text)
            print_text(text)

    def finished(self, result: Run | Comparison) -> None:
        """A line that stays, with the run's main figure."""
        if result.id is not None:
            self._kept.append(result.rung if isinstance(result, Run) else f"{result.b} vs {result.a}")
        if isinstance(result, Run):
            print_text(str(result))

    def _show(self) -> None:
        bar = f'<progress value="{self._share:.2f}" max="1"></progress>'
        self._line.update(self._html(f"{bar} {html.escape(self._step)}"))


def shown_progress(given: Reporter | None = None) -> AbstractContextManager[Reporter]:
    """The given reporter; without one a line under the cell in a notebook, else a bar in the terminal."""
    if not isinstance(given, Reporter | None):
        raise UsageError(f"progress is a Reporter that hears of steps and results, not {given!r}")
    if given is not None:
        return nullcontext(given)
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return NotebookProgress() if hasattr(shell, "kernel") else ProgressBar()


COLUMNS = (
    "rung", "fed", "FPS", "95% interval", "p50", "p90", "p99", "J", "agrees", "mAP", "names", "limit",
)  # fmt: skip


OPTIONAL = ("limit", "names", "95% interval", "p90", "agrees", "mAP", "J", "p99", "p50")
"""Columns that a narrow terminal does without, the first first."""


def runs_table(runs: Sequence[Run]) -> Table:
    """Runs as a table of at most 80 columns; columns in which nothing is known are left out."""
    rows = [_cells(run) for run in runs]
    shown = [k for k in range(len(COLUMNS)) if not rows or any(row[k] != "-" for row in rows)]
    table = plain_table(*(COLUMNS[k] for k in shown))
    for row in rows:
        table.add_row(*(escape(row[k]) for k in shown))
    return table


def rows_table(columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> Table:
    """A table for the terminal: floats with three significant digits, "-" for what is not known."""
    cells = [list(row) for row in rows]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    for k, name in enumerate(columns):
        texts = any(isinstance(row[k], str) for row in cells)
        table.add_column(str(name), justify="left" if texts else "right", no_wrap=True)
    for row in cells:
        table.add_row(*(escape(_shown(value)) for value in row))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else ""
    return format_number(value) if value is None or isinstance(value, float) else str(value)


def _cells(run: Run) -> list[str]:
    low, high = run.fps_interval
    return [
        run.rung,
        run.fed if run.scenario == "paced" else "-",
        format_number(run.fps) + run.doubt,
        f"{format_number(low)}-{format_number(high)}" if np.isfinite(high) else "too few",
        *(format_number(run.percentile_ms(q)) for q in (50, 90, 99)),
        format_number(run.joules_per_frame),
        format_percent(run.agreed),
        format_number(run.accuracy.get("map")) + ("!" if run.accuracy.get("loses") else ""),
        format_percent(run.accuracy.get("top1")),
        format_percent(run.share_of_limit),
    ]


def legend(runs: Sequence[Run]) -> list[str]:
    """Explanation of the table's figures, in lines of at most 80 columns."""
    if not runs:
        return []
    first, kinds = runs[0], ", ".join(sorted({str(run.settings.get("weights")) for run in runs}))
    width, height = first.settings.get("size", ("?", "?"))
    paced = [run for run in runs if run.scenario == "paced"]
    no_energy = dict.fromkeys(filter(None, (run.why_no_energy for run in paced)))
    unjudged = dict.fromkeys(run.agreement.unjudged for run in runs if run.agreement is not None)
    return [
        f"{first.scenario}{', quick' if first.quick else ''}; {first.source.get('spec')} {width}x{height}, "
        f"{first.settings.get('model_set')} models, {kinds} weights",
        first.machine,
        "p50, p90, p99: latency in ms. ~: noisy, labkit results show ID says why",
        *(["fed: frames fell due at that rate, as from a camera; -: as fast as it can."] if paced else []),
        *(["J: energy per frame."] if any(run.joules_per_frame is not None for run in runs) else []),
        *(f"energy per frame is not measurable here: {reason}" for reason in no_energy),
        "agrees: detections also found by the reference rung. mAP@[.5:.95] and names:",
        "accuracy on scenes with the lab's small models, prepared alike;",
        "!: loses over a point of mAP or changes over 1% of names against its reference.",
        *_photographs(runs),
        "limit: share of this machine's measured peak. -: too few frames, or not asked.",
        *(f"{run.rung}: {run.settings['fallback']}" for run in runs if run.settings.get("fallback")),
        *(line for reason in unjudged for line in textwrap.wrap(reason, 80)),
    ]


def _photographs(runs: Sequence[Run]) -> list[str]:
    """Photographs on which detectors were evaluated, if any."""
    evaluated = [run.accuracy for run in runs if run.accuracy.get("on") == "photographs"]
    if not evaluated:
        return []
    about = evaluated[0]
    return [
        f"but mAP of what finds boxes: on {about['n_images']} photographs of",
        f"{shortened(about['annotations'], 54)}, with the weights above.",
    ]


def shortened(text: str, most: int) -> str:
    """Text of at most `most` characters, cut at its end where it is longer."""
    return text if len(text) <= most else text[: most - 3] + "..."


def plain_table(first: str, *others: str) -> Table:
    """A table without lines, whose first column holds names and whose others hold figures."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def print_lines(lines: Iterable[Any], *, style: str | None = None, console: Console = out) -> None:
    """Prints lines of plain text, nothing in them being markup or a control character.

    A terminal wraps them at its width; into a file or a pipe they go whole.
    """
    for line in lines:
        text = escape(printable(str(line)))
        console.print(text, style=style, soft_wrap=not console.is_terminal)


def print_table(table: Table, optional: Sequence[str | tuple[str, ...]] = (), console: Console = out) -> None:
    """Prints a table with every figure whole.

    Args:
        table: whose columns do not wrap.
        optional: headings of columns that a terminal which is too narrow does without, the first first;
            those of a tuple go together.
        console: where to; the table goes as wide as it is into a file or a pipe, and into a terminal
            that has no room for what is left.
    """
    for column in table.columns:
        column._cells = [printable(cell) if isinstance(cell, str) else cell for cell in column._cells]

    def width() -> int:
        return Measurement.get(console, console.options.update(max_width=10_000), table).maximum

    for headings in optional if console.is_terminal else ():
        if width() <= console.width:
            break
        gone = (headings,) if isinstance(headings, str) else headings
        table.columns = [column for column in table.columns if column.header not in gone]
        for place, column in enumerate(table.columns):
            column._index = place
    if width() > console.width or not console.is_terminal:
        console = Console(file=console.file, width=max(width(), console.width), highlight=False)
    console.print(table)
