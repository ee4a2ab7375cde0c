"""What an exhibit shows: one figure got the wrong way and the right way, and how far apart they lie."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core import stats
from labkit.core.errors import UsageError

Samples = NDArray[np.float64]


def _none() -> Samples:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One wrong way of measuring beside the right one, on the same frames.

    Attributes:
        name: of the mistake.
        unit: of both figures.
        wrong_way, right_way: what was done, in a few words each.
        explanation: why the figures differ, and what to do.
        origin: what the code that the lab retells does of this; empty where it does not.
        wrong_rounds, right_rounds: (rounds,) the raw figures; nothing is dropped.
        machine: where it was measured.
        recorded: measured on another machine, at another time.
        skipped: why there are no figures; None where there are.
    """

    name: str
    unit: str
    wrong_way: str
    right_way: str
    explanation: str
    origin: str = ""
    wrong_rounds: Samples = field(default_factory=_none)
    right_rounds: Samples = field(default_factory=_none)
    machine: str = ""
    recorded: bool = False
    skipped: str | None = None

    def __post_init__(self) -> None:
        for name in ("wrong_rounds", "right_rounds"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        wrong, right = self.wrong_rounds, self.right_rounds
        if wrong.ndim != 1 or wrong.shape != right.shape:
            raise UsageError(
                f"an exhibit has one pair of figures per round, not {wrong.shape} and {right.shape}"
            )
        if (len(wrong) == 0) != (self.skipped is not None):
            raise UsageError("an exhibit has figures, or says in `skipped` why it has none")
        if not (np.isfinite([*wrong, *right]).all() and (wrong > 0).all() and (right > 0).all()):
            raise UsageError(f"the figures of {self.name!r} are above 0 and finite; check the clock")

    @property
    def wrong(self) -> float:
        """The figure got the wrong way, in the round of `ratio`."""
        return float(self.wrong_rounds[self._middle]) if len(self.wrong_rounds) else float("nan")

    @property
    def right(self) -> float:
        """The figure got the right way, in the round of `ratio`."""
        return float(self.right_rounds[self._middle]) if len(self.right_rounds) else float("nan")

    @property
    def ratio(self) -> float:
        """Wrong over right in the round whose ratio is the median."""
        return self.wrong / self.right

    @property
    def _middle(self) -> int:
        """The median round, so that the two figures told belong together and give the ratio told."""
        return int(
            np.argsort(self.wrong_rounds / self.right_rounds, kind="stable")[len(self.wrong_rounds) // 2]
        )

    @property
    def interval(self) -> stats.Interval:
        """95% interval of `ratio`; without bounds for fewer than 5 rounds."""
        return stats.ratio_interval(self.wrong_rounds / self.right_rounds)

    @property
    def error(self) -> float:
        """How far the wrong figure lies off, as a share of the right one: 0.26 is 26% too high."""
        return self.ratio - 1

    @property
    def sentence(self) -> str:
        """The size of the error in words, with its interval; made from the figures, never by hand."""
        if self.skipped is not None:
            return f"{self.name}: not shown here: {self.skipped}."
        low, high = self.interval
        rounds = len(self.wrong_rounds)
        spread = (
            f"95% interval of the ratio {ratio(low)} to {ratio(high)}, {rounds} rounds"
            if np.isfinite(high)
            else f"{rounds} rounds, too few for an interval"
        )
        where = f"; recorded on {self.machine}" if self.recorded else ""
        seen = "" if not low <= 1 <= high or not np.isfinite(high) else "; no error could be shown here"
        return (
            f"{self.name}: {figure(self.wrong)} instead of {figure(self.right)} {self.unit}, "
            f"{size_of(self.ratio)} ({spread}{where}){seen}."
        )

    def to_json(self) -> dict[str, Any]:
        """The exhibit as plain data, raw figures included."""
        plain = asdict(self)
        return plain | {name: getattr(self, name).tolist() for name in ("wrong_rounds", "right_rounds")}


def size_of(ratio_: float) -> str:
    """A ratio in words: "26% too high", "39% too low", "12 times too high"."""
    times = max(ratio_, 1 / ratio_)
    way = "high" if ratio_ >= 1 else "low"
    if times >= 2:
        return f"{figure(times)} times too {way}"
    return f"{abs(ratio_ - 1):.1%} too {way}"


def figure(value: float) -> str:
    """Three significant digits, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ratio(value: float) -> str:
    """A ratio with the digits that matter near 1."""
    return f"{value:.2f}" if 0.1 <= value < 10 else figure(value)
