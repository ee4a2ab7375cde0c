"""Commands that measure: what they select, show and leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from labkit.bench.context import Outcome
from labkit.bench.group import TIME_IS_UP
from labkit.bench.plan import FULL, QUICK, Plan
from labkit.bench.progress import Reporter, Screen, err, legend, out, print_lines, runs_table
from labkit.bench.run import bench, compare_two
from labkit.core.errors import EXIT_INTERRUPTED, UnavailableError, UsageError
from labkit.core.types import Rung
from labkit.pipelines.ladder import LADDER, rung, rungs_of_stage
from labkit.results.records import Comparison, Run
from labkit.results.store import Store, default_path

T = TypeVar("T")


def select(names: Sequence[str] | None, stage: int | None, device: str | None = None) -> list[Rung]:
    """The named rungs, or a stage's, or all of them; those of a device, with their baselines.

    Raises:
        UsageError: a name or stage that does not exist.
    """
    if names:
        return sorted((rung(name) for name in dict.fromkeys(names)), key=LADDER.index)
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"--device is cpu or cuda, not {device!r}")
    if device is not None:
        chosen = [r for r in LADDER if r.prepare.device == device and stage in (None, r.stage)]
        wanted = {r.name for r in chosen} | {r.reference for r in chosen}
        return [r for r in LADDER if r.name in wanted]
    if stage is None:
        return list(LADDER)
    chosen = list(rungs_of_stage(stage))
    if not chosen:
        known = sorted({r.stage for r in LADDER})
        raise UsageError(f"stage {stage} has no rungs; stages with rungs: {', '.join(map(str, known))}")
    return chosen


def plan_for(scenario: str, fps: float | None, quick: bool, seconds: float | None) -> Plan:
    """The plan that the options describe."""
    if fps is not None and scenario != "paced":
        raise UsageError("--fps is the rate of the paced scenario; add --scenario paced")
    plan = replace(QUICK if quick else FULL, scenario=scenario, fps=fps)
    return plan if seconds is None else replace(plan, seconds=seconds)


def bench_and_show(rungs: Sequence[Rung], as_json: bool, **options: Any) -> None:
    """Runs a benchmark and shows it; options as for `labkit.bench.bench`.

    Raises:
        UnavailableError: not one rung could be measured.
    """
    outcome = measuring(lambda store, reporter: bench(rungs, store=store, reporter=reporter, **options))
    if as_json:
        for run in outcome.runs:
            print(json.dumps(run.to_json(), default=str))
    else:
        show(outcome)
        leave_pictures(outcome, default_path())
    if not outcome.runs:
        reasons = "; ".join(f"{name} {why}" for name, why in outcome.skipped.items())
        raise UnavailableError(f"no rung was measured: {reasons}")


def compare_and_show(a: str, b: str, as_json: bool, **options: Any) -> None:
    """Runs one comparison and shows it; options as for `labkit.bench.bench`."""
    select([a, b], None)
    comparison = measuring(
        lambda store, reporter: compare_two(a, b, store=store, reporter=reporter, **options)
    )
    if as_json:
        print(json.dumps(comparison.to_json(), default=str))
        return
    low, high = comparison.interval
    print_lines(
        [
            comparison.sentence,
            f"verdict: {comparison.verdict} (ratio {comparison.ratio:.3f}, {low:.3f} to {high:.3f})",
            *(f"doubt: {reason}" for reason in comparison.disturbances),
        ]
    )


def measuring(work: Callable[[Store, Reporter], T]) -> T:
    """Runs `work` with the user's store and a progress bar; Ctrl-C says what is saved."""
    path = default_path()
    with Store(path) as store, Screen() as screen:
        try:
            return work(store, screen)
        except KeyboardInterrupt:
            stopped = f"labkit: stopped; {screen.saved} finished results are saved in {path}"
    print_lines([stopped], console=err)
    raise typer.Exit(EXIT_INTERRUPTED)


def show(outcome: Outcome) -> None:
    """The table, the sentences, and what was skipped."""
    if outcome.runs:
        out.print()
        out.print(runs_table(outcome.runs))
        out.print()
        print_lines(legend(outcome.runs), style="dim")
    if outcome.comparisons:
        print_lines(["", "Measured in turns on the same frames:"], style="bold")
        print_lines(f"  {comparison.sentence}" for comparison in outcome.comparisons)
    if outcome.skipped:
        print_lines(["", "Not measured:"], style="bold")
        reasons: dict[str, list[str]] = {}
        for name, why in outcome.skipped.items():
            reasons.setdefault(why, []).append(name)
        print_lines(f"  {', '.join(names)}: {why}" for why, names in reasons.items())
        if late := reasons.get(TIME_IS_UP):
            print_lines(["", "To measure what was left out:", f"  labkit bench {' '.join(late)}"])


def leave_pictures(outcome: Outcome, store_path: Path) -> None:
    """Writes the plots and the report of these results beside the store."""
    from labkit.results.plots.save import save_all

    if not outcome.runs:
        return
    folder = store_path.parent
    saved = save_all(outcome.runs, outcome.comparisons, folder / "plots")
    page = write_page(outcome.runs, outcome.comparisons, folder / "report.html")
    print_lines(
        ["", f"rows: {store_path}", f"plots: {folder / 'plots'} ({len(saved)} files)", f"report: {page}"]
    )


def write_page(runs: Sequence[Run], comparisons: Sequence[Comparison], path: Path) -> Path:
    """These results on one page, with the learner's forecasts of all times."""
    from labkit.results.report.report_page import write_report

    with Store(default_path()) as store:
        predictions = store.predictions()
    return write_report(runs, comparisons, path, predictions)
