"""`labkit results`: list, show, export and delete what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from labkit.results import Store, default_path, export

app = typer.Typer(help="List, show, export and delete stored results.", no_args_is_help=False)
Ids = Annotated[list[int], typer.Argument(metavar="ID...", help="Numbers as listed.")]


@app.callback(invoke_without_command=True)
def list_results(
    context: typer.Context,
    rung: Annotated[str | None, typer.Option(help="Only this rung.")] = None,
    stage: Annotated[int | None, typer.Option(help="Only this stage.")] = None,
) -> None:
    """List stored runs and comparisons."""
    if context.invoked_subcommand is not None:
        return
    from labkit.cli.screen import number, out, print_lines

    with Store(default_path()) as store:
        runs, comparisons = store.runs(rung=rung, stage=stage), store.comparisons()
    if not runs and not comparisons:
        print_lines(["no results yet; run: labkit bench --quick"])
    for run in runs:
        line = (
            f"{run.id:>4}  {run.created[:16]}  {run.rung:<22} {number(run.fps):>6} FPS "
            f"{run.scenario}{' quick' if run.quick else ''}{' ~' if run.noisy else ''}"
        )
        out.print(line, markup=False)
    if comparisons and rung is None and stage is None:
        print_lines(["", "Comparisons"])
        print_lines(f"{c.id:>4}  {c.created[:16]}  {c.sentence}" for c in comparisons)


@app.command()
def show(run_id: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """Show everything about one run, as JSON."""
    with Store(default_path()) as store:
        print(json.dumps(store.run(run_id).to_json(), indent=2, default=str))


@app.command()
def delete(ids: Ids) -> None:
    """Delete runs."""
    with Store(default_path()) as store:
        print(f"{store.delete(ids)} runs deleted")


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="Folder for CSV, Parquet and fingerprint.")],
) -> None:
    """Write all results as CSV and Parquet."""
    with Store(default_path()) as store:
        written = export(store.runs(), store.comparisons(), folder)
    for path in written:
        print(path)
