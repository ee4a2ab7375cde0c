"""CPU usage of a fleet by kind of process."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

KINDS = {"ray::Engine": "engines", "ray::Readers": "readers", "ray::Recorders": "recorders"}
"""Start of the title of an actor's process -> kind."""
DRIVER, RAY = "this process", "Ray itself"


class CpuUsage:
    """CPU time of this process and its children, by kind, sampled at several times."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, dict[str, float]]] = []

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self) -> None:
        """Read the CPU time of all processes, which takes some milliseconds."""
        used_s: dict[str, float] = {}
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended meanwhile
                times = process.cpu_times()
                kind = DRIVER if process == here else _kind(process)
                used_s[kind] = used_s.get(kind, 0.0) + times.user + times.system
        self._samples.append((time.monotonic(), used_s))

    def cores(self) -> dict[str, float]:
        """Mean number of cores in use between the first and last sample; empty before there are two."""
        if len(self._samples) < 2:
            return {}
        (begun_s, before), (ended_s, after) = self._samples[0], self._samples[-1]
        return {
            kind: round((after[kind] - before.get(kind, 0.0)) / (ended_s - begun_s), 3)
            for kind in sorted(after)
        }


def _kind(process: psutil.Process) -> str:
    title = " ".join(process.cmdline())
    return next((kind for start, kind in KINDS.items() if title.startswith(start)), RAY)
