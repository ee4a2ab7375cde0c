"""`labkit results`: list, show, export and delete what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.bench.progress import err, print_lines, print_table, rows_table
from labkit.cli.options import JsonOption
from labkit.core.errors import EXIT_CANNOT_TELL, EXIT_SLOWER, ResultsError, UsageError
from labkit.core.files import results_folder
from labkit.core.terminal import print_text
from labkit.results.checksums import describe_damage
from labkit.results.exports import load_exports
from labkit.results.records import Comparison, Run
from labkit.results.store import Store, default_path

if TYPE_CHECKING:
    from labkit.results.history import History
    from labkit.results.trend import Trend

app = typer.Typer(help="List, show, export and delete stored results.", no_args_is_help=False)
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Numbers as listed, or 3-7.")]


class Table(StrEnum):
    """Tables of the store."""

    runs = "runs"
    comparisons = "comparisons"
    predictions = "predictions"
    sweep_points = "sweep_points"


@app.callback(invoke_without_command=True)
def list_results(
    context: typer.Context,
    rung: Annotated[str | None, typer.Option(help="Only this rung.")] = None,
    stage: Annotated[int | None, typer.Option(help="Only this stage.")] = None,
) -> None:
    """List stored runs and comparisons."""
    if context.invoked_subcommand is not None:
        return
    from labkit.pipelines.former_names import with_current_names
    from labkit.results.ceilings import with_ceilings
    from labkit.results.history import when
    from labkit.results.report.machines import machines, what_differs

    rung = None if rung is None else with_current_names(rung)
    with _stored() as store:
        runs = [run for run in store.runs() if rung in (None, run.rung) and stage in (None, run.stage)]
        comparisons = with_ceilings(store.comparisons(), runs)
    if not runs and not comparisons:
        print_lines(["no results yet; run: labkit bench --quick"])
    there = machines(runs)
    letters = {id(run): machine.letter for machine in there for run in machine.runs}
    if runs:
        rows = [
            (run.id, when(run), run.rung, run.fps, f"{run.fed}{' quick' if run.quick else ''}",
             run.doubt, letters[id(run)] if len(there) > 1 else "")
            for run in runs
        ]  # fmt: skip
        columns = ("ID", "when (UTC)", "rung", "FPS", "fed", "", "")
        print_table(rows_table(columns, rows), ("when (UTC)", "fed"))
    if len(there) > 1:
        print_lines(["", "Measured on different machines, whose speeds do not compare:"])
        print_lines([f"  {there[0].letter}: {there[0].name}"])
        print_lines(
            f"  {each.letter}: {each.name}; {'; '.join(lines)}" for each, lines in what_differs(there)
        )
    if unknown := {word: None for machine in there for word in machine.unknown}:
        print_lines([f"Unknown of some of these runs: {', '.join(unknown)}"])
    if comparisons and rung is None and stage is None:
        print_lines(["", "Comparisons"])
        print_lines(f"{c.id:>4}  {when(c)}  {c.sentence}" for c in comparisons)


@app.command()
def show(run_id: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """Show everything about one run, as JSON."""
    with _stored() as store:
        print(json.dumps(store.run(run_id).to_json(), indent=2, default=str))


@app.command("history")
def history_command(
    rung: Annotated[str, typer.Argument(help="Name of a rung, or of a loop of yours.")],
    plot: Annotated[Path | None, typer.Option(help="Picture to write, .png or .svg.")] = None,
) -> None:
    """Show all runs of a rung: when, commit, version of its source, speed, machine."""
    from labkit.results.history import history

    found = history(rung)
    if not found.runs:
        raise ResultsError(f"{found}; run: labkit bench {rung}")
    columns = ["when", "version", "commit", "fps", "fps_lo", "fps_hi", "machine"]
    rows = found.table()[columns].itertuples(index=False)
    print_table(rows_table(columns, rows), ("version", "machine", ("fps_lo", "fps_hi"), "commit"))
    print_lines([str(found)])
    _save_plot(found, plot)


@app.command("trend")
def trend_command(
    rung: Annotated[str, typer.Argument(help="Name of a rung, or of a loop of yours.")],
    good: Annotated[
        str | None,
        typer.Option(metavar="COMMIT", help="Accept its speed: known good from here on."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to write, .png or .svg.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a rung's newest commit with those before: exit code 0 same or faster, 8 slower, 9 cannot tell.

    Three runs per commit find a slowdown of 5%: labkit bench RUNG, three times.
    """
    from labkit.results.trend import trend

    found = trend(rung, good=good)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        table = found.table()
        optional = ("noisy", "runs", "when", "fps", ("ratio_lo", "ratio_hi"))
        print_table(rows_table(table.columns, table.itertuples(index=False)), optional)
        print_lines([str(found)])
    _save_plot(found, plot)
    raise typer.Exit({"slower": EXIT_SLOWER, "cannot tell": EXIT_CANNOT_TELL}.get(found.verdict, 0))


def _save_plot(found: History | Trend, path: Path | None) -> None:
    if path is not None:
        from labkit.results.plots.save import save_picture

        save_picture(found.plot(), path)


@app.command()
def delete(
    ids: Ids,
    table: Annotated[Table, typer.Option(help="Where these rows are.")] = Table.runs,
) -> None:
    """Delete runs, or rows of another table, damaged ones too."""
    with Store(default_path()) as store, store.transaction():
        count = sum(store.delete(_numbers(text), table.value) for text in ids)
    print_text(f"{count} {table.value.replace('_', ' ')} deleted")


@app.command()
def add(
    places: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Files, or folders of exports.")],
) -> None:
    """Add the results of another store or export; those that are here already are left out."""
    from labkit.results.saving import add_all

    with Store(default_path()) as store:
        for place in places:
            results: list[Run | Comparison] = []
            if place.is_dir():
                for found in load_exports(place):
                    results += [*found.runs, *found.comparisons]
            elif place.is_file():
                with Store(place, read_only=True) as other:
                    results = [*other.runs(), *other.comparisons()]
                    print_lines(describe_damage(other.damaged), style="yellow", console=err)
            else:
                raise UsageError(f"there is no store and no export {place}")
            print_text(f"{add_all(store, results)} results added from {place}")


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="Folder for CSV, Parquet and fingerprint.")],
) -> None:
    """Write all results as CSV and Parquet."""
    with _stored() as store:
        written = store.export(folder)
    for path in written:
        print_text(path)


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[EXPORT]...", help="Folders of exports; default: the store."),
    ] = None,
    own: Annotated[bool, typer.Option("--own", help="Beside exports, the store's results too.")] = False,
    output: Annotated[
        Path | None, typer.Option("--out", help="Page to write; default report.html by the store.")
    ] = None,
) -> None:
    """Write one HTML page of the newest results, machines side by side."""
    from labkit.pipelines.ladder import LADDER
    from labkit.results.report.report_page import write_report

    runs, comparisons = _exported(folders or [])
    predictions = []
    if own or not folders:
        with _stored() as store:
            runs, comparisons = [*store.runs(), *runs], [*store.comparisons(), *comparisons]
            predictions = store.predictions()
    if not runs:
        raise ResultsError("there are no results yet; run: labkit bench --quick")
    order = {rung.name: place for place, rung in enumerate(LADDER)}
    latest = _newest([*runs, *comparisons])
    newest_runs = [record for record in latest if isinstance(record, Run)]
    newest_comparisons = [record for record in latest if isinstance(record, Comparison)]
    newest_runs.sort(key=lambda run: order.get(run.rung, len(order)))
    name = "machines.html" if folders else "report.html"
    path = output or results_folder() / name
    print_text(write_report(newest_runs, newest_comparisons, path, predictions, others=runs))


@contextmanager
def _stored() -> Iterator[Store]:
    """The store, only for reading; damaged rows that were met are named at the end."""
    with Store(default_path(), read_only=True) as store:
        yield store
        print_lines(describe_damage(store.damaged), style="yellow", console=err)


def _numbers(text: str) -> range:
    """The ids of a row, such as 3, or of several, such as 3-7."""
    named = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", text)
    if named is None:
        raise UsageError(
            f"an ID is a number as listed, such as 3, or several, such as 3-7; not {text[:50]!r}"
        )
    return range(int(named[1]), int(named[2] or named[1]) + 1)


def _exported(folders: Sequence[Path]) -> tuple[list[Run], list[Comparison]]:
    for folder in folders:
        if folder.suffix == ".html":
            raise UsageError(f"{folder} is no folder of an export; to write the page there: --out {folder}")
    found = [each for folder in folders for each in load_exports(folder)]
    return (
        [run for each in found for run in each.runs],
        [comparison for each in found for comparison in each.comparisons],
    )


def _newest(records: Sequence[Run | Comparison]) -> list[Run | Comparison]:
    """The last record of each rung or pair of rungs at each work, on each kind of machine."""
    from labkit.results.report.groups import newest
    from labkit.results.report.machines import machines

    return [record for machine in machines(records) for record in newest(machine.records)]
