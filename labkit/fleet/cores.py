"""CPU cores of a machine: capacity, threads per engine, thread settings and priorities."""

from __future__ import annotations

import os
import sys

from labkit.core.errors import UnavailableError
from labkit.core.threads import PASSIVE_WAIT
from labkit.core.types import Rung
from labkit.fleet.cluster import nodes

NICENESS = 10
"""Of readers: the networks get the cores first, and leave time enough between passes."""


def check_capacity(rung: Rung, engines: int) -> None:
    """Check that the cluster has a GPU or core for each engine; Ray would wait for one without end.

    Raises:
        UnavailableError: it has fewer.
    """
    device, kind = ("gpus", "GPU") if rung.prepare.device == "cuda" else ("cpus", "core")
    available = int(sum(getattr(node, device) for node in nodes()))
    if available < engines:
        raise UnavailableError(
            f"{pluralize(engines, 'engine')} of {rung.name} need a {kind} each, and the cluster "
            f"has {available}; use fewer --engines, or a rung for another device"
        )


def threads_per_engine(engines: int) -> int:
    """Each engine's share of its machine's cores."""
    cpus = [node.cpus for node in nodes() if node.cpus >= 1]
    engines_per_machine = -(-engines // max(1, len(cpus)))
    return max(1, int(min(cpus, default=1)) // engines_per_machine)


def pluralize(n: int, noun: str) -> str:
    """A number and its noun, such as "1 engine" or "2 engines"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def lower_priority(niceness: int) -> None:
    """Add to the niceness of this thread (on Linux; elsewhere of the whole process)."""
    if hasattr(os, "nice"):
        os.nice(niceness)


def set_threads(threads: int) -> None:
    """Set the number of threads of torch and OpenCV, which Ray bounds at one per reserved core.

    Call it before torch is imported, which reads its environment once.
    """
    os.environ.update({**PASSIVE_WAIT, "OMP_NUM_THREADS": str(threads)})
    import cv2

    cv2.setNumThreads(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
