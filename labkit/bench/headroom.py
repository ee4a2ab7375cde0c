"""Memory of the machine and of its GPU: whether one more process fits beside those that wait."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from labkit.core.gpu import gpu_state
from labkit.core.machine import available_memory
from labkit.core.types import Rung

GIB = 2**30
FIRST_NEEDS = {"cpu": int(1.8 * GIB), "cuda": int(1.5 * GIB)}
"""Bytes of a process of which nothing is known yet: the machine's, and the GPU's."""
CONTEXT_BYTES = 600 * 2**20
"""Memory that CUDA and its libraries take beside torch, where the GPU cannot say."""
SPARE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Footprint:
    """Memory of one process, as it sees it.

    Attributes:
        host_bytes: the most it held by itself, without what it shares with others.
        gpu_bytes: the most GPU memory that torch held, or None without a GPU.
        gpu_idle_bytes: what torch holds now.
        gpu_free_bytes: left on the whole GPU.
        gpu_total_bytes: of the whole GPU.
        peak_bytes: the most it held, with what it shares.
    """

    host_bytes: int
    gpu_bytes: int | None = None
    gpu_idle_bytes: int = 0
    gpu_free_bytes: int = 0
    gpu_total_bytes: int = 0
    peak_bytes: int = 0


class Process(Protocol):
    """A `Worker`, or a fake one."""

    @property
    def alive(self) -> bool:
        """True while it runs."""

    def footprint(self) -> Footprint:
        """Its memory."""


@dataclass
class Headroom:
    """Needs of the processes so far, beside what is left.

    Attributes:
        needs: bytes that the largest process needed, by kind of memory: "cpu" for the machine's.
    """

    needs: dict[str, int] = field(default_factory=dict)

    def note(self, process: Process, gpu_used_before: int | None = None) -> None:
        """Learns from a process that has been measured.

        Args:
            process: the newest one.
            gpu_used_before: bytes used on the GPU before it was started, if that is known.
        """
        found = process.footprint()
        self._grow("cpu", found.host_bytes)
        if found.gpu_bytes is not None:
            beside = CONTEXT_BYTES
            if gpu_used_before is not None:
                used = found.gpu_total_bytes - found.gpu_free_bytes
                beside = max(0, used - gpu_used_before - found.gpu_idle_bytes)
            self._grow("cuda", found.gpu_bytes + beside)

    def lacking(self, rung: Rung, live: Iterable[Process], more: int = 1) -> str:
        """Memory that is too short for further processes with this rung, in words; empty if they fit.

        Args:
            rung: to be measured.
            live: processes that are there; one with a GPU is asked for what is left on it.
            more: number of processes.
        """
        short = _shortage("memory", available_memory(), self.needs.get("cpu", FIRST_NEEDS["cpu"]), more)
        if not short and rung.prepare.device == "cuda":
            left = gpu_left(live)
            if left is not None:
                short = _shortage("GPU memory", left, self.needs.get("cuda", FIRST_NEEDS["cuda"]), more)
        return short

    def _grow(self, kind: str, n_bytes: int) -> None:
        self.needs[kind] = max(n_bytes, self.needs.get(kind, 0))


def gpu_left(live: Iterable[Process] = ()) -> int | None:
    """Bytes left on the GPU: as a process that uses it sees them, else by NVML; None if unknown."""
    for process in live:
        if process.alive and (found := process.footprint()).gpu_bytes is not None:
            return found.gpu_free_bytes
    state = gpu_state() or {}
    if {"memory_mib", "memory_used_mib"} <= state.keys():
        return (state["memory_mib"] - state["memory_used_mib"]) * 2**20
    return None


def gpu_used() -> int | None:
    """Bytes used on the GPU by NVML, which needs no context of its own; None if unknown."""
    used = (gpu_state() or {}).get("memory_used_mib")
    return None if used is None else used * 2**20


def _shortage(what: str, left: int, needed: int, more: int) -> str:
    if left >= more * needed + SPARE_BYTES:
        return ""
    processes = "a process needs" if more == 1 else f"{more} processes need"
    return f"{processes} up to {more * needed / GIB:.1f} GiB of {what}, and {left / GIB:.1f} are left"
