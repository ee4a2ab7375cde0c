"""Pulling frames through a schedule, timed, with every frame accounted for.

Two scenarios. *Closed*: the pipeline takes the next frame whenever it likes; this gives
throughput. *Paced*: frames fall due at a fixed rate; latency counts from when a frame was
due, and a frame that nobody took before the next one fell due is dropped and counted, so a
slow pipeline cannot hide behind its own waiting (coordinated omission).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.bench.load import Clock, Feed
from labkit.bench.plan import FULL, Plan
from labkit.core import stats
from labkit.core.errors import LabError, UsageError
from labkit.core.trace import Recording, SpanRecord, recording
from labkit.core.types import Frame, Schedule
from labkit.results.records import Samples

MAX_FAILURES = 3


@dataclass
class Timed:
    """What one drive saw.

    Attributes:
        latency_s, done_s: per timed result, in the order of results.
        index: frame index per timed result.
        warmup_s: latencies before the timed part.
        offered, dropped, failed: frames of the timed part.
        spans: closed spans of the timed part.
    """

    latency_s: Samples
    done_s: Samples
    index: NDArray[np.int64]
    warmup_s: Samples
    offered: int
    dropped: int
    failed: int
    spans: list[SpanRecord] = field(default_factory=list)

    def per_span(self, gpu: bool = False) -> dict[str, Samples]:
        """Seconds per timed result and span, summed where a span repeats in one frame."""
        row = {int(index): i for i, index in enumerate(self.index)}
        out: dict[str, Samples] = {}
        for part in self.spans:
            seconds = part.gpu_ms / 1e3 if gpu and part.gpu_ms is not None else None
            seconds = (part.stop_ns - part.start_ns) / 1e9 if not gpu else seconds
            if seconds is None or part.index not in row:
                continue
            values = out.setdefault(part.name, np.full(len(self.index), np.nan))
            i = row[part.index]
            values[i] = seconds if np.isnan(values[i]) else values[i] + seconds
        return out


def drive(
    schedule: Schedule,
    net: Any,
    frames: Sequence[Frame],
    plan: Plan = FULL,
    *,
    group: int = 1,
    clock: Clock | None = None,
    synchronize: Callable[[], None] = lambda: None,
    progress: Callable[[float], None] = lambda share: None,
) -> Timed:
    """Measures a schedule: warm-up first, then the timed part of the plan.

    Args:
        schedule: the generator to measure.
        net: handed to it.
        frames: pictures, repeated for as long as it takes; indices go on counting.
        group: how many frames the schedule answers at once; the warm-up ends with a whole group,
            else results that were ready before would count as made in no time.
        synchronize: waits for the device; called once at each edge of the timed part.
        progress: called with the finished share, from 0 to 1.

    Raises:
        LabError: the schedule fails several times in a row, or loses or invents frames.
    """
    if not len(frames):
        raise UsageError("there is no frame to measure with")
    return _Drive(schedule, net, frames, plan, group, clock or Clock(), synchronize, progress).run()


class _Drive:
    """One measurement in progress."""

    def __init__(
        self,
        schedule: Schedule,
        net: Any,
        frames: Sequence[Frame],
        plan: Plan,
        group: int,
        clock: Clock,
        synchronize: Callable[[], None],
        progress: Callable[[float], None],
    ) -> None:
        self.schedule, self.net, self.plan, self.clock = schedule, net, plan, clock
        self.group, self.synchronize, self.progress = group, synchronize, progress
        self.feed = Feed(frames, clock)
        self.warmup: list[float] = []
        self.latency: list[float] = []
        self.done: list[float] = []
        self.index: list[int] = []
        self.answered: set[int] = set()
        self.failed = 0
        self.start: float | None = None
        self.first_timed = 0

    def run(self) -> Timed:
        begun = self.clock.now()
        with recording() as record:
            for index, now in self._results():
                latency = now - self.feed.began[index]
                if self.start is None:
                    self.warmup.append(latency)
                    if self._is_warm(now - begun):
                        self._begin(record)
                elif self.plan.scenario == "closed" or index >= self.first_timed:
                    self._note(index, latency, now - self.start)
            self.synchronize()
            timed = set(self.index)
            spans = [s for s in record.spans() if s.index in timed]
        return self._finish(spans)

    def _results(self) -> Iterator[tuple[int, float]]:
        """(frame index, time) of each result; a schedule that fails is started anew."""
        in_a_row = 0
        while True:
            try:
                for frame, _ in self.schedule(self.feed, self.net):
                    self._check_answer(frame.index)
                    in_a_row = 0
                    yield frame.index, self.clock.now()
                return
            except LabError:
                raise
            except Exception as error:
                in_a_row += 1
                if in_a_row >= MAX_FAILURES or not self.answered:
                    raise LabError(
                        f"the pipeline failed {in_a_row} time(s) in a row: {type(error).__name__}: {error}"
                    ) from error

    def _check_answer(self, index: int) -> None:
        if index not in self.feed.began:
            raise LabError(f"the pipeline answered frame {index}, which it was never given")
        if index in self.answered:
            raise LabError(f"the pipeline answered frame {index} twice")
        self.answered.add(index)

    def _is_warm(self, elapsed: float) -> bool:
        plan = self.plan
        if len(self.warmup) % self.group:
            return False
        if elapsed >= plan.warm_limit_s and len(self.warmup) >= min(3, plan.warm_frames):
            return True
        if plan.quick:
            return len(self.warmup) >= plan.warm_frames and elapsed >= plan.warm_s
        return stats.warm_up_done(
            np.array(self.warmup), elapsed, min_frames=plan.warm_frames, min_s=plan.warm_s
        )

    def _begin(self, record: Recording) -> None:
        self.synchronize()
        record.clear()
        self.first_timed = self.feed.offered
        self.start = self.clock.now()
        if self.plan.scenario == "paced":
            assert self.plan.fps is not None
            self.first_timed = self.feed.pace(self.plan.fps, self.plan.seconds)

    def _note(self, index: int, latency: float, elapsed: float) -> None:
        self.index.append(index)
        self.latency.append(latency)
        self.done.append(elapsed)
        plan = self.plan
        share = elapsed / plan.seconds
        if plan.scenario == "closed":
            share = min(share, len(self.index) / plan.min_frames)
            if share >= 1:
                self.feed.stop()
        self.progress(min(share, 1.0))

    def _finish(self, spans: list[SpanRecord]) -> Timed:
        if self.start is None:
            raise LabError("the pipeline ended before its warm-up was over; it must answer every frame")
        lost = set(self.feed.began) - self.answered  # taken, but the schedule failed or kept them
        if self.plan.scenario == "closed" and self.feed.is_open:
            raise LabError("the pipeline ended although frames were left; a schedule ends with its frames")
        if self.feed.offered != len(self.feed.began) + self.feed.dropped:
            raise LabError("frames were miscounted: offered is not taken + dropped")
        lost_timed = {index for index in lost if index >= self.first_timed}
        if not self.latency and not lost_timed:
            raise LabError("no frame was finished in the timed part; measure for longer")
        self.progress(1.0)
        return Timed(
            latency_s=np.array(self.latency),
            done_s=np.array(self.done),
            index=np.array(self.index, np.int64),
            warmup_s=np.array(self.warmup),
            offered=len(self.index) + self.feed.dropped + len(lost_timed),
            dropped=self.feed.dropped,
            failed=len(lost_timed),
            spans=spans,
        )
