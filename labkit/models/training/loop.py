"""The training loop: seeded, resumable, with averaged weights and a log.

Every random choice of a step comes from (seed, step) alone, so a run that was interrupted and
resumed takes the same steps as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from labkit.core.errors import UsageError, WeightsError
from labkit.core.files import open_atomic, write_atomic

WARM_UP_STEPS = 200
KEPT = 0.998
"""Share of the averaged weights that is kept per step, once warm."""
SCORE_EVERY_S = 300.0


@dataclass(frozen=True)
class Budget:
    """Length of a training: a number of steps, or minutes of wall time; exactly one of them."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError("say either how many steps or how many minutes to train")
        if (self.steps or self.minutes or 0) <= 0:
            raise UsageError(f"training takes more than 0 steps or minutes, not {self.steps or self.minutes}")

    def spent(self, step: int, elapsed_s: float) -> float:
        """Share of the budget that is used up, from 0 to 1."""
        share = step / self.steps if self.steps is not None else elapsed_s / (60 * (self.minutes or 1))
        return min(1.0, share)


@dataclass(frozen=True)
class Progress:
    """State of a training, as given to its progress callback."""

    what: str
    step: int
    spent: float
    losses: Mapping[str, float]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Settings of a training.

    Attributes:
        out: folder for weights, checkpoints, logs and drawn scenes.
        budget: how long, per model.
        seed: of weights, batches and scenes.
        scenes: how many different ones to draw.
        resume: go on from the checkpoints in `out`, where there are any.
        device: "cpu" or "cuda".
        progress: told about each logged step.
        checkpoint_s: seconds between checkpoints.
    """

    out: Path
    budget: Budget
    seed: int = 0
    scenes: int = 16_000
    resume: bool = False
    device: str = "cpu"
    progress: Callable[[Progress], None] = lambda now: None
    checkpoint_s: float = 120.0


Losses = dict[str, Tensor]
Step = Callable[[np.random.Generator, float], Losses]
"""Given this step's random numbers and the share of the budget spent: losses, the sum of which falls."""
Score = Callable[[nn.Module], Mapping[str, float]]


def fit(
    what: str, model: nn.Module, step_losses: Step, plan: Plan, *, lr: float, score: Score = lambda model: {}
) -> nn.Module:
    """Trains `model` in place and returns its averaged copy.

    Args:
        what: its name in logs and files.
        model: what is trained; all its parameters are.
        step_losses: draws a batch and returns its losses.
        plan: how.
        lr: highest learning rate; it warms up, then falls along a cosine to 0.
        score: how good the averaged model is, for the log.

    Raises:
        WeightsError: if the checkpoint does not fit the model, or a loss is not finite.
    """
    averaged = AveragedModel(model, avg_fn=_average)
    averaged.requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    parts = {"model": model, "averaged": averaged, "optimizer": optimizer}
    checkpoint = plan.out / f"{what}.checkpoint.pt"
    step, before_s = 0, 0.0
    rows: list[dict[str, float]] = []
    if plan.resume and checkpoint.exists():
        step, before_s, rows = _resumed(checkpoint, parts, plan)
    began = saved = scored = time.monotonic()
    spent = plan.budget.spent(step, before_s)
    while spent < 1:
        warmth = min(1.0, (step + 1) / WARM_UP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = lr * warmth * 0.5 * (1 + math.cos(math.pi * spent))
        losses = step_losses(np.random.default_rng([plan.seed, step]), spent)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not math.isfinite(sum(values.values())):
            raise WeightsError(
                f"training {what}: the loss at step {step} is not finite ({values}); lower the rate"
            )
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(model)
        step += 1
        now = time.monotonic()
        elapsed_s = before_s + now - began
        spent = plan.budget.spent(step, elapsed_s)
        if step % 20 == 0 or spent >= 1:
            scores: Mapping[str, float] = {}
            if now - scored > SCORE_EVERY_S or spent >= 1:
                scores, scored = score(averaged.module), time.monotonic()
            rows.append({"step": step, "elapsed_s": round(elapsed_s, 1), **values, **scores})
            plan.progress(Progress(what, step, spent, values, scores))
        if now - saved > plan.checkpoint_s or spent >= 1:
            states = {name: part.state_dict() for name, part in parts.items()}
            with open_atomic(checkpoint) as file:
                torch.save(
                    {**states, "step": step, "elapsed_s": elapsed_s, "rows": rows, "seed": plan.seed}, file
                )
            write_log(plan.out / f"{what}.log.csv", rows)
            saved = time.monotonic()
    return averaged.module


def write_log(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the log of a training run as CSV."""
    import pandas as pd

    write_atomic(path, pd.DataFrame(rows).round(5).to_csv(index=False))


def _average(averaged: Tensor, current: Tensor, before: Tensor | int) -> Tensor:
    step = int(before) + 1
    return averaged.lerp(current, 1 - min(KEPT, step / (step + 10)))


def _resumed(path: Path, parts: Mapping[str, Any], plan: Plan) -> tuple[int, float, list[dict[str, float]]]:
    """Reads a checkpoint into model, averaged weights and optimizer; its step, time and log."""
    try:
        state = torch.load(path, map_location=plan.device, weights_only=True)
        seed, reached = state["seed"], (int(state["step"]), float(state["elapsed_s"]), list(state["rows"]))
    except Exception as error:  # damage shows in as many kinds of error as the format has layers
        raise WeightsError(f"{path} is damaged ({error}); move it away to start anew") from error
    if seed != plan.seed:
        raise WeightsError(f"{path} was made with seed {seed}, not {plan.seed}")
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is of another model ({error}); move it away") from error
    return reached
