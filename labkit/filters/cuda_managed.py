"""The filter with managed memory allocated per frame, as the baseline called its own.

For every frame: managed memory is allocated for each array, the host writes the frame into it,
the device is waited for after each launch, the host reads the result, and all is freed. The
arithmetic takes microseconds, the rest milliseconds. `cuda.DeviceFilter` does the same work
without the rest.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.filters.cuda import kernel_function, require_gpu
from labkit.filters.launch_config import IMAGE, OUT, Array, LaunchPlan, Shape, launch_plan

Image = NDArray[np.uint8]


def guided_in_managed_memory(file: str, image: Image, radius: int, eps: float) -> Image:
    """Filter an array with the kernels of `file`, allocating, waiting and freeing throughout.

    Args:
        file: in `kernels/`; must end in bytes.
        image: (H, W, C) uint8.
        radius: px.
        eps: in squared intensity of images in [0, 1].

    Raises:
        UnavailableError: there is no NVIDIA GPU, or no CuPy.
    """
    require_gpu()
    import cupy

    height, width, channels = image.shape
    made = _plan(file, (height, width, channels), radius)
    memory = {name: cupy.cuda.malloc_managed(array.nbytes) for name, array in made.arrays.items()}
    _host_view(memory[IMAGE].ptr, made.arrays[IMAGE])[...] = image
    named: dict[str, Any] = {**made.scalars(eps), **{name: np.uintp(m.ptr) for name, m in memory.items()}}
    for step in made.launches:
        function = kernel_function(made, step.kernel)
        function(step.grid, step.block, tuple(named[name] for name in step.args))
        cupy.cuda.runtime.deviceSynchronize()
    return _host_view(memory[OUT].ptr, made.arrays[OUT]).copy()  # `memory` is freed on return


@lru_cache(maxsize=4)
def _plan(file: str, shape: Shape, radius: int) -> LaunchPlan:
    return launch_plan(file, shape, radius)


def _host_view(pointer: int, array: Array) -> NDArray[Any]:
    """Managed memory as the host sees it."""
    raw: Any = (ctypes.c_ubyte * array.nbytes).from_address(pointer)
    return np.frombuffer(raw, array.dtype).reshape(array.shape)
