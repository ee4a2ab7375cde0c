"""Baseline of a fleet: one process reads the streams in turn, detects, and writes the same parts.

On one machine it is the alternative to Ray. It reads at its own pace, so it decodes no frame in vain,
and it has all cores.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.child import SpawnedProcess, environment
from labkit.core.scratch import scratch_folder
from labkit.core.threads import PASSIVE_WAIT
from labkit.core.types import Frame
from labkit.fleet.benchmark.steady_state import rate
from labkit.fleet.fleet_plan import Plan
from labkit.fleet.run_fleet import READY_S
from labkit.fleet.stream_recorder import Recorder, folder_name
from labkit.fleet.streams import EndOfStream, FrameResult
from labkit.sources.openers import open_source
from labkit.sources.source import Source

WARM_FRAMES = 8
REPLY_S = 120.0
"""Time to open sources and write parts, beyond what is measured."""
ID = "single process"
"""In place of the ids of a fleet's readers and engines."""


class SingleProcess:
    """A process with a plan's networks ready, idle between measurements.

    with SingleProcess(plan) as process:
        fps = process.measure_fps(plan, seconds=5)
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._process = plan, SpawnedProcess()

    def __enter__(self) -> SingleProcess:
        try:
            with environment(PASSIVE_WAIT):  # read as the process starts
                self._process.call(READY_S, _prepare, self._plan)
        except BaseException:
            self._process.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()

    def measure_fps(self, plan: Plan, seconds: float) -> float:
        """Measure results per second on the plan's sources.

        Args:
            plan: of the same rung and workload as the first.
            seconds: duration, after a few warm-up frames.

        Raises:
            LabError: a source cannot be read.
            WorkerError: the process died, or gave no result in time.
        """
        with scratch_folder("fleet") as out:
            plan = replace(plan, out=out)
            return rate(self._process.call(seconds + REPLY_S, _process_streams, plan, seconds))


def _in_turn(sources: Sequence[Source], pending: dict[int, tuple[int, int, float]]) -> Iterator[Frame]:
    """One frame of each source in turn; notes its stream, its index there, and when it was read."""
    for index in count():
        stream = index % len(sources)
        frame = next(sources[stream])
        pending[index] = (stream, frame.index, time.time())
        yield Frame(frame.image, index, frame.t_s)


_ready: dict[str, Any] = {}
"""The networks, in the process that runs them."""


def _prepare(plan: Plan) -> None:
    from labkit.fleet.inference_engine import open_networks

    with redirect_stderr(io.StringIO()):  # progress bars of libraries; errors are raised
        _ready["net"], _ = (plan.open_net or open_networks)(plan.rung, plan.workload)


def _process_streams(plan: Plan, seconds: float) -> NDArray[np.float64]:
    """Process the streams; returns the time of each result in s since 1970."""
    streams = plan.streams()
    recorders = [Recorder(stream, Path(str(plan.out)) / folder_name(stream)) for stream in streams]
    with ExitStack() as stack:
        sources = [
            stack.enter_context(open_source(stream.spec, stream.size, fps=stream.fps, loop=True))
            for stream in streams
        ]
        pending: dict[int, tuple[int, int, float]] = {}
        done_s: list[float] = []
        until_s = float("inf")
        frames = takewhile(lambda frame: time.time() < until_s, _in_turn(sources, pending))
        for n, (frame, found) in enumerate(plan.rung.run(frames, _ready["net"]), 1):
            stream, index, read_s = pending.pop(frame.index)
            now_s = time.time()
            result = FrameResult(index, ID, index + 1, 0.0, read_s, now_s - read_s, ID, found)
            recorders[stream].append([result])
            if n == WARM_FRAMES:
                until_s = now_s + seconds
            elif n > WARM_FRAMES:
                done_s.append(now_s)
    for recorder, source in zip(recorders, sources, strict=True):
        recorder.close(EndOfStream(source.delivered, ID, source.delivered, "its time was over"))
    return np.array(done_s)
