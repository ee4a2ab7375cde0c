"""The training loop: seeded, resumable, with averaged weights and a log.

Every random choice of a step comes from (seed, step) alone, so a run that was interrupted and
resumed takes the same steps as one that was not.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit.core.errors import UsageError, WeightsError
from labkit.core.files import open_atomic, write_atomic


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
    elapsed_s: float
    losses: Mapping[str, float]
    scores: Mapping[str, float] = field(default_factory=dict)


Losses = dict[str, Tensor]
Step = Callable[[np.random.Generator, float], Losses]
"""Given this step's random numbers and the share of the budget spent: losses, the sum of which falls."""


@dataclass(frozen=True)
class Plan:
    """Settings of one training.

    Attributes:
        what: name in logs.
        budget: how long.
        seed: of batches and augmentation.
        out: folder for the checkpoint and the log.
        lr: highest learning rate; it warms up, then falls along a cosine to 0.
        device: "cpu" or "cuda".
        bf16: run forward passes in bfloat16.
        ema: share of the averaged weights that is kept per step, once warm.
        checkpoint_s: seconds between checkpoints.
        score_s: seconds between scorings of the averaged model.
    """

    what: str
    budget: Budget
    seed: int
    out: Path
    lr: float
    device: str = "cpu"
    bf16: bool = False
    ema: float = 0.998
    checkpoint_s: float = 120.0
    score_s: float = 300.0

    @property
    def checkpoint(self) -> Path:
        """File that holds the state of training."""
        return self.out / f"{self.what}.checkpoint.pt"

    @property
    def log(self) -> Path:
        """CSV file of losses and scores."""
        return self.out / f"{self.what}.log.csv"

    def autocast(self) -> AbstractContextManager[Any]:
        """The number format of forward passes."""
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()


def fit(
    model: nn.Module,
    step_losses: Step,
    plan: Plan,
    *,
    resume: bool = False,
    score: Callable[[nn.Module], Mapping[str, float]] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> nn.Module:
    """Trains `model` in place and returns its averaged copy.

    Args:
        model: what is trained; all its parameters are.
        step_losses: draws a batch and returns its losses.
        plan: how.
        resume: go on from the checkpoint, if there is one.
        score: how good the averaged model is, for the log.
        progress: called after each logged step.

    Raises:
        WeightsError: if the checkpoint does not fit the model, or a loss is not finite.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    averaged = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=1e-4)
    step, before_s = 0, 0.0
    rows: list[dict[str, float]] = []
    if resume and plan.checkpoint.exists():
        step, before_s, rows = _load(plan, model, averaged, optimizer)
    began = saved = scored = time.monotonic()
    spent = plan.budget.spent(step, before_s)
    while spent < 1:
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * _warmth(step) * 0.5 * (1 + math.cos(math.pi * spent))
        losses = step_losses(np.random.default_rng([plan.seed, step]), spent)
        _descend(model, optimizer, losses, plan.what, step)
        step += 1
        _average(averaged, model, min(plan.ema, step / (step + 10)))
        now = time.monotonic()
        spent = plan.budget.spent(step, before_s + now - began)
        if step % 20 == 0 or spent >= 1:
            scores: Mapping[str, float] = {}
            if score is not None and (now - scored > plan.score_s or spent >= 1):
                scores, scored = score(averaged), time.monotonic()
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            event = Progress(plan.what, step, spent, before_s + now - began, values, scores)
            rows.append({"step": step, "elapsed_s": round(event.elapsed_s, 1), **values, **scores})
            if progress is not None:
                progress(event)
        if now - saved > plan.checkpoint_s or spent >= 1:
            _save(plan, model, averaged, optimizer, step, before_s + now - began, rows)
            saved = time.monotonic()
    return averaged


def write_log(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the log of a training run as CSV."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in r.items()} for r in rows)
    write_atomic(path, text.getvalue())


def _warmth(step: int) -> float:
    return min(1.0, (step + 1) / 200)


def _descend(
    model: nn.Module, optimizer: torch.optim.Optimizer, losses: Losses, what: str, step: int
) -> None:
    total = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(total):
        named = {name: float(loss.detach()) for name, loss in losses.items()}
        raise WeightsError(
            f"training {what}: the loss at step {step} is not finite ({named}); lower the rate"
        )
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    for old, new in zip(averaged.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - keep)
    for kept, current in zip(averaged.buffers(), model.buffers(), strict=True):
        kept.copy_(current)


def _save(
    plan: Plan,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    elapsed_s: float,
    rows: list[dict[str, float]],
) -> None:
    state = {
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "elapsed_s": elapsed_s,
        "rows": rows,
        "seed": plan.seed,
    }
    with open_atomic(plan.checkpoint) as file:
        torch.save(state, file)
    write_log(plan.log, rows)


def _load(
    plan: Plan, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float, list[dict[str, float]]]:
    state = _read(plan)
    try:
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(f"{plan.checkpoint} is of another model ({error}); move it away") from error
    return int(state["step"]), float(state["elapsed_s"]), list(state["rows"])


def _read(plan: Plan) -> dict[str, Any]:
    try:
        state = torch.load(plan.checkpoint, map_location=plan.device, weights_only=True)
        seed = state["seed"]
    except Exception as error:  # damage shows in as many kinds of error as the format has layers
        raise WeightsError(f"{plan.checkpoint} is damaged ({error}); move it away to start anew") from error
    if seed != plan.seed:
        raise WeightsError(f"{plan.checkpoint} was made with seed {seed}, not {plan.seed}")
    return dict(state)
