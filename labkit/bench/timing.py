"""A schedule under load: frames handed to it one by one, each accounted for and timed.

Two scenarios. *Closed*: the pipeline takes the next frame whenever it likes; this gives
throughput. *Paced*: frames fall due at a fixed rate; latency counts from when a frame was
due, and a frame that nobody took before the next one fell due is dropped and counted, so a
slow pipeline cannot hide behind its own waiting (coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.bench.plan import FULL, Plan
from labkit.core import stats
from labkit.core.errors import LabError, UsageError
from labkit.core.trace import Recording, SpanRecord, recording
from labkit.core.types import Frame, Schedule
from labkit.results.records import Samples

MAX_FAILURES = 3


@dataclass(frozen=True)
class Clock:
    """The time that measuring goes by; tests put a simulated one in its place."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


class LoadGenerator:
    """The frames as a pipeline takes them: an iterator that notes when each was taken, or due."""

    def __init__(self, frames: Sequence[Frame], clock: Clock) -> None:
        self._frames = frames
        self._clock = clock
        self._next = 0
        self._period: float | None = None
        self._start = 0.0
        self._first = 0
        self._open = True
        self._until: float | None = None
        self.began: dict[int, float] = {}  # frame index -> when taken, or when due
        self.dropped = 0

    def pace(self, fps: float, seconds: float) -> int:
        """From now on frames fall due at `fps`, for `seconds`; gives the index of the first one."""
        self._start = self._clock.now()
        self._until = seconds
        self._first = self._next
        self._period = 1 / fps  # last: a schedule's own thread may be asking for a frame meanwhile
        return self._first

    def stop(self) -> None:
        """No more frames: the pipeline finishes what it has and ends."""
        self._open = False

    @property
    def is_open(self) -> bool:
        """True if there are frames left to take."""
        return self._open

    @property
    def offered(self) -> int:
        """Frames taken or dropped so far."""
        return self._next

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if not self._open:
            raise StopIteration
        began = self._clock.now() if self._period is None else self._wait_until_due()
        index, self._next = self._next, self._next + 1
        self.began[index] = began
        return Frame(self._frames[index % len(self._frames)].image, index, began)

    def _wait_until_due(self) -> float:
        """Skips to the newest frame that is due, or waits for the next one; gives its due time."""
        assert self._period is not None and self._until is not None
        passed = self._clock.now() - self._start
        newest = self._first + int(passed / self._period + 1e-9)
        last = self._first + int(self._until / self._period + 1e-9)  # first one that is not offered
        if newest > self._next:
            self.dropped += min(newest, last) - self._next
            self._next = min(newest, last)
        if self._next >= last:
            self._open = False
            raise StopIteration
        due = self._start + (self._next - self._first) * self._period
        wait = due - self._clock.now()
        if wait > 0:
            self._clock.sleep(wait)
        return due


@dataclass
class Timing:
    """The samples of one measurement.

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


def measure(
    schedule: Schedule,
    net: Any,
    frames: Sequence[Frame],
    plan: Plan = FULL,
    *,
    group: int = 1,
    clock: Clock | None = None,
    synchronize: Callable[[], None] = lambda: None,
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    progress: Callable[[float], None] = lambda share: None,
) -> Timing:
    """Measures a schedule: warm-up first, then the timed part of the plan.

    Args:
        schedule: the generator to measure.
        net: handed to it.
        frames: pictures, repeated for as long as it takes; indices go on counting.
        group: how many frames the schedule answers at once; the warm-up ends with a whole group,
            else results that were ready before would count as made in no time.
        synchronize: waits for the device; called once at each edge of the timed part.
        guard: entered around the schedule, to turn its errors into typed ones.
        progress: called with the finished share, from 0 to 1.

    Raises:
        LabError: the schedule fails several times in a row, or loses or invents frames.
    """
    if not len(frames):
        raise UsageError("there is no frame to measure with")
    measurement = _Measurement(
        schedule, net, frames, plan, group, clock or Clock(), synchronize, guard, progress
    )
    return measurement.run()


class _Measurement:
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
        guard: Callable[[], AbstractContextManager[None]],
        progress: Callable[[float], None],
    ) -> None:
        self.schedule, self.net, self.plan, self.clock = schedule, net, plan, clock
        self.group, self.synchronize, self.guard, self.progress = group, synchronize, guard, progress
        self.load = LoadGenerator(frames, clock)
        self.warmup: list[float] = []
        self.latency: list[float] = []
        self.done: list[float] = []
        self.index: list[int] = []
        self.answered: set[int] = set()
        self.failed = 0
        self.start: float | None = None
        self.first_timed = 0

    def run(self) -> Timing:
        begun = self.clock.now()
        with recording() as record:
            for index, now in self._results():
                latency = now - self.load.began[index]
                if self.start is None:
                    self.warmup.append(latency)
                    if self._is_warm(now - begun):
                        self._begin(record)
                elif self.plan.scenario == "closed" or index >= self.first_timed:
                    self.index.append(index)
                    self.latency.append(latency)
                    self.done.append(now - self.start)
                    share = (now - self.start) / self.plan.seconds
                    if self.plan.scenario == "closed":
                        share = min(share, len(self.index) / self.plan.min_frames)
                        if share >= 1:
                            self.load.stop()
                    self.progress(min(share, 1.0))
            self.synchronize()
            timed = set(self.index)
            spans = [s for s in record.spans() if s.index in timed]
        return self._finish(spans)

    def _results(self) -> Iterator[tuple[int, float]]:
        """(frame index, time) of each result; a schedule that fails is started anew."""
        in_a_row = 0
        while True:
            try:
                with self.guard():
                    for frame, _ in self.schedule(self.load, self.net):
                        index = frame.index
                        if index not in self.load.began:
                            raise LabError(f"the pipeline answered frame {index}, which it was never given")
                        if index in self.answered:
                            raise LabError(f"the pipeline answered frame {index} twice")
                        self.answered.add(index)
                        in_a_row = 0
                        yield index, self.clock.now()
                return
            except LabError:
                raise
            except Exception as error:
                in_a_row += 1
                if in_a_row >= MAX_FAILURES or not self.answered:
                    raise LabError(
                        f"the pipeline failed {in_a_row} time(s) in a row: {type(error).__name__}: {error}"
                    ) from error

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
        self.first_timed = self.load.offered
        self.start = self.clock.now()
        if self.plan.scenario == "paced":
            assert self.plan.fps is not None
            self.first_timed = self.load.pace(self.plan.fps, self.plan.seconds)

    def _finish(self, spans: list[SpanRecord]) -> Timing:
        if self.start is None:
            raise LabError("the pipeline ended before its warm-up was over; it must answer every frame")
        lost = set(self.load.began) - self.answered  # taken, but the schedule failed or kept them
        if self.plan.scenario == "closed" and self.load.is_open:
            raise LabError("the pipeline ended although frames were left; a schedule ends with its frames")
        if self.load.offered != len(self.load.began) + self.load.dropped:
            raise LabError("frames were miscounted: offered is not taken + dropped")
        lost_timed = {index for index in lost if index >= self.first_timed}
        if not self.latency and not lost_timed:
            raise LabError("no frame was finished in the timed part; measure for longer")
        self.progress(1.0)
        return Timing(
            latency_s=np.array(self.latency),
            done_s=np.array(self.done),
            index=np.array(self.index, np.int64),
            warmup_s=np.array(self.warmup),
            offered=len(self.index) + self.load.dropped + len(lost_timed),
            dropped=self.load.dropped,
            failed=len(lost_timed),
            spans=spans,
        )
