"""Measuring rungs: timed runs, interleaved comparisons, fidelity, and the machine's fingerprint."""

from labkit.measure.compare import FULL_TURNS, QUICK_TURNS, Turns, compare
from labkit.measure.drive import drive
from labkit.measure.fidelity import fidelity
from labkit.measure.fingerprint import fingerprint, machine_name
from labkit.measure.frames import FrameSet, collect
from labkit.measure.gpu import gpu_state
from labkit.measure.kept_peaks import known_peaks
from labkit.measure.peak import PEAK_TRIES, measure_peaks
from labkit.measure.plan import FULL, QUICK, Plan
from labkit.measure.session import Session
from labkit.measure.watch import Watch
from labkit.measure.worker import Worker

__all__ = [
    "FULL",
    "FULL_TURNS",
    "PEAK_TRIES",
    "QUICK",
    "QUICK_TURNS",
    "FrameSet",
    "Plan",
    "Session",
    "Turns",
    "Watch",
    "Worker",
    "collect",
    "compare",
    "drive",
    "fidelity",
    "fingerprint",
    "gpu_state",
    "known_peaks",
    "machine_name",
    "measure_peaks",
]
