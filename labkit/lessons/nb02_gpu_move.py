"""Lesson 02: busy time of a device that works off a queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.lessons.exercise import Mistake, call_for_numbers, exercise_check, find_mistake
from labkit.lessons.hints import hint

__all__ = ["check_device_time", "hint"]

Floats = NDArray[np.float64]


@exercise_check
def check_device_time(device_time: Callable[[Any, Any], Any]) -> str:
    """Check `device_time(asked_s, done_s)`: seconds that a device worked on each of several requests.

    It does one thing after another: it begins when it has been asked and the one before is done.
    """
    cases = {
        "a device that is never waited for": ([0.0, 1.0, 2.0], [4.0, 7.0, 12.0]),
        "a device that idles between frames": ([0.0, 10.0, 20.0], [3.0, 12.0, 27.0]),
        "both by turns": ([0.0, 1.0, 9.0, 9.5], [4.0, 6.0, 10.0, 13.0]),
        "a single frame": ([2.0], [5.0]),
    }
    for case, (asked_s, done_s) in cases.items():
        asked, done = np.array(asked_s), np.array(done_s)
        right = done - np.maximum(asked, np.concatenate([[-np.inf], done[:-1]]))
        got = call_for_numbers(device_time, asked, done)
        if got.shape != right.shape:
            raise Mistake(f"for {case} the shape is {got.shape}; expected is one value per frame")
        if not np.allclose(got, right, atol=1e-9):
            reason = find_mistake(got, _mistakes(asked, done), right) or (
                "when could it begin? Not before it was asked, and not before the frame before was done"
            )
            raise Mistake(
                f"for {case} (asked at {asked_s}, done at {done_s} s) it gives {got.tolist()}: {reason}"
            )
    return "neither waiting in the queue nor idling counts as work"


def _mistakes(asked: Floats, done: Floats) -> dict[str, Floats]:
    mean = (done[-1] - asked[0]) / len(done)
    return {
        "that counts the wait in the queue as work; the device was busy with the frame before": done - asked,
        "that counts idling as work; nobody had asked yet": np.diff(done, prepend=asked[0]),
        "that is when the host asked, not when the device worked": np.diff(asked, prepend=asked[0]),
        "that is when each frame was done, not how long it took": done,
        "that is the mean of all; each frame has its own": np.full(len(done), mean),
    }
