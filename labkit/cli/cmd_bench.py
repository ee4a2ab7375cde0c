"""`labkit bench` and `labkit compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.options import (
    JsonOption,
    ModelSetOption,
    ObjectsOption,
    QuickOption,
    RungNames,
    Scenario,
    SeedOption,
    SizeOption,
    SourceOption,
    WeightsOption,
    scenes_for,
    turns_for,
    workload_for,
)
from labkit.core.errors import UsageError

QUICK_MINUTES = 9.0  # what is under way is ended, and drawn: up to a minute more on two cores


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
    from labkit.cli.show_bench import bench_and_show, plan_for, select

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


def compare(
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
    from labkit.cli.show_bench import compare_and_show

    compare_and_show(
        a,
        b,
        as_json,
        source=source,
        workload=workload_for(model_set, weights, size, objects, seed),
        turns=turns_for(quick, rounds),
    )
