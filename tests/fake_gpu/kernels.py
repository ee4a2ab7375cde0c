"""CuPy as far as the lab uses it, on a GPU that is not there: kernels run in their emulation."""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

from fake_gpu.gpu import Gpu
from labkit.filters import cuda, cuda_managed, emulate
from labkit.filters.launch_config import IMAGE


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
def install_fake_cupy(monkeypatch):
    """Launches land in the emulation, on memory of the fake GPU.

    Yields:
        The `Managed` memory that was allocated.
    """
    allocated = []

    def malloc_managed(nbytes):
        allocated.append(Managed(nbytes))
        return allocated[-1]

    runtime = SimpleNamespace(deviceSynchronize=lambda: Gpu.now.host_waits("everything"))
    fake_gpu = SimpleNamespace(
        Device=lambda index: nullcontext(), malloc_managed=malloc_managed, runtime=runtime
    )
    cupy = ModuleType("cupy")
    cupy.cuda, cupy.__spec__ = fake_gpu, ModuleSpec("cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cuda, "_torch_stream", lambda device: nullcontext())
    for room in (cuda, cuda_managed):
        monkeypatch.setattr(room, "kernel_function", _function)
    yield allocated


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

        image = [tensors.pop(IMAGE, None)]
        gpu.launch(kernel, run, [*filter(is_there, image)], [*filter(is_there, tensors.values())])
        run()

    return launch


def is_there(tensor):
    return tensor is not None
