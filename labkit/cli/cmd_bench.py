"""`labkit bench`, `labkit compare`, `labkit tracking` and `labkit filters`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli.options import (
    JsonOption,
    QuickOption,
    RungNames,
    Scenario,
    SizeOption,
    SourceOption,
    as_keywords,
    parse_size,
    work_options,
)
from labkit.core.errors import UsageError

QUICK_MINUTES = 9.0  # what is under way is ended, and drawn: up to a minute more on two cores


@work_options()
def bench(
    rung: RungNames = None,
    against: Annotated[
        str | None, typer.Option(metavar="RUNG", help="What your own loop is compared with.")
    ] = None,
    stage: Annotated[int | None, typer.Option(help="All rungs of this stage.")] = None,
    device: Annotated[str | None, typer.Option(help="Only rungs on this device: cpu or cuda.")] = None,
    scenario: Annotated[Scenario, typer.Option(help="As fast as it can, or at a rate.")] = Scenario.closed,
    fps: Annotated[float | None, typer.Option(help="Rate at which frames fall due; paced only.")] = None,
    paced: Annotated[
        str, typer.Option(metavar="FPS,...", help="Also feed each rung at these rates, as a camera does.")
    ] = "",
    quick: QuickOption = False,
    seconds: Annotated[float | None, typer.Option(help="Length of each timed run.")] = None,
    noise: Annotated[float, typer.Option(help="Noise added to scenes, in grey levels.")] = 0.0,
    compare: Annotated[bool, typer.Option(help="Also compare the rungs in interleaved rounds.")] = True,
    accuracy: Annotated[bool, typer.Option(help="Also measure accuracy on scenes.")] = True,
    coco: Annotated[
        Path | None, typer.Option(help="COCO folder: evaluate detectors on its photographs.")
    ] = None,
    images: Annotated[int, typer.Option(help="How many of its photographs.")] = 200,
    minutes: Annotated[
        float | None, typer.Option(help="Begin nothing new after this time; default 9 with --quick.")
    ] = None,
    as_json: JsonOption = False,
    **work: Any,
) -> None:
    """Measure rungs; leaves rows in the store, plots and a report."""
    from labkit.bench.run import bench as measure
    from labkit.cli.show_bench import show_benchmark, stored_as_measured

    if coco is not None and not accuracy:
        raise UsageError("--coco is for accuracy, which --no-accuracy leaves out; drop one of them")
    if fps is not None and scenario is not Scenario.paced:
        raise UsageError("--fps is the rate of the paced scenario; add --scenario paced")
    with stored_as_measured() as progress:
        result = measure(
            *(rung or ()),
            against=against,
            stage=stage,
            device=device,
            **as_keywords(work),
            noise=noise,
            scenario=scenario.value,
            fps=fps,
            paced=_rates(paced),
            quick=quick,
            seconds=seconds,
            compare=compare,
            accuracy=accuracy,
            coco=coco,
            images=images,
            minutes=minutes if minutes is not None or not quick else QUICK_MINUTES,
            progress=progress,
        )
    show_benchmark(result, as_json, rung or ())


def _rates(text: str) -> list[float]:
    """Reads rates such as 10,15,30."""
    try:
        return [float(part) for part in text.split(",") if text]
    except ValueError:
        raise UsageError(f"--paced is a list of rates such as 10,15,30, not {text!r}") from None


@work_options()
def compare(
    a: Annotated[str, typer.Argument(help="The rung to compare with; with --commits your FILE.py:FUNCTION.")],
    b: Annotated[str | None, typer.Argument(help="The rung that should be faster.")] = None,
    commits: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Compare your loop at two revisions of its git repository."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="RUNG", help="With --commits: whose networks your loop gets.")
    ] = None,
    quick: QuickOption = False,
    rounds: Annotated[int | None, typer.Option(help="Interleaved rounds, 9 or more.")] = None,
    as_json: JsonOption = False,
    **work: Any,
) -> None:
    """Say how many times faster rung B is than rung A, with an interval and a verdict."""
    from labkit.bench.commits import compare_commits
    from labkit.bench.run import compare as compare_rungs
    from labkit.cli.show_bench import show_comparison, stored_as_measured

    if commits is not None and b is None:
        measure = partial(compare_commits, a, *commits, against=against)
    elif commits is None and b is not None and against is None:
        measure = partial(compare_rungs, a, b)
    else:
        raise UsageError("compare takes two rungs, A B; or one loop of yours and --commits A B")
    with stored_as_measured() as progress:
        comparison = measure(**as_keywords(work), quick=quick, rounds=rounds, progress=progress)
    show_comparison(comparison, as_json)


@work_options(
    without=("source", "size", "fit", "open_timeout", "read_timeout", "model_set", "weights", "seed"),
    objects=16,
)
def tracking(
    every: Annotated[
        list[int] | None, typer.Option(help="Frames from one detection to the next; repeat it.")
    ] = None,
    rung: Annotated[str, typer.Option(help="A rung that follows boxes.")] = "tracked_bf16_cpu",
    shots: Annotated[int, typer.Option(help="Moving scenes; a multiple of 8 gives intervals.")] = 16,
    frames: Annotated[int, typer.Option(help="Of each shot.")] = 32,
    model_set: Annotated[str, typer.Option(help="lab, or full: speed alone.")] = "lab",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write tracking.json there.")
    ] = None,
    as_json: JsonOption = False,
    **work: Any,
) -> None:
    """Measure what it costs and gains to detect every k-th frame and follow the boxes in between."""
    from dataclasses import asdict

    from labkit.bench.progress import ProgressBar, print_lines
    from labkit.bench.tracking import EVERY, measure_tracking
    from labkit.core.files import write_atomic
    from labkit.core.machine import fingerprint
    from labkit.core.types import Workload
    from labkit.pipelines.ladder import rung as rung_named

    chosen = rung_named(rung)
    workload = Workload(model_set, **work)  # type: ignore[arg-type]
    with ProgressBar() as screen:
        screen.step(f"{rung} on {shots} moving scenes")
        rows = measure_tracking(
            chosen, workload, every or EVERY, shots=shots, frames=frames, progress=screen.progress
        )
    figures = [asdict(row) for row in rows]
    print(json.dumps(figures)) if as_json else print_lines(map(str, rows))
    if out is not None:
        work = {"rung": rung, "workload": asdict(workload), "shots": shots, "frames": frames}
        content = {**work, "rows": figures, "fingerprint": fingerprint()}
        write_atomic(out / "tracking.json", json.dumps(content, indent=1, default=str) + "\n")


def filters(
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: all that is here.")] = None,
    radius: Annotated[int, typer.Option(help="Of the window, in px.")] = 4,
    source: SourceOption = "photos",
    size: SizeOption = "640x480",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 9,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write filters.json, filters_cuda.json there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time the guided filter's versions by themselves: on the CPU, and each CUDA kernel on a GPU."""
    from labkit.bench.progress import print_lines
    from labkit.core.files import write_atomic
    from labkit.core.machine import fingerprint
    from labkit.core.requirements import unmet_requirement
    from labkit.filters.filter_benchmark import time_gpu_versions, time_versions

    kinds = {"cpu": time_versions, "cuda": time_gpu_versions}
    if device is not None and device not in kinds:
        raise UsageError(f"a device is cpu or cuda, not {device!r}")
    if rounds < 1:
        raise UsageError(f"rounds is 1 or more, not {rounds}")
    no_gpu = unmet_requirement(("cuda", "cupy"))
    for name in [device] if device else ["cpu", *([] if no_gpu else ["cuda"])]:
        found = kinds[name](radius, size=parse_size(size), rounds=rounds, source=source)
        content = {**found.to_json(), "fingerprint": fingerprint()}
        print(json.dumps(found.to_json())) if as_json else print_lines(found.sentences())
        if out is not None:
            file = out / ("filters.json" if name == "cpu" else "filters_cuda.json")
            write_atomic(file, json.dumps(content, indent=1, default=str) + "\n")
    if device is None and no_gpu and not as_json:
        print_lines([f"the kernels' times on a GPU: {no_gpu}"])
