"""How much arithmetic a frame costs, counted by torch on the networks as published."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit.models.networks import MODELS, build, lab_weights
from labkit.models.peers import enlarged
from labkit.models.weights import Weights
from labkit.types import Preparation, Size, Workload


def gflop_per_frame(preparation: Preparation, workload: Workload) -> float:
    """Arithmetic of one frame in GFLOP (2 per multiply-add), whatever engine does it.

    Args:
        preparation: which networks run.
        workload: model set, frame size, and how many boxes are named.
    """
    detector, classifier = MODELS[workload.model_set]
    if preparation.task == "classify":
        return gflop(classifier, workload.size)
    total = gflop(detector, workload.size, resize=preparation.options.get("resize"))
    if preparation.task == "combined":
        total += workload.objects * gflop(classifier, workload.size, crop=True)
    return total


@lru_cache(maxsize=32)
def gflop(model: str, size: Size, crop: bool = False, resize: int | None = None) -> float:
    """GFLOP of one forward pass for one frame of `size` (width, height), or for one crop.

    `resize` is the length of the shorter side that transformers' processor makes of the frame.
    """
    lab = model.startswith("lab_")
    network = build(lab_weights(model) if lab else Weights(model, "random", None, "seed 0", ""))
    spec = network.crop_input if crop and network.crop_input is not None else network.input
    width, height = spec.output_size(size) if resize is None else enlarged(spec, size, resize)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.module(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() / 1e9
