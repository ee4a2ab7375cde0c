"""What else the machine does: a neighbour at work, pools that fight, a process that is still cold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from labkit.lessons.pitfalls.averages import FPS, rate_of_mean
from labkit.lessons.pitfalls.child import Child
from labkit.lessons.pitfalls.pitfall import Stand
from labkit.lessons.pitfalls.result import Exhibit

PEACE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
SPIN = "print('spinning', flush=True)\nwhile True: pass"
FRESH = 10  # frames that a hasty benchmark takes, the first one included
COLD_ROUNDS = 5  # each needs a process of its own, which takes a second or more to load torch


@contextmanager
def neighbours(count: int | None = None) -> Iterator[None]:
    """Other processes at work, one per core of the machine, until the block ends."""
    command = [sys.executable, "-S", "-E", "-c", SPIN]
    with ExitStack() as stack:
        spinning = []
        for _ in range(count or os.cpu_count() or 1):
            spinning.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE)))
            stack.callback(spinning[-1].kill)  # runs before the process is waited for
        for process in spinning:
            assert process.stdout is not None
            process.stdout.readline()
        yield


def busy_neighbour(stand: Stand, beside: Callable[[], Any] = neighbours) -> Exhibit:
    """A figure taken while somebody else used the machine."""
    frames = stand.stream(stand.per_round)
    wrong, right = [], []
    for _ in range(stand.rounds):
        right.append(rate_of_mean(stand.time_each(frames)))
        with beside():
            wrong.append(rate_of_mean(stand.time_each(frames)))
    return Exhibit(
        name="a busy neighbour",
        unit=FPS,
        wrong_way="measured while other processes were at work",
        right_way="measured alone",
        explanation="A core that is shared is half a core, and a cache that is shared is a smaller one. Look "
        "at load and steal, mark the run, and compare in turns, so that a busy moment hits both sides.",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def fighting_pools(stand: Stand) -> Exhibit:
    """Two libraries, each with a thread on every core that spins while it waits."""
    turn = max(2, stand.per_round // 4)
    with Child(stand.frames, waiting=None) as spinning, Child(stand.frames, waiting=PEACE) as passive:
        for child in (spinning, passive):
            child.times(FRESH)
        wrong, right = [], []
        for _ in range(stand.rounds):
            wrong.append(rate_of_mean(spinning.times(turn)))
            right.append(rate_of_mean(passive.times(turn)))
    return Exhibit(
        name="thread pools that fight",
        unit=FPS,
        wrong_way="OpenCV and torch in one process, as they come",
        right_way="the same with " + " and ".join(f"{key}={value}" for key, value in PEACE.items()),
        explanation="Each library keeps a thread per core, and an idle one spins for a while in the hope of "
        "more work, on the core that the other library's threads need. Threads that wait passively leave it.",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def no_warm_up(stand: Stand) -> Exhibit:
    """The first frames of a process, timed with the rest."""
    wrong, right = [], []
    for _ in range(min(stand.rounds, COLD_ROUNDS)):
        with Child(stand.frames, waiting=PEACE) as child:
            wrong.append(rate_of_mean(child.times(FRESH)))
            right.append(rate_of_mean(child.times(max(2 * FRESH, stand.per_round))[FRESH:]))
    return Exhibit(
        name="no warm-up",
        unit=FPS,
        wrong_way=f"the first {FRESH} frames of a process, from the very first on",
        right_way="frames after the first 20",
        explanation="The first frame finds libraries that load, pools that start, memory that was never "
        "touched and plans that are not made yet. Keep warm-up frames apart; show the cold start as such.",
        origin="has no warm-up",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )
