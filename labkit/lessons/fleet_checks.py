"""Check of notebook 09's exercise: how many engines a number of cameras needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from labkit.lessons.checks import Checked

# cameras, results per second and camera, s per frame, highest share of an engine's time
CASES = (
    (100, 5.0, 0.03, 0.8),
    (17, 5.0, 0.04, 0.75),
    (1000, 10.0, 0.0125, 0.7),
    (3, 4.0, 0.05, 0.9),
    (10_000, 2.0, 0.11, 0.85),
)


# Well-known slips, each with what it gives for a camera load; `fit` is cameras per engine, not rounded.
SLIPS: dict[str, Callable[[int, float, float, float], float]] = {
    "an engine cannot be cut in pieces: round up to a whole number":
        lambda cameras, fps, frame_s, busy: cameras / _whole(busy / (fps * frame_s)),
    "no room is left: an engine is to be busy for most_busy of its time, not for all of it":
        lambda cameras, fps, frame_s, busy: math.ceil(cameras / _whole(1 / (fps * frame_s))),
    "a camera stays with one engine: how many whole cameras fit one, before you divide?":
        lambda cameras, fps, frame_s, busy: math.ceil(cameras * fps * frame_s / busy - 1e-9),
    "the room has the wrong sign: less of each engine may be used, so more of them are needed":
        lambda cameras, fps, frame_s, busy: math.ceil(cameras * fps * frame_s * busy),
    "a camera that fits only in part does not fit: round cameras per engine down":
        lambda cameras, fps, frame_s, busy: math.ceil(cameras / math.ceil(busy / (fps * frame_s) - 1e-9)),
    "the last engine may be half empty, but it is needed: round up":
        lambda cameras, fps, frame_s, busy: cameras // _whole(busy / (fps * frame_s)),
    "rounding to the nearest can leave cameras without an engine: round up":
        lambda cameras, fps, frame_s, busy: round(cameras / _whole(busy / (fps * frame_s))),
    "this is how many cameras one engine serves; how many engines do all of them need?":
        lambda cameras, fps, frame_s, busy: _whole(busy / (fps * frame_s)),
}  # fmt: skip


def check_engines(engines_needed: Callable[[int, float, float, float], Any]) -> Checked:
    """Exercise: `engines_needed(cameras, fps, frame_s, most_busy)`, a whole number of engines.

    Every camera wants `fps` results per second, a frame takes an engine `frame_s`, no engine is
    busy for a larger share of its time than `most_busy`, and a camera stays with one engine.
    """
    answers: list[float] = []
    for case in CASES:
        try:
            got = engines_needed(*case)
        except Exception as error:  # whatever the learner's code raises is the answer to show
            return Checked(False, f"your function raised {type(error).__name__}: {error}")
        if got is None or got is ...:
            return Checked(False, "your function returns nothing yet; end it with return")
        if isinstance(got, bool) or not isinstance(got, (int, float)) or not math.isfinite(got):
            return Checked(False, f"a whole number of engines is wanted, not {got!r}")
        answers.append(float(got))
    wrong = [(case, got) for case, got in zip(CASES, answers, strict=True) if got != _needed(*case)]
    if not wrong:
        return Checked(True, "whole cameras per engine, with room to spare, and engines for all of them")
    (cameras, fps, frame_s, most_busy), got = wrong[0]
    told = f"{cameras} cameras at {fps:g} FPS, {1e3 * frame_s:g} ms a frame, at most {most_busy:.0%} busy"
    return Checked(False, f"{_slip(answers)} ({told}: you say {got:g})")


def _slip(answers: list[float]) -> str:
    """The slip that gives all of these answers, if one does."""
    for reason, slip in SLIPS.items():
        if all(math.isclose(got, slip(*case)) for got, case in zip(answers, CASES, strict=True)):
            return reason
    return "take one engine first: how many whole cameras does it serve?"


def _needed(cameras: int, fps: float, frame_s: float, most_busy: float) -> int:
    return math.ceil(cameras / _whole(most_busy / (fps * frame_s)))


def _whole(number: float) -> int:
    """Rounded down, but for the last bit of a division."""
    return math.floor(number + 1e-9)
