"""Lesson 07: calibration of predictions, cost of spans, and exercises on throughput and latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.lessons.checks import Checked
from labkit.lessons.hints import hint_text
from labkit.lessons.pitfalls import overhead
from labkit.lessons.predict import my_calibration
from labkit.lessons.predict import table as forecasts_table


def calibration(theme: str = "light") -> Any:
    """Prints how the forecasts of the walk fared; shows them in a table and as a picture."""
    from IPython.display import display

    from labkit.results.plots.predicted import forecasts

    known = my_calibration()
    print(known.sentence)
    if not known.outcomes:
        return None
    display(forecasts_table(known))
    return forecasts(known, theme=theme)


def hint(exercise: str, step: int = 1) -> None:
    """Prints a hint for an exercise; each step says more than the one before."""
    print(hint_text(exercise, step))


def span_cost() -> None:
    """Prints what the spans of a frame cost here, with a recording open and without."""
    print(overhead.span_cost().sentence)


Floats = NDArray[np.float64]
RIGHT = 1e-9


def check_fps(fps: Callable[[Floats, int], Any]) -> Checked:
    """Exercise: `fps(done_s, warm)`, frames per second of the part after the warm-up.

    `done_s` (n,) s is when each frame was done, from when the loop began; the first `warm`
    frames are warm-up.
    """
    for done_s, warm in _loops():
        given = done_s.copy()
        got = _called(fps, given, warm)
        if isinstance(got, Checked):
            return got
        if not np.array_equal(given, done_s):
            return Checked(False, "your function changed the times that it was given; work on a copy")
        if np.ndim(got) != 0 or not np.isreal(got):
            return Checked(False, f"one number is wanted, not an array of the shape {np.shape(got)}")
        right = _fps(done_s, warm)
        if not np.isclose(float(got), right, rtol=RIGHT):
            return Checked(False, _named(float(got), right, _fps_mistakes(done_s, warm), _warm_words(warm)))
    return Checked(True, "frames / wall time of the timed part, with and without a warm-up")


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


def _warm_words(warm: int) -> str:
    return f"with {warm} warm-up frames" if warm else "with no warm-up"


def check_paced_latency(latency: Callable[[Floats, Floats, float], Any]) -> Checked:
    """Exercise: `latency(began_s, done_s, fps)`, seconds that each frame's viewer waited.

    Frames fall due at `fps` per second, the first at 0; `began_s` (n,) s is when the loop took
    each up, `done_s` (n,) s when it was done.
    """
    for began_s, done_s, fps in _stalls():
        given = began_s.copy(), done_s.copy()
        got = _called(latency, *given, fps)
        if isinstance(got, Checked):
            return got
        if not (np.array_equal(given[0], began_s) and np.array_equal(given[1], done_s)):
            return Checked(False, "your function changed the times that it was given; work on a copy")
        got = np.asarray(got, np.float64)
        if got.shape != done_s.shape:
            return Checked(False, f"one latency per frame is wanted, {done_s.shape}, not {got.shape}")
        right = done_s - np.arange(len(done_s)) / fps
        if not np.allclose(got, right, rtol=RIGHT, atol=1e-12):
            return Checked(
                False, _named(got, right, _latency_mistakes(began_s, done_s, fps), f"at {fps:g} FPS")
            )
    return Checked(True, "every frame's wait counts from when it was due, the queued ones' too")


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


def _called(function: Callable[..., Any], *given: Any) -> Any:
    """What the learner's function gives, or the refusal to show."""
    try:
        got = function(*given)
    except Exception as error:  # whatever the learner's code raises is the answer to show
        return Checked(False, f"your function raised {type(error).__name__}: {error}")
    if got is None or got is ...:
        return Checked(False, "your function returns nothing yet; end it with return")
    try:
        if not np.isfinite(np.asarray(got, np.float64)).all():
            return Checked(False, "your function gave NaN or infinity; is there a division by zero?")
    except (TypeError, ValueError):
        return Checked(False, f"numbers are wanted, not {type(got).__name__}")
    return got


def _named(got: Any, right: Any, mistakes: Mapping[str, Any], case: str) -> str:
    """Which well-known mistake gives just these values; else how far off they are."""
    for reason, value in mistakes.items():
        if np.allclose(value, right, rtol=1e-6):
            continue  # in this case the mistake changes nothing
        if np.allclose(got, value, rtol=1e-6, atol=1e-12):
            return f"{reason} ({case})"
    worst = float(np.max(np.abs(np.asarray(got) - right)))
    return f"{case} the result is off by up to {worst:.3g}; take the first two frames by hand"
