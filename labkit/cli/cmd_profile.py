"""`labkit profile`: some frames of a rung under nsys, or torch.profiler; where the time goes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.bench.progress import err, out, plain_table, print_lines, print_table
from labkit.cli.options import as_keywords, work_options
from labkit.core.errors import UsageError
from labkit.results.format import format_number, format_percent

if TYPE_CHECKING:
    from rich.table import Table

    from labkit.profiling.profile import Profile

LINES_SHOWN = 8
OPTIONAL = ("reads", "count", "p90", "share", "waiting", "median")
"""Columns that a narrow terminal does without, the first first."""


@work_options()
def profile(
    rung: Annotated[str | None, typer.Argument(help="Name of the rung.")] = None,
    frames: Annotated[int, typer.Option(help="How many frames are watched.")] = 5,
    engine: Annotated[str, typer.Option(help="auto, nsys or torch.")] = "auto",
    install_kernel: Annotated[
        bool, typer.Option("--install-kernel", help="Add the Jupyter kernel that runs under nsys.")
    ] = False,
    **work: Any,
) -> None:
    """Show where a rung's time goes: ranges, hidden waits, timeline, report."""
    if install_kernel:
        return _install_kernel()
    if rung is None:
        raise UsageError("name a rung to profile; labkit rungs lists them")
    from labkit.profiling.variant import profile as profile_rung
    from labkit.results.plots.save import save

    print_lines([f"profiling {frames} frames of {rung}, after a warm-up"], console=err)
    found = profile_rung(rung, frames, engine=engine, **as_keywords(work))
    if found.capture.command:
        print_lines([shlex.join(found.capture.command)])
    _show(found)
    if found.capture.ranges and found.capture.file is not None:
        stem = found.capture.file.with_name(found.capture.file.name.split(".")[0])
        written = save(found.timeline(), stem)
        print_lines([f"timeline: {written[-1]}"])


def _show(found: Profile) -> None:
    print_lines(["", *found.words()])
    if found.capture.ranges:
        out.print()
        print_table(_ranges(found), OPTIONAL)
    if found.capture.reads:
        out.print()
        print_lines(["Lines that make the host read a tensor, most reads first:"], style="bold")
        for row in found.reads().head(LINES_SHOWN).itertuples(index=False):
            print_lines([f"  {row[6]:.4g} per frame  {row[0]}  in {row[3] or 'no range'}"])
            print_lines([f"      {row[1]}"], style="dim")


def _ranges(found: Profile) -> Table:
    from rich.markup import escape

    table = plain_table("range", "count", "CPU ms", "median", "p90", "share", "GPU ms", "waiting", "reads")
    for name, count, total, median, p90, share, gpu, waiting, reads in found.table().itertuples(index=False):
        cells = [_figure(x) for x in (total, median, p90)]
        table.add_row(
            escape(name),
            str(count),
            *cells,
            format_percent(share),
            _figure(gpu),
            _figure(waiting),
            str(reads),
        )
    return table


def _figure(value: float) -> str:
    return format_number(None if value != value else value)  # NaN: not known here


def _install_kernel() -> None:
    from labkit.profiling.kernel import DISPLAY_NAME, install
    from labkit.profiling.profiler import why_not_nsys

    folder: Path = install()
    lines = [f"kernel '{DISPLAY_NAME}' written to {folder}; choose it in JupyterLab, then use %%profile"]
    if reason := why_not_nsys():
        lines.append(f"it cannot start yet: {reason}")
    print_lines(lines)
