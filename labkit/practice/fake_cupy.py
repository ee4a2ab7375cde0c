"""CuPy on the practice GPU: kernels run in their emulation."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from labkit.filters import cuda, cuda_managed, emulate
from labkit.filters.launch_config import IMAGE
from labkit.practice.gpu_tensor import Gpu


class Managed:
    """Memory that host and GPU share.

    Attributes:
        ptr: its address.
    """

    def __init__(self, nbytes):
        self.nbytes = nbytes
        self._bytes = (ctypes.c_ubyte * nbytes)()
        self.ptr = ctypes.addressof(self._bytes)


@contextmanager
def installed() -> Iterator[None]:
    """CuPy's launches land in the emulation until the block ends, on memory of the practice GPU."""
    runtime = SimpleNamespace(deviceSynchronize=lambda: Gpu.now.host_waits("everything"))
    cupy: Any = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(Device=lambda index: nullcontext(), malloc_managed=Managed, runtime=runtime)
    cupy.__spec__ = ModuleSpec("cupy", None)
    with ExitStack() as stack:
        stack.enter_context(patch.dict(sys.modules, {"cupy": cupy}))
        stack.enter_context(patch.object(cuda, "_torch_stream", lambda device: nullcontext()))
        for room in (cuda, cuda_managed):
            stack.enter_context(patch.object(room, "kernel_function", _function))
        yield


def _function(made, kernel):
    step = next(step for step in made.launches if step.kernel == kernel)

    def launch(grid, block, args):
        gpu, values, tensors = Gpu.now, [], {}
        for name, value in zip(step.args, args, strict=True):
            if name in made.arrays:
                tensors[name] = gpu.known.get(int(value))  # None: managed memory
                value = cuda_managed._host_view(int(value), made.arrays[name])
            values.append(value)

        def run():
            emulate.emulate_launch(made.source, kernel, values, grid, block, made.defines)

        image, written = tensors.pop(IMAGE, None), [each for each in tensors.values() if each is not None]
        gpu.launch(kernel, run, [] if image is None else [image], written)
        run()

    return launch
