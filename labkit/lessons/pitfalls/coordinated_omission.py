"""Coordinated omission: a load generator that waits politely while the system stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labkit.bench.timing import Clock
from labkit.core import stats
from labkit.core.types import Frame
from labkit.lessons.pitfalls.pitfall import pitfall
from labkit.lessons.pitfalls.setup import Setup

DUE_FPS = 150.0
STALL_S = 0.15
STALL_AT = 20


def due_latency(done_s: ArrayLike, fps: float) -> NDArray[np.float64]:
    """(n,) s from when each frame was due to its result; frame k is due at k / fps.

    Args:
        done_s: (n,) s when each result was there, from the moment the first frame was due.
        fps: rate at which frames fall due.
    """
    done = np.asarray(done_s, np.float64)
    return done - np.arange(len(done)) / fps


@pitfall(
    name="coordinated omission",
    unit="ms (p90 of latency)",
    wrong_way="clock started when the loop got round to a frame",
    right_way="clock started when the frame was due",
    explanation=f"Frames fall due {DUE_FPS:g} times a second, and once the loop stands still for "
    f"{STALL_S * 1e3:g} ms. The frames that queued meanwhile were late for their viewer; a clock that "
    "waits until the loop takes them up sees one slow frame in all.",
    origin="times only the work on a frame that it has already taken",
)
def coordinated_omission(
    setup: Setup, fps: float = DUE_FPS, stall_s: float = STALL_S
) -> Iterator[tuple[float, float]]:
    """p90 latency around one stall, from when work began and from when each frame was due."""
    n = max(setup.per_round, stats.frames_needed(90) + STALL_AT)
    for _ in range(setup.rounds):
        began_s, done_s = paced(setup.stream(n), setup.task, fps, stall_s, setup.clock)
        yield _p90_ms(done_s - began_s), _p90_ms(due_latency(done_s, fps))


def paced(
    frames: list[Frame], task: Callable[[Frame], object], fps: float, stall_s: float, clock: Clock
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Process frames in order, none earlier than it is due, and stand still once.

    Returns:
        (n,) s when the work on each began and when it was done, from when the first was due.
    """
    start = clock.now()
    began, done = np.empty(len(frames)), np.empty(len(frames))
    for i, frame in enumerate(frames):
        wait = start + i / fps - clock.now()
        if wait > 0:
            clock.sleep(wait)
        began[i] = clock.now() - start
        task(frame)
        if i == STALL_AT:
            clock.sleep(stall_s)
        done[i] = clock.now() - start
    return began, done


def _p90_ms(latency_s: NDArray[np.float64]) -> float:
    value = stats.percentile(latency_s, 90)
    assert value is not None  # the series is made long enough
    return value * 1e3
