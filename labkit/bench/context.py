"""What the parts of a benchmark hand to one another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.bench.coco import Photographs
from labkit.bench.frames import FrameSet
from labkit.bench.interleave import Turns
from labkit.bench.plan import Plan
from labkit.bench.progress import Reporter
from labkit.bench.worker import Worker
from labkit.core.lock import lock_holder
from labkit.core.types import Frame, Rung, Workload
from labkit.models.weights import Weights
from labkit.results.records import Agreement
from labkit.results.store import Store


@dataclass(frozen=True)
class Checks:
    """What is known of the rungs' answers when their speeds are compared."""

    agreements: Mapping[str, Agreement]
    scores: Mapping[str, Mapping[str, Any]]

    def agrees(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether a gain of this rung may be claimed.

        Trained models decide: their accuracy on scenes, and agreement on the frames unless the
        weights are random. With random weights the best queries differ by less than rounding, so
        which of them win says nothing; there only numbers that are no numbers count.
        """
        agreement, score = self.agreements[name], self.scores.get(name) or {}
        if settings.get("weights") == "random" and "loses" in score:
            return not score["loses"] and agreement.nan_count == 0
        return agreement.agrees and not score.get("loses", False)


@dataclass(frozen=True)
class Job:
    """What all rungs of a benchmark share.

    Attributes:
        frames: pictures in memory.
        weights: chosen once for all rungs.
        plan: of the timed runs; None compares only.
        turns: of the comparisons; None runs only.
        peaks: GFLOP/s by precision, from this machine.
        store: where finished results go, or None.
        examiner: whoever finds out how right the answers are.
        scenes: number of scenes with known truth for the accuracy; 0 leaves it out.
        until_s: on `time.perf_counter`; what has not begun by then is left out, and told.
        others: what else of the lab was running when the benchmark began.
        announced: by which the benchmark knows itself among what occupies the machine.
        photographs: with known truth, on which detectors are examined instead of on scenes.
    """

    frames: FrameSet
    workload: Workload
    weights: Mapping[str, Weights]
    plan: Plan | None
    turns: Turns | None
    peaks: Mapping[str, Mapping[str, float]]
    reporter: Reporter
    store: Store | None
    examiner: Examiner
    scenes: int = 0
    until_s: float = float("inf")
    others: tuple[str, ...] = ()
    announced: Path | None = None
    photographs: Photographs | None = None

    def disturbed_by(self) -> tuple[str, ...]:
        """What else of the lab was running when the benchmark began, or runs now."""
        now = lock_holder(besides=self.announced)
        return tuple(dict.fromkeys([*self.others, *([f"{now} was running"] if now else [])]))

    def late(self, reserved_s: float = 0.0) -> bool:
        """Whether the time of this benchmark is up, but for `reserved_s` kept for something else."""
        return time.perf_counter() + reserved_s > self.until_s


class Examiner:
    """Prepares one rung after another in a child that is started when first needed."""

    def __init__(self, report: Callable[[str], None] = lambda line: None) -> None:
        self._report = report
        self._worker: Worker | None = None

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def close(self) -> None:
        """Ends the child, if there is one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
