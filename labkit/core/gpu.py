"""State of the NVIDIA GPU that torch uses, by NVML, and the noise that it shows."""

from __future__ import annotations

import ctypes
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from statistics import quantiles
from typing import Any

CLOCK_VARIES = 0.10
"""Share of its median by which a clock may vary, from the lowest fifth to the highest, before it is noise."""
FOREIGN_LIMIT = 15
"""Percent of a GPU's time that other programs may take before it is noise."""
SYNC_WARNING = "called a synchronizing CUDA operation"
POWER_CAP = 0x4
SLOWED = {0x8: "a hardware limit", 0x20: "heat", 0x40: "heat", 0x80: "the power supply"}
"""NVML's bits for what slows a clock down; the power cap is a setting, and slows all runs alike."""


@contextmanager
def nvml() -> Iterator[Any]:
    """Context manager of NVML, NVIDIA's library of GPU states; None where there is no such GPU.

    Nesting costs nothing: the library counts its users.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no device: all mean that there is no GPU
        yield None
        return
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def gpu_state() -> dict[str, Any] | None:
    """The GPU that torch uses: name, driver, clocks, power, temperature, memory; None without one.

    `other_processes` are those that compute on it and are neither this process nor started by it.
    """
    with nvml() as pynvml:
        return None if pynvml is None else _state(pynvml)


def _state(pynvml: Any) -> dict[str, Any] | None:
    try:
        device = _device(pynvml)
    except pynvml.NVMLError:
        return None
    state: dict[str, Any] = {}
    for name, read in (
        ("name", lambda: _text(pynvml.nvmlDeviceGetName(device))),
        ("uuid", lambda: _text(pynvml.nvmlDeviceGetUUID(device))),
        ("driver", lambda: _text(pynvml.nvmlSystemGetDriverVersion())),
        ("cuda_driver", pynvml.nvmlSystemGetCudaDriverVersion_v2),
        ("sm_clock_mhz", lambda: pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM)),
        ("sm_clock_max_mhz", lambda: pynvml.nvmlDeviceGetMaxClockInfo(device, pynvml.NVML_CLOCK_SM)),
        ("power_limit_w", lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000),
        ("power_default_w", lambda: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(device) / 1000),
        ("utilization", lambda: pynvml.nvmlDeviceGetUtilizationRates(device).gpu),
        ("temperature_c", lambda: pynvml.nvmlDeviceGetTemperature(device, 0)),
        ("memory_used_mib", lambda: pynvml.nvmlDeviceGetMemoryInfo(device).used // 2**20),
        ("memory_mib", lambda: pynvml.nvmlDeviceGetMemoryInfo(device).total // 2**20),
        ("throttle_reasons", lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)),
        ("other_processes", lambda: len(_pids(pynvml, device) - _own_pids())),
        ("foreign_utilization", lambda: _foreign_utilization(pynvml, device)),
    ):
        with suppress(pynvml.NVMLError):
            state[name] = read()
    return {name: value for name, value in state.items() if value is not None}


def gpu_energy_j() -> float | None:
    """Energy that the GPU has used since its driver was loaded, in J; None where none is counted."""
    with nvml() as pynvml:
        if pynvml is None:
            return None
        with suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(_device(pynvml))) / 1e3
    return None


@contextmanager
def reported_waits(note: Callable[[], object]) -> Iterator[None]:
    """Calls `note` at each wait of the host that CUDA warns of; every other warning is shown as ever."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def noted(message: Any, *about: Any) -> None:
            if SYNC_WARNING in str(message):
                note()
            else:
                show(message, *about)

        warnings.showwarning = noted  # type: ignore[assignment]
        warnings.filterwarnings("always", message=f".*{SYNC_WARNING}")
        yield


def _device(pynvml: Any) -> Any:
    """NVML's handle of the GPU that torch uses. NVML counts all GPUs by bus, CUDA the visible ones."""
    used = cuda_uuid()
    if used is not None:
        with suppress(pynvml.NVMLError):
            return pynvml.nvmlDeviceGetHandleByUUID(used)
    return pynvml.nvmlDeviceGetHandleByIndex(0)


@lru_cache(maxsize=1)
def cuda_uuid() -> str | None:
    """UUID of CUDA's first visible GPU, asked of the driver; None without. No context is made."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
    failed = failed or cuda.cuDeviceGetUuid(found, device)
    return None if failed else f"GPU-{uuid.UUID(bytes=bytes(found))}"


def _pids(pynvml: Any, device: Any) -> set[int]:
    return {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(device)}


def _own_pids() -> set[int]:
    """This process and those that it has started."""
    import psutil

    return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}


def _foreign_utilization(pynvml: Any, device: Any) -> int | None:
    """Percent of the GPU's last second that others used; None where own processes are not to be told apart.

    In a container NVML may list processes by their numbers outside of it.
    """
    own = _own_pids()
    if not own & _pids(pynvml, device):
        return None
    found = pynvml.nvmlDeviceGetProcessUtilization(device, int(1e6 * (time.time() - 1)))
    busiest: dict[int, int] = {}
    for sample in found:
        if sample.pid not in own:
            busiest[sample.pid] = max(sample.smUtil, busiest.get(sample.pid, 0))
    return min(100, sum(busiest.values()))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def clock_spread(clocks: Sequence[float]) -> tuple[float, float, float] | None:
    """Lowest fifth, median and highest fifth of clocks during a measurement; None for fewer than four."""
    if len(clocks) < 4:
        return None
    low, high = (quantiles(clocks, n=5, method="inclusive")[place] for place in (0, 3))
    return low, quantiles(clocks, n=2, method="inclusive")[0], high


def clock_varied(clocks: Sequence[float]) -> bool:
    """True if a clock varied by more than a tenth during a measurement."""
    spread = clock_spread(clocks)
    return spread is not None and spread[2] - spread[0] > CLOCK_VARIES * spread[1]


def gpu_at_work(states: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The states in which the GPU was utilised: between rounds and on CPU rungs it idles at a low clock."""
    return [state for state in states if state.get("utilization", 0) > 50]


def gpu_noise_reasons(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reasons to call a measurement noisy, from the GPU's states during it.

    A clock that stays low is no reason: a laptop's power cap, which the fingerprint names, keeps it there.
    """
    reasons = []
    at_work = gpu_at_work(states)
    clocks = [state["sm_clock_mhz"] for state in at_work if "sm_clock_mhz" in state]
    if clock_varied(clocks) and (spread := clock_spread(clocks)):
        reasons.append(f"the GPU's clock varied from {spread[0]:.0f} to {spread[2]:.0f} MHz")
    bits = {bit for state in at_work for bit in SLOWED if state.get("throttle_reasons", 0) & bit}
    if bits:
        reasons.append(f"{' and '.join(sorted({SLOWED[bit] for bit in bits}))} slowed the GPU down")
    foreign = max((state.get("foreign_utilization", 0) for state in states), default=0)
    if foreign > FOREIGN_LIMIT:
        reasons.append(f"other programs used {foreign}% of the GPU")
    return reasons


def gpu_summary(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """State of the GPU during a measurement: clocks in MHz while at work, temperature, what bounded it."""
    at_work = gpu_at_work(states)
    clocks = [state["sm_clock_mhz"] for state in at_work if "sm_clock_mhz" in state]
    found: dict[str, Any] = {"samples_at_work": len(at_work)} if states else {}
    if spread := clock_spread(clocks):
        found["clock_mhz"] = [round(value) for value in spread]
    if heat := [state["temperature_c"] for state in states if "temperature_c" in state]:
        found["temperature_c"] = max(heat)
    capped = [bool(state.get("throttle_reasons", 0) & POWER_CAP) for state in at_work]
    if capped:
        found["at_power_cap"] = round(sum(capped) / len(capped), 2)
    return found
