"""Lesson 07: cost of spans, throughput and latency by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.terminal import print_text
from labkit.lessons.exercise import Mistake, call_for_numbers, exercise_check, find_mistake
from labkit.lessons.hints import hint
from labkit.lessons.pitfalls import overhead
from labkit.lessons.pitfalls.pitfall_plot import plot_pitfalls
from labkit.lessons.pitfalls.registry import pitfall_table, run_pitfalls

__all__ = [
    "check_fps", "check_paced_latency", "hint", "pitfall_table", "plot_pitfalls", "run_pitfalls",
    "span_cost",
]  # fmt: skip


def span_cost() -> None:
    """Print what the spans of a frame cost here, with a recording open and without."""
    print_text(overhead.span_cost().sentence)


Floats = NDArray[np.float64]
RIGHT = 1e-9


@exercise_check
def check_fps(fps: Callable[[Floats, int], Any]) -> str:
    """Check `fps(done_s, warm)`: frames per second of the part after the warm-up.

    `done_s` (n,) s is when each frame was done, from when the loop began; the first `warm`
    frames are warm-up.
    """
    for done_s, warm in _loops():
        got = call_for_numbers(fps, done_s, warm)
        if got.ndim != 0:
            raise Mistake(f"expected is one number, not an array of the shape {got.shape}")
        right = _fps(done_s, warm)
        case = f"with {warm} warm-up frames" if warm else "with no warm-up"
        _compare(got, right, _fps_mistakes(done_s, warm), case)
    return "frames / wall time of the timed part, with and without a warm-up"


def _compare(got: Floats, right: Any, mistakes: Mapping[str, Any], case: str) -> None:
    if np.allclose(got, right, rtol=RIGHT, atol=1e-12):
        return
    reason = find_mistake(got, mistakes, right)
    if reason:
        raise Mistake(f"{reason} ({case})")
    worst = float(np.max(np.abs(got - right)))
    raise Mistake(f"{case} the result is off by up to {worst:.3g}; take the first two frames by hand")


def _loops() -> list[tuple[Floats, int]]:
    """Uneven times with a slow start and one long stall; with a warm-up, and with none."""
    times = np.full(40, 0.02)
    times[:5] = (0.4, 0.09, 0.05, 0.03, 0.025)
    times[17] = 0.2
    times[23:31] = 0.011
    done = np.cumsum(times)
    return [(done, 5), (done, 0), (done[:12], 11)]


def _fps(done_s: Floats, warm: int) -> float:
    return float((len(done_s) - warm) / (done_s[-1] - _begin(done_s, warm)))


def _begin(done_s: Floats, warm: int) -> float:
    return float(done_s[warm - 1]) if warm else 0.0


def _fps_mistakes(done_s: Floats, warm: int) -> dict[str, float]:
    n, last = len(done_s), float(done_s[-1])
    times = np.diff(done_s, prepend=0.0)
    kept = times[warm:]
    span_s = last - float(done_s[warm])
    mistakes = {
        "this is a mean of rates, which forgets slow frames; divide frames by time": np.mean(1 / kept),
        "this is a mean of rates, with the warm-up in it besides": np.mean(1 / times),
        "this is the rate of the median frame, which does not see the stall": 1 / np.median(kept),
        "this is the rate of the best frame; no stream runs at it": 1 / kept.min(),
        "this is seconds per frame; turn it round": kept.mean(),
        "one frame too few is counted: the one after the warm-up has its time in it, so it counts":
            (n - warm - 1) / (last - _begin(done_s, warm)),
        "the warm-up frames are in it, with their time": n / last,
        "the warm-up frames are left out, but not their time": (n - warm) / last,
        "the warm-up's time is left out, but its frames are counted": n / (last - _begin(done_s, warm)),
        "the rate is that of frames per millisecond; the times are in seconds":
            _fps(done_s, warm) / 1e3,
    }  # fmt: skip
    if span_s > 0:
        mistakes[
            "time begins when the first timed frame was done, but that frame's own time belongs to it"
        ] = (n - warm) / span_s
        mistakes["the first timed frame is left out altogether"] = (n - warm - 1) / span_s
    return {reason: float(value) for reason, value in mistakes.items()}


@exercise_check
def check_paced_latency(latency: Callable[[Floats, Floats, float], Any]) -> str:
    """Check `latency(began_s, done_s, fps)`: seconds that each frame's viewer waited.

    Frames fall due at `fps` per second, the first at 0; `began_s` (n,) s is when the loop took
    each up, `done_s` (n,) s when it was done.
    """
    for began_s, done_s, fps in _stalls():
        got = call_for_numbers(latency, began_s, done_s, fps)
        if got.shape != done_s.shape:
            raise Mistake(f"expected is one latency per frame, {done_s.shape}, not {got.shape}")
        right = done_s - np.arange(len(done_s)) / fps
        _compare(got, right, _latency_mistakes(began_s, done_s, fps), f"at {fps:g} FPS")
    return "every frame's wait counts from when it was due, the queued ones' too"


def _stalls() -> list[tuple[Floats, Floats, float]]:
    """Two loops that keep up, stand still once, and catch up again."""
    return [_stalled(20.0, 0.013, 0.31, 7), _stalled(8.0, 0.05, 0.9, 3)]


def _stalled(fps: float, work_s: float, stall_s: float, where: int) -> tuple[Floats, Floats, float]:
    began, done = np.empty(30), np.empty(30)
    free = 0.004  # the loop was not ready at once
    for k in range(len(began)):
        began[k] = max(free, k / fps)
        done[k] = free = began[k] + work_s + (stall_s if k == where else 0.0)
    return began, done, fps


def _latency_mistakes(began_s: Floats, done_s: Floats, fps: float) -> dict[str, Any]:
    due = np.arange(len(done_s)) / fps
    return {
        "this is the time of the work alone: coordinated omission. The frames that queued up during the "
        "stall waited too": done_s - began_s,
        "this is how long each frame queued, without the work on it": began_s - due,
        "this is the time between results; a viewer waits from when the frame was due":
            np.diff(done_s, prepend=0.0),
        "frame 0 is due at 0, not after one period": done_s - due - 1 / fps,
        "frame k is due at k / fps; you multiplied": done_s - np.arange(len(done_s)) * fps,
        "due times count from 0, not from when the loop began its first frame": done_s - due - began_s[0],
        "the sign is turned round: done minus due": due - done_s,
        "these are milliseconds; seconds are wanted": (done_s - due) * 1e3,
        "the wait ends when the frame is done, not when the loop took it up; and it begins when it was due":
            done_s,
    }  # fmt: skip
