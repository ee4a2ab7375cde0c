"""Fingerprint of the machine and its software, which every measurement carries."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

import labkit
from labkit.core.cgroup import memory_left, memory_limit, quota_cores
from labkit.core.cpu import clock_settings, cpu_model, cpu_name, instruction_sets, power_settings
from labkit.core.gpu import gpu_state
from labkit.core.requirements import installed_version
from labkit.core.threads import THREAD_COUNTS, affinity_cores, available_cores

PACKAGES = (
    "numpy", "torch", "torchvision", "transformers", "opencv-python", "opencv-python-headless",
    "opencv-contrib-python", "pillow", "scikit-image", "cupy-cuda13x", "cupy-cuda12x", "openvino",
    "onnxruntime", "nncf", "numba", "nvtx", "triton", "nvidia-cudnn-cu13", "tensorrt",
)  # fmt: skip
ENVIRONMENT = (
    *THREAD_COUNTS[1:], "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "GOMP_CPU_AFFINITY",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "OPENBLAS_CORETYPE", "OPENCV_CPU_DISABLE",
    "NPY_DISABLE_CPU_FEATURES", "LD_PRELOAD", "CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip
"""Variables by which a user changes the speed of libraries: threads, instruction sets, allocators."""
ISA_BEFORE = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""Instruction sets that older fingerprints list where a machine has them."""
COMPARED = {
    "cpu": "processor",
    "cpu_model": "model of the processor",
    "isa": "instruction sets",
    "cores": "cores",
    "quota_cores": "CPU quota",
    "memory_limit_gib": "memory limit",
    "clock": "clock settings",
    "power": "power plan",
    "gpu": "GPU",
    "os": "operating system",
    "container": "container",
    "python": "Python",
    "versions": "versions",
    "math": "BLAS and OpenMP",
    "threads": "threads",
    "environment": "libraries' environment",
}
"""Keys in which two fingerprints must agree for their speeds to be compared without a note, in words.

A kernel's build is left out, and so is heat: a run that it slowed down is noisy, on the same machine.
"""


def fingerprint() -> dict[str, Any]:
    """The machine, its software and its load now, as plain data.

    What cannot be read here is left out; None means that there is none (no quota, no GPU).
    """
    limit = memory_limit()
    return {
        **_fixed(),
        **cpu_facts(),
        "memory_limit_gib": None if limit is None else round(limit / 2**30, 2),
        "clock": clock_settings(),
        "power": power_settings(),
        "threads": _threads(),
        "environment": _environment(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_1min": round(psutil.getloadavg()[0], 2),
        "memory_free_gib": round(available_memory() / 2**30, 1),
        "gpu": gpu_state(),
    }


def fingerprint_differences(
    a: Mapping[str, Any], b: Mapping[str, Any], other: str = "the other machine"
) -> list[str]:
    """Differences between two fingerprints that affect speed, one line each; empty if there are none.

    What one of them does not know is no difference; see `fingerprint_unknowns`.

    Args:
        a, b: fingerprints, of any version of labkit.
        other: name of b's machine.
    """
    lines = []
    for key in COMPARED:
        left, right = _facts(a, key), _facts(b, key)
        unlike = {
            name: (left[name], right[name]) for name in left if right.get(name, left[name]) != left[name]
        }
        if key == "isa":
            more = [name for name, (_, has) in unlike.items() if has]
            less = [name for name, (has, _) in unlike.items() if has]
            lines += [f"{other} has {', '.join(more)}"] if more else []
            lines += [f"{other} has no {', '.join(less)}"] if less else []
        else:
            lines += [f"{name}: {_words(one)} / {_words(two)}" for name, (one, two) in unlike.items()]
    return lines


def fingerprint_unknowns(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Facts that affect speed and stand in one of two fingerprints only: older ones hold less."""
    return [words for key, words in COMPARED.items() if bool(_facts(a, key)) != bool(_facts(b, key))]


def speed_facts(fingerprint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Everything in a fingerprint that affects speed, by key and name; what is unknown is left out."""
    return {key: facts for key in COMPARED if (facts := _facts(fingerprint, key))}


def _facts(mark: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The known facts under one key of a fingerprint, by the names under which differences are listed."""
    if key not in mark:
        return {}
    value = mark[key]
    if key == "gpu":
        gpu = value or {}
        limit = {"GPU power limit in W": round(gpu["power_limit_w"])} if "power_limit_w" in gpu else {}
        return {"gpu": gpu.get("name"), **limit}
    if key == "isa":
        return _instructions(value)
    if key == "environment":
        return {name: value.get(name) for name in ENVIRONMENT}
    if key == "os":
        return {"os": _system(value)}
    if isinstance(value, Mapping):
        label = {"versions": "{}", "math": "{}'s library"}.get(key, key + " {}")
        return {label.format(name.replace("_mhz", " in MHz")): fact for name, fact in value.items()}
    return {COMPARED[key] if key in ("quota_cores", "memory_limit_gib") else key: value}


def _instructions(isa: Any) -> dict[str, bool]:
    """Instruction sets by name; older fingerprints list those that are there."""
    return dict(isa) if isinstance(isa, Mapping) else {name: name in isa for name in ISA_BEFORE}


def _system(os_name: str) -> str:
    """The operating system without its build, which changes no speed; of Linux not even its version."""
    name, _, release = str(os_name).partition(" ")
    if name == "Linux":
        return "Linux in WSL" if "microsoft" in release.lower() else name
    return f"{name} {release.partition('.')[0]}".strip()


def _words(fact: Any) -> str:
    return (
        {None: "none", True: "yes", False: "no"}[fact]
        if fact is None or isinstance(fact, bool)
        else f"{fact}"
    )


def machine_name(fingerprint: Mapping[str, Any], device: str | None = None) -> str:
    """Name of a fingerprint's machine: "CPU, 8 cores, GPU", with what bounds or distinguishes it.

    Args:
        device: "cpu" or "cuda" to name only the part that does the work.
    """
    state = fingerprint.get("gpu") or {}
    gpu = state.get("name")
    if gpu and state.get("power_limit_w", 0) < state.get("power_default_w", 0):
        gpu = f"{gpu} at {state['power_limit_w']:.0f} W"
    if gpu and device == "cuda":
        return str(gpu)
    cpu, quota = fingerprint.get("cpu"), fingerprint.get("quota_cores")
    cores = f"{fingerprint.get('cores', '?')} cores" + (f" ({quota:g} by quota)" if quota else "")
    amx = _instructions(fingerprint.get("isa", ())).get("amx_bf16")
    parts = [f"{cpu}, {cores}" if cpu else None, "AMX" if amx else None, None if device else gpu]
    return ", ".join(part for part in parts if part) or "unknown machine"


def cpu_facts() -> dict[str, Any]:
    """The processor's part of a fingerprint: name, model, cores, cores by quota, instruction sets."""
    model = cpu_model()
    return {
        "cpu": cpu_name(),
        **({"cpu_model": model} if model else {}),
        "cores": affinity_cores(),
        "quota_cores": quota_cores(),
        "isa": instruction_sets(),
    }


def available_memory() -> int:
    """Bytes that this process may still use: the machine's free memory, bounded by its control groups."""
    free, left = psutil.virtual_memory().available, memory_left()
    return free if left is None else min(free, left)


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
        "versions": {name: version for name in PACKAGES if (version := installed_version(name))},
        "math": _math_libraries(),
        "tf32": _tf32(),
        "container": in_container(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "virtual": _virtual(),
    }


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

    threads = min(torch.get_num_threads(), available_cores())  # what measures is bounded so
    return {"torch": threads, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}


def _environment() -> dict[str, str]:
    found = {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}
    if "LD_PRELOAD" in found:  # the libraries decide, not where they lie
        found["LD_PRELOAD"] = " ".join(Path(path).name for path in re.split(r"[ :]+", found["LD_PRELOAD"]))
    return found


def _math_libraries() -> dict[str, str]:
    """BLAS of NumPy and torch, and the OpenMP that torch runs its threads with."""
    import numpy as np
    import torch

    found: dict[str, str] = {}
    with suppress(TypeError, KeyError):  # an older NumPy prints it only
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        found["numpy"] = f"{blas['name']} {blas['version']}"
    built = torch.__config__.show()
    versions = (r"BLAS_INFO=(\w+)", r"Math Kernel Library Version (\S+)-", r"(MKL-DNN v\S+)")
    if parts := [match[1] for pattern in versions if (match := re.search(pattern, built))]:
        found["torch"] = " ".join(parts)
    with suppress(OSError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        loaded = set(re.findall(r"(/\S*/lib(?:gomp|iomp5|omp)\b[^/\s]*)$", maps, re.MULTILINE))
        own = {path for path in loaded if path.startswith(str(Path(torch.__file__).parent))}
        if names := sorted({Path(path).name.partition(".")[0].partition("-")[0] for path in own or loaded}):
            found["openmp"] = " ".join(names)
    return found


def _tf32() -> dict[str, bool]:
    """Operations whose fp32 inputs torch lets a GPU round to TF32."""
    import torch

    return {
        "convolutions": bool(torch.backends.cudnn.allow_tf32),
        "products": bool(torch.backends.cuda.matmul.allow_tf32),
    }


def _virtual() -> bool | None:
    with suppress(OSError):
        return "hypervisor" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return None
