"""Source lines that make the host read a tensor, and so wait for the device.

A line such as `score = scores[i].item()` looks free. On a GPU the host stops there until
everything asked of the device before is done, and the device then idles until the host has
asked for more. Without a GPU nothing waits, but the same lines read, and are counted.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from types import FrameType
from typing import Any

from labkit.core import gpu
from labkit.profiling.capture import Read

READERS = {
    "item": "item", "tolist": "tolist", "cpu": "cpu", "__int__": "int", "__float__": "float",
    "__bool__": "bool", "__index__": "index",
}  # fmt: skip
"""Methods of a tensor that hand its value to Python or its data to the host."""


@dataclass
class Reads:
    """Reads noted so far, with times of `time.perf_counter_ns`."""

    noted: list[Read] = field(default_factory=list)

    def add(self, what: str, device: str) -> None:
        """Notes a read by the source line that is running now, torch's own lines left out."""
        frame = _outside_torch(sys._getframe(1))
        path, line = (frame.f_code.co_filename, frame.f_lineno) if frame else ("unknown", 0)
        self.noted.append(Read(time.perf_counter_ns(), what, path, line, device, threading.get_native_id()))

    def since(self, began_ns: int) -> tuple[Read, ...]:
        """All reads, their times counted from `began_ns` of the same clock."""
        return tuple(Read(r.at_ns - began_ns, r.what, r.path, r.line, r.device, r.thread) for r in self.noted)


@contextmanager
def noting_reads() -> Iterator[Reads]:
    """Notes every read of a tensor by the host until the block ends, in any thread.

    Noting takes a few microseconds per read, which stand in the time of the range around it.
    Of tensors on a GPU CUDA's own reports are noted, which know more than the methods of a
    tensor: they also see waits inside operations such as `nonzero`.
    """
    reads = Reads()
    with ExitStack() as stack:
        stack.enter_context(_watched_methods(reads))
        if _cuda_in_use():
            stack.enter_context(_watched_cuda(reads))
        yield reads


@contextmanager
def _watched_methods(reads: Reads) -> Iterator[None]:
    """Replaces the reading methods of tensors: that costs nothing where no tensor is read."""
    import torch

    own = {name: vars(torch.Tensor)[name] for name in READERS if name in vars(torch.Tensor)}
    try:
        for name, what in READERS.items():
            setattr(torch.Tensor, name, _watched(getattr(torch.Tensor, name), what, reads))
        yield
    finally:
        for name in READERS:
            if name in own:
                setattr(torch.Tensor, name, own[name])
            else:
                delattr(torch.Tensor, name)


def _watched(method: Callable[..., Any], what: str, reads: Reads) -> Callable[..., Any]:
    @wraps(method)
    def watched(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if tensor.device.type == "cpu":
            reads.add(what, "cpu")
        return method(tensor, *args, **kwargs)

    return watched


@contextmanager
def _watched_cuda(reads: Reads) -> Iterator[None]:
    import torch

    before = torch.cuda.get_sync_debug_mode()
    with gpu.reported_waits(lambda: reads.add("waits", "cuda")):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def _outside_torch(frame: FrameType | None) -> FrameType | None:
    here = (
        __file__,
        gpu.__file__,
        warnings.__file__,
        os.path.dirname(sys.modules["torch"].__file__ or "") + os.sep,
    )
    while frame is not None and frame.f_code.co_filename.startswith(here):
        frame = frame.f_back
    return frame


def _cuda_in_use() -> bool:
    import torch

    return torch.cuda.is_available()
