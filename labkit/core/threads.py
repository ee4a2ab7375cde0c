"""Threads of this process and its children: as many as its affinity and its CPU quota allow.

Libraries count the cores of the machine. In a container with a quota their threads are more than may run
at once, and the system stops all of them for the rest of each period. What is here loads nothing heavy:
an environment has to stand before torch is loaded.
"""

from __future__ import annotations

import os
from contextlib import suppress
from math import inf

from labkit.core.cgroup import quota_cores

PASSIVE_WAIT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Environment in which waiting threads do not spin; else torch, OpenCV and engines fight for cores."""
ACTIVE_WAIT = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "infinity", "KMP_BLOCKTIME": "infinite"}
"""Environment in which the threads of OpenMP spin until there is work: no wake-up, and no rest."""
OMP_PAUSE_SOFT = 1
THREAD_COUNTS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)  # fmt: skip
"""Variables that say how many threads a library uses."""


def affinity_cores() -> int:
    """Number of cores that this process may be scheduled on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_cores() -> int:
    """Number of cores that this process may use: its affinity, bounded by its control groups' quota."""
    return max(1, int(min(affinity_cores(), quota_cores() or inf)))


def worker_environment(spin: bool = False) -> dict[str, str]:
    """Variables for a child that measures: how its threads wait; a CPU quota bounds their number.

    A number that the user has set stays.
    """
    cores = available_cores()
    bound = THREAD_COUNTS if cores < affinity_cores() else ()
    counts = {name: str(cores) for name in bound if name not in os.environ}
    return (ACTIVE_WAIT if spin else PASSIVE_WAIT) | counts


def end_spinning_threads() -> None:
    """Ends the threads of OpenMP that this thread has used; its next parallel work starts new ones.

    Threads in `ACTIVE_WAIT` spin for good: between two turns they would take the cores of the process whose
    turn it is.
    """
    import ctypes
    from pathlib import Path

    import torch

    own = sorted(map(str, Path(torch.__file__).with_name("lib").glob("lib*omp*")))
    loaded_for_all = [] if os.name == "nt" else [None]
    for library in (*loaded_for_all, *own):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(library).omp_pause_resource_all(OMP_PAUSE_SOFT)
            return


def bound_threads() -> None:
    """Bounds the threads of torch and OpenCV here by the CPU quota; engines take torch's number."""
    import cv2
    import torch

    cores = available_cores()
    if cores < affinity_cores():
        torch.set_num_threads(min(cores, torch.get_num_threads()))
        cv2.setNumThreads(min(cores, cv2.getNumThreads()))
