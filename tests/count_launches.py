"""What a rung asks of a GPU for each frame, counted: `python tests/count_launches.py`.

Writes `labkit/lessons/launch_counts.json`, which notebook 06 shows. The frames are small: how often the
host waits, and for what, does not depend on their size.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import cycle

import torch

from labkit.bench.session import Session
from labkit.core.files import write_atomic
from labkit.core.types import Rung, Workload
from labkit.lessons.nb06_optimizations import LAUNCH_COUNTS
from labkit.pipelines.ladder import LADDER
from labkit.practice import fake_gpu

from conftest import TINY, make_frame  # isort: skip

FRAMES = 4  # a multiple of every group
BOXES = (5, 15)
RACES = "baseline_streams_cuda"


def rungs():
    """Rungs of the combined task that the fake GPU can run to their end; it builds no kernels."""
    on_gpu = [row for row in LADDER if row.prepare.device == "cuda" and row.prepare.task == "combined"]
    return [row for row in on_gpu if row.name != RACES and not row.prepare.compiles]


def counted(row: Rung, boxes: int) -> dict[str, float]:
    """Per frame: launches, and the host's waits by what for; the full networks, with random weights."""
    work = Workload(weights="random", size=TINY, objects=boxes)
    frames = [make_frame(i) for i in range(FRAMES)]
    with fake_gpu(strict=True, real=False) as gpu:
        session = Session(row, work, frames)
        schedule = row.run(cycle(frames), session.prepared.net)
        for _ in range(FRAMES):  # the first ones fill what is in flight
            next(schedule)
        torch.cuda.synchronize()
        gpu.reset()
        for _ in range(FRAMES):
            next(schedule)
        waits, launches = gpu.waits.by_what(), gpu.launches
        schedule.close()
    return {"launches": launches / FRAMES, **{what: n / FRAMES for what, n in sorted(waits.items())}}


if __name__ == "__main__":
    told = {str(boxes): {row.name: counted(row, boxes) for row in rungs()} for boxes in BOXES}
    versions = {name: version(name) for name in ("torch", "torchvision", "transformers")}
    print(write_atomic(LAUNCH_COUNTS, json.dumps({"versions": versions, "boxes": told}, indent=1) + "\n"))
