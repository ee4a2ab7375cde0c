"""The commands, their options, and what an error becomes: one sentence and an exit code."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.core.errors import LabError, UsageError
from labkit.core.types import Size, Workload

if TYPE_CHECKING:
    from labkit.bench.interleave import Turns

QUICK_MINUTES = 9.0  # what is under way is ended, and drawn: up to a minute more on two cores

app = typer.Typer(
    name="labkit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Measure and understand real-time image classification and detection.",
)


class Scenario(StrEnum):
    """How frames reach the pipeline."""

    closed = "closed"
    paced = "paced"


RungNames = Annotated[list[str] | None, typer.Argument(metavar="[RUNG]...", help="Names; default: all.")]
SourceOption = Annotated[str, typer.Option(help="photos, scenes, webcam:0, a file, a folder, an address.")]
SizeOption = Annotated[str, typer.Option(metavar="WxH", help="Size of the frames in px.")]
ObjectsOption = Annotated[int, typer.Option(help="Best boxes kept per frame.")]
ModelSetOption = Annotated[str, typer.Option(help="full or lab.")]
WeightsOption = Annotated[str, typer.Option(help="auto, pretrained or random.")]
SeedOption = Annotated[int, typer.Option(help="Of random weights and scenes.")]
QuickOption = Annotated[bool, typer.Option("--quick/--full", help="Short runs, marked as such.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has, what is missing, and what to do about it."""
    from labkit.bench.doctor import examine

    checks = examine()
    if as_json:
        print(json.dumps([vars(check) for check in checks]))
        return
    from labkit.bench.doctor import lines
    from labkit.bench.progress import out

    for text, style in lines(checks):
        out.print(text, style=style, markup=False)


@app.command()
def rungs(as_json: JsonOption = False) -> None:
    """List the rungs of the ladder and whether this machine can run them."""
    from labkit.core.requirements import missing
    from labkit.pipelines.ladder import LADDER

    rows = [
        {
            "rung": rung.name, "stage": rung.stage, "changes": rung.changes, "reference": rung.reference,
            "about": rung.about, "unavailable": missing(rung.needs), **rung.prepare.describe(),
        }
        for rung in LADDER
    ]  # fmt: skip
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    stage = None
    for row in rows:
        if row["stage"] != stage:
            stage = row["stage"]
            print(f"{'' if stage == rows[0]['stage'] else chr(10)}Stage {stage}")
        print(f"  {row['rung']}" + (f"  [{row['unavailable']}]" if row["unavailable"] else ""))
        print(f"      {row['about']}" + (f" (changes {row['changes']})" if row["changes"] else ""))


@app.command()
def bench(
    rung: RungNames = None,
    stage: Annotated[int | None, typer.Option(help="All rungs of this stage.")] = None,
    device: Annotated[str | None, typer.Option(help="Only rungs on this device: cpu or cuda.")] = None,
    source: SourceOption = "photos",
    size: SizeOption = "640x480",
    objects: ObjectsOption = 5,
    scenario: Annotated[Scenario, typer.Option(help="As fast as it can, or at a rate.")] = Scenario.closed,
    fps: Annotated[float | None, typer.Option(help="Rate at which frames fall due; paced only.")] = None,
    quick: QuickOption = False,
    seconds: Annotated[float | None, typer.Option(help="Length of each timed run.")] = None,
    model_set: ModelSetOption = "full",
    weights: WeightsOption = "auto",
    seed: SeedOption = 0,
    noise: Annotated[float, typer.Option(help="Noise added to scenes, in grey levels.")] = 0.0,
    compare: Annotated[bool, typer.Option(help="Also compare the rungs in turns.")] = True,
    accuracy: Annotated[bool, typer.Option(help="Also measure accuracy on scenes.")] = True,
    coco: Annotated[
        Path | None, typer.Option(help="COCO folder: its photographs judge what finds boxes.")
    ] = None,
    images: Annotated[int, typer.Option(help="How many of its photographs.")] = 200,
    minutes: Annotated[
        float | None, typer.Option(help="Begin nothing new after this time; default 9 with --quick.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure rungs; leaves rows in the store, plots and a report."""
    from labkit.cli.cmd_bench import bench_and_show, plan_for, select

    if coco is not None and not accuracy:
        raise UsageError("--coco is for accuracy, which --no-accuracy leaves out; drop one of them")
    bench_and_show(
        select(rung, stage, device),
        as_json,
        source=source,
        workload=workload_for(model_set, weights, size, objects, seed),
        plan=plan_for(scenario.value, fps, quick, seconds),
        turns=turns_for(quick, None) if compare and scenario is Scenario.closed else None,
        noise=noise,
        scenes=scenes_for(quick, accuracy),
        minutes=minutes if minutes is not None or not quick else QUICK_MINUTES,
        coco=coco,
        images=images,
    )


@app.command("compare")
def compare_command(
    a: Annotated[str, typer.Argument(help="The rung to compare with.")],
    b: Annotated[str, typer.Argument(help="The rung that should be faster.")],
    source: SourceOption = "photos",
    size: SizeOption = "640x480",
    objects: ObjectsOption = 5,
    quick: QuickOption = False,
    rounds: Annotated[int | None, typer.Option(help="Rounds of turns, 9 or more.")] = None,
    model_set: ModelSetOption = "full",
    weights: WeightsOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Say how many times faster rung B is than rung A, with an interval and a verdict."""
    from labkit.cli.cmd_bench import compare_and_show

    compare_and_show(
        a,
        b,
        as_json,
        source=source,
        workload=workload_for(model_set, weights, size, objects, seed),
        turns=turns_for(quick, rounds),
    )


@app.command()
def weights(
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is not cached.")] = False,
) -> None:
    """Show which weights are on this machine; fetch the pretrained ones."""
    from labkit.cli.cmd_weights import show_weights

    raise typer.Exit(show_weights(fetch))


@app.command()
def lab(
    notebook: Annotated[Path, typer.Argument(help="Notebook to open.")] = Path(
        "notebooks/00_start_here.ipynb"
    ),
) -> None:
    """Open JupyterLab on the first notebook (localhost, with a token)."""
    import subprocess

    if not notebook.is_file():
        raise UsageError(f"there is no notebook {notebook}; run this in the project's folder")
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", str(notebook)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def workload_for(model_set: str, weights: str, size: str, objects: int, seed: int) -> Workload:
    """The workload that the options describe; says which option is wrong."""
    return Workload(
        model_set=model_set,  # type: ignore[arg-type]
        weights=weights,  # type: ignore[arg-type]
        size=parse_size(size),
        objects=objects,
        seed=seed,
    )


def turns_for(quick: bool, rounds: int | None) -> Turns:
    """Full or quick turns, with the asked number of rounds."""
    from dataclasses import replace

    from labkit.bench.interleave import FULL_TURNS, QUICK_TURNS

    turns = QUICK_TURNS if quick else FULL_TURNS
    return turns if rounds is None else replace(turns, rounds=rounds)


def scenes_for(quick: bool, accuracy: bool) -> int:
    """On how many scenes accuracy is measured."""
    from labkit.bench.accuracy import FULL_SCENES, QUICK_SCENES

    return (QUICK_SCENES if quick else FULL_SCENES) if accuracy else 0


def parse_size(text: str) -> Size:
    """Reads a size such as 640x480 as (640, 480)."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise UsageError(f"a size is WIDTHxHEIGHT in px, such as 640x480, not {text!r}")
    return int(width), int(height)


@cache
def _add_commands() -> None:
    """Adds the commands of modules that read their options from this one, once."""
    from labkit.cli import cmd_fleet, cmd_gallery, cmd_live, cmd_profile, cmd_results, cmd_sweep, cmd_train

    app.add_typer(cmd_results.app, name="results")
    app.command()(cmd_gallery.gallery)
    app.command("profile")(cmd_profile.profile)
    app.command()(cmd_live.live)
    app.command()(cmd_fleet.fleet)
    app.command("batch")(cmd_fleet.batch_command)
    app.command()(cmd_results.report)
    app.command()(cmd_sweep.sweep)
    app.command()(cmd_train.train)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; errors become one sentence on standard error and an exit code."""
    _add_commands()
    try:
        app(arguments)  # ends the process itself, with the command's exit code
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe has gone, which is its right
        sys.stderr.close()
    return 0
