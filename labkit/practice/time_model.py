"""A model of the time that work on a GPU takes: worked out, never measured.

The practice GPU has no speed of its own. Its events tell what this model works out for a GPU of
moderate size, so that one can see what an event measures, what hides behind what, and what a clock
without `synchronize` misses. No figure of it says how fast a real GPU is.

- The host needs 5 us to launch an operation, and does not wait for it.
- An operation takes as long as the longer of its arithmetic (10 TFLOP/s; 20 in half precision)
  and its memory traffic (300 GB/s, each tensor once), and at least 2 us.
- A copy between host and GPU takes 10 us and its bytes (12 GB/s; 6 GB/s where memory is pageable).
- Work of one stream runs in order. Work of different streams: operations one at a time, copies
  beside them, one in each direction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

LAUNCH_US = 5.0
SHORTEST_US = 2.0
COPY_US = 10.0
FLOP_PER_US = 10e6
BYTES_PER_US = 300e3
PINNED_BYTES_PER_US = 12e3
PAGEABLE_BYTES_PER_US = 6e3

HALF = {torch.float16, torch.bfloat16}

SENTENCE = (
    "Times are a model, not a measurement: 5 us of the host per launch; an operation takes the longer of its "
    "arithmetic at 10 TFLOP/s (half precision 20) and its memory traffic at 300 GB/s, at least 2 us; a copy "
    "takes 10 us and its bytes at 12 GB/s, or 6 GB/s from or to pageable memory."
)


def _fused_convolution(_x: Any, weight: torch.Tensor, *_: Any, out_val: torch.Tensor) -> int:
    return 2 * out_val.numel() * weight[0].numel()


_FLOPS = flop_registry | dict.fromkeys(
    (torch.ops.aten.cudnn_convolution_relu, torch.ops.aten.cudnn_convolution_add_relu), _fused_convolution
)


def _marked(name: str) -> Callable[..., Any]:
    """That arithmetic of a float, whose result is a modelled time again."""
    return lambda self, *other: ModelledMs(getattr(float(self), f"__{name}__")(*other))


class ModelledMs(float):
    """Milliseconds that were worked out; says so wherever it is shown."""

    def __repr__(self) -> str:
        return f"{float(self):.4g} (a model, not measured)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return f"{format(float(self), spec or '.4g')} (model)"

    __add__, __radd__, __sub__, __rsub__, __mul__, __rmul__, __truediv__, __neg__, __abs__, __round__ = (
        _marked(name)
        for name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "neg", "abs", "round")
    )


class ModelClock:
    """The clocks of host, streams and engines, in microseconds since the start.

    Attributes:
        host_us: where the host is.
    """

    def __init__(self) -> None:
        self.host_us = 0.0
        self._streams: dict[int, float] = defaultdict(float)
        self._engines: dict[str, float] = defaultdict(float)
        self._events: dict[int, float] = {}

    def works(self, stream: int, us: float, engine: str) -> None:
        """The host launches something on a stream; `engine` is "compute", "up" or "down"."""
        self.host_us += LAUNCH_US
        begins = max(self.host_us, self._streams[stream], self._engines[engine])
        self._streams[stream] = self._engines[engine] = begins + us

    def recorded(self, event: int, stream: int) -> None:
        """An event is put onto a stream."""
        self._events[event] = max(self._streams[stream], self.host_us)

    def stream_waits(self, stream: int, event: int) -> None:
        """Makes what comes next on the stream begin after the event."""
        self._streams[stream] = max(self._streams[stream], self._events.get(event, 0.0))

    def host_waits(self, *, stream: int | None = None, event: int | None = None) -> None:
        """The host waits for an event, a stream, or everything."""
        if event is not None:
            over = self._events.get(event, 0.0)
        elif stream is not None:
            over = self._streams[stream]
        else:
            over = max(self._streams.values(), default=0.0)
        self.host_us = max(self.host_us, over)

    def between(self, first: int, second: int) -> ModelledMs:
        """Milliseconds between two events."""
        return ModelledMs((self._events[second] - self._events[first]) / 1000)


def operation_us(func: Any, args: Any, kwargs: Any, result: Any, tensors: list[torch.Tensor]) -> float:
    """Microseconds of an operation on these tensors, its results among them."""
    count = _FLOPS.get(getattr(func, "overloadpacket", None))
    flops = count(*args, **kwargs, out_val=result) if count is not None else 0
    half = any(tensor.dtype in HALF for tensor in tensors)
    return max(flops / (FLOP_PER_US * (2 if half else 1)), traffic_us(tensors))


def traffic_us(tensors: list[torch.Tensor]) -> float:
    """Microseconds to read or write each of these tensors once."""
    nbytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return max(nbytes / BYTES_PER_US, SHORTEST_US)


def copy_us(nbytes: int, pinned: bool) -> float:
    """Microseconds of a copy between host and GPU."""
    return COPY_US + nbytes / (PINNED_BYTES_PER_US if pinned else PAGEABLE_BYTES_PER_US)
