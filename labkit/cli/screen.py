"""What the command line shows: tables of 80 columns, progress bars, lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from labkit.bench import Reporter
from labkit.records import Comparison, Run

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Screen(Reporter):
    """Shows a benchmark's steps as a progress bar on standard error."""

    def __init__(self, console: Console = err) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("starting", total=1.0)
        self.saved = 0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        """A new step, with an empty bar."""
        self._progress.start()
        self._progress.reset(self._task, description=escape(text), total=1.0)

    def progress(self, share: float) -> None:
        """Fills the bar."""
        self._progress.update(self._task, completed=share)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(escape(text), style="yellow")

    def finished(self, result: Run | Comparison) -> None:
        """A line with the result's main figure."""
        self.saved += result.id is not None
        if isinstance(result, Run):
            low, high = result.fps_interval
            span = f"{number(low)} to {number(high)}" if np.isfinite(high) else "too few frames to tell"
            line = f"{result.rung}: {number(result.fps)} FPS ({span})"
            self._progress.console.print(escape(line))


def number(value: float | None, digits: int = 3) -> str:
    """A figure with three significant digits and no exponent; "-" for none."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, digits - len(str(int(abs(value)))))}f}"


def percent(value: float | None) -> str:
    """A share as a percentage; "-" for none."""
    return "-" if value is None else f"{100 * value:.0f}%"


def runs_table(runs: Sequence[Run]) -> Table:
    """Runs as a table of at most 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    for heading, justify in (
        ("rung", "left"), ("FPS", "right"), ("95% interval", "right"), ("p50", "right"), ("p90", "right"),
        ("p99 ms", "right"), ("agrees", "right"), ("mAP", "right"), ("names", "right"),
        ("limit", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for run in runs:
        low, high = run.fps_interval
        table.add_row(
            escape(run.rung),
            number(run.fps),
            f"{number(low)}-{number(high)}" if np.isfinite(high) else "too few",
            number(run.percentile_ms(50)),
            number(run.percentile_ms(90)),
            number(run.percentile_ms(99)),
            percent(run.fidelity.agreement if run.fidelity else None),
            number(run.accuracy.get("map_50")),
            percent(run.accuracy.get("top1")),
            percent(run.share_of_limit),
            ("!" if run.accuracy.get("loses") else "") + ("~" if run.noisy else ""),
        )
    return table


def legend(runs: Sequence[Run]) -> list[str]:
    """What the table's figures refer to, in lines of at most 80 columns."""
    if not runs:
        return []
    first = runs[0]
    kinds = ", ".join(sorted({str(run.settings.get("weights")) for run in runs}))
    width, height = first.settings.get("size", ("?", "?"))
    lines = [
        f"{first.scenario}{', quick' if first.quick else ''}; {first.source.get('spec')} {width}x{height}, "
        f"{first.settings.get('model_set')} models, {kinds} weights",
        f"{first.fingerprint.get('cpu')}, {first.fingerprint.get('cores')} cores",
        "agrees: detections also found by the reference rung. mAP, names: accuracy on",
        "scenes with the lab's small models, prepared alike; ! loses over a point of it.",
        "limit: share of this machine's measured peak. -: too few frames, or not asked.",
        "~: noisy, labkit results show ID says why",
    ]
    return lines


def print_lines(lines: Iterable[Any], *, style: str | None = None, console: Console = out) -> None:
    """Prints lines of plain text, nothing in them being markup."""
    for line in lines:
        console.print(escape(str(line)), style=style)
