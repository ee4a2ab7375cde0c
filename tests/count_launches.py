"""What a rung asks of a GPU for each frame, counted: `python tests/count_launches.py`.

Writes `labkit/lessons/launch_counts.json`, which notebook 06 shows. The frames are small, and products
and convolutions are computed once: what is launched and waited for depends on neither size nor values.

    python tests/count_launches.py box_kernels_cuda    # prints what one frame of 640x480 would take a GPU
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from itertools import cycle
from unittest.mock import patch

import torch

from labkit.bench.session import Session
from labkit.core.files import write_atomic
from labkit.core.types import Rung, Workload
from labkit.lessons.nb06_optimizations import LAUNCH_COUNTS
from labkit.pipelines.ladder import LADDER, rung
from labkit.practice import fake_gpu, gpu_tensor, time_model

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


# A GPU of the size of an H100: half of its published arithmetic and memory traffic, as few kernels of
# a single frame fill it, and what the start and end of a kernel cost in a CUDA graph.
HALF_FLOP_PER_US, BYTES_PER_US, KERNEL_US = 500e6, 1.7e6, 4.0


def worked_out_ms(row: Rung, boxes: int = 5) -> tuple[float, int]:
    """Time of the longest CUDA graph of a rung in half precision, by arithmetic, and its kernels."""
    work = Workload(weights="random", size=(640, 480), objects=boxes)
    frames = [make_frame(i, work.size) for i in range(2)]
    graphs = []
    done = gpu_tensor.Gpu.done

    def noted(gpu, what, reads, writes, us, engine="compute", kernels=1):
        graphs.append((us / 1e3 + kernels * KERNEL_US / 1e3, kernels))
        return done(gpu, what, reads, writes, us, engine, kernels)

    figures = {"FLOP_PER_US": HALF_FLOP_PER_US / 2, "BYTES_PER_US": BYTES_PER_US, "SHORTEST_US": 0.0}
    with (
        fake_gpu(strict=True, real=False),
        patch.dict(gpu_tensor.ON_GPU, ARITHMETIC),
        patch.multiple(time_model, **figures),
    ):
        schedule = row.run(cycle(frames), Session(row, work, frames).prepared.net)
        with patch.object(gpu_tensor.Gpu, "done", noted):
            for _ in range(3):
                next(schedule)
        schedule.close()
    return max(graphs, key=lambda graph: graph[1])


if __name__ == "__main__" and sys.argv[1:]:
    for name in sys.argv[1:]:
        ms, kernels = worked_out_ms(rung(name))
        print(f"{name}: {ms:.2f} ms in a graph of {kernels} kernels (worked out, not measured)")
elif __name__ == "__main__":
    told = {str(boxes): {row.name: counted(row, boxes) for row in rungs()} for boxes in BOXES}
    versions = {name: version(name) for name in ("torch", "torchvision", "transformers")}
    print(write_atomic(LAUNCH_COUNTS, json.dumps({"versions": versions, "boxes": told}, indent=1) + "\n"))
