"""Predictions and what came of them: how good a learner's expectations were.

A prediction is a ratio ("2 times faster") noted before the measurement. What counts for a
question is the first answer that met a result; whoever answers again has seen it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from typing import Any

import numpy as np

from labkit.core.shown import Sentence
from labkit.results.store import Prediction


@dataclass(frozen=True)
class Outcome:
    """One question, its prediction and what was measured.

    Attributes:
        question: what was asked.
        expected: the prediction ratio; None where it was skipped.
        measured: the measured ratio; None where nothing was measured yet.
        interval: 95% interval of `measured`; None where that is.
        seen: whether a result of this question was known before the prediction was made.
    """

    question: str
    expected: float | None
    measured: float | None = None
    interval: tuple[float, float] | None = None
    seen: bool = False

    @property
    def skipped(self) -> bool:
        """True if no prediction was made."""
        return self.expected is None

    @property
    def hit(self) -> bool | None:
        """True if the prediction lies in the interval; None where there is nothing to compare."""
        if self.expected is None or self.interval is None:
            return None
        return self.interval[0] <= self.expected <= self.interval[1]

    @property
    def off(self) -> float | None:
        """The factor by which the prediction is too high (above 1) or too low (below 1)."""
        if self.expected is None or self.measured is None:
            return None
        return self.expected / self.measured

    @property
    def right_way(self) -> bool | None:
        """True if faster or slower was predicted rightly; None where the interval holds 1."""
        if self.expected is None or self.interval is None or self.interval[0] <= 1 <= self.interval[1]:
            return None
        return (self.expected > 1) == (self.interval[0] > 1)

    @property
    def verdict(self) -> str:
        """The outcome in a few words."""
        if self.skipped:
            return "skipped"
        if self.off is None:
            return "not measured yet"
        note = ", after a result was known" if self.seen else ""
        if self.hit:
            return f"inside the interval{note}"
        times = max(self.off, 1 / self.off)
        return f"{times:.2f} times too {'high' if self.off > 1 else 'low'}{note}"


@dataclass(frozen=True)
class Calibration:
    """Calibration of a learner's predictions over all notebooks."""

    outcomes: tuple[Outcome, ...]

    @property
    def settled(self) -> tuple[Outcome, ...]:
        """Predictions that were made before any result was known, and then measured."""
        return tuple(one for one in self.outcomes if one.off is not None and not one.seen)

    @property
    def typical_factor(self) -> float | None:
        """The factor by which half of the predictions were off, or more; None without any."""
        return exp(float(np.median(np.abs(self._logs)))) if self._logs else None

    @property
    def tendency(self) -> float | None:
        """The median of prediction / measured: above 1 for one who hopes for too much."""
        return exp(float(np.median(self._logs))) if self._logs else None

    @property
    def _logs(self) -> list[float]:
        return [log(one.off or 1.0) for one in self.settled]

    @property
    def sentence(self) -> Sentence:
        """The calibration in words."""
        counts = {
            "skipped": sum(one.skipped for one in self.outcomes),
            "not measured yet": sum(one.verdict == "not measured yet" for one in self.outcomes),
            "made too late": sum(one.seen and not one.skipped for one in self.outcomes),
        }
        rest = "".join(f"; {n} {what}" for what, n in counts.items() if n)
        if not self.settled:
            return Sentence(f"No prediction has been measured yet{rest}.")
        hits, ways = sum(bool(one.hit) for one in self.settled), [one.right_way for one in self.settled]
        sides = [way for way in ways if way is not None]
        way = f"; the right side of 1 was predicted in {sum(sides)} of {len(sides)}" if sides else ""
        lean = self.tendency or 1.0
        tends = "" if 0.95 <= lean <= 1.05 else f", and lean {'high' if lean > 1 else 'low'}"
        return Sentence(
            f"{hits} of {len(self.settled)} predictions lay inside the 95% interval; half were off by a "
            f"factor of {self.typical_factor:.2f} or more{tends}{way}{rest}."
        )


def calibration(notes: Iterable[Prediction]) -> Calibration:
    """One outcome per question, in the order in which the questions were first asked.

    Args:
        notes: oldest first, as the store gives them.
    """
    by_question: dict[str, list[Prediction]] = {}
    for note in notes:
        by_question.setdefault(note.question, []).append(note)
    return Calibration(tuple(_outcome(question, asked) for question, asked in by_question.items()))


def _outcome(question: str, asked: Sequence[Prediction]) -> Outcome:
    """The first answer that met a result counts; one noted anew before that replaces the earlier."""
    settled = [place for place, note in enumerate(asked) if _measured(note.result)[0] is not None]
    for place in settled:
        expected = _ratio(asked[place].answer)
        if expected is not None:
            measured, interval = _measured(asked[place].result)
            return Outcome(question, expected, measured, interval, seen=place != settled[0])
    expected = _ratio(asked[-1].answer)
    if expected is not None:
        return Outcome(question, expected, seen=bool(settled))
    return Outcome(question, None, *_measured(asked[settled[0]].result if settled else None))


def _measured(result: Any) -> tuple[float | None, tuple[float, float] | None]:
    ratio = _ratio(result.get("ratio")) if isinstance(result, Mapping) else None
    if ratio is None:
        return None, None
    bounds = list(result.get("ci") or (None, None))
    low, high = (None if bound is None else float(bound) for bound in bounds)
    return ratio, (0.0 if low is None else low, inf if high is None else high)


def _ratio(value: Any) -> float | None:
    """A ratio above 0, or None for whatever else an older note may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < inf else None
