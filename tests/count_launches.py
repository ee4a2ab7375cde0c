"""What a rung asks of a GPU for each frame, counted: `python tests/count_launches.py`.

Writes `labkit/lessons/launch_counts.json`, which notebook 06 shows. The frames are small, and products
and convolutions are computed once: what is launched and waited for depends on neither size nor values.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import cycle
from unittest.mock import patch

import torch

from labkit.bench.session import Session
from labkit.core.files import write_atomic
from labkit.core.types import Rung, Workload
from labkit.lessons.nb06_optimizations import LAUNCH_COUNTS
from labkit.pipelines.ladder import LADDER
from labkit.practice import fake_gpu, gpu_tensor

from conftest import TINY, make_frame  # isort: skip

FRAMES = 4  # a multiple of every group
BOXES = (5, 15)
RACES = "baseline_streams_cuda"


def rungs():
    """Rungs of the combined task that the fake GPU can run to their end, in groups of up to `FRAMES`."""
    on_gpu = [row for row in LADDER if row.prepare.device == "cuda" and row.prepare.task == "combined"]
    return [
        row
        for row in on_gpu
        if row.name != RACES and not row.prepare.compiles and row.prepare.group <= FRAMES
    ]


def computed_once(func):
    """An operation that gives what it gave the first time for inputs of the same shapes."""
    made = {}

    def again(*args):
        shapes = tuple(
            (x.dtype, x.shape, x.stride()) if isinstance(x, torch.Tensor) else str(x) for x in args
        )
        if shapes not in made:
            made[shapes] = func(*args)
        return made[shapes].clone()

    return again


aten = torch.ops.aten
SLOW = (aten.convolution, aten.addmm, aten.mm, aten.bmm, aten._addmm_activation)
ARITHMETIC = {func.default: computed_once(func.default) for func in SLOW} | {
    func: computed_once(gpu_tensor.ON_GPU[func])
    for func in (aten.cudnn_convolution_relu.default, aten.cudnn_convolution_add_relu.default)
}


def counted(row: Rung, boxes: int) -> dict[str, float]:
    """Per frame: launches, and the host's waits by what for; the full networks, with random weights."""
    work = Workload(weights="random", size=TINY, objects=boxes)
    frames = [make_frame(i) for i in range(FRAMES)]
    with fake_gpu(strict=True, real=False) as gpu, patch.dict(gpu_tensor.ON_GPU, ARITHMETIC):
        session = Session(row, work, frames)
        schedule = row.run(cycle(frames), session.prepared.net)
        for _ in range(FRAMES):  # the first ones fill what is in flight
            next(schedule)
        torch.cuda.synchronize()
        gpu.reset()
        for _ in range(FRAMES):
            next(schedule)
        waits, launches, kernels = gpu.waits.by_what(), gpu.launches, gpu.kernels
        schedule.close()
    each = {"launches": launches / FRAMES, "kernels": kernels / FRAMES}
    return {**each, **{what: n / FRAMES for what, n in sorted(waits.items())}}


if __name__ == "__main__":
    told = {str(boxes): {row.name: counted(row, boxes) for row in rungs()} for boxes in BOXES}
    versions = {name: version(name) for name in ("torch", "torchvision", "transformers")}
    print(write_atomic(LAUNCH_COUNTS, json.dumps({"versions": versions, "boxes": told}, indent=1) + "\n"))
