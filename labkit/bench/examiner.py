"""One process that sits all exams, so that libraries are loaded once for all rungs.

Engines in one process disturb one another's speed, not their answers; and only answers count in
an exam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from labkit.bench.worker import Worker
from labkit.core.types import Frame, Rung, Workload
from labkit.models.weights import Weights


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
