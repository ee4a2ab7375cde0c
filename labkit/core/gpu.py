"""State of the first NVIDIA GPU by NVML, and the noise that it shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any

CLOCK_LIMIT = 0.75
THROTTLED = 0xEC
"""NVML's bits for power cap, slowdown of hardware and software, heat and power brake."""


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
    """The first NVIDIA GPU by NVML: name, driver, clocks, power, temperature; None without."""
    with nvml() as pynvml:
        return None if pynvml is None else _state_of_first(pynvml)


def _state_of_first(pynvml: Any) -> dict[str, Any] | None:
    try:
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        state: dict[str, Any] = {}
        for name, read in (
            ("name", lambda: _text(pynvml.nvmlDeviceGetName(device))),
            ("driver", lambda: _text(pynvml.nvmlSystemGetDriverVersion())),
            ("cuda_driver", pynvml.nvmlSystemGetCudaDriverVersion_v2),
            ("sm_clock_mhz", lambda: pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM)),
            ("sm_clock_max_mhz", lambda: pynvml.nvmlDeviceGetMaxClockInfo(device, pynvml.NVML_CLOCK_SM)),
            ("power_limit_w", lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000),
            ("utilization", lambda: pynvml.nvmlDeviceGetUtilizationRates(device).gpu),
            ("temperature_c", lambda: pynvml.nvmlDeviceGetTemperature(device, 0)),
            ("memory_used_mib", lambda: pynvml.nvmlDeviceGetMemoryInfo(device).used // 2**20),
            ("memory_mib", lambda: pynvml.nvmlDeviceGetMemoryInfo(device).total // 2**20),
            ("throttle_reasons", lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)),
            ("other_processes", lambda: len(pynvml.nvmlDeviceGetComputeRunningProcesses(device))),
        ):
            with suppress(pynvml.NVMLError):
                state[name] = read()
        return state
    except pynvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def gpu_noise_reasons(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reasons to call a measurement noisy, from the GPU's states during it.

    Between rounds and on CPU rungs a GPU idles at a low clock; so its clock counts only while it is
    utilised, by the median.
    """
    reasons = []
    at_work = [s for s in states if s.get("utilization", 0) > 50]
    clocks = [s["sm_clock_mhz"] / s["sm_clock_max_mhz"] for s in at_work if s.get("sm_clock_max_mhz")]
    if clocks and median(clocks) < CLOCK_LIMIT:
        reasons.append(f"the GPU's clock was at {100 * median(clocks):.0f}% of its maximum")
    if any(s.get("throttle_reasons", 0) & THROTTLED for s in at_work):
        reasons.append("the GPU was throttled")
    return reasons
