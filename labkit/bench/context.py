"""State that all rungs of a benchmark share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labkit.bench.coco import Photographs
from labkit.bench.frames import FrameSet
from labkit.bench.headroom import Headroom
from labkit.bench.interleave import RoundPlan
from labkit.bench.plan import Plan
from labkit.bench.progress import Reporter
from labkit.bench.worker import Worker
from labkit.core.lock import lock_holder
from labkit.core.types import Frame, Rung, Workload
from labkit.models.weights import Weights
from labkit.results.records import Agreement
from labkit.results.saving import Saving
from labkit.results.store import Store


def may_claim(agreement: Agreement, score: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """True if a gain of a rung may be claimed.

    Trained models decide: their accuracy on scenes, and agreement on the frames unless the
    weights are random. With random weights the best queries differ by less than rounding, so
    which of them win says nothing; there only numbers that are no numbers count.
    """
    loses = score.get("loses")
    if settings.get("weights") == "random" and loses is not None:
        return not loses and agreement.nan_count == 0
    return agreement.agrees and not loses


@dataclass(frozen=True)
class Context:
    """Frames, weights, plans and limits that all rungs of a benchmark share.

    Attributes:
        frames: pictures in memory.
        weights: chosen once for all rungs.
        plan: of the timed runs; None compares only.
        rounds: of the comparisons; None runs only.
        peaks: GFLOP/s by precision, from this machine.
        store: where finished results go, or None.
        evaluator: the process that measures accuracy.
        scenes: number of scenes with known truth for the accuracy; 0 leaves it out.
        until_s: on `time.perf_counter`; what has not begun by then is skipped, with the reason.
        disturbances: other measurements that ran when the benchmark began.
        own_lock: file of the lock that the benchmark itself holds.
        photographs: with known truth, on which detectors are evaluated instead of on scenes.
        counted: GFLOP per frame of loops that bring their own networks.
        headroom: memory that processes have needed so far.
        paced: plans of further runs of each rung, at given rates.
        began_s: on `time.perf_counter`.
    """

    frames: FrameSet
    workload: Workload
    weights: Mapping[str, Weights]
    plan: Plan | None
    rounds: RoundPlan | None
    peaks: Mapping[str, Mapping[str, float]]
    reporter: Reporter
    store: Store | Saving | None
    evaluator: EvaluationWorker
    scenes: int = 0
    until_s: float = float("inf")
    disturbances: tuple[str, ...] = ()
    own_lock: Path | None = None
    photographs: Photographs | None = None
    counted: Mapping[str, float] = field(default_factory=dict)
    headroom: Headroom = field(default_factory=Headroom)
    paced: tuple[Plan, ...] = ()
    began_s: float = field(default_factory=lambda: time.perf_counter())

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Of all timed runs of a rung."""
        return () if self.plan is None else (self.plan, *self.paced)

    def disturbed_by(self) -> tuple[str, ...]:
        """Other measurements of the lab that ran when the benchmark began, or run now."""
        now = lock_holder(besides=self.own_lock)
        return tuple(dict.fromkeys([*self.disturbances, *([f"{now} was running"] if now else [])]))

    def rounds_in_time(self, expected_s: float, n_measured: int, to_come: int) -> RoundPlan:
        """The rounds as planned, or in one process where as many rungs as are to come need the time.

        Args:
            expected_s: length of the rounds as planned.
            n_measured: rungs measured so far; one to come is expected to take as long as their mean.
            to_come: rungs still to measure.
        """
        per_rung_s = (time.perf_counter() - self.began_s) / max(1, n_measured)
        assert self.rounds is not None
        in_time = not self.out_of_time(expected_s + to_come * per_rung_s)
        return self.rounds if in_time else replace(self.rounds, processes=1)

    def out_of_time(self, reserved_s: float = 0.0) -> bool:
        """True if less than `reserved_s` is left of the benchmark's time."""
        return time.perf_counter() + reserved_s > self.until_s


class EvaluationWorker:
    """Prepares one rung after another in a child that is started when first needed."""

    def __init__(self, report: Callable[[str], None] = lambda line: None) -> None:
        self._report = report
        self._worker: Worker | None = None

    def __enter__(self) -> EvaluationWorker:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._worker is not None:
            self._worker.__exit__(*error)
            self._worker = None

    def close(self) -> None:
        """Ends the child; the next rung begins in a new one."""
        self.__exit__(None, None, None)

    def prepare(
        self, rung: Rung, workload: Workload, frames: Sequence[Frame], weights: Mapping[str, Weights]
    ) -> Worker:
        """The rung, ready to be asked for answers until the next one is prepared.

        Raises:
            LabError: it cannot be prepared; the next one begins in a new process.
        """
        if self._worker is None or not self._worker.alive:
            self._worker = Worker(rung, workload, frames, weights, report=self._report)
        else:
            self._worker.become(rung, workload, frames, weights)
        return self._worker
