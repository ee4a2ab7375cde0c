"""Streams, events, graphs and the functions of `torch.cuda` as the practice GPU has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from labkit.practice.gpu_tensor import Everywhere, Gpu, InPython


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
        """What comes next here waits for all that was asked of the other stream so far."""
        self.wait_event(stream.record_event())

    def wait_event(self, event):
        """What comes next here waits for the event."""
        Gpu.now.order.stream_waits(self.cuda_stream, event.number)

    def record_event(self, event=None):
        """Puts an event, a new one if none is given, onto this stream."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def query(self):
        """Always True, as it is when one asks late enough."""
        Gpu.now.host_knows(stream=self.cuda_stream)
        return True

    def synchronize(self):
        """The host waits for all that was asked of this stream."""
        Gpu.now.host_waits("a stream", stream=self.cuda_stream)


class Event:
    """A point on a stream."""

    _numbers = count(1)

    def __init__(self, enable_timing=False, blocking=False, interprocess=False):
        self.enable_timing = enable_timing
        self.number = next(Event._numbers)

    def record(self, stream=None):
        """Puts the event onto a stream, by default the current one."""
        Gpu.now.order.recorded(self.number, Gpu.now.stream if stream is None else stream.cuda_stream)

    def wait(self, stream=None):
        """What comes next on a stream, by default the current one, waits for the event."""
        (Gpu.now.streams[-1] if stream is None else stream).wait_event(self)

    def query(self):
        """Always True, as it is when one asks late enough."""
        Gpu.now.host_knows(event=self.number)
        return True

    def synchronize(self):
        """The host waits for the event."""
        Gpu.now.host_waits("an event", event=self.number)

    def elapsed_time(self, end_event):
        """Milliseconds between two events: the practice GPU has no clock yet, so 0."""
        return 0.0


class Graph:
    """Work in order, with the memory that it reads and writes."""

    def __init__(self, keep_graph=False):
        self.work: list[Any] = []

    def replay(self):
        """Does it all again; what it made before is overwritten."""
        memories = {id(memory): memory for _, reads, writes in self.work for memory in (*reads, *writes)}
        Gpu.now.done("a graph", [], list(memories.values()))
        with torch.inference_mode():
            for work, _, _ in self.work:
                work()


@contextmanager
def installed(gpu: Gpu) -> Iterator[None]:
    """`torch.cuda` works on the practice GPU until the block ends."""
    gpu.streams[:] = [Stream(number=0)]

    @contextmanager
    def stream(chosen):
        if chosen is None:
            yield
            return
        with chosen:
            yield

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
        "current_stream": lambda device=None: gpu.streams[-1],
        "default_stream": lambda device=None: gpu.streams[0], "graph_pool_handle": lambda: (0, 0),
        "get_device_properties": lambda device=0: SimpleNamespace(name=gpu.name),
        "set_sync_debug_mode": lambda mode: setattr(gpu, "sync_debug_mode", mode),
        "get_sync_debug_mode": lambda: gpu.sync_debug_mode, "memory_allocated": gpu.memory_allocated,
        "max_memory_reserved": gpu.memory_allocated,
        "get_device_name": lambda device=0: gpu.name, "_sleep": lambda cycles: None,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, replacement in instead.items():
            stack.enter_context(patch.object(torch.cuda, name, replacement))
        # Without values to share, a module moved to the GPU gets new parameters.
        stack.enter_context(patch.object(torch.__future__, "_overwrite_module_params_on_conversion", True))
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(Everywhere())
        stack.enter_context(InPython())
        stack.callback(gpu.streams.clear)
        yield
