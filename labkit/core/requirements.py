"""Requirements of rungs (a GPU, a compiler, a package) and their checks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.openvino_core import openvino_core

if TYPE_CHECKING:
    from labkit.core.types import Precision, Preparation

INSTALL = {
    "openvino": "pip install 'labkit[engines]'",
    "onnxruntime": "pip install 'labkit[engines]'",
    "nncf": "pip install 'labkit[engines]'",
    "tensorrt": "pip install tensorrt, from NVIDIA's own package index",
    "cupy": "pip install 'labkit[gpu]'",
}


@lru_cache(maxsize=1)
def _no_cuda() -> str | None:
    import torch

    if torch.cuda.is_available():  # the only call that is reliable without a GPU
        return None
    if torch.version.cuda is None:
        return "needs an NVIDIA GPU (this torch is built without CUDA)"
    return "needs an NVIDIA GPU with a working driver"


def _no_compiler() -> str | None:
    if any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")):
        return None
    return "needs a C++ compiler (on Debian: apt-get install g++), with which torch.compile builds its code"


def _no_triton() -> str | None:
    windows = sys.platform == "win32"
    if importlib.util.find_spec("triton") is None:
        whence = "on Windows: pip install triton-windows" if windows else "it comes with torch on Linux"
        return f"needs the package triton, in which torch.compile writes kernels ({whence})"
    if windows:  # triton-windows brings a compiler and Python's headers
        return None
    if not any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "gcc", "clang")):
        return "needs a C compiler (on Debian: apt-get install gcc), with which triton builds its launcher"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "needs Python's headers (on Debian: apt-get install python3-dev), which triton includes"
    return None


def _no_bf16() -> str | None:
    import torch

    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return "needs a CPU with bfloat16 arithmetic (AVX-512, AMX or ARM's BF16); torch is far slower without"


@lru_cache(maxsize=1)
def _openvino_has_bf16() -> bool:
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def fallback(preparation: Preparation) -> str | None:
    """What runs in float32 on this CPU though asked for in bfloat16, in words; None if nothing does.

    OpenVINO falls back by itself and says nothing, so that such a rung has the speed and the answers of
    float32.
    """
    formats = (preparation.precision, preparation.options.get("rest_precision"))
    if preparation.engine != "openvino" or "bf16" not in formats or unmet_requirement(["openvino"]):
        return None
    if _openvino_has_bf16():
        return None
    rest = "" if preparation.precision == "bf16" else "what is not int8 is "
    return f"{rest}float32: OpenVINO has no bfloat16 on this CPU"


def precision_here(preparation: Preparation) -> Precision:
    """The precision of a rung's products on this machine; see `fallback`."""
    return "fp32" if preparation.precision == "bf16" and fallback(preparation) else preparation.precision


def _no_package(name: str) -> str | None:
    if importlib.util.find_spec(name) is not None:
        return None
    return f"needs the package {name} ({INSTALL.get(name, 'pip install ' + name)})"


def installed_version(package: str) -> str | None:
    """Version of an installed distribution ("torch"); None without it."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


_CHECKS: dict[str, Callable[[], str | None]] = {
    "cuda": _no_cuda,
    "bf16": _no_bf16,
    "c++": _no_compiler,
    "triton": _no_triton,
}


def unmet_requirement(needs: Iterable[str]) -> str | None:
    """The first requirement that this machine does not meet, as a sentence; None if it meets all."""
    for need in needs:
        reason = _CHECKS[need]() if need in _CHECKS else _no_package(need)
        if reason is not None:
            return reason
    return None
