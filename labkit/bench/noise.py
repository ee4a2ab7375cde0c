"""Noise: load of other programs, stolen CPU time, quotas, clocks and heat during a measurement."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from labkit.core.cgroup import stopped_share, throttling
from labkit.core.cpu import clock_mhz, heat_stops, temperature_c
from labkit.core.fork_server import server_pids
from labkit.core.gpu import clock_spread, clock_varied, gpu_noise_reasons, gpu_state, gpu_summary, nvml
from labkit.core.machine import available_memory
from labkit.results.format import format_load

STEAL_LIMIT = 0.02
LOAD_LIMIT = 0.15
QUOTA_LIMIT = 0.02
"""Share of the scheduler's periods in which a quota may stop the measurement."""
AT_WORK = 0.5
"""Cores that the measurement uses while the clock counts; it is low when nothing runs."""
LOOK_S = 0.5


@dataclass
class NoiseMonitor:
    """Observes the machine while a measurement runs.

    Attributes:
        own_pids: processes that belong to the measurement, with their children.
    """

    own_pids: tuple[int, ...] = ()

    def __enter__(self) -> NoiseMonitor:
        self._states: list[dict[str, Any]] = []
        self._clocks: list[float] = []
        self._before: dict[str, Any] = {
            "load_1min": round(psutil.getloadavg()[0], 2),
            "clock_mhz": clock_mhz(),
            "temperature_c": temperature_c(),
            "memory_free_gib": round(available_memory() / 2**30, 1),
        }
        self._hottest, self._heat_stops = self._before["temperature_c"], heat_stops()
        self._has_gpu, self._has_clock = gpu_state() is not None, self._before["clock_mhz"] is not None
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="labkit noise", daemon=True)
        if self._has_gpu or self._has_clock:
            self._sampler.start()
        self._throttling = throttling()
        self._cpu = psutil.cpu_times()
        self._own = self._own_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        now = psutil.cpu_times()
        total = sum(now) - sum(self._cpu)
        idle, waiting, stolen = (
            getattr(now, name, 0.0) - getattr(self._cpu, name, 0.0) for name in ("idle", "iowait", "steal")
        )
        busy = total - idle - waiting - stolen
        self.steal = stolen / max(total, 1e-9)
        self.foreign = max(0.0, busy - (self._own_seconds() - self._own)) / max(total, 1e-9)
        self.stopped = stopped_share(self._throttling, throttling())
        self.heat_stops = max(0, (heat_stops() or 0) - (self._heat_stops or 0))
        self._over.set()
        if self._sampler.ident is not None:
            self._sampler.join()

    def include(self, pids: tuple[int, ...]) -> None:
        """Counts further processes as the measurement's own, that this one has just started."""
        self.own_pids = (*self.own_pids, *pids)

    def disturbances(self) -> tuple[str, ...]:
        """Reasons to doubt the measurement."""
        reasons = []
        if self.steal > STEAL_LIMIT:
            reasons.append(format_load(0.0, self.steal))
        if self.foreign > LOAD_LIMIT:
            reasons.append(format_load(self.foreign, 0.0))
        if self.stopped > QUOTA_LIMIT:
            reasons.append(f"the CPU quota stopped it in {100 * self.stopped:.0f}% of the time slices")
        if self.heat_stops:
            reasons.append(f"the CPU slowed down {self.heat_stops} times because of heat")
        if clock_varied(self._clocks) and (spread := clock_spread(self._clocks)):
            reasons.append(f"the CPU's clock varied from {spread[0] / 1e3:.1f} to {spread[2] / 1e3:.1f} GHz")
        return (*reasons, *gpu_noise_reasons(self._states))

    def state(self) -> dict[str, Any]:
        """The machine before and during the measurement, as plain data; what cannot be read is left out.

        Shares of the CPU's time that others took (`foreign_cpu`, `steal`) and of time slices in which
        the quota stopped the measurement; clocks are the lowest fifth, the median and the highest fifth.
        """
        during: dict[str, Any] = {
            "foreign_cpu": round(self.foreign, 3),
            "steal": round(self.steal, 3),
            "quota_stopped": round(self.stopped, 3),
            "heat_stops": None if self._heat_stops is None else self.heat_stops,
            "temperature_c": self._hottest,
            "gpu": gpu_summary(self._states) or None,
        }
        if spread := clock_spread(self._clocks):
            during["clock_mhz"] = [round(value) for value in spread]
        parts = {"before": self._before, "during": during}
        return {
            name: {key: value for key, value in part.items() if value is not None}
            for name, part in parts.items()
        }

    def _sample(self) -> None:
        """Clocks and heat again and again: once all is over, an idle machine says nothing of the run."""
        with nvml():
            own_s, when = self._own_seconds(), time.perf_counter()
            while not self._over.wait(LOOK_S):
                if self._has_gpu and (state := gpu_state()) is not None:
                    self._states.append(state)
                if self._has_clock:
                    clock, used_s, now = clock_mhz(), self._own_seconds(), time.perf_counter()
                    if clock is not None and used_s - own_s > AT_WORK * (now - when):
                        self._clocks.append(clock)
                    own_s, when = used_s, now
                    self._hottest = max(filter(None, (self._hottest, temperature_c())), default=None)

    def _own_seconds(self) -> float:
        """CPU time of the measurement's processes: those that run, and children that have ended."""
        seconds, with_children = 0.0, {os.getpid(), *server_pids()}
        for pid in with_children | {*self.own_pids}:
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                seconds += times.user + times.system
                if pid in with_children:
                    seconds += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return seconds
