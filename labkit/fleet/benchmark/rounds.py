"""Fleets of several sizes compared with a single process that does the same work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from labkit.core.errors import LabError
from labkit.fleet.benchmark.steady_state import FleetResults
from labkit.fleet.fleet_plan import Plan

SETTLE_S = 1.0
"""Left out of a fleet's figures after its last stream has begun."""


@dataclass(frozen=True)
class Rounds:
    """Measured rates, by number of streams.

    Attributes:
        stream_fps: frames per second that each stream of a fleet offered.
        fleets: results from the time in which all streams ran.
        single_process_fps: results per second of one process that reads the streams in turn at its own
            pace, detects and writes.
    """

    stream_fps: float
    fleets: dict[int, FleetResults]
    single_process_fps: dict[int, float]

    @property
    def shares(self) -> dict[int, float]:
        """Each fleet's rate relative to the offered rate, or to the single process's if that is lower."""
        attainable = {n: min(n * self.stream_fps, self.single_process_fps[n]) for n in self.fleets}
        return {n: results.fps / attainable[n] for n, results in self.fleets.items()}


def run_rounds(
    plan: Plan, streams: Sequence[int], seconds: float, report: Callable[[str], None] = lambda line: None
) -> Rounds:
    """Measure a single process and then a fleet, for each number of streams; Ray must be running.

    Args:
        plan: of one source, which all streams read, with a rate.
        streams: number of streams of each fleet.
        seconds: duration of a fleet; the single process runs for half of it.
        report: called with an error for each number of streams that could not be measured.
    """
    from labkit.fleet.benchmark.single_process import SingleProcess
    from labkit.fleet.benchmark.steady_state import run_to_end

    assert plan.fps is not None
    done = Rounds(plan.fps, {}, {})
    with SingleProcess(plan) as process:
        for n in streams:
            fleet = replace(plan, sources=plan.sources * n, seconds=seconds + SETTLE_S)
            try:
                single_process_fps = process.measure_fps(fleet, seconds / 2)
                done.fleets[n] = run_to_end(fleet)[1].steady(SETTLE_S)
                done.single_process_fps[n] = single_process_fps
            except LabError as error:  # such as too few results, on a busy machine
                report(f"{n} streams could not be measured: {error}")
    return done
