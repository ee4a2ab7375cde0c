"""Which processes of a fleet use how much of the machine's cores."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

KINDS = {"ray::Engine": "engines", "ray::Readers": "readers", "ray::Recorders": "recorders"}
"""What the processes of actors are called, by the start of their title."""
DRIVER, RAY = "this process", "Ray itself"


class CpuUsage:
    """CPU time of this process and its children by kind, from one look to the next."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, dict[str, float]]] = []

    def __len__(self) -> int:
        return len(self._looks)

    def look(self) -> None:
        """Reads the clocks of all processes, which costs some milliseconds."""
        used_s: dict[str, float] = {}
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended meanwhile
                times = process.cpu_times()
                kind = DRIVER if process == here else _kind(process)
                used_s[kind] = used_s.get(kind, 0.0) + times.user + times.system
        self._looks.append((time.monotonic(), used_s))

    def cores(self) -> dict[str, float]:
        """Cores in use on average between the first look and the last; empty without two looks."""
        if len(self._looks) < 2:
            return {}
        (begun_s, before), (ended_s, after) = self._looks[0], self._looks[-1]
        return {
            kind: round((after[kind] - before.get(kind, 0.0)) / (ended_s - begun_s), 3)
            for kind in sorted(after)
        }


def _kind(process: psutil.Process) -> str:
    title = " ".join(process.cmdline())
    return next((kind for start, kind in KINDS.items() if title.startswith(start)), RAY)
