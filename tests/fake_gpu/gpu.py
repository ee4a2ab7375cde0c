"""Tensors that say "cuda" and hold their values on the CPU; torch.cuda as if it were there.

Like a real GPU this one refuses to compute with tensors of two devices, makes the host wait when
it reads, knows page-locked memory, and captures graphs that repeat the same operations on the
same memory, in which nothing may be waited for. Unlike a real one it tells of every race. Its
arithmetic and its times are the CPU's.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from fake_gpu.order import GpuError, HostCopy, Memory, Order

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
INERT = torch.device("meta")  # torch's core sees this: of a "cuda" tensor's device it would ask the driver
READ_BY_HOST = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.nonzero.default,
    aten.masked_select.default, aten._unique2.default,
}  # fmt: skip
"""Operations whose result, or its size, the host has to know."""


class OnGpu(torch.Tensor):
    """A tensor of the GPU.

    Attributes:
        held: its values.
        memory: shared by all tensors that see the same values.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        with torch.inference_mode(False):  # a view of a normal tensor has to be one
            made = torch.Tensor._make_wrapper_subclass(
                cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, device=INERT,
            )  # fmt: skip
        made.held, made.memory = held, Gpu.now.memory_of(held)
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    def __repr__(self):
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return Gpu.now.run(func, args, kwargs or {})

    @property
    def __cuda_array_interface__(self):
        array = self.held.numpy()
        return {
            "shape": array.shape, "typestr": array.dtype.str, "data": (self.data_ptr(), False), "version": 3,
            "strides": None if self.held.is_contiguous() else array.strides,
        }  # fmt: skip

    def data_ptr(self):
        Gpu.now.known[self.held.data_ptr()] = self
        return self.held.data_ptr()

    def record_stream(self, stream):
        self.memory.kept_for.add(stream.cuda_stream)


class Gpu:
    """What the machine does, and what a test asks of it.

    Attributes:
        waits: what the host waited for, in order.
        launches: operations and graphs that were put onto a stream.
        known: tensors whose address somebody asked for, by address.
        faults: what went wrong where no exception could be raised.
    """

    now: Gpu

    def __init__(self):
        self.waits: list[str] = []
        self.launches = 0
        self.order = Order()
        self.streams = [Stream(0)]
        self.known = weakref.WeakValueDictionary()
        self.faults: list[str] = []
        self.capture: list | None = None
        self.sync_debug_mode = "default"
        self._pinned: dict[int, torch.UntypedStorage] = {}
        self._memories = weakref.WeakValueDictionary()

    @property
    def stream(self):
        """Number of the current stream."""
        return self.streams[-1].cuda_stream

    def host_waits(self, what, **for_what):
        """The host waits for an event, a stream, or everything."""
        if self.capture is not None:
            raise GpuError(f"CUDA error: operation not permitted when stream is capturing ({what})")
        self.waits.append(what)
        if self.sync_debug_mode == "error":
            raise RuntimeError(f"called a synchronizing CUDA operation ({what})")
        if self.sync_debug_mode == "warn":
            warnings.warn(f"called a synchronizing CUDA operation ({what})", stacklevel=2)
        self.order.host_waits(**for_what)

    def launch(self, what, work, reads, writes):
        """Puts work onto the current stream; a capture keeps it, too."""
        reads, writes = [each.memory for each in reads], [each.memory for each in writes]
        if self.capture is not None:
            self.capture.append((work, reads, writes))
            return None
        self.launches += 1
        return self.order.done(self.stream, reads, writes, what)

    def memory_of(self, held):
        """The piece of memory that a tensor's values lie in."""
        address = held.untyped_storage().data_ptr()
        memory = self._memories.get(address)
        if memory is None or not address:
            memory = Memory(self.stream, held.untyped_storage().nbytes())
            self._memories[address] = memory
            weakref.finalize(memory, self._freed, Memory(**vars(memory)), vars(memory))
        return memory

    def _freed(self, last, now):
        vars(last).update(now)
        fault = self.order.freed(last)
        if fault is not None:
            self.faults.append(fault)

    def memory_allocated(self, device=None):
        """Bytes in use."""
        gc.collect()
        return sum(memory.nbytes for memory in self._memories.values())

    def pin(self, tensor):
        """Page-locks a tensor's memory."""
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = storage  # kept, or its address would come again
        return tensor

    def is_pinned(self, tensor):
        """Whether a tensor's memory is page-locked."""
        return tensor.untyped_storage().data_ptr() in self._pinned

    def run(self, func, args, kwargs):
        """One operation with a tensor of the GPU, or that makes one."""
        whole = torch._C.DispatchKey.CompositeImplicitAutograd
        if func.has_kernel_for_dispatch_key(whole):  # comes in one piece under inference mode
            with Everywhere():
                return func.decompose(*args, **kwargs)
        if func is aten._to_copy.default:
            return self._moved(args[0], **kwargs)
        if func is aten.copy_.default:
            return self._copied(*args, **kwargs)
        flat, spec = tree_flatten((args, kwargs))
        here = [leaf for leaf in flat if isinstance(leaf, OnGpu)]
        stays = "device" not in kwargs or kwargs["device"] is None or _is_gpu(kwargs["device"])
        if kwargs.get("device") is not None:
            flat = [torch.device("cpu") if isinstance(leaf, torch.device) else leaf for leaf in flat]
        elif any(type(leaf) is torch.Tensor and leaf.ndim for leaf in flat):
            raise GpuError(
                f"Expected all tensors to be on the same device: {func} was also given one in host memory"
            )
        if func in READ_BY_HOST:
            self.host_waits("a value", stream=self.stream)
        given, named = tree_unflatten([leaf.held if isinstance(leaf, OnGpu) else leaf for leaf in flat], spec)
        result = func(*given, **named)
        if not stays:
            return result
        mine = {id(leaf.held): leaf for leaf in here}
        wrapped = tree_map(lambda out: _wrapped(out, mine), result)
        made = [out for out in tree_flatten(wrapped)[0] if isinstance(out, OnGpu)]
        if func.is_view and all(any(out.memory is each.memory for each in here) for out in made):
            return wrapped  # a reshape may be a copy
        if str(func).startswith(("aten.empty", "aten.new_empty")):
            for out in made:
                _rubbish(out.held)
            return wrapped
        self.launch(str(func), _again(func, given, named, result), here, made)
        return wrapped

    def _moved(self, tensor, *, device=None, non_blocking=False, **kwargs):
        to_gpu = tensor.is_cuda if device is None else _is_gpu(device)
        pin = kwargs.pop("pin_memory", False)
        values = tensor.held if isinstance(tensor, OnGpu) else tensor
        held = aten._to_copy.default(values, **kwargs)
        if not to_gpu:
            host = self.pin(held) if pin else held
            return self._copied(host, tensor, non_blocking) if isinstance(tensor, OnGpu) else host
        return self._copied(OnGpu(held), tensor, non_blocking)

    def _copied(self, out, source, non_blocking=False):
        to_gpu, from_gpu = isinstance(out, OnGpu), isinstance(source, OnGpu)
        if not to_gpu and not from_gpu:
            return out.copy_(source)
        target, values = out.held if to_gpu else out, source.held if from_gpu else source
        if self.capture is not None and not (to_gpu and from_gpu):
            raise GpuError(
                "CUDA error: operation not permitted when stream is capturing (a copy to or from the host)"
            )
        number = self.launch(
            "copy", lambda: target.copy_(values), [source] if from_gpu else [], [out] if to_gpu else []
        )
        target.copy_(values)
        if to_gpu and from_gpu:
            return out
        if not non_blocking:
            self.host_waits("a copy to the host" if from_gpu else "a copy from the host", stream=self.stream)
            return out
        host = out if from_gpu else source
        if not self.is_pinned(host):
            if from_gpu:
                raise GpuError("the host would read memory, not page-locked, that a copy has not reached yet")
            return out  # the driver puts pageable memory aside first
        self.order.under_way(HostCopy(self.stream, number, host, values.clone(), arrives=from_gpu))
        return out


class Everywhere(TorchDispatchMode):
    """Sees operations that make tensors out of nothing.

    Attributes:
        inert_itself: while somebody wants tensors without values and means it.
    """

    inert_itself = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        made = not self.inert_itself and any(
            isinstance(leaf, torch.device) and _is_gpu(leaf) for leaf in flat
        )
        if made or any(isinstance(leaf, OnGpu) for leaf in flat):
            return Gpu.now.run(func, args, kwargs)
        return func(*args, **kwargs)


class InPython(TorchFunctionMode):
    """Catches what would wake CUDA before an operation begins: `device="cuda"`, pinning."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name, gpu = dict(kwargs or {}), getattr(func, "__name__", ""), Gpu.now
        pin = bool(kwargs.pop("pin_memory", False))
        if name == "cuda":
            return gpu._moved(args[0], device=CUDA, non_blocking=kwargs.get("non_blocking", False))
        if name == "pin_memory":
            return gpu.pin(args[0].clone())
        if name == "is_pinned":
            return gpu.is_pinned(args[0])
        if name == "tolist" and isinstance(args[0], OnGpu):
            gpu.host_waits("a value", stream=gpu.stream)
            return args[0].held.tolist()
        if name == "to":
            return self._to(func, *args, **kwargs)
        device = kwargs.get("device")
        if device is not None and torch.device(device) == INERT:
            Everywhere.inert_itself = True
            try:
                return func(*args, **kwargs)
            finally:
                Everywhere.inert_itself = False
        if device is not None and _is_gpu(device) and name != "_parse_to":
            made = func(*args, **{**kwargs, "device": "cpu"})
            if name in ("tensor", "as_tensor"):
                return gpu._moved(made, device=CUDA)
            if name.startswith("empty"):
                return OnGpu(_rubbish(made))
            return gpu.run(aten.clone.default, (OnGpu(made),), {})
        made = func(*args, **kwargs)
        return gpu.pin(made) if pin else made

    def _to(self, func, tensor, *rest, **kwargs):
        like = next((each for each in (*rest, *kwargs.values()) if isinstance(each, torch.Tensor)), None)
        asked = any(_is_gpu(each) for each in (*rest, kwargs.get("device"), getattr(like, "device", None)))
        if not asked or (isinstance(tensor, OnGpu) and like is None):
            rest = [each for each in rest if not _is_gpu(each)]
            kwargs = {name: each for name, each in kwargs.items() if not _is_gpu(each)}
            return func(tensor, *rest, **kwargs) if rest or kwargs else tensor
        dtype = next((each for each in rest if isinstance(each, torch.dtype)), None)
        dtype = dtype if like is None else like.dtype
        wanted = {} if dtype is None else {"dtype": dtype}
        wanted |= {name: kwargs[name] for name in ("dtype", "memory_format") if kwargs.get(name) is not None}
        return Gpu.now._moved(tensor, device=CUDA, non_blocking=kwargs.get("non_blocking", False), **wanted)


class Graph:
    """Work in order, with the memory that it reads and writes."""

    def replay(self):
        """Does it all again; what it made before is overwritten."""
        gpu, memories = Gpu.now, {id(m): m for _, reads, writes in self.work for m in (*reads, *writes)}
        gpu.launches += 1
        gpu.order.done(gpu.stream, [], list(memories.values()), "a graph")
        with torch.inference_mode():
            for work, _, _ in self.work:
                work()


class Stream:
    """A queue of work."""

    made = 0

    def __init__(self, number=None):
        Stream.made += 1
        self.cuda_stream = Stream.made if number is None else number

    def wait_stream(self, other):
        event = Event()
        event.record(other)
        self.wait_event(event)

    def wait_event(self, event):
        Gpu.now.order.stream_waits(self.cuda_stream, id(event))

    def synchronize(self):
        Gpu.now.host_waits("a stream", stream=self.cuda_stream)


class Event:
    """A point on a stream."""

    def __init__(self, enable_timing=False): ...

    def record(self, stream=None):
        Gpu.now.order.recorded(id(self), Gpu.now.stream if stream is None else stream.cuda_stream)

    def query(self):
        """Always over, as it is when one asks late enough."""
        Gpu.now.order.host_waits(event=id(self))
        return True

    def synchronize(self):
        Gpu.now.host_waits("an event", event=id(self))

    def elapsed_time(self, other):
        return 0.0


@contextmanager
def install_fake_gpu(monkeypatch):
    """A GPU for the length of a block.

    Yields:
        The `Gpu`.

    Raises:
        GpuError: memory was freed too early.
    """
    gpu = Gpu.now = Gpu()

    @contextmanager
    def stream(chosen):
        gpu.streams.append(chosen)
        try:
            yield
        finally:
            gpu.streams.pop()

    @contextmanager
    def graph(made, pool=None, stream=None, capture_error_mode="global"):
        gpu.capture = []
        try:
            yield
            made.work = gpu.capture
        finally:
            gpu.capture = None

    instead = {
        "is_available": lambda: True, "is_initialized": lambda: True, "current_device": lambda: 0,
        "device_count": lambda: 1, "synchronize": lambda device=None: gpu.host_waits("everything"),
        "Stream": Stream, "Event": Event, "CUDAGraph": Graph, "graph": graph, "stream": stream,
        "current_stream": lambda device=None: gpu.streams[-1], "graph_pool_handle": lambda: (0, 0),
        "get_device_properties": lambda device=0: SimpleNamespace(name="a GPU that is not there"),
        "set_sync_debug_mode": lambda mode: setattr(gpu, "sync_debug_mode", mode),
        "get_sync_debug_mode": lambda: gpu.sync_debug_mode, "memory_allocated": gpu.memory_allocated,
        "max_memory_reserved": gpu.memory_allocated,
        "get_device_name": lambda device=0: "a GPU that is not there", "_sleep": lambda cycles: None,
    }  # fmt: skip
    for name, replacement in instead.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    # Without values to share, a module moved to the GPU gets new parameters.
    monkeypatch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), Everywhere(), InPython():
        yield gpu
    if gpu.faults:
        raise GpuError(gpu.faults[0])


def _is_gpu(value):
    if isinstance(value, torch.device):
        return value.type in ("cuda", INERT.type)
    return isinstance(value, str) and value.startswith("cuda")


def _rubbish(held):
    """Fills memory with what is NaN in every kind of float."""
    held.untyped_storage().copy_(
        torch.full((held.untyped_storage().nbytes(),), 0xFF, dtype=torch.uint8).untyped_storage()
    )
    return held


def _wrapped(out, mine):
    """A result as a tensor of the GPU; what was changed in place is the tensor that was given."""
    if not isinstance(out, torch.Tensor):
        return out
    return mine[id(out)] if id(out) in mine else OnGpu(out)


def _again(func, args, kwargs, before):
    """Repeats an operation into the memory of its first results."""
    given = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}

    def again():
        for old, new in zip(_tensors(before), _tensors(func(*args, **kwargs)), strict=True):
            if old.untyped_storage().data_ptr() not in given:
                old.copy_(new)

    return again


def _tensors(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]
