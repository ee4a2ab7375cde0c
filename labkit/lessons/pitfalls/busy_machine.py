"""Pitfalls of a busy machine: other processes, thread pools that fight, a cold process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from labkit.lessons.pitfalls.averages import rate_of_mean
from labkit.lessons.pitfalls.child_process import PASSIVE, ChildProcess
from labkit.lessons.pitfalls.pitfall import FPS, pitfall
from labkit.lessons.pitfalls.setup import Setup

SPIN = """import os
parent = os.getppid()
print("spinning", flush=True)
while os.getppid() == parent:
    for _ in range(10**6): pass
"""
FRESH = 10  # frames that a hasty benchmark takes, the first one included
PROCESS_ROUNDS = 5  # each needs processes of its own, which take a second or more to load torch

Pairs = Iterator[tuple[float, float]]


@contextmanager
def spinning_processes(count: int | None = None) -> Iterator[None]:
    """Keep other processes busy, one per core of the machine, until the block ends."""
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


@pitfall(
    name="a busy neighbour",
    unit=FPS,
    wrong_way="measured while other processes were at work",
    right_way="measured alone",
    explanation="A core that is shared is half a core, and a cache that is shared is a smaller one. Look at "
    "the load of other programs, and at the CPU time that the host of a virtual machine gave to others "
    "(steal); mark the run, and interleave, so that a busy moment hits both sides.",
)
def busy_neighbour(
    setup: Setup, load: Callable[[], AbstractContextManager[Any]] = spinning_processes
) -> Pairs:
    """Throughput on a machine that somebody else uses, against that on a quiet one."""
    frames = setup.stream(setup.per_round)
    for _ in range(setup.rounds):
        right = rate_of_mean(setup.time_each(frames))
        with load():
            yield rate_of_mean(setup.time_each(frames)), right


@pitfall(
    name="thread pools that fight",
    unit=FPS,
    wrong_way="OpenCV and torch in one process, with default settings",
    right_way="the same with " + " and ".join(f"{key}={value}" for key, value in PASSIVE.items()),
    explanation="Each library keeps a thread per core. An idle one spins for a while, which saves a wake-up "
    "when work comes soon, and takes the core from the other library's threads when it does not. Which of "
    "the two is larger depends on the machine, so say with which setting a figure was taken.",
)
def fighting_pools(setup: Setup) -> Pairs:
    """Two thread pools that spin while they wait against two that sleep, in fresh processes each round.

    Where memory lies makes processes of the same code differ: a single pair would show that as a gain.
    """
    n = max(2, setup.per_round // 4)
    for _ in range(min(setup.rounds, PROCESS_ROUNDS)):
        with ChildProcess(setup.frames, None) as spinning, ChildProcess(setup.frames, PASSIVE) as passive:
            for child in (spinning, passive):
                child.times(2 * FRESH)
            yield rate_of_mean(spinning.times(n)), rate_of_mean(passive.times(n))


@pitfall(
    name="no warm-up",
    unit=FPS,
    wrong_way=f"the first {FRESH} frames of a process, from the very first on",
    right_way=f"frames after the first {2 * FRESH}",
    explanation="The first frame finds libraries that load, pools that start, memory that was never "
    "touched and plans that are not made yet. Keep warm-up frames apart; show the cold start as such.",
    origin="has no warm-up",
)
def no_warm_up(setup: Setup) -> Pairs:
    """The first frames of a process against later ones."""
    with ExitStack() as stack:
        n = min(setup.rounds, PROCESS_ROUNDS)
        children = [stack.enter_context(ChildProcess(setup.frames, PASSIVE)) for _ in range(n)]
        for child in children:  # they load their libraries side by side, and then work one by one
            child.times(0)
        for child in children:
            cold = child.times(FRESH)
            warm = child.times(max(2 * FRESH, setup.per_round))[FRESH:]
            yield rate_of_mean(cold), rate_of_mean(warm)
