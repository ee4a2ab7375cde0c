"""A machine's peak, measured once for all points of a sweep: it takes as long as a short point does.

Every point is measured in a process of its own, so what they share lies in a file of the user's
cache folder. It counts for the same machine and software, until the next start of the machine, and
not for long.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from labkit.errors import LabError
from labkit.files import write_whole
from labkit.fleet.point import digest
from labkit.measure import measure_peaks

KEPT_S = 3600.0
"""Peaks that are older are measured again: a machine's neighbours and clocks change."""

Measure = Callable[[str], dict[str, float]]


def known_peaks(device: str, measure: Measure | None = None) -> dict[str, float]:
    """The peaks of a device as they were measured last, or else now; see `measure_peaks`."""
    path = _folder() / f"{digest(_machine(device))[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # no file, or not one of ours
        kept = json.loads(path.read_text())
        if 0 <= time.time() - kept["unix_s"] <= KEPT_S:
            return {name: float(value) for name, value in kept["peaks"].items()}
    peaks = (measure or measure_peaks)(device)
    with suppress(LabError):  # a folder that cannot be written: then the next point measures again
        write_whole(path, json.dumps({"unix_s": time.time(), "device": device, "peaks": peaks}) + "\n")
    return peaks


def _machine(device: str) -> dict[str, object]:
    """What a peak belongs to: machine, software and start of the machine."""
    from labkit.measure import fingerprint

    mark = fingerprint()
    gpu = (mark.get("gpu") or {}).get("name")
    alike = ("labkit", "cpu", "cores", "quota_cores", "os", "python", "versions", "threads")
    return {**{key: mark.get(key) for key in alike}, "gpu": gpu, "device": device, "boot": _boot()}


def _boot() -> str:
    """A name of the machine's last start."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    import psutil

    return f"{psutil.boot_time():.0f}"


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labkit" / "peaks"
