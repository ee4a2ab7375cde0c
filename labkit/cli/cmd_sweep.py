"""`labkit sweep`: a grid of measurements, on one machine or a Ray cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from labkit.cli.options import JsonOption, QuickOption, RungNames, parse_size, work_options
from labkit.core.errors import EXIT_INTERRUPTED, ResultsError, UnavailableError, UsageError
from labkit.fleet.sweep.point import SweepProgress

if TYPE_CHECKING:
    from rich.table import Table

    from labkit.fleet.sweep.grid import Grid
    from labkit.fleet.sweep.point import Point
    from labkit.fleet.sweep.run_sweep import SweepResult
    from labkit.results.records import Run
    from labkit.results.store import Store
    from labkit.results.sweeps import SweepPoint

OPTIONAL = ("agrees", "95% interval", "boxes", "scenario", "n", "size")
"""Columns that a narrow terminal does without, the first first."""


@work_options(without=("size", "objects", "detector", "classifier"))
def sweep(
    rung: RungNames = None,
    size: Annotated[str, typer.Option(metavar="WxH,...", help="Sizes of the frames in px.")] = "640x480",
    objects: Annotated[str, typer.Option(metavar="N,...", help="Best boxes kept per frame.")] = "5",
    scenario: Annotated[str, typer.Option(metavar="NAME,...", help="closed, paced.")] = "closed",
    fps: Annotated[float | None, typer.Option(help="Rate at which paced frames fall due.")] = None,
    repeats: Annotated[int, typer.Option(help="Measurements of each point.")] = 1,
    quick: QuickOption = False,
    seconds: Annotated[float | None, typer.Option(help="Length of each timed run.")] = None,
    accuracy: Annotated[bool, typer.Option(help="Also measure accuracy on scenes.")] = False,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray cluster, or auto; default: this machine.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the sweep; default: from its grid.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure all anew, under a new name.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also measure what failed.")] = False,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Serve Ray's dashboard here.")] = False,
    as_json: JsonOption = False,
    **work: Any,
) -> None:
    """Measure rungs over sizes, boxes and scenarios; a sweep that was stopped is resumed."""
    from labkit.bench.accuracy import FULL_SCENES, QUICK_SCENES
    from labkit.fleet.sweep.grid import Grid
    from labkit.pipelines.ladder import select_rungs

    grid = Grid(
        rungs=[one.name for one in select_rungs(rung or ())],
        sizes=[parse_size(part) for part in parts(size, "--size")],
        objects=[_to_int(part) for part in parts(objects, "--objects")],
        scenarios=parts(scenario, "--scenario"),
        fps=fps,
        seconds=seconds,
        quick=quick,
        repeats=repeats,
        timeouts_s=(work.pop("open_timeout"), work.pop("read_timeout")),
        **work,
        scenes=(QUICK_SCENES if quick else FULL_SCENES) if accuracy else 0,
    )
    result = _measured(grid, name, again, address=address, retry_failed=retry_failed, dashboard=dashboard)
    if as_json:
        for point, row, run in result.rows:
            print(json.dumps(_to_json(point, row, run), default=str))
    else:
        show(result)
    if not result.runs:
        raise UnavailableError(f"no point was measured: {'; '.join({why for _, why in result.failed})}")
    if result.notes:
        raise ResultsError("; ".join(result.notes))


def parts(text: str, option: str) -> list[str]:
    """Split a list such as 320x240,640x480; drops repetitions."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise UsageError(f"{option} must be a list with commas, such as a,b; not {text!r}")
    return list(dict.fromkeys(found))


def show(result: SweepResult) -> None:
    """Print the table, its legend and the failures, in at most 80 columns."""
    from labkit.bench.progress import out, print_lines, print_table
    from labkit.results.report.machines import machines

    if result.runs:
        out.print()
        print_table(_table(result), OPTIONAL)
        out.print()
        there = machines(result.runs)
        print_lines((f"{each.letter}: {each.name}" for each in there), style="dim")
        print_lines(
            ["n: runs; of several, the median and the outermost bounds. agrees: detections",
             "also found by the reference rung. ~: noisy, labkit results show ID says why"],
            style="dim",
        )  # fmt: skip
    if result.failed:
        print_lines(["", "Not measured:"], style="bold")
        reasons: dict[str, list[str]] = {}
        for point, why in result.failed:
            reasons.setdefault(why, []).append(str(point))
        for why, points in reasons.items():
            print_lines([f"  {why}", *(f"    {point}" for point in points)])
        print_lines(["  --retry-failed measures them again"])
    print_lines(["", f"sweep {result.name}: {len(result.runs)} points measured, {len(result.failed)} failed"])


class _Bar(SweepProgress):
    """Progress bar of a sweep with the time to go."""

    def __init__(self) -> None:
        from labkit.bench.progress import err

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("to go"),
            console=err,
            transient=True,
            speed_estimate_period=24 * 3600,  # estimate from all points, since one may take minutes
        )
        self._task = self._progress.add_task("measuring", total=None)
        self.total, self.kept = 0, 0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def planned(self, total: int, stored: int) -> None:
        """Set the length of the bar to the number of points that are not stored yet."""
        self.total, self.kept = total, stored
        self._progress.update(self._task, total=total - stored)
        if stored:
            self.note(f"{stored} of {total} points are there from before")

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        from labkit.bench.progress import print_lines

        print_lines([text], style="yellow", console=self._progress.console)

    def stored(self, point: Point, row: SweepPoint, run: Run | None) -> None:
        """Print the point's FPS, or why it failed."""
        from labkit.bench.progress import print_lines
        from labkit.results.format import format_number

        self.kept += 1
        self._progress.advance(self._task)
        if run is not None:
            print_lines([f"{point}: {format_number(run.fps)} FPS"], console=self._progress.console)
        elif row.reason is not None:
            self.note(f"{point}: {row.reason}")


def _measured(
    grid: Grid, name: str | None, again: bool, *, address: str | None, retry_failed: bool, dashboard: bool
) -> SweepResult:
    """Run the sweep in the user's store; after Ctrl-C, print what is kept and how to resume."""
    from labkit.bench.progress import err, print_lines
    from labkit.fleet.sweep.run_sweep import sweep as run_sweep
    from labkit.fleet.sweep.run_sweep import unused_name
    from labkit.results.saving import store_or_spare
    from labkit.results.store import default_path

    with store_or_spare(default_path()) as (store, refusal), _Bar() as bar:
        name = unused_name(store, name or grid.name) if again else name or grid.name
        try:
            result = run_sweep(
                grid, store=store, name=name, address=address, retry_failed=retry_failed,
                dashboard=dashboard, progress=bar,
            )  # fmt: skip
            if refusal is None:
                return result
            return replace(result, notes=(*result.notes, _unsaved(store, refusal)))
        except KeyboardInterrupt:
            kept = f"{bar.kept} of {bar.total} points are kept in {store.path}"
            way = f"the same command with --name {name}, without --again," if again else "the same command"
            stopped = f"labkit: stopped; {kept}; {way} resumes"
            if refusal is not None:
                stopped = f"labkit: stopped; {_unsaved(store, refusal)}"
    print_lines([stopped], console=err)
    raise typer.Exit(EXIT_INTERRUPTED)


def _unsaved(spare: Store, refusal: ResultsError) -> str:
    note = f"the sweep could not be saved: {refusal}"
    if not spare.runs():
        return note
    return f"{note}. It is in {spare.path}; to save its runs: labkit results add {spare.path}"


def _table(result: SweepResult) -> Table:
    """Format one row per point and machine, with repetitions combined."""
    from labkit.bench.progress import plain_table
    from labkit.results.format import format_number, format_percent
    from labkit.results.report.machines import figure, machines

    there = machines(result.runs)
    figures = ("size", "boxes", "scenario", "on", "n", "FPS", "95% interval", "agrees", "")
    table = plain_table("rung", *figures)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for point, runs in _group_repeats(result).items():
        width, height = point.workload.size
        for machine in there:
            mine = [run for run in runs if machine.has(run)]
            if not mine:
                continue
            cell = figure(mine)
            rate = f" {point.fps:g}" if point.fps else ""
            table.add_row(
                escape(point.rung),
                f"{width}x{height}",
                str(mine[0].settings.get("objects", "-")),
                f"{point.scenario}{rate}",
                machine.letter,
                str(cell.n),
                format_number(cell.fps),
                "too few"
                if cell.interval is None
                else "-".join(format_number(bound) for bound in cell.interval),
                format_percent(cell.agreement),
                "~" if cell.noisy else "",
            )
    return table


def _group_repeats(result: SweepResult) -> dict[Point, list[Run]]:
    """Group runs by point, whatever their repetition."""
    found: dict[Point, list[Run]] = {}
    for point, _, run in result.rows:
        if run is not None:
            found.setdefault(point.first_repeat, []).append(run)
    return found


def _to_json(point: Point, row: SweepPoint, run: Run | None) -> dict[str, object]:
    return {
        "sweep": row.sweep,
        "point": row.point,
        "about": point.describe(),
        "reason": row.reason,
        "run": None if run is None else run.to_json(),
    }


def _to_int(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"--objects must be a list of whole numbers, such as 1,5,20; {text!r} is not one")
    return int(text)
