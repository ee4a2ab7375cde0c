"""A machine's peak, measured once for a while: it takes as long as a short measurement does.

Points of a sweep and cells of a notebook are measured one after another, in processes of their own,
so what they share lies in a file of the user's cache folder. It counts for the same machine and
software, until the next start of the machine, and not for long.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from labkit.bench.peaks import PEAK_TRIES, measure_peaks
from labkit.core.errors import LabError
from labkit.core.files import user_cache, write_whole
from labkit.core.machine import fingerprint

KEPT_S = 3600.0
"""Peaks that are older are measured again: a machine's neighbours and clocks change."""
DOUBTED_S = 600.0
"""The same for peaks that were disturbed each time."""


def known_peaks(
    device: str, tries: int = PEAK_TRIES, report: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """The peaks of a device as they were measured last, or else now; see `measure_peaks`."""
    path = _folder() / f"{_digest(_machine(device))}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # no file, or not one of ours
        kept = json.loads(path.read_text())
        if 0 <= time.time() - kept["unix_s"] <= (DOUBTED_S if kept["doubted"] else KEPT_S):
            return {name: float(value) for name, value in kept["peaks"].items()}
    doubts: list[str] = []
    peaks = measure_peaks(device, tries, doubts.append)
    for doubt in doubts:
        report(doubt)
    told = {"unix_s": time.time(), "device": device, "doubted": bool(doubts), "peaks": peaks}
    with suppress(LabError):  # a folder that cannot be written: then the next one measures again
        write_whole(path, json.dumps(told) + "\n")
    return peaks


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _machine(device: str) -> dict[str, object]:
    """What a peak belongs to: machine, software and start of the machine."""
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
    return user_cache() / "peaks"
