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
from labkit.core.energy import EnergyMeter
from labkit.core.errors import LabError, UsageError
from labkit.core.trace import Recording, SpanRecord, recording
from labkit.core.types import Frame, Schedule
from labkit.results.records import Samples

MAX_FAILURES = 3
PROGRESS_STEP = 0.02  # of the whole; a call per frame would cost the pipeline


@dataclass(frozen=True)
class Clock:
    """The time that measuring goes by; tests put a simulated one in its place."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


class LoadGenerator:
    """The frames as a pipeline takes them: an iterator that notes when each was taken, or due.

    Attributes:
        is_open: True while there are frames left; set to False, the pipeline finishes what it has.
        offered: frames taken or dropped so far.
        began: frame index -> when it was taken, or due.
        dropped: frames that nobody took before the next one fell due.
    """

    def __init__(self, frames: Sequence[Frame], clock: Clock) -> None:
        self._frames, self._clock = frames, clock
        self._period: float | None = None
        self._start = self._seconds = 0.0
        self._first = 0
        self.is_open = True
        self.offered = self.dropped = 0
        self.began: dict[int, float] = {}

    def pace(self, fps: float, seconds: float) -> int:
        """From now on frames fall due at `fps`, for `seconds`; gives the index of the first one."""
        self._start, self._seconds, self._first = self._clock.now(), seconds, self.offered
        self._period = 1 / fps  # last: a schedule's own thread may be asking for a frame meanwhile
        return self._first

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if not self.is_open:
            raise StopIteration
        began = self._clock.now() if self._period is None else self._wait_until_due(self._period)
        index, self.offered = self.offered, self.offered + 1
        self.began[index] = began
        return Frame(self._frames[index % len(self._frames)].image, index, began)

    def _wait_until_due(self, period: float) -> float:
        """Skips to the newest frame that is due, or waits for the next one; gives its due time."""
        passed = self._clock.now() - self._start
        last = self._first + int(self._seconds / period + 1e-9)  # first one that is not offered
        newest = min(self._first + int(passed / period + 1e-9), last)
        self.dropped += max(0, newest - self.offered)
        self.offered = max(newest, self.offered)
        if self.offered >= last:
            self.is_open = False
            raise StopIteration
        due = self._start + (self.offered - self._first) * period
        if (wait_s := due - self._clock.now()) > 0:
            self._clock.sleep(wait_s)
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
        cpu_s: processor time of this process in the timed part, spinning threads included.
        joules: energy of the timed part by counter ("cpu", "gpu"), where there is one.
        no_energy: why a counter is missing, by its name.
    """

    latency_s: Samples
    done_s: Samples
    index: NDArray[np.int64]
    warmup_s: Samples
    offered: int
    dropped: int
    failed: int
    spans: list[SpanRecord] = field(default_factory=list)
    cpu_s: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)
    no_energy: dict[str, str] = field(default_factory=dict)

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
    meter: EnergyMeter | None = None,
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
        progress: called with the finished share, from 0 to 1, in steps of `PROGRESS_STEP`.
        meter: of the energy that the timed part takes.

    Raises:
        LabError: the schedule fails several times in a row, or loses or invents frames.
    """
    if not len(frames):
        raise UsageError("there is no frame to measure with")
    clock = clock or Clock()
    load = LoadGenerator(frames, clock)
    return _Measurement(
        schedule, net, load, plan, group, clock, synchronize, guard, progress, meter or EnergyMeter()
    ).run()


@dataclass(eq=False)
class _Measurement:
    """One measurement in progress."""

    schedule: Schedule
    net: Any
    load: LoadGenerator
    plan: Plan
    group: int
    clock: Clock
    synchronize: Callable[[], None]
    guard: Callable[[], AbstractContextManager[None]]
    progress: Callable[[float], None]
    meter: EnergyMeter
    warmup: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    answered: set[int] = field(default_factory=set)
    start: float | None = None
    cpu_start: float = 0.0
    first_timed: int = 0
    shown: float = 0.0

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
                        if share >= 1 and self._is_enough(now - self.start):
                            self.load.is_open = False
                    if share - self.shown >= PROGRESS_STEP or share >= 1 > self.shown:
                        self.shown = min(share, 1.0)
                        self.progress(self.shown)
            self.synchronize()
            cpu_s = time.process_time() - self.cpu_start
            joules = self.meter.joules() if self.start is not None else {}
            timed = set(self.index)
            spans = [s for s in record.spans() if s.index in timed]
        return self._finish(spans, cpu_s, joules)

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

    def _is_enough(self, elapsed: float) -> bool:
        """False where a somewhat longer run would give the throughput an interval."""
        passes, longest_s = len(self.index) / self.group, self.plan.extend_to_s
        in_reach = passes / elapsed * longest_s >= stats.MIN_RESULTS
        return passes >= stats.MIN_RESULTS or elapsed >= longest_s or not in_reach

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
        self.meter.start()
        self.cpu_start = time.process_time()
        self.start = self.clock.now()
        if self.plan.scenario == "paced":
            assert self.plan.fps is not None
            self.first_timed = self.load.pace(self.plan.fps, self.plan.seconds)

    def _finish(self, spans: list[SpanRecord], cpu_s: float, joules: dict[str, float]) -> Timing:
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
            cpu_s=cpu_s,
            joules=joules,
            no_energy=dict(self.meter.missing),
        )
