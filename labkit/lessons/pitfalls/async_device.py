"""Pitfalls of asynchronous work: timed without waiting for it, or waited for too often.

A GPU works off a queue of launches by itself. So does a worker thread, and there the same two
mistakes can be seen on any machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from labkit.lessons.pitfalls.pitfall import FPS, pitfall
from labkit.lessons.pitfalls.setup import DEVICE_S, Setup

NOT_SYNCHRONISED = (
    "An asynchronous call returns when the work is queued, not when it is done. Synchronise with the "
    "device once at each edge of the timed part, and nowhere inside."
)
SYNCHRONISED_TOO_OFTEN = (
    "Waiting after every frame forbids host and device to work at the same time. Synchronise at the edges "
    "of the timed part; inside it, keep a few frames in flight."
)
IN_FLIGHT = 2

Device = Callable[[], AbstractContextManager[Any]]
Pairs = Iterator[tuple[float, float]]


def worker_thread() -> ThreadPoolExecutor:
    """A device that every machine has: one thread that works off a queue."""
    return ThreadPoolExecutor(1)


@pitfall(
    name="asynchronous work not synchronised",
    unit=FPS,
    wrong_way="clock stopped when the last call was queued",
    right_way="clock stopped when the last result was there",
    explanation=NOT_SYNCHRONISED,
)
def not_synchronised(setup: Setup, device: Device = worker_thread) -> Pairs:
    """Rate of queueing against rate of results, on a worker thread."""
    frames = setup.stream(setup.per_round)
    with device() as worker:
        for _ in range(setup.rounds):
            began = setup.clock.now()
            pending = [worker.submit(setup.edges, frame.image) for frame in frames]
            queued = setup.clock.now()
            for each in pending:
                each.result()
            yield len(frames) / max(queued - began, 1e-7), len(frames) / (setup.clock.now() - began)


@pitfall(
    name="synchronising after every frame",
    unit=FPS,
    wrong_way="the host waits for each result before it prepares the next frame",
    right_way=f"{IN_FLIGHT} frames in flight, one wait at the end",
    explanation=f"{SYNCHRONISED_TOO_OFTEN} The device here is a thread that is busy for "
    f"{DEVICE_S * 1e3:g} ms a frame without using the processor, as a GPU would be.",
    origin="reads about a hundred values per frame back from the GPU, one by one",
)
def synchronised_too_often(setup: Setup, device: Device = worker_thread) -> Pairs:
    """Host and device one after the other against both at the same time."""
    n = setup.per_round
    with device() as worker:
        for _ in range(setup.rounds):
            wrong, right = (
                n / setup.time_of(partial(_host_and_device, setup, worker, in_flight))
                for in_flight in (1, IN_FLIGHT)
            )
            yield wrong, right


def _host_and_device(setup: Setup, worker: Executor, in_flight: int) -> None:
    """For each frame, prepare it on the host and queue the device's work on the result."""
    pending: deque[Future[Any]] = deque()
    for frame in setup.stream(setup.per_round):
        pending.append(worker.submit(setup.device, setup.host(frame.image)))
        if len(pending) >= in_flight:
            pending.popleft().result()
    for each in pending:
        each.result()


@pitfall(
    name="a GPU not synchronised",
    unit=FPS,
    wrong_way="clock stopped after the last launch",
    right_way="clock stopped after one synchronisation at the end",
    explanation=NOT_SYNCHRONISED,
    needs=("cuda",),
)
def gpu_not_synchronised(setup: Setup) -> Pairs:
    """Rate of launches against rate of results, on a GPU."""
    import torch

    def both(x: Any) -> tuple[float, float]:
        torch.cuda.synchronize()
        began = setup.clock.now()
        for i in range(setup.per_round):
            _blurred(x[i % len(x)])
        launched_s = setup.clock.now() - began
        torch.cuda.synchronize()
        return setup.per_round / launched_s, setup.per_round / (setup.clock.now() - began)

    yield from _on_gpu(setup, both)


@pitfall(
    name="a GPU synchronised after every frame",
    unit=FPS,
    wrong_way="a synchronisation and a value read back in every frame",
    right_way="one synchronisation at the end",
    explanation=SYNCHRONISED_TOO_OFTEN,
    origin="calls item() on each of its detector's 100 scores, and int() on values of every box",
    needs=("cuda",),
)
def gpu_synchronised_too_often(setup: Setup) -> Pairs:
    """A hundred values read one by one in every frame against one copy at the end."""
    import torch

    def first_values(x: Any) -> Iterator[Any]:
        return (_blurred(x[i % len(x)]).flatten()[:100] for i in range(setup.per_round))

    def both(x: Any) -> tuple[float, float]:
        torch.cuda.synchronize()
        often_s = setup.time_of(lambda: [value.item() for each in first_values(x) for value in each])
        once_s = setup.time_of(lambda: torch.stack([*first_values(x)]).cpu())
        return setup.per_round / often_s, setup.per_round / once_s

    yield from _on_gpu(setup, both)


def _on_gpu(setup: Setup, both: Callable[[Any], tuple[float, float]]) -> Pairs:
    """Yield `both(x)` once per round after a warm-up; `x` is (n, 3, H, W) float32 on the GPU."""
    import torch

    pictures = np.stack([frame.image for frame in setup.frames])
    x = torch.from_numpy(pictures).to("cuda").permute(0, 3, 1, 2).float() / 255
    both(x)  # warm-up
    for _ in range(setup.rounds):
        yield both(x)


def _blurred(image: Any) -> Any:
    """A few kernels on one (3, H, W) image on the GPU."""
    import torch

    y = image[None]
    for _ in range(4):
        y = torch.nn.functional.avg_pool2d(y, 9, 1, 4)
    return y[0]
