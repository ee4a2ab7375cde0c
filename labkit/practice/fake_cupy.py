"""CuPy on the practice GPU: arrays, streams, and CUDA kernels that run in their emulation.

What it has: arrays with NumPy's functions (also of `linalg`, `fft` and `random`), `asarray`, `asnumpy`,
`RawKernel` and `RawModule` without templates, `cuda.Device`, `cuda.Stream`, `cuda.Event`. A kernel runs
on the CPU (`labkit.filters.emulate`): without warp shuffles and textures, and slowly, so for small images.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from labkit.core.errors import UsageError
from labkit.filters import cuda, cuda_managed, emulate
from labkit.filters.launch_config import IMAGE
from labkit.practice import torch_cuda
from labkit.practice.gpu_tensor import CUDA, Gpu, OnGpu
from labkit.practice.stream_order import GpuError

_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w\s]+?)\s*(\w+)\s*\[\s*\]\s*;")
"""A declaration of shared memory whose size is given at the launch."""

SHARED_BYTES = 48 * 1024
"""Most shared memory of a block."""


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
def _on_current_stream(stream: Stream | None = None) -> Iterator[None]:
    with (_current() if stream is None else stream)._queue:
        yield


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of the practice GPU, as `cupy.ndarray`.

    Attributes:
        tensor: of the same memory.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def _values(self) -> Any:
        return self.tensor.held.detach().numpy()

    shape = property(lambda self: tuple(self.tensor.shape))
    dtype = property(lambda self: self._values.dtype)
    strides = property(lambda self: self._values.strides)
    ndim = property(lambda self: self.tensor.ndim)
    size = property(lambda self: self.tensor.numel())
    nbytes = property(lambda self: self._values.nbytes)
    itemsize = property(lambda self: self._values.itemsize)
    flags = property(lambda self: self._values.flags)
    device = property(lambda self: Device(0))
    data = property(lambda self: SimpleNamespace(ptr=self.tensor.data_ptr()))
    T = property(lambda self: DeviceArray(self.tensor.permute(*reversed(range(self.ndim)))))
    __cuda_array_interface__ = property(lambda self: self.tensor.__cuda_array_interface__)

    def __len__(self):
        return len(self.tensor)

    @_on_current_stream()
    def __getitem__(self, key):
        if any(isinstance(each, slice) and (each.step or 1) < 0 for each in tree_leaves(key)):
            return _computed(lambda own: own[key], "getitem", (self,))  # torch has no negative strides
        return DeviceArray(self.tensor[_unwrapped(key)])

    @_on_current_stream()
    def __setitem__(self, key, value):
        self.tensor[_unwrapped(key)] = (
            torch.from_numpy(value) if isinstance(value, np.ndarray) else _unwrapped(value)
        )

    @_on_current_stream()
    def __float__(self):
        return float(self.tensor)

    @_on_current_stream()
    def __int__(self):
        return int(self.tensor)

    @_on_current_stream()
    def __bool__(self):
        return bool(self.tensor)

    def __repr__(self):
        return repr(self.get())

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy "
            "array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        wanted = None if out is None else out[0]
        return _computed(
            lambda *given: getattr(ufunc, method)(*given, **options), ufunc.__name__, inputs, wanted
        )

    def __getattr__(self, name):
        if name.startswith("_") or not callable(getattr(np.ndarray, name, None)):
            raise AttributeError(f"the practice GPU's cupy.ndarray has no {name!r}")
        return lambda *args, out=None, **options: _computed(
            lambda own, args, options: getattr(own, name)(*args, **options), name, (self, args, options), out
        )

    def get(self, stream=None):
        """Copies to the host, which waits: an array of NumPy."""
        with _on_current_stream():
            return self.tensor.cpu().numpy()

    def tolist(self):
        """The values as numbers, for which the host waits."""
        return self.get().tolist()

    def toDlpack(self):  # noqa: N802
        """Itself, which `torch.from_dlpack` takes."""
        return self

    @_on_current_stream()
    def item(self):
        """The only value, for which the host waits."""
        return self.tensor.item()


class Stream:
    """A queue of work, as `cupy.cuda.Stream`; CuPy's current stream is not torch's.

    Attributes:
        null: the default stream.
    """

    null: Any = None

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None, *, number=None):
        self._queue = torch_cuda.Stream(number=0 if null else number)
        if not (null or non_blocking or number):
            Gpu.now.blocking.add(self.ptr)
        self._before: list[Any] = []

    ptr = property(lambda self: self._queue.cuda_stream)
    cuda_stream = ptr

    @classmethod
    def from_external(cls, other):
        """The stream of another library that has `__cuda_stream__`."""
        return cls(number=other.__cuda_stream__()[1])

    def __enter__(self):
        self._before.append(_current())
        Gpu.now.cupy_stream = self
        return self

    def __exit__(self, *error):
        Gpu.now.cupy_stream = self._before.pop()

    def use(self):
        """Makes it the current one."""
        Gpu.now.cupy_stream = self
        return self

    def record(self, event=None):
        """Puts an event onto it."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event):
        """Makes what comes next here wait for the event."""
        self._queue.wait_event(event._point)

    def synchronize(self):
        """The host waits for it."""
        self._queue.synchronize()


class Event:
    """A point on a stream, as `cupy.cuda.Event`."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self._point = torch_cuda.Event(enable_timing=not disable_timing)

    done = property(lambda self: self._point.query())

    def record(self, stream=None):
        """Puts it onto a stream, by default CuPy's current one."""
        self._point.record((_current() if stream is None else stream)._queue)

    def synchronize(self):
        """The host waits for it."""
        self._point.synchronize()


class Device:
    """The practice GPU, as `cupy.cuda.Device`."""

    compute_capability = "80"

    def __init__(self, device=0):
        self.id = 0 if device is None else int(device)
        if self.id != 0:
            raise GpuError(f"cudaErrorInvalidDevice: invalid device ordinal ({self.id}; there is 0)")

    def __enter__(self):
        return self

    def __exit__(self, *error): ...

    def __eq__(self, other):
        return isinstance(other, Device)

    def __hash__(self):
        return 0

    def use(self):
        """Makes it the current one, which it is."""

    def synchronize(self):
        """The host waits for everything."""
        Gpu.now.host_waits("everything")


class RawModule:
    """CUDA C++ source with one or more kernels, as `cupy.RawModule`."""

    def __init__(self, *, code=None, path=None, options=(), backend="nvrtc", name_expressions=None, **other):
        if code is None:
            raise UsageError("the practice GPU runs source text: give cupy.RawModule code=...")
        if name_expressions:
            raise UsageError(
                "the practice GPU has no templates: write one kernel per type, without name_expressions"
            )
        self.code, self.options = code, tuple(options)

    def get_function(self, name):
        """One of its kernels."""
        return RawKernel(self.code, name, self.options)

    def compile(self, log_stream=None):
        """Does nothing: a kernel is compiled at its first launch."""


class RawKernel:
    """One CUDA kernel from its source text, as `cupy.RawKernel`.

    Attributes:
        code: CUDA C++.
        name: of the kernel.
        options: for the compiler, of which the macros (-Dname=value) are used.
    """

    def __init__(self, code, name, options=(), backend="nvrtc", **other):
        self.code, self.name, self.options = code, name, tuple(options)
        found = re.search(
            rf"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?{re.escape(name)}\s*\(([^)]*)\)", code
        )
        if found is None or not re.search(r'extern\s+"C"', code):
            raise GpuError(
                f"CUDA_ERROR_NOT_FOUND: named symbol not found ({name}): the source has to hold "
                f'extern "C" __global__ void {name}(...)'
            )
        self._parameters = [" ".join(each.split()) for each in found[1].split(",") if each.strip()]

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        """Launches it.

        Args:
            grid, block: up to three sizes.
            args: arrays of the GPU, and numbers of exactly the kernel's types (`np.float32(0.1)`;
                a Python int fits any integer).
            shared_mem: bytes of `extern __shared__` memory per block.
            stream: None takes CuPy's current one.

        Raises:
            UsageError: it does not compile, or an argument does not fit.
            GpuError: the launch is beyond a GPU's limits.
        """
        if shared_mem > SHARED_BYTES:
            raise GpuError(
                f"CUDA_ERROR_INVALID_VALUE: shared_mem={shared_mem} is more than {SHARED_BYTES} bytes"
            )
        if len(args) != len(self._parameters):
            raise UsageError(f"{self.name} takes {len(self._parameters)} arguments, not {len(args)}")
        defines = dict(
            (*option[2:].split("=", 1), "1")[:2] for option in self.options if option.startswith("-D")
        )
        values, reads, writes = [], [], []
        for parameter, arg in zip(self._parameters, args, strict=True):
            tensor = _tensor_of(arg)
            if tensor is None:
                values.append(_number(self.name, parameter, arg))
                continue
            value = tensor.held.detach().numpy()
            if parameter.startswith("const "):
                value = value.view()
                value.flags.writeable = False
                reads.append(tensor)
            else:
                writes.append(tensor)
            values.append(value)
        body = re.split(rf"\b{re.escape(self.name)}\s*\(", self.code, maxsplit=1)[1].split("__global__")[0]
        if _DYNAMIC.search(body) and not shared_mem:
            raise UsageError(f"{self.name} has extern __shared__ memory: launch it with shared_mem=<bytes>")
        # The emulation has shared memory of a fixed size only.
        code = _DYNAMIC.sub(rf"__shared__ \1 \2[({shared_mem} + sizeof(\1)) / sizeof(\1)];", self.code)

        def run():
            emulate.emulate_launch(code, self.name, values, grid, block, defines)

        with _on_current_stream(stream):
            run()
            Gpu.now.launch(self.name, run, reads, writes)


def _tensor_of(arg: Any) -> OnGpu | None:
    """The memory that an argument of a kernel stands for; None for a number."""
    if isinstance(arg, DeviceArray):
        return arg.tensor
    if isinstance(arg, OnGpu):
        raise TypeError("a kernel of CuPy takes its arrays, not tensors: pass cupy.asarray(tensor)")
    if isinstance(arg, np.ndarray) and arg.ndim:
        raise TypeError(
            "Unsupported type <class 'numpy.ndarray'>: a kernel reads the GPU's memory; cupy.asarray first"
        )
    return Gpu.now.known.get(int(arg)) if isinstance(arg, np.uintp | int) else None


def _number(kernel: str, parameter: str, arg: Any) -> Any:
    kind = parameter.removeprefix("const ").rsplit(" ", 1)[0]
    if "*" in parameter:
        raise UsageError(f"{kernel}: {parameter!r} is an array of the GPU, not {arg!r}; use cupy.asarray")
    if isinstance(arg, float) and not isinstance(arg, np.generic):
        if kind != "double":
            raise UsageError(
                f"{kernel}: a Python float is passed as a double, and {parameter!r} would read half of it; "
                f"pass np.float32({arg})"
            )
        return np.float64(arg)
    if isinstance(arg, int) and not isinstance(arg, bool | np.generic):
        if kind in ("float", "double"):
            raise UsageError(
                f"{kernel}: a Python int is passed as a whole number, and {parameter!r} would read its bits; "
                f"pass np.{'float32' if kind == 'float' else 'float64'}({arg})"
            )
        return _INTEGERS.get(kind, np.int32)(arg)
    return np.bool_(arg) if isinstance(arg, bool) else arg


_INTEGERS: dict[str, Any] = {
    "int": np.int32, "unsigned": np.uint32, "unsigned int": np.uint32, "long": np.int64,
    "long long": np.int64, "unsigned long long": np.uint64, "size_t": np.uint64, "short": np.int16,
    "unsigned short": np.uint16, "char": np.int8, "signed char": np.int8, "unsigned char": np.uint8,
}  # fmt: skip


def _current() -> Stream:
    return Gpu.now.cupy_stream


def _unwrapped(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_unwrapped, value))
    return value.tensor if isinstance(value, DeviceArray) else value


def _asarray(a: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False) -> DeviceArray:
    """An array of the GPU: of the same memory if it lies there already, else a copy."""
    if isinstance(a, OnGpu | DeviceArray):
        same = a if isinstance(a, DeviceArray) else DeviceArray(a)
        return same if dtype is None or same.dtype == np.dtype(dtype) else same.astype(dtype)
    host = torch.from_numpy(np.array(a, dtype=dtype, order="C"))
    with _on_current_stream():
        return DeviceArray(Gpu.now._moved(host, device=CUDA, non_blocking=not blocking))


def _asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    """The values as an array of NumPy; the host waits for them."""
    return a.get() if isinstance(a, DeviceArray) else np.asarray(a)


def _made(name: str) -> Any:
    def made(shape: Any, *args: Any, dtype: Any = float, **options: Any) -> DeviceArray:
        if args and name != "full":
            dtype, args = args[0], args[1:]
        like = getattr(np, name)(shape, *args, dtype=dtype)
        values = torch.from_numpy(like)
        with _on_current_stream():
            filled = OnGpu(values)
            if name == "empty":
                values.untyped_storage().copy_(
                    torch.full((like.nbytes,), 0xFF, dtype=torch.uint8).untyped_storage()
                )
            else:
                Gpu.now.launch(name, None, [], [filled])
            return DeviceArray(filled)

    return made


def _like(name: str) -> Any:
    return lambda a, dtype=None: _made(name)(a.shape, dtype=a.dtype if dtype is None else dtype)


def _taking(from_dlpack: Any) -> Any:
    """`torch.from_dlpack`, which takes the practice GPU's arrays and tensors too."""

    def taken(array: Any, **options: Any) -> Any:
        array = array.tensor if isinstance(array, DeviceArray) else array
        return array if isinstance(array, OnGpu) else from_dlpack(array, **options)

    return taken


def _array_module(*args: Any) -> Any:
    return sys.modules["cupy"] if any(isinstance(each, DeviceArray) for each in args) else np


def _computed(work: Any, name: str, inputs: Any, out: Any = None) -> Any:
    """Arrays of what NumPy makes of the inputs' values; None, as NumPy says it, changes the first of them."""
    leaves = tree_leaves(inputs)
    if any(isinstance(each, np.ndarray) and each.ndim for each in leaves):
        raise TypeError(f"Unsupported type <class 'numpy.ndarray'> ({name}; use cupy.asarray first)")
    given = tree_map(lambda each: each._values if isinstance(each, DeviceArray) else each, inputs)
    arrays = [each for each in leaves if isinstance(each, DeviceArray)]
    made = work(*given)
    with _on_current_stream():
        if out is not None:
            out._values[...] = made
        found = tree_map(lambda value: _placed(value, arrays), made) if out is None else out
        views = {each.tensor.memory for each in arrays} if out is None else set()
        new = [
            each if isinstance(each, DeviceArray) and each.tensor.memory not in views else None
            for each in tree_leaves(found)
        ]

        def again() -> None:
            for array, value in zip(new, tree_leaves(work(*given)), strict=True):
                if array is not None:
                    array._values[...] = value

        written = [each.tensor for each in (arrays[:1] if made is None else new) if each is not None]
        if written:
            Gpu.now.launch(name, again, [each.tensor for each in arrays], written)
        if name in _SIZED or (name == "where" and len(leaves) == 1):
            Gpu.now.host_waits("a value", stream=Gpu.now.stream)
    return found


_SIZED = {"nonzero", "flatnonzero", "argwhere", "unique", "bincount"}
"""Functions whose host has to know the size of the result."""


def _placed(value: Any, arrays: list[DeviceArray]) -> Any:
    """A result on the GPU: a view of an array where NumPy's is one, else new; other things as they are."""
    if not isinstance(value, np.ndarray) and not (arrays and isinstance(value, np.generic | int | float)):
        return value
    value = np.asarray(value)
    for own in arrays:
        shared = value.dtype == own.dtype and np.may_share_memory(value, own._values)
        if shared and all(step >= 0 for step in value.strides):
            steps = [step // value.itemsize for step in value.strides]
            begin = (value.ctypes.data - own._values.ctypes.data) // value.itemsize
            return DeviceArray(own.tensor.as_strided(value.shape, steps, own.tensor.storage_offset() + begin))
    return DeviceArray(OnGpu(torch.from_numpy(np.array(value, order="C"))))


def _missing(name: str, room: Any = np) -> Any:
    """NumPy's function of that name on arrays of the GPU, or its constants, types and modules."""
    if name.startswith("_") or not hasattr(room, name):
        raise AttributeError(f"the practice GPU's cupy has no {name!r}")
    found = getattr(room, name)
    if isinstance(found, ModuleType):
        inner: Any = ModuleType(f"cupy.{name}")
        inner.__getattr__ = lambda each: _missing(each, found)
        return inner
    if isinstance(found, type) or not callable(found):
        return found
    return lambda *args, out=None, **options: _computed(
        lambda args, options: found(*args, **options), name, (args, options), out
    )


@contextmanager
def installed() -> Iterator[None]:
    """`cupy` works on the practice GPU until the block ends, imported before or inside."""
    gpu = Gpu.now
    gpu.cupy_stream = Stream.null = Stream(null=True)
    runtime = SimpleNamespace(
        deviceSynchronize=lambda: gpu.host_waits("everything"), getDeviceCount=lambda: 1, getDevice=lambda: 0
    )
    on_device = {
        "Device": Device, "Stream": Stream, "Event": Event, "malloc_managed": Managed, "runtime": runtime,
        "ExternalStream": lambda ptr, device_id=-1: Stream(number=ptr), "is_available": lambda: True,
        "get_current_stream": _current, "get_elapsed_time": lambda a, b: a._point.elapsed_time(b._point),
    }  # fmt: skip
    names = {
        "ndarray": DeviceArray, "asarray": _asarray, "array": _asarray, "ascontiguousarray": _asarray,
        "from_dlpack": _asarray, "fromDlpack": _asarray, "get_array_module": _array_module,
        "get_default_memory_pool": lambda: SimpleNamespace(
            used_bytes=gpu.memory_allocated, total_bytes=gpu.memory_allocated, free_all_blocks=lambda: None
        ),
        "asnumpy": _asnumpy, "RawKernel": RawKernel, "RawModule": RawModule, "__getattr__": _missing,
        **{name: _made(name) for name in ("empty", "zeros", "ones", "full")},
        **{f"{name}_like": _like(name) for name in ("empty", "zeros", "ones")},
    }  # fmt: skip
    with ExitStack() as stack:
        names["cuda"] = _replaced(stack, "cupy.cuda", on_device)
        _replaced(stack, "cupy", names)
        for room in (torch, torch.utils.dlpack):
            stack.enter_context(patch.object(room, "from_dlpack", _taking(torch.from_dlpack)))
        to_dlpack = torch.utils.dlpack.to_dlpack
        stack.enter_context(patch.object(
            torch.utils.dlpack, "to_dlpack", lambda x: x if isinstance(x, OnGpu) else to_dlpack(x)
        ))  # fmt: skip
        stack.enter_context(patch.object(cuda, "_cupy_stream", lambda pointer: Stream(number=pointer)))
        for room in (cuda, cuda_managed):
            stack.enter_context(patch.object(room, "kernel_function", _function))
        yield


def _replaced(stack: ExitStack, name: str, contents: dict[str, Any]) -> ModuleType:
    """A module, imported already or not, that holds nothing but `contents` until the stack ends."""
    module = sys.modules.get(name)
    if module is None:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
        stack.callback(sys.modules.pop, name, None)  # only this one: others were imported meanwhile
    own = {key: value for key, value in vars(module).items() if key.startswith("__") and key != "__getattr__"}
    stack.enter_context(patch.dict(vars(module), {**own, **contents}, clear=True))
    return module


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
