"""What the lab's own spans cost, published beside the figures that they are part of.

    python -m labkit.lessons.pitfalls.span_cost results/reference/MACHINE

writes `span_cost.json` there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from labkit.core.files import write_atomic
from labkit.lessons.pitfalls.observer import GOAL_US, SPANS, span_cost_us

ROUNDS = 9


@dataclass(frozen=True)
class SpanCost:
    """Microseconds per frame that its spans cost, once per round.

    Attributes:
        recorded_us: with a recording open, as in a benchmark.
        alone_us: without one, as in a live view.
    """

    recorded_us: tuple[float, ...]
    alone_us: tuple[float, ...]

    @property
    def sentence(self) -> str:
        """The result in words, with the spread over the rounds."""
        low, high = min(self.recorded_us), max(self.recorded_us)
        goal = "within" if median(self.recorded_us) <= GOAL_US else "above"
        return (
            f"The {len(SPANS)} spans of a frame cost {median(self.recorded_us):.1f} us of it while recorded "
            f"({low:.1f} to {high:.1f} over {len(self.recorded_us)} rounds) and {median(self.alone_us):.1f} "
            f"us otherwise, {goal} the goal of {GOAL_US:g} us."
        )


def span_cost(rounds: int = ROUNDS) -> SpanCost:
    """Measures it, both ways in turns."""
    pairs = [(span_cost_us(500), span_cost_us(500, recorded=False)) for _ in range(rounds)]
    return SpanCost(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


if __name__ == "__main__":
    from labkit.core.machine import fingerprint

    cost = span_cost()
    told = {"sentence": cost.sentence, **asdict(cost), "fingerprint": fingerprint()}
    write_atomic(Path(sys.argv[1]) / "span_cost.json", json.dumps(told, indent=1, default=str))
    print(cost.sentence)
