"""Output of the commands that measure: tables, sentences, plots and a report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from labkit.bench.progress import (
    NOTE_STYLE,
    OPTIONAL,
    ProgressBar,
    err,
    legend,
    out,
    print_lines,
    print_table,
    runs_table,
)
from labkit.bench.run import FAILED, TIME_IS_UP
from labkit.core.errors import EXIT_INTERRUPTED, LabError, ResultsError, UnavailableError, WorkerError
from labkit.results.records import Comparison
from labkit.results.result_set import ResultSet
from labkit.results.store import Store, default_path
from labkit.sources.spec import redact


@contextmanager
def stored_as_measured() -> Iterator[ProgressBar]:
    """A progress bar; Ctrl-C says how much is saved and ends the command."""
    with ProgressBar() as screen:
        try:
            yield screen
            return
        except KeyboardInterrupt:
            stopped = f"labkit: stopped; {screen.saved} finished results are saved in {default_path()}"
    print_lines([stopped], console=err)
    raise typer.Exit(EXIT_INTERRUPTED)


def show_benchmark(result: ResultSet, as_json: bool, named: Sequence[str] = ()) -> None:
    """Prints a benchmark's results and leaves plots and a report beside the store.

    Args:
        result: to show.
        as_json: print JSON and nothing else.
        named: rungs that were asked for by name, whose failure is the command's.

    Raises:
        UnavailableError: not one rung could be measured, or a named one cannot run here.
        WorkerError: a named rung failed.
        ResultsError: everything named was measured, but not everything was saved.
    """
    not_saved = list(result.notes)
    if as_json:
        for run in result.runs:
            print(json.dumps(run.to_json(), default=str))
    else:
        show(result)
        try:
            leave_pictures(result, default_path())
        except ResultsError as error:
            not_saved.append(f"{error}; to write plots and report later: labkit report")
    try:
        _raise_failures(result, named)
    except LabError:
        print_lines((f"labkit: {text}" for text in not_saved), console=err)
        raise
    if not_saved:
        raise ResultsError("; ".join(not_saved))


def _raise_failures(result: ResultSet, named: Sequence[str]) -> None:
    if not result.runs:
        reasons = "; ".join(f"{name} {why}" for name, why in result.skipped.items())
        raise UnavailableError(f"no rung was measured: {reasons}")
    if not named:
        return
    missing = {name: why for name, why in result.skipped.items() if not why.startswith(TIME_IS_UP)}
    failed = {name: why for name, why in missing.items() if why.startswith(FAILED)}
    sentence = "; ".join(f"{name} {why}" for name, why in missing.items())
    if failed:
        raise WorkerError(sentence)
    if missing:
        raise UnavailableError(f"not measured: {sentence}")


def show_comparison(comparison: Comparison, as_json: bool) -> None:
    """Prints a comparison: its sentence, its verdict, and reasons to doubt it.

    Raises:
        ResultsError: it was measured, but not saved.
    """
    if as_json:
        print(json.dumps(comparison.to_json(), default=str))
    else:
        low, high = comparison.interval
        _show_disturbances(ResultSet([], [comparison]))
        print_lines(
            [
                comparison.finding,
                f"verdict: {comparison.verdict} (ratio {comparison.ratio:.3f}, {low:.3f} to {high:.3f})",
            ]
        )
    if comparison.id is None:
        raise ResultsError("the comparison is not saved; the lines above say why")


def show(result: ResultSet) -> None:
    """Prints disturbances, the table, the sentences, and skipped rungs."""
    _show_disturbances(result)
    if result.runs:
        out.print()
        print_table(runs_table(result.runs), OPTIONAL)
        out.print()
        print_lines(legend(result.runs), style="dim")
    if result.comparisons:
        print_lines(["", "Measured in interleaved rounds on the same frames:"], style="bold")
        print_lines(f"  {comparison.finding}" for comparison in result.comparisons)
    if result.skipped:
        print_lines(["", "Not measured:"], style="bold")
        reasons: dict[str, list[str]] = {}
        for name, why in result.skipped.items():
            reasons.setdefault(why, []).append(name)
        print_lines(f"  {', '.join(names)}: {why}" for why, names in reasons.items())
        if late := reasons.get(TIME_IS_UP):
            print_lines(["", "To measure what was left out:", f"  labkit bench {' '.join(late)}"])


def _show_disturbances(result: ResultSet) -> None:
    """The first line of a disturbed result, with the command that repeats it."""
    program, *arguments = sys.argv
    called = Path(program).stem in ("labkit", "__main__")  # else from Python, which has no command
    command = shlex.join(["labkit", *map(_shown_argument, arguments)]) if called else None
    if doubt := result.disturbed(command):
        print_lines([doubt], style=NOTE_STYLE)


def _shown_argument(argument: str) -> str:
    option, given, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + given + redact(value)


def leave_pictures(result: ResultSet, store_path: Path) -> None:
    """Writes beside the store the plots and the report of these results, with all predictions so far."""
    from labkit.results.plots.save import save_all
    from labkit.results.report.report_page import write_report

    if not result.runs:
        return
    folder = store_path.parent
    saved = save_all(result.runs, result.comparisons, folder / "plots")
    with Store(default_path(), read_only=True) as store:
        predictions = store.predictions()
    page = write_report(result.runs, result.comparisons, folder / "report.html", predictions)
    rows = [f"rows: {store_path}"] if any(run.id is not None for run in result.runs) else []
    print_lines(["", *rows, f"plots: {folder / 'plots'} ({len(saved)} files)", f"report: {page}"])
