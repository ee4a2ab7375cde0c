"""Who gets the cores of a machine that networks, readers and recorders share."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from labkit.core.threads import PASSIVE_WAIT

NICENESS = 10
"""Niceness of readers and recorders: the networks go first, and leave time enough between their passes."""


def lower_priority(niceness: int) -> None:
    """Lets whoever needs the cores more go first from now on; on Linux, before this thread alone."""
    if hasattr(os, "nice"):
        os.nice(niceness)


def lower_process_priority(niceness: int) -> None:
    """The same for all threads of this process: those that are there, and those that they start."""
    threads = Path("/proc/self/task")
    if not threads.is_dir():
        lower_priority(niceness)
        return
    for thread in threads.iterdir():
        with suppress(OSError):  # it has ended meanwhile
            now = os.getpriority(os.PRIO_PROCESS, int(thread.name))
            os.setpriority(os.PRIO_PROCESS, int(thread.name), min(19, now + niceness))


def use_one_opencv_thread() -> None:
    """One thread of OpenCV for this process; several would only fight with the networks."""
    import cv2

    cv2.setNumThreads(1)


def set_threads(threads: int) -> None:
    """Ray allows a process one thread unless it reserves more; the networks get their share.

    To be called before torch is loaded, which reads its number of threads once.
    """
    os.environ.update({**PASSIVE_WAIT, "OMP_NUM_THREADS": str(threads)})
    import cv2

    cv2.setNumThreads(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
