"""A GPU to practise on: PyTorch and CuPy code runs on the CPU by the rules of a GPU.

from labkit.practice import fake_gpu

with fake_gpu() as gpu:
...  # ordinary code for CUDA
gpu  # waits, launches, copies and races, by source line
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.practice.practice_gpu import fake_gpu
    from labkit.practice.stream_order import GpuError, RaceWarning

__all__ = ["GpuError", "RaceWarning", "fake_gpu"]

_MODULES = {"fake_gpu": "practice_gpu", "GpuError": "stream_order", "RaceWarning": "stream_order"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'labkit.practice' has no attribute {name!r}")
    return getattr(importlib.import_module(f"labkit.practice.{_MODULES[name]}"), name)
