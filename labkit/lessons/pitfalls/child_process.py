"""A child process that times frames; its environment is set before torch loads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from labkit.core.child import SpawnedProcess
from labkit.core.types import Frame

DEADLINE_S = 120.0
"""Of the start and of each order; both take seconds."""
PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
"""Environment in which idle threads of OpenMP sleep instead of spinning."""


class ChildProcess:
    """A spawned process that works on frames and returns their times.

    Args:
        frames: the first eight are worked on in turn.
        waiting: environment that sets how idle threads wait; None leaves that to the thread pool.
    """

    def __init__(self, frames: Sequence[Frame], waiting: Mapping[str, str] | None) -> None:
        self._process = SpawnedProcess()
        with _environment(waiting or {}):
            self._process.call(DEADLINE_S, _load, [frame.image for frame in frames[:8]])

    def times(self, n: int) -> NDArray[np.float64]:
        """(n,) s per frame for the next `n` frames.

        Raises:
            WorkerError: the process died, or took too long.
        """
        return np.array(self._process.call(DEADLINE_S, time_frames, n))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the variables of `PASSIVE` to these values, or to none, until the block ends."""
    before = {name: os.environ.pop(name) for name in PASSIVE if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in PASSIVE:
            os.environ.pop(name, None)
        os.environ.update(before)


_work: Iterator[Any]  # of the child: each step works on one frame


def _load(images: list[NDArray[np.uint8]]) -> None:
    """In the child: load the libraries and build the network."""
    global _work
    _work = _working(images)
    next(_work)


def _working(images: list[NDArray[np.uint8]]) -> Iterator[Any]:
    """Shrink one frame per step with OpenCV and run a small torch network on it."""
    import cv2
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2, 1)
    ).eval()
    yield
    while True:
        for image in images:
            small = cv2.resize(cv2.GaussianBlur(image, (9, 9), 0), (224, 224), interpolation=cv2.INTER_AREA)
            with torch.inference_mode():
                yield net(torch.from_numpy(np.asarray(small)).permute(2, 0, 1)[None].float() / 255)


def time_frames(n: int) -> list[float]:
    """In the child: seconds per frame for the next `n` frames."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        next(_work)
        times.append(time.perf_counter() - began)
    return times
