"""The processor: name, instruction sets, clock and power settings, heat."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path("/")
INSTRUCTIONS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_bf16", "amx_int8", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip
"""Instruction sets of x86 and ARM that decide which kernels a library uses, as Linux names them."""
OTHER_NAMES = {
    "avx512_f": "avx512f", "fma3": "fma",  # torch
    "advsimd": "asimd", "neon": "asimd", "feat_fp16": "asimdhp", "feat_dotprod": "asimddp",
    "feat_bf16": "bf16", "feat_i8mm": "i8mm", "feat_sme": "sme",  # macOS
}  # fmt: skip


def cpu_name() -> str:
    """The processor's name as its maker gives it; where there is none (ARM), numbers of maker and part."""
    facts = _cpuinfo()
    if "model name" in facts:
        return facts["model name"]
    if sys.platform == "darwin" and (name := _output("sysctl", "-n", "machdep.cpu.brand_string")):
        return name
    name = platform.processor() or platform.machine()
    numbers = [facts[key] for key in ("CPU implementer", "CPU part") if key in facts]
    return f"{name} {'/'.join(numbers)}" if numbers else name


def cpu_model(root: Path = ROOT) -> str | None:
    """Family and model of the processor, which virtual machines leave when they mask its name."""
    facts = _cpuinfo(root)
    numbers = [facts[key] for key in ("cpu family", "model") if key in facts]
    return "/".join(numbers) or None


def instruction_sets(root: Path = ROOT) -> dict[str, bool]:
    """Each of `INSTRUCTIONS` with whether this processor has it and its system allows it."""
    facts = _cpuinfo(root)
    listed = facts.get("flags") or facts.get("Features")
    flags = set(listed.split()) if listed else _flags_elsewhere()
    return {name: name in flags for name in INSTRUCTIONS}


def clock_settings(root: Path = ROOT) -> dict[str, Any]:
    """Bounds of the clock: governor, energy preference, highest clock in MHz, boost; as far as readable."""
    folder = root / "sys/devices/system/cpu"
    cores = sorted(folder.glob("cpu[0-9]*/cpufreq"))
    found: dict[str, Any] = {}
    for name, file in (("governor", "scaling_governor"), ("preference", "energy_performance_preference")):
        if values := {text for core in cores if (text := _text(core / file))}:
            found[name] = "/".join(sorted(values))
    if limits := [khz for core in cores if (khz := _int(core / "scaling_max_freq"))]:
        found["limit_mhz"] = max(limits) // 1000
    for file, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        if (text := _text(folder / file)) in ("0", "1"):
            found["boost"] = text == on
    return found


def power_settings(root: Path = ROOT) -> dict[str, Any]:
    """The power plan, and whether the machine runs from its battery; as far as readable."""
    found: dict[str, Any] = {}
    if sys.platform == "win32":
        plan = (_output("powercfg", "/getactivescheme") or "").partition("(")[2].rstrip(") \r\n")
    elif sys.platform == "darwin":
        modes = [line.split() for line in (_output("pmset", "-g") or "").splitlines()]
        plan = next(("low power" for mode in modes if mode == ["lowpowermode", "1"]), "")
    else:
        plan = _text(root / "sys/firmware/acpi/platform_profile") or ""
    if plan:
        found["plan"] = plan
    supplies = list((root / "sys/class/power_supply").glob("*/online"))
    if any((root / "sys/class/power_supply").glob("BAT*")) and supplies:
        found["battery"] = not any(_int(path) for path in supplies)
    elif sys.platform in ("win32", "darwin"):
        import psutil

        with suppress(Exception):  # no battery, or a system that tells nothing of it
            found["battery"] = not psutil.sensors_battery().power_plugged
    return found


def clock_mhz(root: Path = ROOT) -> float | None:
    """Clock of the fastest core now; idle ones are slower. None where it cannot be read or is made up."""
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    return max((khz / 1000 for core in cores if (khz := _int(core))), default=None)


def heat_stops(root: Path = ROOT) -> int | None:
    """Number of slow-downs of cores because of heat since the machine started; None if not counted."""
    folder = root / "sys/devices/system/cpu"
    counts = [_int(path) for path in folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    return max((count for count in counts if count is not None), default=None)


def temperature_c(root: Path = ROOT) -> float | None:
    """Temperature of the hottest sensor of the processor; None without one."""
    values = []
    for folder in (root / "sys/class/hwmon").glob("hwmon*"):
        if _text(folder / "name") in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            values += [value / 1000 for path in folder.glob("temp*_input") if (value := _int(path))]
    return max(values, default=None)


def _cpuinfo(root: Path = ROOT) -> dict[str, str]:
    """Facts on the first processor."""
    facts: dict[str, str] = {}
    with suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    return facts


def _flags_elsewhere() -> set[str]:
    """Instruction sets where there is no /proc: by macOS, else by torch."""
    if sys.platform == "darwin":
        pairs = (line.split(": ") for line in (_output("sysctl", "hw.optional") or "").splitlines())
        names = {pair[0].lower().rpartition(".")[2] for pair in pairs if pair[1:] == ["1"]}
    else:
        import torch

        capabilities = getattr(torch.cpu, "get_capabilities", dict)  # not in older versions
        names = {name for name, value in capabilities().items() if value is True}
    return {OTHER_NAMES.get(name, name) for name in names}


def _output(*command: str) -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def _text(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return None


def _int(path: Path) -> int | None:
    with suppress(ValueError):
        return int(_text(path) or "")
    return None
