"""Two rungs, measured in turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from labkit.core import stats
from labkit.core.errors import UsageError
from labkit.results.fidelity import Fidelity
from labkit.results.run_record import Samples
from labkit.results.told import finite, machine_of

Verdict = Literal["faster", "slower", "same", "cannot tell"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two rungs measured in alternating turns on the same frames.

    Attributes:
        a, b: names; the ratio says how many times faster b is than a.
        a_s, b_s: (rounds,) mean seconds per frame of each round's turn.
        agrees: whether b's answers agree with its reference, so that a gain may be claimed.
        quick: fewer or shorter rounds than a full comparison.
        settings, source, fingerprint: as in `Run`.
    """

    a: str
    b: str
    a_s: Samples
    b_s: Samples
    frames_per_turn: int
    agrees: bool
    quick: bool
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    fidelity: Fidelity | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    disturbances: tuple[str, ...] = ()
    id: int | None = None
    created: str = ""

    def __post_init__(self) -> None:
        if len(self.a_s) != len(self.b_s) or not len(self.a_s):
            raise UsageError("a comparison has one time per rung and round")

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.a_s)

    @property
    def ratios(self) -> Samples:
        """(rounds,) how many times faster b was than a in each round."""
        return self.a_s / self.b_s

    @property
    def ratio(self) -> float:
        """How many times faster b is than a: the median of the rounds."""
        return float(np.median(self.ratios))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of `ratio`."""
        return stats.ratio_interval(self.ratios)

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to say of b: faster, slower, same (+-2%) or cannot tell."""
        return stats.verdict(self.interval)

    @property
    def machine(self) -> str:
        """What it was measured on, for captions; see `Run.machine`."""
        return machine_of(self.fingerprint, self.settings)

    @property
    def sentence(self) -> str:
        """The result in words, with its interval; the only form in which a gain is told."""
        low, high = self.interval
        measured = f"{self.ratio:.2f}x, 95% interval {low:.2f} to {high:.2f}, {self.rounds} rounds"
        if self.verdict in ("faster", "slower"):
            times = self.ratio if self.verdict == "faster" else 1 / self.ratio
            if times < 1.1:
                text = f"{self.b} is {100 * (times - 1):.1f}% {self.verdict} than {self.a} ({measured})"
            else:
                text = f"{self.b} is {times:.2f} times {self.verdict} than {self.a} ({measured})"
        elif self.verdict == "same":
            text = f"{self.b} is as fast as {self.a}, within 2% ({measured})"
        else:
            text = f"whether {self.b} is faster than {self.a} cannot be told ({measured})"
        if not self.agrees:
            text += "; its answers differ from the reference's, so this is no like-for-like gain"
        return text + "."

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data for `--json`."""
        return {
            "id": self.id,
            "created": self.created,
            "a": self.a,
            "b": self.b,
            "ratio": self.ratio,
            "ci": finite(self.interval),
            "rounds": self.rounds,
            "frames_per_turn": self.frames_per_turn,
            "verdict": self.verdict,
            "agrees": self.agrees,
            "sentence": self.sentence,
            "quick": self.quick,
            "fidelity": None if self.fidelity is None else vars(self.fidelity),
            "disturbances": list(self.disturbances),
            "settings": dict(self.settings),
            "source": dict(self.source),
            "fingerprint": dict(self.fingerprint),
        }
