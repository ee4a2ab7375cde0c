"""A rung with its networks ready, in this process: answers, timed runs, interleaved rounds.

`labkit.bench.worker` holds one of these in a process of its own, which is how rungs are
measured; in the same process it serves tests and quick looks.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from labkit.bench.agreement import Answers
from labkit.bench.headroom import Footprint
from labkit.bench.plan import Plan
from labkit.bench.timing import Clock, LoadGenerator, Timing, measure
from labkit.core.energy import EnergyMeter
from labkit.core.errors import LabError, UsageError
from labkit.core.trace import recording
from labkit.core.types import Detections, Frame, Rung, Workload
from labkit.models.callables import Prepared
from labkit.models.cuda_errors import explain_cuda_errors
from labkit.models.prepare import prepare
from labkit.models.weights import Weights
from labkit.pipelines.own_loop import own_loop

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no GPU is no news

GPU_RAMP_S = 0.1
"""Work without a clock before each turn on a GPU, so that its frequency is up when the turn begins."""


@dataclass(frozen=True)
class Ready:
    """Start-up time and settings of a rung whose networks are ready.

    Attributes:
        startup_s: from the start of the process (or of preparing, in the same process) to the first
            answer; a forked process finds the libraries loaded.
        settings: as in `Prepared`.
    """

    startup_s: float
    settings: dict[str, Any]


class Session:
    """A rung, prepared, over fixed frames."""

    def __init__(
        self,
        rung: Rung,
        workload: Workload,
        frames: Sequence[Frame],
        weights: Mapping[str, Weights] | None = None,
        *,
        report: Callable[[str], None] = lambda line: None,
        started_s: float | None = None,
    ) -> None:
        begun = time.perf_counter() if started_s is None else started_s
        self.rung = rung
        self.frames = list(frames)
        with self._guard():
            self.prepared: Prepared = prepare(rung.prepare, workload, weights, report)
            if next(rung.run(self._lent(self.frames[:1]), self.prepared.net), None) is None:
                raise _unanswered(rung, 0, 1)
        self._synchronize()
        self.ready = Ready(time.perf_counter() - begun, self.prepared.settings)
        self._rounds: Iterator[tuple[Frame, Detections]] | None = None

    def answers(self, frames: Sequence[Frame]) -> Answers:
        """Detections in `frames`, with the networks' raw outputs.

        Raises:
            UsageError: a user's loop writes into the frames, which others are measured on, too.
        """
        lent = self._lent(frames)
        with recording(taps=True) as record, self._guard():
            answered = list(self.rung.run(lent, self.prepared.net))
        for frame, after in zip(frames, lent, strict=True):
            if frame is not after and not np.array_equal(frame.image, after.image):
                raise UsageError(
                    f"{self.rung.name} writes into frame.image (frame {frame.index}); every round and every "
                    "rung gets the same pictures, so draw on a copy: frame.image.copy()"
                )
        if len(answered) != len(frames):
            raise _unanswered(self.rung, len(answered), len(frames))
        for given, (frame, _) in zip(lent, answered, strict=True):
            if frame.index != given.index:
                raise LabError(
                    f"{self.rung.name} answered frame {frame.index} where frame {given.index} was due: it "
                    "has to yield each frame with its own answer, in the order in which they come"
                )
        return Answers(self.rung.name, [found for _, found in answered], record.taps)

    def _lent(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames; copies of them for a user's loop, which may write into them."""
        if own_loop(self.rung) is None:
            return list(frames)
        return [replace(frame, image=frame.image.copy()) for frame in frames]

    def run(self, plan: Plan, progress: Callable[[float], None] = lambda share: None) -> Timing:
        """One timed run of the plan's scenario."""
        return measure(
            self.rung.run,
            self.prepared.net,
            self.frames,
            plan,
            group=self.group,
            synchronize=self._synchronize,
            guard=self._guard,
            progress=progress,
            meter=EnergyMeter(self.prepared.settings["device"]),
        )

    def time_frames(self, n_frames: int) -> float:
        """Pulls one or more untimed and then `n_frames` timed results; mean seconds per frame.

        The generator stays alive between rounds; the untimed result pays for the caches that
        the other rungs have filled with its own data. On a GPU, whose clock falls while others have
        their turns, untimed results are pulled for `GPU_RAMP_S`. A schedule that answers several
        frames at once is timed over whole groups: most results of a group are there with its
        first one, and cost nothing. It has no untimed one, since what filling the caches costs is
        little beside the work of a group, except to bring up the clock of a GPU.
        """
        if self._rounds is None:
            self._rounds = self.rung.run(LoadGenerator(self.frames, Clock()), self.prepared.net)
        n_frames += -n_frames % self.group
        on_gpu = self.prepared.settings["device"] == "cuda"
        with self._guard():
            until_s = time.perf_counter() + (GPU_RAMP_S if on_gpu else 0.0)
            if self.group == 1:
                next(self._rounds)
            while time.perf_counter() < until_s:
                for _ in range(self.group):
                    next(self._rounds)
            self._synchronize()
            begun = time.perf_counter()
            for _ in range(n_frames):
                next(self._rounds)
            self._synchronize()
        return (time.perf_counter() - begun) / n_frames

    @property
    def group(self) -> int:
        """Number of frames that the schedule answers at once."""
        return self.rung.prepare.group

    def _synchronize(self) -> None:
        """Waits for the device, where what went wrong on a GPU is often heard of first."""
        with self._guard():
            self.prepared.synchronize()

    def _guard(self) -> AbstractContextManager[None]:
        """Turns CUDA errors into errors that say what to do."""
        return explain_cuda_errors(self.rung.name)

    def gpu_peak_bytes(self) -> int | None:
        """Most GPU memory that torch held so far, graphs' included; None without a GPU."""
        if self.prepared.settings["device"] != "cuda":
            return None
        import torch

        return torch.cuda.max_memory_reserved()

    def footprint(self) -> Footprint:
        """Memory of this process, and what is left on the GPU that it uses."""
        import psutil

        shared = getattr(psutil.Process().memory_info(), "shared", 0)  # libraries, which all workers map
        most, gpu = self.peak_bytes(), self.gpu_peak_bytes()
        host = max(0, most - shared)
        if gpu is None:
            return Footprint(host, peak_bytes=most)
        import torch

        free, total = torch.cuda.mem_get_info()
        return Footprint(host, gpu, torch.cuda.memory_reserved(), free, total, most)

    @staticmethod
    def peak_bytes() -> int:
        """Largest resident memory of this process so far."""
        if sys.platform == "win32":
            import psutil

            return psutil.Process().memory_info().peak_wset
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _unanswered(rung: Rung, answered: int, given: int) -> LabError:
    given_frames = "the only frame" if given == 1 else f"{given} frames"
    times = {0: "no answer", 1: "1 answer"}.get(answered, f"{answered} answers")
    return LabError(f"{rung.name} gave {times} for {given_frames}: it has to give one for each frame")
