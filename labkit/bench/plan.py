"""Length and scenario of a timed run."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.core.errors import UsageError
from labkit.core.stats import MIN_RESULTS
from labkit.core.types import is_positive


@dataclass(frozen=True)
class Plan:
    """Length and scenario of a timed run.

    Attributes:
        scenario: "closed" or "paced".
        seconds: length of the timed part.
        fps: rate at which frames fall due; paced only.
        min_frames: the closed timed part lasts at least this many frames.
        extend_to_s: the closed timed part lasts so long at most, if by then there are enough results for
            an interval of throughput.
        warm_frames, warm_s, warm_limit_s: bounds of the warm-up.
        quick: marks the shortened plan.
    """

    scenario: str = "closed"
    seconds: float = 10.0
    fps: float | None = None
    min_frames: int = MIN_RESULTS
    extend_to_s: float = 0.0
    warm_frames: int = 20
    warm_s: float = 2.0
    warm_limit_s: float = 60.0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.scenario not in ("closed", "paced"):
            raise UsageError(f"scenario is 'closed' or 'paced', not {self.scenario!r}")
        if self.scenario == "paced" and not is_positive(self.fps):
            raise UsageError(f"paced needs a rate, fps, of more than 0, not {self.fps!r}")
        if not is_positive(self.seconds):
            raise UsageError(f"seconds is more than 0, not {self.seconds!r}")


FULL = Plan()
QUICK = Plan(seconds=2.0, min_frames=6, warm_frames=3, warm_s=0.5, warm_limit_s=3.0, quick=True)
EXTENDED = 3.5
"""Times its length that a quick run may take, where its throughput then has an interval."""
