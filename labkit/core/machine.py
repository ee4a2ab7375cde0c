"""Fingerprint of the machine and its software, which every measurement carries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

import psutil

import labkit
from labkit.core.gpu import gpu_state

PACKAGES = (
    "numpy", "torch", "torchvision", "transformers", "opencv-python", "pillow", "scikit-image",
    "cupy-cuda13x", "openvino", "onnxruntime", "nncf", "numba", "nvtx", "triton", "nvidia-cudnn-cu13",
    "tensorrt",
)  # fmt: skip
COMPARED = ("cpu", "cores", "gpu", "os", "python", "versions", "threads")
"""Keys in which two fingerprints must agree for their speeds to be compared without a note."""


def fingerprint() -> dict[str, Any]:
    """The machine, its software and its load now, as plain data."""
    return {
        **_fixed(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_1min": round(psutil.getloadavg()[0], 2),
        "memory_free_gib": round(psutil.virtual_memory().available / 2**30, 1),
        "gpu": gpu_state(),
    }


def fingerprint_differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Differences between two fingerprints that affect speed, one line each; empty if there are none."""
    lines = []
    for key in COMPARED:
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


def machine_name(fingerprint: Mapping[str, Any], device: str | None = None) -> str:
    """Name of a fingerprint's machine: "CPU, 8 cores, GPU".

    Args:
        device: "cpu" or "cuda" to name only the part that does the work.
    """
    gpu = (fingerprint.get("gpu") or {}).get("name")
    if gpu and device == "cuda":
        return str(gpu)
    cpu = fingerprint.get("cpu")
    parts = [f"{cpu}, {fingerprint.get('cores', '?')} cores" if cpu else None, None if device else gpu]
    return ", ".join(part for part in parts if part) or "unknown machine"


def cpu_facts() -> dict[str, Any]:
    """The processor's part of a fingerprint: name, cores, cores by quota, vector extensions."""
    return {"cpu": cpu_name(), "cores": affinity_cores(), "quota_cores": _quota(), "isa": _isa()}


def affinity_cores() -> int:
    """Number of cores that this process may be scheduled on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_cores() -> int:
    """Number of cores that this process may use: its affinity, bounded by the control group's quota."""
    return max(1, int(min(affinity_cores(), _quota() or inf)))


def in_container() -> bool:
    """True inside a container (Docker, Podman, Kubernetes), by the marks that those leave."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return any(mark.exists() for mark in marks) or "KUBERNETES_SERVICE_HOST" in os.environ


@lru_cache(maxsize=1)
def _fixed() -> dict[str, Any]:
    return {
        "labkit": labkit.__version__,
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "labkit")),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "threads": _threads(),
        "tf32": _tf32(),
        **cpu_facts(),
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
    """Operations whose fp32 inputs torch lets a GPU round to TF32."""
    import torch

    return {
        "convolutions": bool(torch.backends.cudnn.allow_tf32),
        "products": bool(torch.backends.cuda.matmul.allow_tf32),
    }


def cpu_name() -> str:
    """The processor's name as its maker gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine()


def _isa() -> list[str]:
    """Vector extensions of the CPU that decide which kernels an engine can use."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.split(":", 1)[1].split())
                return [name for name in wanted if name in flags]
    return []


def _quota() -> float | None:
    """CPU cores that the control group allows, or None without a limit."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _virtual() -> bool | None:
    with suppress(OSError):
        return "hypervisor" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return None
