"""`labkit train`: the small models, from nothing, on the lab's own scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.bench.progress import ProgressBar, err, print_lines
from labkit.cli.options import SeedOption
from labkit.core.errors import EXIT_INTERRUPTED, UnavailableError
from labkit.results.format import format_number


def train(
    which: Annotated[str, typer.Argument(help="detr, resnet or all.")] = "all",
    out: Annotated[Path, typer.Option(help="Weights, checkpoints, logs, drawn scenes.")] = Path(
        "results/train"
    ),
    minutes: Annotated[float | None, typer.Option(help="Wall time per model; default 100.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per model, instead of minutes.")] = None,
    scenes: Annotated[int, typer.Option(help="Different scenes to draw (about 0.2 MB each).")] = 16_000,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints in --out.")] = False,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train the small DETR and ResNet that ship with the lab; Ctrl-C keeps the checkpoint."""
    import torch

    from labkit.models.training.data import World
    from labkit.models.training.loop import Budget, Plan, Progress
    from labkit.models.training.train import train as run_training
    from labkit.sources.synthetic.objects import COARSE, FINE
    from labkit.sources.synthetic.scene import scene_frame

    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("there is no NVIDIA GPU to train on; labkit doctor says what is missing")
    if minutes is None and steps is None:
        minutes = 100.0
    with ProgressBar() as screen:
        screen.step("drawing scenes")

        def show(now: Progress) -> None:
            figures = {**now.losses, **now.scores}
            words = ", ".join(f"{name} {format_number(value)}" for name, value in list(figures.items())[-3:])
            screen.step(f"{now.what} step {now.step}: {words}")
            screen.progress(now.spent)

        try:
            plan = Plan(out, Budget(steps, minutes), seed, scenes, resume, device, show)
            folders = run_training(which, World(scene_frame, COARSE, FINE), plan)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            folders = None
    if folders is None:
        print_lines([f"labkit: stopped; go on with: labkit train {which} --resume --out {out}"], console=err)
        raise typer.Exit(EXIT_INTERRUPTED)
    print_lines(f"{name}: {folder}" for name, folder in folders.items())
