"""FLOPs and bytes of a frame, counted by torch on the networks as published."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit.core.requirements import precision_here
from labkit.core.types import Preparation, Size, Workload
from labkit.models.networks import build
from labkit.models.third_party import enlarged
from labkit.models.weights import Weights, lab_weights, models_of

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
"""Of one weight, by precision."""


def gflop_per_frame(preparation: Preparation, workload: Workload) -> float | None:
    """Arithmetic of one frame in GFLOP (2 per multiply-add), whatever engine does it.

    None for a loop that brings its own networks, and where pictures decide which frames are detected.

    Args:
        preparation: which networks run.
        workload: model set, frame size, and how many boxes are named.
    """
    if _unknown(preparation):
        return None
    detector, classifier = models_of(workload)
    if preparation.task == "classify":
        return gflop(classifier, workload.size)
    total = gflop(detector, workload.size, resize=preparation.options.get("resize"))
    if preparation.task == "combined":
        total += workload.objects * gflop(classifier, workload.size, crop=True)
    return total


def mb_per_frame(preparation: Preparation, workload: Workload) -> float | None:
    """The least that a frame moves, in MB: every weight once, and the frame itself.

    What passes between layers is left out, since a cache may hold it; so arithmetic per byte is an
    upper bound. Frames that go through the networks together share the weights. None as above.
    """
    if _unknown(preparation):
        return None
    width, height = workload.size
    models = models_of(workload)
    wanted = {"detect": models[:1], "classify": models[1:], "combined": models}[preparation.task]
    weights = sum(parameters(model) for model in wanted) * BYTES[precision_here(preparation)]
    return (weights / preparation.group + 3 * width * height) / 1e6


def _unknown(preparation: Preparation) -> bool:
    return preparation.form == "own" or "every" in preparation.options


@lru_cache(maxsize=8)
def parameters(model: str) -> int:
    """Number of a network's parameters."""
    return sum(p.numel() for p in build(_any_weights(model)).module.parameters())


@lru_cache(maxsize=32)
def gflop(model: str, size: Size, crop: bool = False, resize: int | None = None) -> float:
    """GFLOP of one forward pass for one frame of `size` (width, height), or for one crop.

    `resize` is the length of the shorter side that transformers' processor makes of the frame.
    """
    network = build(_any_weights(model))
    spec = network.crop_input if crop and network.crop_input is not None else network.input
    width, height = spec.output_size(size) if resize is None else enlarged(spec, size, resize)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.module(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() / 1e9


def _any_weights(model: str) -> Weights:
    """Arithmetic and size do not depend on what has been learnt."""
    return lab_weights(model) if model.startswith("lab_") else Weights(model, "random", None, "seed 0", "")
