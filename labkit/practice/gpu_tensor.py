"""Tensors that say "cuda" and hold their values on the CPU.

Like a real GPU this one refuses to compute with tensors of two devices, makes the host wait when
it reads, knows page-locked memory, and captures graphs that repeat the same operations on the
same memory, in which nothing may be waited for. Unlike a real one it tells of every race. Its
arithmetic is the CPU's.
"""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Callable
from numbers import Integral, Number
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from labkit.practice.autocast import cast
from labkit.practice.device_check import check_one_device, type_name
from labkit.practice.gpu_report import Copy, GpuReport, Wait
from labkit.practice.race_text import describe
from labkit.practice.source_line import learner_line
from labkit.practice.stream_order import HOST, GpuError, HostCopy, Memory, Order, Race, RaceWarning, Use
from labkit.practice.time_model import HALF, ModelClock, copy_us, operation_us, traffic_us

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
INERT = torch.device("meta")  # torch's core sees this: of a "cuda" tensor's device it would ask the driver
BLOCK_BYTES = 512  # memory is handed out in multiples of it, as torch does
READ_BY_HOST = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.nonzero.default,
    aten.masked_select.default, aten._unique2.default, aten.unique_dim.default,
    aten.unique_consecutive.default, aten.bincount.default, aten.repeat_interleave.Tensor,
    aten.allclose.default, aten._linalg_check_errors.default, aten._linalg_eigh.default,
    aten._linalg_svd.default,
}  # fmt: skip
"""Operations whose result, or its size, the host has to know."""


def _wide(compute: Callable[..., Any]) -> Callable[..., Any]:
    """The operation with half-precision arguments, summed in single precision as a GPU's tensor cores do."""

    def summed(*args: Any, **kwargs: Any) -> Any:
        flat, spec = tree_flatten((args, kwargs))
        dtypes = {leaf.dtype for leaf in flat if isinstance(leaf, torch.Tensor)}
        if len(dtypes) > 1 or not dtypes <= HALF:  # mixed ones are refused in torch's own words
            return compute(*args, **kwargs)
        wide = [leaf.float() if isinstance(leaf, torch.Tensor) else leaf for leaf in flat]
        args, kwargs = tree_unflatten(wide, spec)
        return compute(*args, **kwargs).to(dtypes.pop())

    return summed


ON_GPU: dict[Any, Any] = {
    # One kernel, where PyTorch puts it together from others on the CPU; heads lie beside each other.
    aten.scaled_dot_product_attention.default: lambda q, k, v, *how, **more: (
        aten.scaled_dot_product_attention(q, k, v, *how, **more).transpose(1, 2).contiguous().transpose(1, 2)
    ),
    aten.cudnn_convolution_relu.default: _wide(
        lambda x, weight, bias, *how: aten.conv2d(x, weight, bias, *how).relu_()
    ),
    aten.cudnn_convolution_add_relu.default: _wide(
        lambda x, weight, z, alpha, bias, *how: (
            aten.conv2d(x, weight, bias, *how).add_(z, alpha=alpha).relu_()
        )
    ),
    **{
        operation: _wide(operation)
        for operation in (aten.convolution.default, aten.mm.default, aten.bmm.default, aten.addmm.default)
    },
}  # fmt: skip
"""Operations that a GPU has in another form than the CPU, and their values."""

INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
}  # fmt: skip


class OnGpu(torch.Tensor):
    """A tensor of the GPU.

    Attributes:
        held: its values.
        gpu: which it lies on.
        memory: shared by all tensors that see the same values.
    """

    held: torch.Tensor
    gpu: Gpu
    memory: Memory
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        """A tensor of the GPU with these values, which it shares."""
        with torch.inference_mode(False):  # a view of a normal tensor has to be one
            made = torch.Tensor._make_wrapper_subclass(
                cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, device=INERT,
            )  # fmt: skip
        made.held, made.gpu, made.memory = held, Gpu.now, Gpu.now.memory_of(held)
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    def __repr__(self, *, tensor_contents=None):
        if self.gpu.on:
            self.gpu.host_waits("a value", stream=self.gpu.stream)
        with torch.utils._python_dispatch._disable_current_modes():
            text = repr(self.held.detach())[:-1]
        tail = next((i for mark in (", size=", ", dtype=") if (i := text.find(mark)) > 0), len(text))
        grad = f", grad_fn=<{self.grad_fn.name()}>" if self.grad_fn is not None else ""
        grad = ", requires_grad=True" if self.requires_grad and not grad else grad
        return f"{text[:tail]}, device='{self.device}'{text[tail:]}{grad})"

    def __format__(self, format_spec):
        return format(self.item() if self.ndim == 0 else repr(self), format_spec)

    def numpy(self, *, force=False):
        """The values as an array, which only memory of the host can be; `force` copies them there."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def tolist(self):
        """The values as numbers, for which the host waits."""
        if self.gpu.on:
            self.gpu.host_waits("a value", stream=self.gpu.stream)
        return self.held.tolist()

    def __array__(self, dtype=None, copy=None):
        return self.numpy()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = made = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                made._is_param = True
        return memo[id(self)]

    def __copy__(self):
        return self.detach().requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol):
        if self.gpu.on:
            self.detach().cpu()  # counted as the copy that it is
        host = self.held.detach().requires_grad_(self.requires_grad)
        is_parameter = isinstance(self, torch.nn.Parameter)
        return (torch.nn.Parameter(host, self.requires_grad) if is_parameter else host).__reduce_ex__(
            protocol
        )

    def __dlpack_device__(self):
        return 2, 0  # DLPack's number of CUDA, and the device's index

    def __dlpack__(self, **kwargs):
        raise BufferError("memory of the practice GPU cannot be handed to another library")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        return Gpu.now.run(func, args, kwargs or {})

    @property
    def __cuda_array_interface__(self):
        array = self.held.numpy()
        return {
            "shape": array.shape, "typestr": array.dtype.str, "data": (self.data_ptr(), False), "version": 3,
            "strides": None if self.held.is_contiguous() else array.strides,
        }  # fmt: skip

    def type(self, dtype=None, *args, **kwargs):
        """Name of its type; with one given, a tensor of that."""
        return type_name(self) if dtype is None else super().type(dtype, *args, **kwargs)

    def get_device(self):
        """Index of the GPU."""
        return self.device.index

    def data_ptr(self):
        """Address of the first value; kernels that are given it find this tensor."""
        Gpu.now.known[self.held.data_ptr()] = self
        return self.held.data_ptr()

    def record_stream(self, stream):
        """The memory is not handed out again before the stream's work so far is over."""
        self.memory.kept_for.add(stream.cuda_stream)


class Gpu(GpuReport):
    """A GPU: its work now, and all that it has done so far.

    Attributes:
        strict: a race is an error.
        order: of the work on its streams.
        on: until it is switched off.
        model: of the time that the work takes.
        timed: somebody has asked the model.
        default_stream: of torch and CuPy.
        cupy_stream: CuPy's current one.
        blocking: numbers of streams that the default one waits for, and that wait for it.
        known: tensors whose address somebody asked for, by address.
        capture: work that is being recorded as a graph, or None.
        freed_early: races of a strict GPU that could not be raised where they happened.
    """

    name = "practice GPU (the CPU, by the rules of a GPU)"
    now: Gpu

    def __init__(self, *, strict: bool = False):
        super().__init__()
        self.strict = strict
        self.order = Order()
        self.launches: int = 0
        self.kernels: int = 0
        self.on = False
        self.model = ModelClock()
        self.timed = False
        self.default_stream: Any = None
        self.cupy_stream: Any = None
        self.blocking: set[int] = set()
        self._of_thread = threading.local()
        self.known: Any = weakref.WeakValueDictionary()
        self.freed_early: list[str] = []
        self.capture: list | None = None
        self.sync_debug_mode = "default"
        self._pinned: dict[int, torch.UntypedStorage] = {}
        self._allocated = self._peak = 0
        self._memories: Any = weakref.WeakValueDictionary()

    @property
    def streams(self):
        """Streams of this thread; the current one is the last."""
        if not hasattr(self._of_thread, "streams"):
            self._of_thread.streams = [self.default_stream]
        return self._of_thread.streams

    @property
    def stream(self):
        """Number of the current stream."""
        return self.streams[-1].cuda_stream

    def host_waits(self, what, **for_what):
        """The host waits for an event, a stream, or everything."""
        if self.capture is not None:
            raise GpuError(f"CUDA error: operation not permitted when stream is capturing ({what})")
        line = learner_line()
        self.waits.append(Wait(what, line))
        if self.sync_debug_mode == "error":
            raise RuntimeError(f"called a synchronizing CUDA operation ({what})")
        if self.sync_debug_mode == "warn":
            warnings.warn(f"called a synchronizing CUDA operation ({what})", stacklevel=2)
        self.model.host_waits(**for_what)
        self.found(self.order.host_waits(line, **for_what))

    def host_knows(self, **what_is_over):
        """The host has seen, without waiting, that an event or a stream is over."""
        self.model.host_waits(**what_is_over)
        self.found(self.order.host_waits(learner_line(), **what_is_over))

    def host_reads(self, values, what):
        """The host reads tensors of its own; one that a copy has not reached yet is a race."""
        for value in values:
            copy = self.order.arriving(value) if isinstance(value, torch.Tensor) else None
            if copy is not None:
                race = Race("read during a copy", copy.use, Use(HOST, 1, what, learner_line()))
                self.found([race])

    def recorded(self, event, stream):
        """An event is put onto a stream."""
        self.order.recorded(event, stream)
        self.model.recorded(event, stream)

    def stream_waits(self, stream, event):
        """Makes what comes next on the stream wait for the event."""
        self.order.stream_waits(stream, event)
        self.model.stream_waits(stream, event)

    def launch(self, what, work, reads, writes, us=None, engine="compute"):
        """Puts work onto the current stream; a capture keeps it, too.

        Args:
            us: how long the model lets it take; None is as long as its memory traffic.
            engine: of the model.
        """
        us = traffic_us([*reads, *writes]) if us is None else us
        reads, writes = [each.memory for each in reads], [each.memory for each in writes]
        if self.capture is not None:
            self.capture.append((work, reads, writes, us))
            return None
        return self.done(what, reads, writes, us, engine)

    def done(self, what, reads, writes, us, engine="compute", kernels=1):
        """Notes an operation that reads and writes pieces of memory; a graph is many kernels."""
        self.model.works(self.stream, us, engine)
        self._in_order(self.stream)
        line = learner_line()
        self.launches += 1
        self.kernels += kernels
        self.launch_lines[line] += 1
        use, races = self.order.done(self.stream, reads, writes, what, line)
        self.found(races)
        return use

    def _in_order(self, stream):
        """Lets a stream wait as CUDA does by itself: the default one for blocking ones, these for it."""
        for other in self.blocking if not stream else {0} if stream in self.blocking else ():
            self.recorded(-1, other)
            self.stream_waits(stream, -1)

    def found(self, races):
        """Notes races.

        Raises:
            GpuError: there is one, and the GPU is strict.
        """
        for race in races:
            described = describe(race)
            self.races.append(described)
            if self.strict and race.kind != "freed early":
                raise GpuError(str(described))
            if self.strict:  # nothing can be raised where memory is freed
                self.freed_early.append(str(described))
            else:
                line = described.lines[1]
                warnings.warn_explicit(str(described), RaceWarning, line.file or "unknown", line.number)

    def memory_of(self, held):
        """The piece of memory that a tensor's values lie in."""
        address = held.untyped_storage().data_ptr()
        memory = self._memories.get(address)
        if memory is None or not address:
            holds = f"{str(held.dtype).removeprefix('torch.')} {tuple(held.shape)}"
            nbytes = -(-held.untyped_storage().nbytes() // BLOCK_BYTES) * BLOCK_BYTES
            memory = Memory(self.stream, nbytes, holds)
            self._allocated += nbytes
            self._peak = max(self._peak, self._allocated)
            self._memories[address] = memory
            weakref.finalize(memory, self._freed, vars(memory))
        return memory

    def has(self, storage):
        """True if a storage of the host holds values of this GPU."""
        return storage.data_ptr() in self._memories

    def _freed(self, state):
        self._in_order(state["stream"])
        race = self.order.freed(Memory(**state), learner_line())
        self._allocated -= state["nbytes"]
        if race is not None and self.on:
            self.found([race])

    def memory_allocated(self, device=None):
        """Bytes in use."""
        gc.collect()
        return self._allocated

    def max_memory_allocated(self, device=None):
        """Most bytes that were in use at once, since `reset_peak_memory_stats`."""
        return self._peak

    def reset_peak_memory_stats(self, device=None):
        """Counts the most from what is in use now."""
        self._peak = self.memory_allocated()

    def pin(self, tensor):
        """Page-locks a tensor's memory."""
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = storage  # kept, or its address would come again
        return tensor

    def is_pinned(self, tensor):
        """True if a tensor's memory is page-locked."""
        return tensor.untyped_storage().data_ptr() in self._pinned

    def run(self, func, args, kwargs):
        """One operation with a tensor of the GPU, or that makes one."""
        given_here = [leaf for leaf in _tensors((args, kwargs)) if isinstance(leaf, OnGpu)]
        if any(leaf.gpu is not self or not self.on for leaf in given_here):
            return _afterwards(func, args, kwargs)
        whole = torch._C.DispatchKey.CompositeImplicitAutograd
        # Under inference mode such an operation comes in one piece.
        if func.has_kernel_for_dispatch_key(whole) and func not in ON_GPU:
            with Everywhere():
                return func.decompose(*args, **kwargs)
        if func is aten._to_copy.default:
            return self._moved(args[0], **kwargs)
        if func is aten.copy_.default:
            return self._copied(*args, **kwargs)
        if not torch.is_grad_enabled():
            args, kwargs = cast(func._opname, args, kwargs)
        if func in INDEXING:
            args = self._with_indices_here(func, *args)
        flat, spec = tree_flatten((args, kwargs))
        here = [leaf for leaf in flat if isinstance(leaf, OnGpu)]
        stays = "device" not in kwargs or kwargs["device"] is None or is_gpu(kwargs["device"])
        if kwargs.get("device") is not None:
            flat = [torch.device("cpu") if isinstance(leaf, torch.device) else leaf for leaf in flat]
        else:
            check_one_device(func, args, kwargs)
        known = kwargs.get("output_size") is not None
        if (func in READ_BY_HOST and not known) or str(func) == "torchvision.nms.default":
            self.host_waits("a value", stream=self.stream)
        given, named = tree_unflatten([leaf.held if isinstance(leaf, OnGpu) else leaf for leaf in flat], spec)
        compute = ON_GPU.get(func, func)
        result = compute(*given, **named)
        if not stays:
            return result
        mine = {id(leaf.held): leaf for leaf in here}
        wrapped = tree_map(lambda out: _wrapped(out, mine), result)
        made = [out for out in tree_flatten(wrapped)[0] if isinstance(out, OnGpu)]
        view = func.is_view or func is aten._unsafe_view.default
        if view and all(any(out.memory is each.memory for each in here) for out in made):
            return wrapped  # a reshape may be a copy
        if str(func).startswith(("aten.empty", "aten.new_empty")):
            for out in made:
                _rubbish(out.held)
            return wrapped
        again = None if self.capture is None else _again(compute, given, named, result)
        us = operation_us(func, given, named, result, [each.held for each in (*here, *made)])
        self.launch(str(func), again, here, made, us)
        if func is aten.convolution.default and args[2] is not None:
            self.launch("bias", lambda: None, here[2:], made)
        return wrapped

    def _with_indices_here(self, func, indexed, indices, *rest):
        """Arguments with the indices on the GPU, too; masks are counted first, for which the host waits."""
        if not isinstance(indexed, OnGpu):
            if any(isinstance(index, OnGpu) for index in indices):
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
                )
            return indexed, indices, *rest
        given = [index for index in indices if index is not None]
        masks = [index for index in given if index.dtype in (torch.bool, torch.uint8)]
        number = bool(rest) and rest[0].numel() == 1 and not _here(rest[0])
        filled = len(masks) == len(given) == 1 and number and not any(rest[1:2])
        if any(map(_here, masks)) and not filled:
            self.host_waits("a value", stream=self.stream)
        moved = [
            index if index is None or isinstance(index, OnGpu) else self._moved(index, device=CUDA)
            for index in indices
        ]
        return indexed, moved, *rest

    def _moved(self, tensor, *, device=None, non_blocking=False, **kwargs):
        to_gpu = tensor.is_cuda if device is None else is_gpu(device)
        # As torch does: what is copied to the host without waiting lands in page-locked memory.
        pin = kwargs.pop("pin_memory", False) or (non_blocking and not to_gpu)
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
        reads, writes = [source] if from_gpu else [], [out] if to_gpu else []
        if to_gpu and from_gpu:
            self.launch("copy", lambda: target.copy_(values), reads, writes)
            target.copy_(values)
            return out
        host = out if from_gpu else source
        nbytes, pinned = host.numel() * host.element_size(), self.is_pinned(host)
        us = copy_us(nbytes, pinned)
        use = self.launch("copy", None, reads, writes, us, "down" if from_gpu else "up")
        target.copy_(values)
        # Into pageable memory CUDA itself waits; out of it the driver first puts the bytes aside.
        waits = not non_blocking or (from_gpu and not pinned)
        side = "page-locked" if pinned else "pageable"
        self.copies.append(Copy("host" if from_gpu else "GPU", nbytes, side, waits, learner_line()))
        if waits:
            self.host_waits("a copy to the host" if from_gpu else "a copy from the host", stream=self.stream)
        elif pinned:
            self.found(self.order.under_way(HostCopy(use, host, values.clone(), arrives=from_gpu)))
        return out


class Everywhere(TorchDispatchMode):
    """Sees operations that make tensors out of nothing.

    Attributes:
        inert_itself: while somebody wants tensors without values and means it.
    """

    inert_itself = False

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # else torch's compiler is loaded for nothing

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        made = not self.inert_itself and any(isinstance(leaf, torch.device) and is_gpu(leaf) for leaf in flat)
        if made or any(isinstance(leaf, OnGpu) for leaf in flat):
            return Gpu.now.run(func, args, kwargs)
        if Gpu.now.order.copies and not func.is_view:
            Gpu.now.host_reads(flat, str(func))
        return func(*args, **kwargs)


class InPython(TorchFunctionMode):
    """Catches what would wake CUDA before an operation begins: `device="cuda"`, pinning."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name, gpu = dict(kwargs or {}), getattr(func, "__name__", ""), Gpu.now
        pin = bool(kwargs.pop("pin_memory", False))
        default = _device.CURRENT_DEVICE
        if kwargs.get("device") is None and is_gpu(default) and func in _device._device_constructors():
            kwargs["device"] = default
        if name == "cuda" and isinstance(args[0], OnGpu):
            return args[0]
        if name == "cuda":
            return aten._to_copy.default(args[0], device=CUDA, non_blocking=kwargs.get("non_blocking", False))
        if name == "pin_memory" and args[0].is_cuda:
            raise RuntimeError(f"cannot pin '{type_name(args[0])}' only dense CPU tensors can be pinned")
        if name == "pin_memory":
            return gpu.pin(args[0].clone())
        if name == "is_pinned":
            return gpu.is_pinned(args[0])
        if name in ("tolist", "__repr__"):
            gpu.host_reads(args[:1], name)
        if name == "new_tensor" and isinstance(args[0], OnGpu) and kwargs.get("device") is None:
            return gpu._moved(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)), device=CUDA)
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], OnGpu):
            args = (args[0], _uploaded(args[1]), *args[2:])
            masked = any(getattr(each, "dtype", None) == torch.bool for each in tree_flatten(args[1])[0])
            if masked and isinstance(args[-1], Number) and len(args) == 3:  # a number stays on the host
                args = (*args[:2], torch.tensor(args[2], dtype=args[0].dtype))
            if type(args[-1]).__name__ == "ndarray" and len(args) == 3:
                raise TypeError(f"can't assign a numpy.ndarray to a {type_name(args[0])}")
        if name == "to":
            return self._to(func, *args, **kwargs)
        shared = None
        if args and name in ("as_tensor", "asarray", "tensor"):
            shared = getattr(args[0], "tensor", None)
            if isinstance(args[0], list | tuple):  # of numbers, for each of which the host waits
                args = (tree_map(lambda leaf: leaf.tolist() if _here(leaf) else leaf, args[0]), *args[1:])
        if isinstance(shared, OnGpu):  # an array of CuPy
            return shared.clone() if name == "tensor" else shared
        device = kwargs.get("device")
        if device is not None and torch.device(device) == INERT:
            Everywhere.inert_itself = True
            try:
                return func(*args, **kwargs)
            finally:
                Everywhere.inert_itself = False
        if device is not None and is_gpu(device) and name != "_parse_to":
            learns, generator = kwargs.pop("requires_grad", False), kwargs.get("generator")
            if generator is not None and generator.device.type != "cuda":
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            made = func(*args, **{**kwargs, "device": "cpu"})
            if name in ("tensor", "as_tensor"):
                return aten._to_copy.default(made, device=CUDA).requires_grad_(learns)
            if name.startswith("empty"):
                return OnGpu(_rubbish(made)).requires_grad_(learns)
            filled = OnGpu(made)
            fresh = None if gpu.capture is None else made.clone()
            gpu.launch(name, lambda: made.copy_(fresh), [], [filled])
            return filled.requires_grad_(learns)
        args, kwargs = cast(name, args, kwargs)
        made = func(*args, **kwargs)
        return gpu.pin(made) if pin else made

    def _to(self, func, tensor, *rest: Any, **kwargs):
        like = next((each for each in (*rest, *kwargs.values()) if isinstance(each, torch.Tensor)), None)
        asked = any(is_gpu(each) for each in (*rest, kwargs.get("device"), getattr(like, "device", None)))
        if not asked or (isinstance(tensor, OnGpu) and like is None):
            rest = tuple(each for each in rest if not is_gpu(each))
            kwargs = {name: each for name, each in kwargs.items() if not is_gpu(each)}
            return func(tensor, *rest, **kwargs) if rest or kwargs else tensor
        dtype = next((each for each in rest if isinstance(each, torch.dtype)), None)
        dtype = dtype if like is None else like.dtype
        wanted = {} if dtype is None else {"dtype": dtype}
        wanted |= {name: kwargs[name] for name in ("dtype", "memory_format") if kwargs.get(name) is not None}
        return aten._to_copy.default(
            tensor, device=CUDA, non_blocking=kwargs.get("non_blocking", False), **wanted
        )


def is_gpu(value):
    """True if a value names the GPU: "cuda", "cuda:0", 0 or such a `torch.device`.

    Raises:
        GpuError: it names a second one.
    """
    if isinstance(value, bool) or not isinstance(value, torch.device | str | int):
        return False
    if isinstance(value, str) and not value.startswith("cuda"):
        return False
    device = torch.device("cuda", value) if isinstance(value, int) else torch.device(value)
    if device.type == "cuda" and device.index:
        raise GpuError(f"CUDA error: invalid device ordinal (the practice GPU is cuda:0, not {device})")
    return device.type in ("cuda", INERT.type)


def _here(value):
    return isinstance(value, OnGpu)


def _uploaded(index):
    """An index with its lists of numbers on the GPU, as torch puts them there."""
    if isinstance(index, tuple):
        return tuple(map(_uploaded, index))
    numbers = isinstance(index, list | range) and all(
        isinstance(leaf, Integral) for leaf in tree_flatten(list(index))[0]
    )
    if not numbers:
        return index
    return aten._to_copy.default(torch.tensor(list(index), dtype=None if index else torch.long), device=CUDA)


def _afterwards(func, args, kwargs):
    """The one operation left for a tensor of a GPU that is switched off: to copy it to the host."""
    to_host = func is aten._to_copy.default and torch.device(kwargs.get("device") or CUDA).type == "cpu"
    if to_host or func is aten._local_scalar_dense.default:
        return func(args[0].held, **kwargs)
    if func is aten.detach.default:
        return OnGpu(args[0].held)
    raise GpuError(
        "this tensor lies on a practice GPU that was switched off since; all that is left to do with it is "
        ".cpu(). Work on it inside the block, or make it anew"
    )


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
