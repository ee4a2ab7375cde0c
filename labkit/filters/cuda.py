"""Launches of the CUDA kernels by CuPy, on torch's stream and memory.

A `DeviceFilter` compiles, plans the grids and allocates when it is made. A call then only launches:
it never synchronises or allocates, so that a CUDA graph can capture it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import FrameError, UnavailableError, UsageError
from labkit.filters.kernel_source import nvrtc_options
from labkit.filters.launch_config import IMAGE, OUT, Array, LaunchPlan, Shape, launch_plan

if TYPE_CHECKING:
    import torch

Image = NDArray[np.uint8]

_one_at_a_time = Lock()


class DeviceFilter:
    """One kernel file, ready for images of one shape and radius on one GPU.

        smooth = DeviceFilter("guided_4_fused.cu", (480, 640, 3), radius=4)
        result = smooth(frame_on_gpu, eps=0.01)

    The result is the filter's own buffer unless `out` is given: the next call overwrites it, in
    stream order. Pipelines with several frames in flight hold one filter per slot.

    Attributes:
        plan: grids, blocks, macros and arrays.
        device: index of the GPU.
        out: the result buffer.
    """

    def __init__(
        self, file: str, shape: Shape, radius: int = 4, *, half: bool = False, device: int | None = None
    ) -> None:
        """Compiles the kernels and allocates what lies between them.

        Args:
            file: in `kernels/`.
            shape: (H, W, C) of the images.
            radius: window radius in px.
            half: half-precision result; for kernels that end in a network's input.
            device: index of the GPU; None takes torch's current one.

        Raises:
            UsageError: see `launch_plan`.
            UnavailableError: there is no NVIDIA GPU, or no CuPy.
        """
        import torch

        self.plan = launch_plan(file, shape, radius, half=half)
        require_gpu()
        import cupy

        self.device = torch.cuda.current_device() if device is None else device
        with cupy.cuda.Device(self.device):  # kernels are compiled for the current GPU
            self._functions = {
                step.kernel: kernel_function(self.plan, step.kernel) for step in self.plan.launches
            }
        self._buffers = {name: _allocate(array, self.device) for name, array in self.plan.buffers.items()}
        self.out = _allocate(self.plan.arrays[OUT], self.device)
        self._eps: float | None = None
        self._scalars: dict[str, Any] = {}

    def __call__(self, image: Any, eps: float = 0.01, out: torch.Tensor | None = None) -> torch.Tensor:
        """Launches the filter on torch's current stream.

        Args:
            image: (H, W, C) uint8 on this GPU, C-contiguous: a torch tensor, a CuPy array, or
                anything else with `__cuda_array_interface__`. It is read in place.
            eps: in squared intensity of [0, 1] images. A captured CUDA graph keeps the eps that
                it was captured with.
            out: where to write; None writes into this filter's own buffer.

        Returns:
            The result, on the GPU, ready in stream order.

        Raises:
            FrameError: the image or `out` has another shape, type, layout or place.
        """
        import cupy

        result = self.out if out is None else out
        for array in (image, result):
            if _gpu_of(array) not in (None, self.device):
                raise FrameError(
                    f"this filter works on GPU {self.device}, the array lies on GPU {_gpu_of(array)}"
                )
        pointers = {
            IMAGE: device_pointer(image, self.plan.arrays[IMAGE], IMAGE),
            OUT: device_pointer(result, self.plan.arrays[OUT], OUT),
        }
        if eps != self._eps:
            self._eps, self._scalars = eps, self.plan.scalars(eps)
            self._scalars |= {name: np.uintp(buffer.data_ptr()) for name, buffer in self._buffers.items()}
        named = {**self._scalars, **pointers}
        with cupy.cuda.Device(self.device), on_torch_stream(self.device):
            for step in self.plan.launches:
                self._functions[step.kernel](step.grid, step.block, tuple(named[name] for name in step.args))
        return result


def require_gpu() -> None:
    """Check that CUDA kernels can run here.

    Raises:
        UnavailableError: no NVIDIA GPU that torch sees, or no CuPy.
    """
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError(
            "this filter needs an NVIDIA GPU and torch sees none; use version='numba', or "
            "labkit.filters.emulate to run the kernel on the CPU"
        )
    try:
        import cupy  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise UnavailableError(f"CUDA kernels are launched by CuPy ({error}); install labkit[gpu]") from error


def device_pointer(array: Any, wanted: Array, name: str) -> np.uintp:
    """Address of an array on the GPU, after checking that it is what a kernel expects.

    Args:
        array: anything with `__cuda_array_interface__`.
        wanted: shape and type.
        name: what to call it in an error.

    Raises:
        FrameError: it is not on a GPU, or has another shape, type or layout.
    """
    try:
        interface = array.__cuda_array_interface__
    except (AttributeError, TypeError, RuntimeError) as error:  # torch: one kind each for CPU, sparse, grad
        raise FrameError(
            f"{name} is an array on the GPU, not {type(array).__name__} in host memory; move it with .cuda()"
        ) from error
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if shape != wanted.shape or dtype != np.dtype(wanted.dtype):
        raise FrameError(f"{name} is {wanted.dtype} {wanted.shape}, not {dtype} {shape}")
    if not _contiguous(interface.get("strides"), shape, dtype.itemsize):
        raise FrameError(f"{name} is C-contiguous; use .contiguous()")
    return np.uintp(interface["data"][0])


def guided(file: str, image: Image, radius: int, eps: float) -> Image:
    """Filter an array on the GPU: upload, launch, download. For trials; pipelines stay on the device.

    Raises:
        UnavailableError, UsageError: see `DeviceFilter`.
    """
    import torch

    device_filter = _filter_for(file, image.shape, radius)
    source = image if image.flags.writeable else image.copy()  # torch refuses read-only arrays
    with _one_at_a_time:  # or another thread's call overwrites the result before it is copied back
        return np.asarray(device_filter(torch.from_numpy(source).cuda(), eps).cpu().numpy())


def edges(file: str, image: Image) -> Image:
    """As `guided`, for a kernel file of the edge filter."""
    return guided(file, image, 1, 0.0)


@lru_cache(maxsize=8)
def _filter_for(file: str, shape: Shape, radius: int) -> DeviceFilter:
    return DeviceFilter(file, shape, radius)


def kernel_function(made: LaunchPlan, kernel: str) -> Any:
    """One kernel of a plan as CuPy launches it; compiled when it is first asked for."""
    return _module(made.source, nvrtc_options(made.defines)).get_function(kernel)


@cache
def _module(source: str, options: tuple[str, ...]) -> Any:
    import cupy

    try:
        module = cupy.RawModule(code=source, options=options)
        module.compile()
    except cupy.cuda.compiler.CompileException as error:
        raise UsageError(f"the kernel does not compile: {error}") from error
    except (cupy.cuda.driver.CUDADriverError, cupy.cuda.runtime.CUDARuntimeError) as error:
        raise UnavailableError(
            f"CuPy cannot use this GPU ({error}); its CUDA version must not be newer than the driver's"
        ) from error
    return module


def _allocate(array: Array, device: int) -> torch.Tensor:
    import torch

    return torch.empty(array.shape, dtype=getattr(torch, array.dtype), device=f"cuda:{device}")


@dataclass(frozen=True)
class _StreamOfTorch:
    """A torch stream in the form in which CuPy takes streams of others."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def on_torch_stream(device: int | None = None) -> Any:
    """Context in which CuPy launches on torch's current stream, of torch's current GPU if None."""
    import torch

    return _cupy_stream(torch.cuda.current_stream(device).cuda_stream)


@lru_cache(maxsize=64)
def _cupy_stream(pointer: int) -> Any:
    import cupy

    return cupy.cuda.Stream.from_external(_StreamOfTorch(pointer))


def _gpu_of(array: Any) -> int | None:
    """Index of the GPU of a torch tensor or CuPy array; None where it cannot be told."""
    device = getattr(array, "device", None)
    index = getattr(device, "index", None)  # of a NumPy array's device, a str, it is a method
    return index if isinstance(index, int) else getattr(device, "id", None)


def _contiguous(strides: tuple[int, ...] | None, shape: tuple[int, ...], itemsize: int) -> bool:
    if strides is None:
        return True
    expected = itemsize
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True
