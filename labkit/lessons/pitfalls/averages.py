"""Pitfalls of arithmetic: the times are right, and what is computed from them is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labkit.bench.timing import Clock
from labkit.core import stats
from labkit.core.types import Frame
from labkit.lessons.pitfalls.pitfall import FPS, pitfall
from labkit.lessons.pitfalls.setup import CROWD, CROWDED_EVERY, QUIET, Setup, jpeg

DUE_FPS = 150.0
STALL_S = 0.15
STALL_AT = 20
TICK_S = 1e-7  # what a clock may fail to resolve: an empty pass is not infinitely fast

Pairs = Iterator[tuple[float, float]]


def rate_of_mean(times_s: ArrayLike) -> float:
    """Throughput: frames / time."""
    times = np.asarray(times_s, np.float64)
    return len(times) / float(times.sum())


def mean_of_rates(times_s: ArrayLike) -> float:
    """The mistake: each frame's rate, averaged; quick frames count too much."""
    return float(np.mean(1 / np.maximum(np.asarray(times_s, np.float64), TICK_S)))


@pitfall(
    name="mean of rates",
    unit=FPS,
    wrong_way="mean of 1 / t over the frames",
    right_way="frames / sum of t",
    explanation="A mean of rates weighs each frame alike, however long it took, so slow frames nearly "
    "vanish from it: 29 frames of 20 ms and one of 200 ms are 38.5 FPS, and their rates average 48.5. "
    f"Here one frame in {CROWDED_EVERY} holds a crowd of {CROWD} objects, the others {min(QUIET)} to "
    f"{max(QUIET)}.",
    origin="keeps the last 30 rates in a list and shows their mean",
)
def averaged_rates(setup: Setup) -> Pairs:
    """Mean of rates against rate of the mean, over frames of uneven cost."""
    for _ in range(setup.rounds):
        times = setup.time_each(setup.stream(setup.per_round))
        yield mean_of_rates(times), rate_of_mean(times)


@pitfall(
    name="best of n",
    unit=FPS,
    wrong_way="1 / the shortest time of n",
    right_way="frames / sum of t",
    explanation="The shortest time is what the machine does when nothing happens. It grows better with "
    "n, and no stream of frames ever runs at it. Show the throughput, and the spread beside it.",
)
def best_of_n(setup: Setup) -> Pairs:
    """Rate of the quickest frame against throughput."""
    for _ in range(setup.rounds):
        times = setup.time_each(setup.identical(setup.per_round))
        yield 1 / max(times.min(), TICK_S), rate_of_mean(times)


@pitfall(
    name="the empty first loop",
    unit=FPS,
    wrong_way="mean of 30 rates, the first of a pass with no frame in it",
    right_way="frames / wall time, counting passes that have a frame",
    explanation="A pass that had nothing to do looks like a rate of hundreds of thousands. One of them "
    "lifts the shown figure for as long as it stays in the list.",
    origin="times its first pass, in which both frames are still None",
)
def empty_first_loop(setup: Setup) -> Pairs:
    """An empty pass in the list of rates against none."""
    for _ in range(setup.rounds):
        nothing = setup.time_of(lambda: None)
        times = setup.time_each(setup.identical(30))
        yield mean_of_rates([nothing, *times[1:]]), rate_of_mean(times)


@pitfall(
    name="capture and display left out",
    unit=FPS,
    wrong_way="timer started after the frame was read and stopped before it was shown",
    right_way="frames / wall time of the whole loop",
    explanation="A viewer waits for the whole loop: here a JPEG is decoded as from a camera, and the "
    "picture encoded as for a notebook. Report offered, captured, inferred and displayed rates apart.",
    origin="starts its timer after reading the camera and stops it before the window is drawn",
)
def left_out(setup: Setup) -> Pairs:
    """Rate of the task alone against that of the loop around it."""
    import cv2

    encoded = setup.encoded
    for _ in range(setup.rounds):
        frames, inside = setup.stream(setup.per_round), 0.0
        began = setup.clock.now()
        for frame in frames:
            image = cv2.imdecode(encoded[frame.index % len(encoded)], cv2.IMREAD_COLOR)
            inside += setup.time_of(partial(setup.task, frame))
            jpeg(np.asarray(image))
        yield len(frames) / inside, len(frames) / (setup.clock.now() - began)


@pitfall(
    name="one run, no spread",
    unit="times faster (of a code against itself)",
    wrong_way="two single runs, the quicker one called the better version",
    right_way="many interleaved runs, median ratio",
    explanation="Both runs are of the very same code, so the truth is 1. A single pair shows a gain all "
    "the same, as large as the machine's noise. A gain is believed when its interval excludes 1.",
    origin="compares single readings of a counter, taken at different times",
)
def one_run(setup: Setup) -> Pairs:
    """The same code run twice, and the difference believed."""
    n = max(4, setup.per_round // 2)
    setup.time_each(setup.identical(n))  # warm-up, so that the first of a pair is not the cold one
    pairs = np.array(
        [[setup.time_each(setup.identical(n)).sum() for _ in "ab"] for _ in range(setup.rounds + 2)]
    )
    swapped = np.random.default_rng(0).random(len(pairs)) < 0.5  # which of the two ran first is random
    pairs[swapped] = pairs[swapped, ::-1]
    ratios = pairs[:, 0] / pairs[:, 1]
    truth = float(np.median(ratios))
    for ratio in ratios:
        yield max(ratio, 1 / ratio), truth


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
def coordinated_omission(setup: Setup, fps: float = DUE_FPS, stall_s: float = STALL_S) -> Pairs:
    """p90 latency around one stall, from when work began and from when each frame was due."""
    n = max(setup.per_round, stats.frames_needed(90) + STALL_AT)
    for _ in range(setup.rounds):
        began_s, done_s = paced(setup.stream(n), setup.task, fps, stall_s, setup.clock)
        since_due_s = done_s - np.arange(n) / fps
        wrong, right = (float(np.percentile(each, 90)) * 1e3 for each in (done_s - began_s, since_due_s))
        yield wrong, right


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
