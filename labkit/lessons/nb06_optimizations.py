"""Lesson 06: checks of a folded batch norm and of Amdahl's law; launches of the lab's GPU rungs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.core.errors import UsageError
from labkit.core.read_json import read_json
from labkit.lessons.exercise import Mistake, Rng, call, compare, exercise_check
from labkit.lessons.hints import hint

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_fold", "check_speed_up", "hint", "launch_counts"]

LAUNCH_COUNTS = Path(__file__).with_name("launch_counts.json")
"""Counted on the practice GPU, by `tests/count_launches.py`."""


def launch_counts(objects: int = 5) -> pd.DataFrame:
    """Launches, and waits of the host for the GPU, per frame and rung; needs no GPU.

    One rung per row, in the order of the ladder. `launches` are PyTorch's operations and the lab's
    own kernels; a CUDA graph is one, and `kernels` counts what is in it. `waits` are all points at
    which the host stands still: `values` read from the GPU one at a time, whole `copies`, and waits
    `on purpose` for an event.

    Args:
        objects: boxes per frame, 5 or 15.

    Raises:
        UsageError: nothing is recorded for that number of boxes.
    """
    import pandas as pd

    recorded = read_json(LAUNCH_COUNTS)["boxes"]
    if str(objects) not in recorded:
        raise UsageError(f"frames of {' or '.join(recorded)} boxes were counted, not of {objects}")
    rows = []
    for rung, counts in recorded[str(objects)].items():
        waits = {what: times for what, times in counts.items() if what not in ("launches", "kernels")}
        copies = sum(times for what, times in waits.items() if what.startswith("a copy"))
        values = waits.get("a value", 0)
        rows.append(
            {
                "rung": rung,
                "launches": counts["launches"],
                "kernels": counts["kernels"],
                "waits": sum(waits.values()),
                "values": values,
                "copies": copies,
                "on purpose": sum(waits.values()) - values - copies,
            }
        )
    counted = [[count if isinstance(count, str) else _count(count) for count in row.values()] for row in rows]
    return pd.DataFrame(counted, columns=list(rows[0]), dtype=object).set_index("rung")


def _count(per_frame: float) -> float:
    """To one decimal; a whole number as such, since only a group of frames has others."""
    rounded = round(per_frame, 1)
    return int(rounded) if rounded == int(rounded) else rounded


@exercise_check
def check_fold(fold: Callable[..., Any], rng: Rng) -> str:
    """Check `fold(weight, mean, var, gamma, beta, eps)`: a batch norm folded into a convolution.

    `weight` (O, I, h, w) and the norm's numbers (O,) are float32 tensors, drawn anew for each check;
    expected are the weight and the bias (O,) of one convolution that does the work of both.
    """
    outputs, inputs = (int(n) for n in rng.choice(np.arange(3, 9), 2, replace=False))
    sides = [(3, 3), (3, 3), (1, int(rng.integers(2, 8))), (int(rng.integers(4, 8)), 1)]
    for (height, width), channels in zip(sides, (inputs, inputs, 1, outputs), strict=True):
        _check_folded(fold, rng, (outputs, channels, height, width))
    return "one convolution does what convolution and batch norm did"


def _check_folded(fold: Callable[..., Any], rng: Rng, shape: tuple[int, ...]) -> None:
    import torch

    weight = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    drawn = *rng.normal(size=(3, shape[0])), rng.uniform(0.1, 4, shape[0])
    mean, beta, gamma, var = (torch.from_numpy(values.astype(np.float32)) for values in drawn)
    eps = float(rng.uniform(0.03, 0.1))
    got = call(fold, weight, mean, var, gamma, beta, eps)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake(f"two things are expected, weight and bias, not {type(got).__name__}")
    scale = gamma / torch.sqrt(var + eps)
    weights = {
        "the weight is unchanged; the norm multiplies too": weight,
        "var is a variance: divide by its square root": weight * (gamma / var)[:, None, None, None],
        "eps is missing below the root": weight * (gamma / var.sqrt())[:, None, None, None],
        "gamma is missing in the weight": weight * (scale / gamma)[:, None, None, None],
    }
    biases = {
        "the bias is that of the norm; the mean that it subtracts is missing": beta,
        "the mean is scaled before it is subtracted: it has gone through the same multiplication": beta
        - mean,
        "the sign of the mean is turned": beta + mean * scale,
        "beta is missing in the bias": -mean * scale,
    }
    otherwise = "the weight is wrong: what is each output channel of the convolution multiplied by?"
    same = "that of the weight; scale[:, None, None, None] acts on each output channel"
    compare(got[0], weight * scale[:, None, None, None], weights, otherwise, shape=same, atol=1e-4)
    otherwise = "the weight is right, the bias is not: what does the norm make of a convolution of zeros?"
    compare(got[1], beta - mean * scale, biases, otherwise, shape="one bias per output", atol=1e-4)


@exercise_check
def check_speed_up(speed_up: Callable[[float, float], Any], rng: Rng) -> str:
    """Check `speed_up(share, part_factor)`: Amdahl's law for one part of the time."""
    known = [(0.3, 4.0), (0.5, 2.0), (0.0, 5.0), (1.0, 3.0), (0.4, 0.5), (0.6, 1.0)]
    drawn = zip(rng.uniform(0, 1, 20).tolist(), rng.lognormal(1, 1.5, 20).tolist(), strict=True)
    far = (rng.uniform(0.9, 0.99), rng.uniform(20, 90)), (rng.uniform(0.5, 0.9), rng.uniform(0.1, 0.5))
    for share, factor in [*known, *far, *drawn]:
        got = call(speed_up, share, factor)
        right = 1 / (1 - share + share / factor)
        mistakes = {
            "that is the new time as a share of the old one; a gain is its inverse": 1 / right,
            "that adds the part's gain in proportion; times add up, gains do not": 1 - share + share * factor,
            "the part does not vanish, it becomes faster; that is the ceiling": 1 / max(1e-12, 1 - share),
            "only this part becomes faster, not the whole": factor,
        }
        otherwise = "write down the old time as 1 and the new time as what stays plus what shrinks"
        case = f"a share of {share:.3g} made {factor:.3g} times faster"
        compare(got, right, mistakes, otherwise, case=case)
    return "that is Amdahl's law, also when a part becomes slower"
