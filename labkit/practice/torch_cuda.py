"""Streams, events, graphs and the functions of `torch.cuda` as the practice GPU has them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import serialization
from torch.utils import _device

from labkit.practice.gpu_tensor import CUDA, Everywhere, Gpu, InPython, OnGpu, is_gpu
from labkit.practice.time_model import ModelledMs

MEMORY_BYTES = 8 * 2**30
"""Of the practice GPU, as `torch.cuda.mem_get_info` tells it; nothing stops at it."""


class Stream:
    """A queue of work."""

    _numbers = count(1)

    def __init__(self, device=None, priority=0, *, number=None):
        self.cuda_stream = next(Stream._numbers) if number is None else number
        self.device, self.priority = torch.device("cuda", 0), priority

    def __repr__(self):
        return f"<practice stream {self.cuda_stream}>"

    def __enter__(self):
        Gpu.now.streams.append(self)
        return self

    def __exit__(self, *error):
        Gpu.now.streams.pop()

    def wait_stream(self, stream):
        """Makes what comes next here wait for all that was asked of the other stream so far."""
        self.wait_event(stream.record_event())

    def wait_event(self, event):
        """Makes what comes next here wait for the event."""
        Gpu.now.stream_waits(self.cuda_stream, event.number)

    def record_event(self, event=None):
        """Puts an event, a new one if none is given, onto this stream."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def query(self):
        """Always True, as it is when one asks late enough."""
        Gpu.now.host_knows(stream=self.cuda_stream)
        return True

    def is_capturing(self):
        """True while a graph is recorded."""
        return Gpu.now.capture is not None

    def synchronize(self):
        """The host waits for all that was asked of this stream."""
        Gpu.now.host_waits("a stream", stream=self.cuda_stream)


class Event:
    """A point on a stream."""

    _numbers = count(1)

    def __init__(self, enable_timing=False, blocking=False, interprocess=False):
        self.enable_timing = enable_timing
        self.number = next(Event._numbers)
        self._last_before: tuple[int, int] | None = None

    def record(self, stream=None):
        """Puts the event onto a stream, by default the current one."""
        on = Gpu.now.stream if stream is None else stream.cuda_stream
        Gpu.now.recorded(self.number, on)
        self._last_before = (on, Gpu.now.order.last(on))

    def wait(self, stream=None):
        """Makes what comes next on a stream, by default the current one, wait for the event."""
        (Gpu.now.streams[-1] if stream is None else stream).wait_event(self)

    def query(self):
        """Always True, as it is when one asks late enough."""
        Gpu.now.host_knows(event=self.number)
        return True

    def synchronize(self):
        """The host waits for the event."""
        Gpu.now.host_waits("an event", event=self.number)

    def elapsed_time(self, end_event: Event) -> ModelledMs:
        """Milliseconds between two events by the model of `labkit.practice.time_model`.

        Raises:
            ValueError: as torch raises it: an event without timing, not recorded, or not over yet.
        """
        events = (self, end_event)
        if not all(event.enable_timing for event in events):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if any(event._last_before is None for event in events):
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if not all(Gpu.now.order.host_knows(*(event._last_before or ())) for event in events):
            raise ValueError("Both events must be completed before calculating elapsed time.")
        Gpu.now.timed = True
        return Gpu.now.model.between(self.number, end_event.number)


class Generator(torch.Generator):
    """Random numbers of a device; those of the practice GPU come from the host's."""

    on_gpu: bool

    def __new__(cls, device: Any = "cpu") -> Generator:
        """One for "cuda" too."""
        made: Any = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.on_gpu = is_gpu(device)
        return made

    def __init__(self, device="cpu"): ...

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it was asked for."""
        return torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")


class Graph:
    """Work in order, with the memory that it reads and writes."""

    def __init__(self, keep_graph=False):
        self.work: Any = None

    def capture_begin(self, *pool, **options):
        """Keeps what comes next."""
        if not Gpu.now.stream:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        Gpu.now.capture = []

    def capture_end(self):
        """Keeps no more."""
        self.work, Gpu.now.capture = Gpu.now.capture, None

    def reset(self):
        """Forgets it all."""
        self.work = None

    def pool(self):
        """Of its memory; all graphs here have the same."""
        return 0, 0

    def replay(self):
        """Does it all again; what it made before is overwritten."""
        if self.work is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        memories = {id(each): each for _, reads, writes, _ in self.work for each in (*reads, *writes)}
        us = sum(us for *_, us in self.work)
        Gpu.now.done("a graph", [], list(memories.values()), us, kernels=len(self.work))
        with torch.inference_mode():
            for work, *_ in self.work:
                work()


def _compile(model=None, **options):
    """In place of `torch.compile`: nothing is compiled."""
    if model is None:
        return _compile
    warnings.warn(
        "the practice GPU compiles nothing: torch.compile leaves this as it is, and launches are counted "
        "without fusion; a real GPU, or the CPU outside of this block, compiles it",
        stacklevel=2,
    )
    return model


def _tagging(location_tag):
    """Location of a storage in a file: that of the practice GPU for its own."""
    return lambda storage: str(CUDA) if Gpu.now.has(storage) else location_tag(storage)


def _restoring(restore):
    """Notes which of a file's storages belong onto the practice GPU; their tensors are put there."""

    def restored(storage, location):
        if not str(location).startswith("cuda"):
            return restore(storage, location)
        serialization._validate_device(location, "cuda")
        storage.is_for_gpu = True
        return storage

    return restored


def _rebuilding(rebuild):
    """A tensor from a file's storage, on the practice GPU where it belongs."""

    def rebuilt(storage, *how):
        tensor = rebuild(storage, *how)
        if not getattr(storage._untyped_storage, "is_for_gpu", False):
            return tensor
        tensor.cuda()  # counted as the copy that it is; some files tell the values later
        return OnGpu(tensor)

    return rebuilt


def _default_device(chosen, func, types, args=(), kwargs=None):
    """The mode that chooses a device; for `torch.set_default_device`, `InPython` does it."""
    if chosen.device is _device.CURRENT_DEVICE and is_gpu(chosen.device):
        return func(*args, **(kwargs or {}))
    return _chosen(chosen, func, types, args, kwargs)


def _no_default_gpu():
    if is_gpu(_device.CURRENT_DEVICE):
        torch.set_default_device(None)


_chosen = _device.DeviceContext.__torch_function__


def _in_modes():
    """A thread's first function, which sees the practice GPU, too."""
    begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def begins(thread):
        with Everywhere(), InPython():
            begin(thread)

    return begins


@contextmanager
def installed(gpu: Gpu) -> Iterator[None]:
    """`torch.cuda` works on the practice GPU until the block ends."""
    gpu.default_stream = Stream(number=0)

    @contextmanager
    def stream(chosen):
        if chosen is None:
            yield
            return
        with chosen:
            yield

    @contextmanager
    def graph(made, pool=None, stream=None, capture_error_mode="global", **options):
        gpu.capture = []
        try:
            yield
            made.capture_end()
        finally:
            gpu.capture = None

    instead = {
        "is_available": lambda: True, "is_initialized": lambda: True, "current_device": lambda: 0,
        "device_count": lambda: 1, "synchronize": lambda device=None: gpu.host_waits("everything"),
        "Stream": Stream, "Event": Event, "CUDAGraph": Graph, "graph": graph, "stream": stream,
        "current_stream": lambda device=None: gpu.streams[-1],
        "set_stream": lambda stream: gpu.streams.__setitem__(-1, stream),
        "ExternalStream": lambda stream_ptr, device=None: Stream(number=stream_ptr),
        "default_stream": lambda device=None: gpu.default_stream, "graph_pool_handle": lambda: (0, 0),
        "get_device_properties": lambda device=0: SimpleNamespace(
            name=gpu.name, major=8, minor=0, total_memory=MEMORY_BYTES, multi_processor_count=1
        ),
        "get_device_capability": lambda device=0: (8, 0), "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda device=None: (MEMORY_BYTES - gpu.memory_allocated(), MEMORY_BYTES),
        "max_memory_allocated": gpu.max_memory_allocated, "memory_reserved": gpu.memory_allocated,
        "reset_peak_memory_stats": gpu.reset_peak_memory_stats, "empty_cache": lambda: None,
        "ipc_collect": lambda: None, "init": lambda: None, "set_device": lambda device: None,
        "manual_seed": torch.default_generator.manual_seed,
        "manual_seed_all": lambda seed: None,  # torch.manual_seed calls it after its own
        "default_generators": (torch.default_generator,),
        "memory_summary": lambda *_, **__: f"{gpu.memory_allocated()} bytes in use",
        "memory_stats": lambda device=None: {
            "allocated_bytes.all.current": gpu.memory_allocated(),
            "allocated_bytes.all.peak": gpu.max_memory_allocated(),
        },
        "_exchange_device": lambda index: 0, "_maybe_exchange_device": lambda index: 0,
        "is_current_stream_capturing": lambda: gpu.capture is not None,
        "set_sync_debug_mode": lambda mode: setattr(gpu, "sync_debug_mode", mode),
        "get_sync_debug_mode": lambda: gpu.sync_debug_mode, "memory_allocated": gpu.memory_allocated,
        "max_memory_reserved": gpu.max_memory_allocated,
        "get_device_name": lambda device=0: gpu.name, "_sleep": lambda cycles: None,
    }  # fmt: skip
    on_accelerator = {
        "current_device_index": instead["current_device"], "get_memory_info": instead["mem_get_info"],
        "set_device_index": instead["set_device"],
        **{name: each for name, each in instead.items() if name in torch.accelerator.__all__},
    }  # fmt: skip
    with ExitStack() as stack:
        stack.callback(_no_default_gpu)
        for room, contents in ((torch.cuda, instead), (torch.accelerator, on_accelerator)):
            for name, replacement in contents.items():
                stack.enter_context(patch.object(room, name, replacement))
        for owner, name, replacement in (
            (torch, "Generator", Generator), (_device.DeviceContext, "__torch_function__", _default_device),
            (torch._C, "_cuda_getDevice", lambda: 0),
            (serialization, "location_tag", _tagging(serialization.location_tag)),
            (serialization, "default_restore_location", _restoring(serialization.default_restore_location)),
            (torch._utils, "_rebuild_tensor", _rebuilding(torch._utils._rebuild_tensor)),
            (torch.backends.cudnn, "is_acceptable", lambda tensor: False),
            (torch, "compile", _compile), (threading.Thread, "_bootstrap_inner", _in_modes()),
        ):  # fmt: skip
            stack.enter_context(patch.object(owner, name, replacement))
        # Without values to share, a module moved to the GPU gets new parameters.
        stack.enter_context(patch.object(torch.__future__, "_overwrite_module_params_on_conversion", True))
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(Everywhere())
        stack.enter_context(InPython())
        gpu.on = True
        stack.callback(setattr, gpu, "on", False)
        yield
