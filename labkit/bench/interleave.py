"""Interleaved rounds: rungs timed one after another, in random order, on the same frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from labkit.core.errors import UsageError
from labkit.core.types import is_whole
from labkit.results.records import Comparison

MIN_ROUNDS = 9
WARM_UP_FRAMES = 2
MAX_FRAMES = 20_000
"""Most results in one turn, for what takes next to no time."""


class Timeable(Protocol):
    """A `Worker`, a `Session`, or a simulation in a test."""

    def time_frames(self, n_frames: int) -> float:
        """Pulls `n_frames` results; mean seconds per frame."""
        ...


@dataclass(frozen=True)
class RoundPlan:
    """Number and length of interleaved rounds.

    Attributes:
        rounds: each rung takes one turn per round, in random order.
        frames: results per turn; None gives every rung a turn of the same time.
        turn_s: that time; up to twice as long where the slowest rung takes longer for one frame.
        warm_up: turns per rung and process that are not counted.
        processes: how many processes each rung has, one after another, for its share of the rounds:
            where memory lies differs from start to start, and speed with it by a percent or two, which
            only several processes show. See `labkit.core.stats.ratio_interval` for what so many find.
        quick: marks a shortened comparison.
    """

    rounds: int = 14
    frames: int | None = None
    turn_s: float = 1.0
    warm_up: int = 2
    processes: int = 7
    quick: bool = False

    def __post_init__(self) -> None:
        if not is_whole(self.rounds, MIN_ROUNDS):
            raise UsageError(f"a comparison has {MIN_ROUNDS} rounds or more, not {self.rounds!r}")
        if self.frames is not None and self.frames < 1:
            raise UsageError(f"a turn has one frame or more, not {self.frames}")
        if not 1 <= self.processes <= self.rounds:
            raise UsageError(f"{self.rounds} rounds need 1 to {self.rounds} processes, not {self.processes}")

    def frames_at(self, pace_s: Mapping[str, float]) -> dict[str, int]:
        """Results per turn of each rung, from the rungs' seconds per frame: turns of the same time."""
        length_s = float(np.clip(max(pace_s.values()), self.turn_s, 2 * self.turn_s))
        return {
            name: self.frames or int(np.clip(np.ceil(length_s / max(one_s, 1e-9)), 1, MAX_FRAMES))
            for name, one_s in pace_s.items()
        }

    def expected_s(self, pace_s: Collection[float], start_s: float = 0.0) -> float:
        """Expected length of all rounds in s.

        Args:
            pace_s: the rungs' seconds per frame.
            start_s: to start all their processes anew.
        """
        if len(pace_s) < 2:
            return 0.0
        frames = self.frames_at({str(i): one_s for i, one_s in enumerate(pace_s)})
        per_round = sum((n + 1) * one_s for n, one_s in zip(frames.values(), pace_s, strict=True))
        warming = self.processes * self.warm_up * (WARM_UP_FRAMES + 1) * sum(pace_s)
        return self.rounds * per_round + warming + (self.processes - 1) * start_s


FULL_ROUNDS = RoundPlan()
QUICK_ROUNDS = RoundPlan(rounds=9, turn_s=0.4, warm_up=1, processes=3, quick=True)
"""For many rungs at once, whose processes take long to start."""
QUICK_PAIR = RoundPlan(rounds=10, turn_s=0.4, warm_up=1, processes=5, quick=True)


@dataclass(frozen=True)
class Rounds:
    """Times of interleaved rounds.

    Attributes:
        seconds: by name, (rounds,) mean seconds per frame of each turn.
        process: (rounds,) number of the processes that each round was measured in, from 0.
        frames: by name, results per turn.
        quick: whether the plan was a shortened one.
    """

    seconds: dict[str, np.ndarray]
    process: np.ndarray
    frames: dict[str, int]
    quick: bool = False

    def comparison(self, a: str, b: str, agrees: bool = True, **facts: Any) -> Comparison:
        """Comparison of `b` with `a`.

        Args:
            a, b: names of rungs in these rounds.
            agrees: whether the answers of both are right enough to claim a gain.
            facts: agreement, settings, source, fingerprint and disturbances, as in `Comparison`.
        """
        about: dict[str, Any] = {"settings": {}, "source": {}, **facts}
        return Comparison(
            a, b, self.seconds[a], self.seconds[b], min(self.frames[a], self.frames[b]), agrees, self.quick,
            process=self.process, **about,
        )  # fmt: skip


def time_interleaved(
    timed: Mapping[str, Timeable],
    plan: RoundPlan = FULL_ROUNDS,
    *,
    seed: int = 0,
    renew: Callable[[], Mapping[str, Timeable]] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Rounds:
    """Times every rung once per round.

    Args:
        timed: by name.
        plan: of the rounds; its processes only count where there is a `renew`.
        seed: of the random order within a round.
        renew: ends the rungs' processes and gives new ones, by name.
    """
    if len(timed) < 2:
        raise UsageError("a comparison needs two rungs or more")
    frames = plan.frames_at(_pace(timed, plan))
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    process: list[int] = []
    begins = {plan.rounds * k // plan.processes for k in range(1, plan.processes)}
    for done in range(plan.rounds):
        if done in begins and renew is not None:
            timed = renew()
            _pace(timed, plan)
        process.append(process[-1] + (done in begins and renew is not None) if process else 0)
        for name in order.sample(list(timed), len(timed)):
            seconds[name].append(timed[name].time_frames(frames[name]))
        progress((done + 1) / plan.rounds)
    times = {name: np.array(values) for name, values in seconds.items()}
    return Rounds(times, np.array(process, float), frames, plan.quick)


def _pace(timed: Mapping[str, Timeable], plan: RoundPlan) -> dict[str, float]:
    """Seconds per frame of each rung once it is warm."""
    return {
        name: min(t.time_frames(WARM_UP_FRAMES) for _ in range(plan.warm_up)) for name, t in timed.items()
    }
