"""Energy counters: RAPL of the processor, NVML of the GPU that torch uses."""

from __future__ import annotations

from pathlib import Path

from labkit.core.cpu import ROOT
from labkit.core.gpu import gpu_energy_j

PACKAGES = "sys/class/powercap/intel-rapl:[0-9]*"
"""Zones of RAPL, which AMD's processors have under the same name; those within one have two colons."""


class EnergyMeter:
    """Energy of the processor, and of the GPU where the work is on one, between two readings.

    Attributes:
        missing: why there is no figure, by part ("cpu", "gpu").
    """

    def __init__(self, device: str = "cpu", root: Path = ROOT) -> None:
        self.missing: dict[str, str] = {}
        self._with_gpu = device == "cuda"
        self._zones = [zone for zone in sorted(root.glob(PACKAGES)) if _is_package(zone)]
        if not self._zones:
            self.missing["cpu"] = "this system shows no RAPL counter (a virtual machine hides it)"

    def start(self) -> None:
        """Takes the first reading."""
        self._cpu_uj, self._gpu_j = self._read_packages(), self._read_gpu()

    def joules(self) -> dict[str, float]:
        """J since `start` by part; what cannot be read is in `missing`."""
        used: dict[str, float] = {}
        before, now = self._cpu_uj, self._read_packages()
        if before and now:
            wraps = [int(zone.joinpath("max_energy_range_uj").read_text()) for zone in self._zones]
            passed = ((b - a) % (wrap + 1) for a, b, wrap in zip(before, now, wraps, strict=True))
            used["cpu"] = sum(passed) / 1e6
        gpu_j = self._read_gpu()
        if gpu_j is not None and self._gpu_j is not None:
            used["gpu"] = gpu_j - self._gpu_j
        return used

    def _read_packages(self) -> list[int]:
        """Counters of all packages in uJ; empty where one cannot be read."""
        try:
            return [int(zone.joinpath("energy_uj").read_text()) for zone in self._zones]
        except (OSError, ValueError):
            file = self._zones[0] / "energy_uj"
            self.missing["cpu"] = f"{file} is for root alone; to allow it: sudo chmod a+r {file}"
            return []

    def _read_gpu(self) -> float | None:
        used_j = gpu_energy_j() if self._with_gpu else None
        if self._with_gpu and used_j is None:
            self.missing["gpu"] = "NVML counts no energy on this GPU"
        return used_j


def _is_package(zone: Path) -> bool:
    name = zone / "name"
    return zone.name.count(":") == 1 and name.is_file() and name.read_text().startswith("package")
