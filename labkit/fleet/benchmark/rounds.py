"""Fleets of a few sizes beside one process that does the same job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from labkit.core.errors import LabError
from labkit.fleet.benchmark.steady_state import FleetResults
from labkit.fleet.fleet_plan import Plan

SETTLE_S = 1.0
"""Left out of a fleet's figures, once its last stream has begun."""


@dataclass(frozen=True)
class Rounds:
    """What came out, by the number of streams.

    Attributes:
        stream_fps: frames per second that each stream of a fleet offered.
        fleets: the answers of the time in which all streams ran.
        single_process_fps: answers per second of a process that read the streams in turn at its own pace,
            found and wrote, all by itself.
    """

    stream_fps: float
    fleets: dict[int, FleetResults]
    single_process_fps: dict[int, float]

    @property
    def shares(self) -> dict[int, float]:
        """What each fleet answered of all that was offered, or of what one process can if that is less."""
        possible = {n: min(n * self.stream_fps, self.single_process_fps[n]) for n in self.fleets}
        return {n: answers.fps / possible[n] for n, answers in self.fleets.items()}


def run_rounds(
    plan: Plan, streams: Sequence[int], seconds: float, report: Callable[[str], None] = lambda line: None
) -> Rounds:
    """Runs fleets of so many streams, each after a turn of the one process; Ray is running already.

    Args:
        plan: of one source, which all streams show, at a rate of its own.
        streams: how many, of each fleet.
        seconds: how long a fleet's streams run; the one process has half of it.
        report: hears of a number of streams that could not be measured.
    """
    from labkit.fleet.benchmark.single_process import SingleProcess
    from labkit.fleet.benchmark.steady_state import run_to_end

    assert plan.fps is not None
    done = Rounds(plan.fps, {}, {})
    with SingleProcess(plan) as alone:
        for n in streams:
            many = replace(plan, sources=plan.sources * n, seconds=seconds + SETTLE_S)
            try:
                single_process_fps = alone.watch(many, seconds / 2)
                done.fleets[n] = run_to_end(many)[1].steady(SETTLE_S)
                done.single_process_fps[n] = single_process_fps
            except LabError as error:  # as on a machine that others keep busy
                report(f"{n} streams were not measured: {error}")
    return done
