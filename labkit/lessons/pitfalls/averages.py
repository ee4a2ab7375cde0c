"""Mistakes of arithmetic: the times are right, and what is made of them is wrong."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from labkit.lessons.pitfalls.pitfall import CROWD, CROWDED_EVERY, QUIET, Stand, jpeg
from labkit.lessons.pitfalls.result import Exhibit

TICK_S = 1e-7  # what a clock may fail to resolve: an empty pass is not infinitely fast
FPS = "frames per second"


def rate_of_mean(times_s: ArrayLike) -> float:
    """Throughput: frames / time."""
    times = np.asarray(times_s, np.float64)
    return len(times) / float(times.sum())


def mean_of_rates(times_s: ArrayLike) -> float:
    """The mistake: each frame's rate, averaged; quick frames count too much."""
    return float(np.mean(1 / np.maximum(np.asarray(times_s, np.float64), TICK_S)))


def averaged_rates(stand: Stand) -> Exhibit:
    """Mean of rates."""
    series = [stand.time_each(stand.stream(stand.per_round)) for _ in range(stand.rounds)]
    return Exhibit(
        name="mean of rates",
        unit=FPS,
        wrong_way="mean of 1 / t over the frames",
        right_way="frames / sum of t",
        explanation="A mean of rates weighs each frame alike, however long it took, so slow frames nearly "
        "vanish from it: 29 frames of 20 ms and one of 200 ms are 38.5 FPS, and their rates average 48.5. "
        f"Here one frame in {CROWDED_EVERY} holds a crowd of {CROWD} objects, the others {min(QUIET)} to "
        f"{max(QUIET)}.",
        origin="keeps the last 30 rates in a list and shows their mean",
        wrong_rounds=np.array([mean_of_rates(times) for times in series]),
        right_rounds=np.array([rate_of_mean(times) for times in series]),
    )


def best_of_n(stand: Stand) -> Exhibit:
    """Best of n."""
    series = [stand.time_each(stand.alike(stand.per_round)) for _ in range(stand.rounds)]
    return Exhibit(
        name="best of n",
        unit=FPS,
        wrong_way="1 / the shortest time of n",
        right_way="frames / sum of t",
        explanation="The shortest time is what the machine does when nothing happens. It grows better with "
        "n, and no stream of frames ever runs at it. Show the throughput, and the spread beside it.",
        wrong_rounds=np.array([1 / max(times.min(), TICK_S) for times in series]),
        right_rounds=np.array([rate_of_mean(times) for times in series]),
    )


def empty_first_loop(stand: Stand) -> Exhibit:
    """The first pass has no frame yet, and is timed."""
    wrong, right = [], []
    for _ in range(stand.rounds):
        nothing = stand.time_of(lambda: None)
        times = stand.time_each(stand.alike(30))
        wrong.append(mean_of_rates([nothing, *times[1:]]))
        right.append(rate_of_mean(times))
    return Exhibit(
        name="the empty first loop",
        unit=FPS,
        wrong_way="mean of 30 rates, the first of a pass with no frame in it",
        right_way="frames / wall time, counting passes that have a frame",
        explanation="A pass that had nothing to do looks like a rate of hundreds of thousands. One of them "
        "lifts the shown figure for as long as it stays in the list.",
        origin="times its first pass, in which both frames are still None",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def left_out(stand: Stand) -> Exhibit:
    """Capture and display are outside the timer."""
    pairs = [_inside_and_all(stand) for _ in range(stand.rounds)]
    return Exhibit(
        name="capture and display left out",
        unit=FPS,
        wrong_way="timer started after the frame was read and stopped before it was shown",
        right_way="frames / wall time of the whole loop",
        explanation="A viewer waits for the whole loop: here a JPEG is decoded as from a camera, and the "
        "picture encoded as for a notebook. Report offered, captured, inferred and displayed rates apart.",
        origin="starts its timer after reading the camera and stops it before the window is drawn",
        wrong_rounds=np.array([inside for inside, _ in pairs]),
        right_rounds=np.array([whole for _, whole in pairs]),
    )


def _inside_and_all(stand: Stand) -> tuple[float, float]:
    """Frames per second of the task alone, and of the loop that it stands in."""
    import cv2

    encoded, frames = stand.encoded, stand.stream(stand.per_round)
    inside = 0.0
    began = stand.clock.now()
    for frame in frames:
        image = cv2.imdecode(encoded[frame.index % len(encoded)], cv2.IMREAD_COLOR)
        inside += stand.time_of(partial(stand.task, frame))
        jpeg(np.asarray(image))
    return len(frames) / inside, len(frames) / (stand.clock.now() - began)


def one_run(stand: Stand) -> Exhibit:
    """The same code run twice, and the difference believed."""
    n = max(4, stand.per_round // 2)
    stand.time_each(stand.alike(n))  # warm-up, so that the first of a pair is not the cold one
    pairs = np.array([[stand.time_each(stand.alike(n)).sum() for _ in "ab"] for _ in range(stand.rounds + 2)])
    swapped = np.random.default_rng(0).random(len(pairs)) < 0.5  # which of the two ran first is drawn by lot
    pairs[swapped] = pairs[swapped, ::-1]
    ratios = pairs[:, 0] / pairs[:, 1]
    return Exhibit(
        name="one run, no spread",
        unit="times faster (of a code against itself)",
        wrong_way="two single runs, the quicker one called the better version",
        right_way="many runs in turns, median ratio",
        explanation="Both runs are of the very same code, so the truth is 1. A single pair shows a gain all "
        "the same, as large as the machine's noise. A gain is believed when its interval excludes 1.",
        origin="compares single readings of a counter, taken at different times",
        wrong_rounds=np.maximum(ratios, 1 / ratios),
        right_rounds=np.full(len(ratios), np.median(ratios)),
    )
