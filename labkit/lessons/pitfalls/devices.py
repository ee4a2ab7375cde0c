"""Work that goes on elsewhere: timed without waiting for it, or waited for too often.

A GPU takes orders and works them off by itself. So does a worker thread, and there the same
two mistakes can be seen on any machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from labkit.core.requirements import unmet_requirement
from labkit.lessons.pitfalls.averages import FPS
from labkit.lessons.pitfalls.pitfall import DEVICE_S, Stand
from labkit.lessons.pitfalls.recorded import recorded_or_skipped
from labkit.lessons.pitfalls.result import Exhibit

NOT_WAITED = (
    "An asynchronous call returns when the order is placed, not when the work is done. Wait for the "
    "device once at each edge of the timed part, and nowhere inside."
)
WAITED = (
    "Whoever waits after every frame forbids host and device to work at the same time. Wait at the edges "
    "of the timed part; inside it, let a few frames be under way."
)
IN_FLIGHT = 2

Devices = Callable[[], Any]


@contextmanager
def worker_thread() -> Iterator[Executor]:
    """A device that every machine has: one thread that works off what it is given."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def not_synchronised(stand: Stand, device: Devices = worker_thread) -> Exhibit:
    """Orders timed instead of work."""
    wrong, right = [], []
    frames = stand.stream(stand.per_round)
    with device() as worker:
        for _ in range(stand.rounds):
            began = stand.clock.now()
            pending = [worker.submit(stand.edges, frame.image) for frame in frames]
            ordered = stand.clock.now()
            for each in pending:
                each.result()
            wrong.append(len(frames) / max(ordered - began, 1e-7))
            right.append(len(frames) / (stand.clock.now() - began))
    return Exhibit(
        name="asynchronous work not waited for",
        unit=FPS,
        wrong_way="clock stopped when the last order was placed",
        right_way="clock stopped when the last result was there",
        explanation=NOT_WAITED,
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def waited_too_often(stand: Stand, device: Devices = worker_thread) -> Exhibit:
    """Host and device take turns instead of working together."""
    wrong, right = [], []
    with device() as worker:
        for _ in range(stand.rounds):
            wrong.append(stand.per_round / stand.time_of(partial(_two_halves, stand, worker, 1)))
            right.append(stand.per_round / stand.time_of(partial(_two_halves, stand, worker, IN_FLIGHT)))
    return Exhibit(
        name="waiting after every frame",
        unit=FPS,
        wrong_way="the host waits for each result before it readies the next frame",
        right_way=f"{IN_FLIGHT} frames under way, one wait at the end",
        explanation=f"{WAITED} The device here is a thread that is busy for {DEVICE_S * 1e3:g} ms a frame "
        "without using the processor, as a GPU would be.",
        origin="reads about a hundred values per frame back from the GPU, one by one",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def _two_halves(stand: Stand, worker: Executor, in_flight: int) -> None:
    """Each frame: the host readies it, the device works on what the host made."""
    pending: deque[Future[Any]] = deque()
    for frame in stand.stream(stand.per_round):
        ready = stand.host(frame.image)
        pending.append(worker.submit(stand.device, ready))
        if len(pending) >= in_flight:
            pending.popleft().result()
    for each in pending:
        each.result()


def gpu_not_synchronised(stand: Stand) -> Exhibit:
    """Kernels launched, and the clock stopped before they ran."""
    about = Exhibit(
        name="a GPU not waited for",
        unit=FPS,
        wrong_way="clock stopped after the last launch",
        right_way="clock stopped after one synchronisation at the end",
        explanation=NOT_WAITED,
        skipped="no figures yet",
    )
    reason = unmet_requirement(("cuda",))
    if reason is not None:
        return recorded_or_skipped(about, reason)
    return _on_gpu(about, stand, lambda torch, x, frames: _launched_and_done(stand, torch, x, frames))


def gpu_waited_too_often(stand: Stand) -> Exhibit:
    """A synchronisation after every frame."""
    about = Exhibit(
        name="a GPU waited for after every frame",
        unit=FPS,
        wrong_way="a synchronisation and a value read back in every frame",
        right_way="one synchronisation at the end",
        explanation=WAITED,
        origin="calls item() on each of its detector's 100 scores, and int() on values of every box",
        skipped="no figures yet",
    )
    reason = unmet_requirement(("cuda",))
    if reason is not None:
        return recorded_or_skipped(about, reason)
    return _on_gpu(about, stand, lambda torch, x, frames: _often_and_once(stand, torch, x, frames))


def _on_gpu(about: Exhibit, stand: Stand, pair: Callable[[Any, Any, int], tuple[float, float]]) -> Exhibit:
    from dataclasses import replace

    import torch

    pictures = np.stack([frame.image for frame in stand.frames])
    x = torch.from_numpy(pictures).to("cuda").permute(0, 3, 1, 2).float() / 255
    pair(torch, x, stand.per_round)  # warm-up
    pairs = [pair(torch, x, stand.per_round) for _ in range(stand.rounds)]
    wrong, right = np.array(pairs).T
    return replace(about, wrong_rounds=wrong, right_rounds=right, skipped=None)


def _launched_and_done(stand: Stand, torch: Any, x: Any, n: int) -> tuple[float, float]:
    torch.cuda.synchronize()
    began = stand.clock.now()
    for i in range(n):
        _blurred(torch, x[i % len(x)])
    launched = stand.clock.now()
    torch.cuda.synchronize()
    return n / (launched - began), n / (stand.clock.now() - began)


def _often_and_once(stand: Stand, torch: Any, x: Any, n: int) -> tuple[float, float]:
    torch.cuda.synchronize()

    def often() -> None:
        for i in range(n):
            y = _blurred(torch, x[i % len(x)])
            for value in y.flatten()[:100]:
                value.item()

    def once() -> None:
        kept = [_blurred(torch, x[i % len(x)]).flatten()[:100] for i in range(n)]
        torch.stack(kept).cpu()

    return n / stand.time_of(often), n / stand.time_of(once)


def _blurred(torch: Any, image: Any) -> Any:
    """A few kernels on one (3, H, W) image on the GPU."""
    y = image[None]
    for _ in range(4):
        y = torch.nn.functional.avg_pool2d(y, 9, 1, 4)
    return y[0]
