"""A fleet's work without a fleet: one process reads the streams in turn, finds, and writes the same parts.

It is what a fleet has to be measured against: whoever has one machine could do without Ray. It
reads at its own pace, so it decodes no frame that it does not look at, and it has all cores.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import WorkerError
from labkit.core.threads import PASSIVE_WAIT
from labkit.core.types import Frame
from labkit.fleet.benchmark.steady_state import rate
from labkit.fleet.fleet_plan import Plan
from labkit.fleet.guards import environment
from labkit.fleet.stream_recorder import Recorder, folder_name
from labkit.fleet.streams import EndOfStream, FrameResult
from labkit.sources.openers import open_source
from labkit.sources.source import Source

WARM_FRAMES = 8


class SingleProcess:
    """A process with a plan's networks ready, that watches streams when asked; idle otherwise.

    with Alone(plan) as alone:
        fps = alone.watch(plan, seconds=5)
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __enter__(self) -> SingleProcess:
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            with environment(PASSIVE_WAIT):  # read as the process starts, which is at the first submission
                self._process.submit(_get_ready, self._plan).result()
        except BaseException:
            self._process.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.shutdown()

    def watch(self, plan: Plan, seconds: float) -> float:
        """Answers per second, over so many seconds of watching the plan's sources.

        Args:
            plan: of the same rung and workload as the first.
            seconds: counted once a few frames are done.

        Raises:
            LabError: a source cannot be read.
            WorkerError: the process died.
        """
        try:
            with tempfile.TemporaryDirectory() as out:
                return rate(self._process.submit(_watch, replace(plan, out=Path(out)), seconds).result())
        except BrokenProcessPool as error:
            raise WorkerError(f"the process that watches alone died: {error}") from error


@dataclass
class _RoundRobin:
    """Frames of several sources, one of each in turn; what is not answered yet is remembered.

    Attributes:
        sources: loops, so that none ends.
        open: whether there is a next frame.
        given: index of a frame -> (its stream, its place there, when it was read).
    """

    sources: list[Source]
    open: bool = True
    given: dict[int, tuple[int, int, float]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while self.open:
            stream = index % len(self.sources)
            frame = next(self.sources[stream])
            self.given[index] = (stream, frame.index, time.time())
            yield Frame(frame.image, index, frame.t_s)
            index += 1


_ready: dict[str, Any] = {}
"""In the process that watches: its networks."""


def _get_ready(plan: Plan) -> None:
    from labkit.fleet.inference_engine import open_networks

    with redirect_stderr(io.StringIO()):  # bars of libraries; what goes wrong is raised
        _ready["net"], _ = (plan.open_net or open_networks)(plan.rung, plan.workload)


def _watch(plan: Plan, seconds: float) -> NDArray[np.float64]:
    """When each answer was there, in s since 1970."""
    streams = plan.streams()
    recorders = [Recorder(stream, str(Path(str(plan.out)) / folder_name(stream))) for stream in streams]
    with ExitStack() as open_ones:
        sources = [
            open_ones.enter_context(open_source(stream.spec, stream.size, fps=stream.fps, loop=True))
            for stream in streams
        ]
        turns = _RoundRobin(sources)
        done_s = []
        until_s = float("inf")
        for n, (frame, found) in enumerate(plan.rung.run(iter(turns), _ready["net"]), 1):
            stream, place, read_s = turns.given.pop(frame.index)
            now_s = time.time()
            answer = FrameResult(place, "alone", place + 1, 0.0, read_s, now_s - read_s, "alone", found)
            recorders[stream].append([answer])
            if n == WARM_FRAMES:
                until_s = now_s + seconds
            elif n > WARM_FRAMES:
                done_s.append(now_s)
            turns.open = now_s < until_s
    for recorder, source in zip(recorders, sources, strict=True):
        recorder.close(EndOfStream(source.delivered, "alone", source.delivered, "its time was over"))
    return np.array(done_s)
