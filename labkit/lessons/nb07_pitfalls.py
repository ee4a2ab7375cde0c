"""Lesson 07: cost of spans, throughput and latency by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.shown import Sentence
from labkit.lessons.exercise import Rng, call, compare, exercise_check
from labkit.lessons.hints import hint
from labkit.lessons.pitfalls import overhead
from labkit.lessons.pitfalls.pitfall_plot import plot_pitfalls
from labkit.lessons.pitfalls.registry import pitfall_table, run_pitfalls

__all__ = [
    "check_fps", "check_paced_latency", "hint", "pitfall_table", "plot_pitfalls", "run_pitfalls",
    "span_cost",
]  # fmt: skip

Floats = NDArray[np.float64]


def span_cost() -> Sentence:
    """What the spans of a frame cost here, with a recording open and without."""
    return overhead.span_cost().sentence


@exercise_check
def check_fps(fps: Callable[[Floats, int], Any], rng: Rng) -> str:
    """Check `fps(done_s, warm)`: frames per second of the part after the warm-up.

    `done_s` (n,) s is when each frame was done, from when the loop began; the first `warm`
    frames are warm-up. Times are uneven, with a slow start and a long stall.
    """
    most, some, few = int(rng.integers(30, 60)), int(rng.integers(3, 8)), int(rng.integers(9, 14))
    for warm, n in ((some, most), (some, most), (0, most), (few, few + 1)):
        times = rng.uniform(0.01, 0.03, n)
        times[:3] = rng.uniform(0.05, 0.4, 3)
        times[n - 1 if n == few + 1 else rng.integers(12, n - 1)] = 0.2
        done = np.cumsum(times)
        case = f"with {warm} of {n} frames as warm-up" if warm else "with no warm-up"
        got = call(fps, done, warm)
        right = (n - warm) / (done[-1] - (done[warm - 1] if warm else 0.0))
        compare(got, right, _fps_mistakes(done, warm, right), case=case)
    return "frames / wall time of the timed part, with and without a warm-up"


def _fps_mistakes(done_s: Floats, warm: int, right: float) -> dict[str, float]:
    n, last = len(done_s), float(done_s[-1])
    times = np.diff(done_s, prepend=0.0)
    kept, timed_s = times[warm:], (n - warm) / right
    mistakes = {
        "this is a mean of rates, which forgets slow frames; divide frames by time": np.mean(1 / kept),
        "this is a mean of rates, with the warm-up in it besides": np.mean(1 / times),
        "this is the rate of the median frame, which does not see the stall": 1 / np.median(kept),
        "this is the rate of the best frame; no stream runs at it": 1 / kept.min(),
        "this is seconds per frame; turn it round": kept.mean(),
        "one frame too few is counted: the one after the warm-up has its time in it, so it counts": (
            (n - warm - 1) / timed_s
        ),
        "the warm-up frames are in it, with their time": n / last,
        "the warm-up frames are left out, but not their time": (n - warm) / last,
        "the warm-up's time is left out, but its frames are counted": n / timed_s,
        "the rate is that of frames per millisecond; the times are in seconds": right / 1e3,
    }
    if (late_s := last - float(done_s[warm])) > 0:
        mistakes[
            "time begins when the first timed frame was done, but that frame's own time belongs to it"
        ] = (n - warm) / late_s
        mistakes["the first timed frame is left out altogether"] = (n - warm - 1) / late_s
    return mistakes


@exercise_check
def check_paced_latency(latency: Callable[[Floats, Floats, float], Any], rng: Rng) -> str:
    """Check `latency(began_s, done_s, fps)`: seconds that each frame's viewer waited.

    Frames fall due at `fps` per second, the first at 0; `began_s` (n,) s is when the loop took
    each up, `done_s` (n,) s when it was done. The loop keeps up, stands still once, and catches up.
    """
    few, many = np.sort(rng.choice(np.arange(20, 50), 2, replace=False)).tolist()
    rates = rng.uniform(5, 40, 2).round(1).tolist()
    for n, fps in ((many, rates[0]), (many, rates[1]), (few, rates[0])):
        due, began, done = np.arange(n) / fps, np.empty(n), np.empty(n)
        work_s, stall_at = rng.uniform(0.25, 0.5) / fps, rng.integers(3, 9)
        free = float(rng.uniform(0.003, 0.006))  # the loop was not ready at once
        for k in range(len(due)):
            began[k] = max(free, due[k])
            done[k] = free = began[k] + work_s + (7 / fps if k == stall_at else 0.0)
        got = call(latency, began, done, fps)
        right = done - due
        mistakes = {
            "this is the time of the work alone: coordinated omission. The frames that queued up during "
            "the stall waited too": done - began,
            "this is how long each frame queued, without the work on it": began - due,
            "this is the time between results; a viewer waits from when the frame was due": np.diff(
                done, prepend=0.0
            ),
            "frame 0 is due at 0, not after one period": right - 1 / fps,
            "frame k is due at k / fps; you multiplied": done - np.arange(n) * fps,
            "due times count from 0, not from when the loop began its first frame": right - began[0],
            "the sign is turned round: done minus due": -right,
            "these are milliseconds; seconds are wanted": right * 1e3,
            "the wait ends when the frame is done, not when the loop took it up; and it begins when it "
            "was due": done,
        }
        compare(got, right, mistakes, shape="one latency per frame", case=f"at {fps:g} FPS", rtol=1e-9)
    return "every frame's wait counts from when it was due, the queued ones' too"
