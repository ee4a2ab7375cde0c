"""Noise: load of other programs, stolen CPU time and GPU throttling during a measurement."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from labkit.core.gpu import gpu_noise_reasons, gpu_state, nvml

STEAL_LIMIT = 0.02
LOAD_LIMIT = 0.15
GPU_LOOK_S = 0.5


@dataclass
class NoiseMonitor:
    """Observes the machine while a measurement runs.

    Attributes:
        own_pids: processes that belong to the measurement, with their children.
    """

    own_pids: tuple[int, ...] = ()

    def __enter__(self) -> NoiseMonitor:
        self._states: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="labkit gpu noise", daemon=True)
        if gpu_state() is not None:
            self._sampler.start()
        self._cpu = psutil.cpu_times()
        self._own = self._own_seconds()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall = time.perf_counter() - self._wall
        now = psutil.cpu_times()
        total = sum(now) - sum(self._cpu)
        busy = (
            total
            - (now.idle - self._cpu.idle)
            - (getattr(now, "iowait", 0) - getattr(self._cpu, "iowait", 0))
        )
        self.steal = (getattr(now, "steal", 0.0) - getattr(self._cpu, "steal", 0.0)) / max(total, 1e-9)
        self.foreign = max(0.0, busy - (self._own_seconds() - self._own)) / max(total, 1e-9)
        self._over.set()
        if self._sampler.ident is not None:
            self._sampler.join()

    def include(self, pids: tuple[int, ...]) -> None:
        """Counts further processes as the measurement's own, that this one has just started."""
        self.own_pids = (*self.own_pids, *pids)

    def _sample(self) -> None:
        """The GPU's state again and again: once all is over it idles, and says nothing of the run."""
        with nvml():
            while not self._over.wait(GPU_LOOK_S):
                state = gpu_state()
                if state is not None:
                    self._states.append(state)

    def disturbances(self) -> tuple[str, ...]:
        """Reasons to doubt the measurement."""
        reasons = []
        if self.steal > STEAL_LIMIT:
            reasons.append(f"the host took {100 * self.steal:.0f}% of the CPU away (steal)")
        if self.foreign > LOAD_LIMIT:
            reasons.append(f"other programs used {100 * self.foreign:.0f}% of the CPU")
        return (*reasons, *gpu_noise_reasons(self._states))

    def _own_seconds(self) -> float:
        ended = psutil.Process().cpu_times()  # a child's time is added here once it has ended
        seconds = getattr(ended, "children_user", 0.0) + getattr(ended, "children_system", 0.0)
        for pid in {os.getpid(), *self.own_pids}:
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                seconds += times.user + times.system
        return seconds
