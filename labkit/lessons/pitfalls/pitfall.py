"""A wrong way of measuring beside the right one, and the size of the error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core import stats
from labkit.core.errors import UsageError
from labkit.core.machine import fingerprint, machine_name
from labkit.core.requirements import unmet_requirement
from labkit.core.shown import Sentence, ShownText
from labkit.lessons.pitfalls.setup import Setup

FPS = "frames per second"

Samples = NDArray[np.float64]
Measure = Callable[..., Iterable[tuple[float, float]]]


@dataclass(frozen=True)
class Pitfall:
    """A mistake of measurement, and the code that measures both ways on the same frames.

    Attributes:
        key: short name, to run it by.
        name: of the mistake, as tables show it.
        unit: of both figures.
        wrong_way, right_way: what is done, in a few words each.
        explanation: why the figures differ, and what to do.
        origin: what the code that the lab retells does of this; empty where it does not.
        needs: what the machine must have; see `labkit.core.requirements`.
        measure: yields one (wrong, right) pair of figures per round of a `Setup`.
    """

    key: str
    name: str
    unit: str
    wrong_way: str
    right_way: str
    explanation: str
    measure: Measure
    origin: str = ""
    needs: tuple[str, ...] = ()

    def run(self, setup: Setup, **options: Any) -> PitfallResult:
        """Measure both ways; without what the pitfall needs, say so in `skipped`.

        Args:
            setup: frames, clock, and the work per frame.
            options: passed on to `measure`.
        """
        reason = unmet_requirement(self.needs)
        if reason is not None:
            return PitfallResult(self, skipped=reason)
        wrong, right = np.array(list(self.measure(setup, **options)), np.float64).T
        return PitfallResult(self, wrong, right, machine=machine_name(fingerprint()))


def pitfall(**words: Any) -> Callable[[Measure], Pitfall]:
    """Decorator that makes a `Pitfall` of its `measure` function, whose name becomes the key."""
    return lambda measure: Pitfall(key=measure.__name__, measure=measure, **words)


def _none() -> Samples:
    return np.empty(0)


@dataclass(frozen=True, eq=False, repr=False)
class PitfallResult(ShownText):
    """Both figures of a pitfall, round by round.

    Attributes:
        pitfall: the mistake.
        wrong_rounds, right_rounds: (rounds,) the raw figures; nothing is dropped.
        machine: where it was measured.
        skipped: why there are no figures; None where there are.

    Raises:
        UsageError: the figures are not pairs of finite numbers above 0.
    """

    pitfall: Pitfall
    wrong_rounds: Samples = field(default_factory=_none)
    right_rounds: Samples = field(default_factory=_none)
    machine: str = ""
    skipped: str | None = None

    def __post_init__(self) -> None:
        wrong, right = self.wrong_rounds, self.right_rounds
        if wrong.ndim != 1 or wrong.shape != right.shape:
            raise UsageError(f"expected one pair of figures per round, not {wrong.shape} and {right.shape}")
        if (len(wrong) == 0) != (self.skipped is not None):
            raise UsageError("a result has figures, or says in `skipped` why it has none")
        if not (np.isfinite([*wrong, *right]).all() and (wrong > 0).all() and (right > 0).all()):
            raise UsageError(f"the figures of {self.name!r} must be finite and above 0; check the clock")

    @property
    def name(self) -> str:
        """Name of the mistake."""
        return self.pitfall.name

    @property
    def wrong(self) -> float:
        """The figure got the wrong way, in the round of `ratio`; NaN if skipped."""
        return float(self.wrong_rounds[self._middle]) if len(self.wrong_rounds) else float("nan")

    @property
    def right(self) -> float:
        """The figure got the right way, in the round of `ratio`; NaN if skipped."""
        return float(self.right_rounds[self._middle]) if len(self.right_rounds) else float("nan")

    @property
    def ratio(self) -> float:
        """Wrong over right in the round whose ratio is the median."""
        return self.wrong / self.right

    @cached_property
    def _middle(self) -> int:
        """Index of the median round, so that the two figures shown belong together."""
        order = np.argsort(self.wrong_rounds / self.right_rounds, kind="stable")
        return int(order[len(order) // 2])

    @property
    def interval(self) -> stats.Interval:
        """95% interval of `ratio`; without bounds for fewer than 5 rounds."""
        return stats.rounds_interval(self.wrong_rounds / self.right_rounds)

    @property
    def sentence(self) -> Sentence:
        """Both figures, the error and its interval, in one sentence."""
        if self.skipped is not None:
            return Sentence(f"{self.name}: not measured here: it {self.skipped}.")
        low, high = self.interval
        known = bool(np.isfinite(high))
        spread = f"95% CI {ratio(low)}-{ratio(high)}" if known else "too few rounds for an interval"
        spread = f"ratio {ratio(self.ratio)}, {spread}, n = {len(self.wrong_rounds)}"
        doubt = "; no significant error on this machine" if known and low <= 1 <= high else ""
        return Sentence(
            f"{self.name}: {figure(self.wrong)} instead of {figure(self.right)} {self.pitfall.unit}, "
            f"{size_of(self.ratio)} ({spread}){doubt}."
        )

    def __str__(self) -> str:
        """The sentence, what was done either way, and where the error comes from."""
        about = self.pitfall
        lines = [self.sentence, f"wrong: {about.wrong_way}", f"right: {about.right_way}", about.explanation]
        return "\n".join([*lines, *([f"The original code {about.origin}."] if about.origin else [])])


def size_of(ratio_: float) -> str:
    """Format a ratio as an error: "26% too high", "39% too low", "12 times too high"."""
    times = max(ratio_, 1 / ratio_)
    direction = "high" if ratio_ >= 1 else "low"
    if times >= 2:
        return f"{figure(times)} times too {direction}"
    return f"{abs(ratio_ - 1):.1%} too {direction}"


def figure(value: float) -> str:
    """Format a number with three significant digits and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float) -> str:
    """Format a ratio with the digits that matter near 1."""
    return f"{value:.2f}" if 0.1 <= value < 10 else figure(value)
