"""What a number belongs to: this machine, its software, and what disturbed it meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import psutil

import labkit

PACKAGES = (
    "numpy", "torch", "torchvision", "transformers", "opencv-python", "pillow", "scikit-image",
    "cupy-cuda13x", "openvino", "onnxruntime", "nncf", "numba", "nvtx", "triton", "nvidia-cudnn-cu13",
    "tensorrt",
)  # fmt: skip
WHAT_MATTERS = ("cpu", "cores", "gpu", "os", "python", "versions", "threads")
"""Parts in which two fingerprints must agree for their speeds to be compared silently."""

STEAL_LIMIT = 0.02
LOAD_LIMIT = 0.15
CLOCK_LIMIT = 0.75
GPU_LOOK_S = 0.5
THROTTLED = 0xEC
"""NVML's bits for power cap, slowdown of hardware and software, heat and power brake."""


def fingerprint() -> dict[str, Any]:
    """The machine and software now, as plain data."""
    return {
        **_fixed(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_1min": round(psutil.getloadavg()[0], 2),
        "memory_free_gib": round(psutil.virtual_memory().available / 2**30, 1),
        "gpu": gpu_state(),
    }


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What matters and differs between two fingerprints, one line each; empty if alike."""
    lines = []
    for key in WHAT_MATTERS:
        left, right = a.get(key), b.get(key)
        if key == "gpu":
            left, right = ((side or {}).get("name") for side in (left, right))
        if isinstance(left, dict) and isinstance(right, dict):
            for name in sorted({*left, *right}):
                if left.get(name) != right.get(name):
                    label = name if key == "versions" else f"{key} {name}"
                    lines.append(f"{label}: {left.get(name)} / {right.get(name)}")
        elif left != right:
            lines.append(f"{key}: {left} / {right}")
    return lines


def machine_name(mark: dict[str, Any]) -> str:
    """A short name for a machine, fit for a folder: its GPU or else CPU, and its cores."""
    gpu = (mark.get("gpu") or {}).get("name")
    text = f"{gpu or mark.get('cpu', 'unknown')}-{mark.get('cores', '?')}cores"
    text = text.replace("(R)", "").replace("(TM)", "").replace("Processor", "")
    return "-".join("".join(c if c.isalnum() else " " for c in text).lower().split())


@lru_cache(maxsize=1)
def _fixed() -> dict[str, Any]:
    return {
        "labkit": labkit.__version__,
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "threads": _threads(),
        "tf32": _tf32(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "quota_cores": _quota(),
        "isa": _isa(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "virtual": _virtual(),
    }


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _git(*arguments: str) -> str | None:
    root = Path(labkit.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def _threads() -> dict[str, Any]:
    import torch

    return {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}


def _tf32() -> dict[str, bool]:
    """Where torch lets a GPU round the inputs of fp32 work to TF32."""
    import torch

    return {
        "convolutions": bool(torch.backends.cudnn.allow_tf32),
        "products": bool(torch.backends.cuda.matmul.allow_tf32),
    }


def cpu_name() -> str:
    """The processor's name as its maker gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine()


def _isa() -> list[str]:
    """The vector extensions that decide which kernels an engine can use."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.split(":", 1)[1].split())
                return [name for name in wanted if name in flags]
    return []


def _quota() -> float | None:
    """CPU cores that the control group allows, or None without a limit."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _virtual() -> bool | None:
    with suppress(OSError):
        return "hypervisor" in Path("/proc/cpuinfo").read_text()
    return None


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVIDIA's library of the GPU's state, open; None where there is no such GPU.

    Inside another such block opening and closing cost nothing: the library counts.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no device: all mean that there is no GPU to tell of
        yield None
        return
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def gpu_state() -> dict[str, Any] | None:
    """The first NVIDIA GPU by NVML: name, driver, clocks, power, temperature; None without."""
    with _nvml() as pynvml:
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


def gpu_doubts(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reasons to doubt what a GPU did, from its states meanwhile.

    Between turns and on a rung of the CPU it idles at a low clock; so the clock is judged where the
    GPU was at work, and by the middle of what was seen there.
    """
    reasons = []
    at_work = [s for s in states if s.get("utilization", 0) > 50]
    clocks = [s["sm_clock_mhz"] / s["sm_clock_max_mhz"] for s in at_work if s.get("sm_clock_max_mhz")]
    if clocks and median(clocks) < CLOCK_LIMIT:
        reasons.append(f"the GPU's clock was at {100 * median(clocks):.0f}% of its maximum")
    if any(s.get("throttle_reasons", 0) & THROTTLED for s in at_work):
        reasons.append("the GPU was throttled")
    return reasons


@dataclass
class Watch:
    """Notes what others do to the machine while a measurement runs.

    Attributes:
        own_pids: processes that belong to the measurement, with their children.
    """

    own_pids: tuple[int, ...] = ()

    def __enter__(self) -> Watch:
        self._states: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="labkit gpu watch", daemon=True)
        if gpu_state() is not None:
            self._sampler.start()
        self._cpu = psutil.cpu_times()
        self._own = self._own_seconds()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall = time.perf_counter() - self._wall
        now = psutil.cpu_times()
        total = sum(now) - sum(self._cpu)
        busy = (
            total
            - (now.idle - self._cpu.idle)
            - (getattr(now, "iowait", 0) - getattr(self._cpu, "iowait", 0))
        )
        self.steal = (getattr(now, "steal", 0.0) - getattr(self._cpu, "steal", 0.0)) / max(total, 1e-9)
        self.foreign = max(0.0, busy - (self._own_seconds() - self._own)) / max(total, 1e-9)
        self._over.set()
        if self._sampler.ident is not None:
            self._sampler.join()

    def also(self, pids: tuple[int, ...]) -> None:
        """Counts further processes as the measurement's own, that this one has just started."""
        self.own_pids = (*self.own_pids, *pids)

    def _sample(self) -> None:
        """The GPU's state again and again: once all is over it idles, and says nothing of the run."""
        with _nvml():
            while not self._over.wait(GPU_LOOK_S):
                state = gpu_state()
                if state is not None:
                    self._states.append(state)

    def disturbances(self) -> tuple[str, ...]:
        """Reasons to doubt what was measured meanwhile."""
        reasons = []
        if self.steal > STEAL_LIMIT:
            reasons.append(f"the host took {100 * self.steal:.0f}% of the CPU away (steal)")
        if self.foreign > LOAD_LIMIT:
            reasons.append(f"other programs used {100 * self.foreign:.0f}% of the CPU")
        return (*reasons, *gpu_doubts(self._states))

    def _own_seconds(self) -> float:
        ended = psutil.Process().cpu_times()  # a child's time is added here once it has ended
        seconds = getattr(ended, "children_user", 0.0) + getattr(ended, "children_system", 0.0)
        for pid in {os.getpid(), *self.own_pids}:
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                seconds += times.user + times.system
        return seconds
