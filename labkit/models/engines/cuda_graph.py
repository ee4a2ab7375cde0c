"""A whole forward pass recorded once as a CUDA graph and replayed with one launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from labkit.core.errors import UnavailableError
from labkit.models.engines.build import Request, as_module_output
from labkit.models.engines.eager import DTYPES, convolutions_timed, shape_up

WARM_UP = 5
SLOTS = (1, 2, 4, 8, 16)
"""Batch sizes that are captured; a batch between two of them is padded to the larger."""


def slots_for(most: int) -> tuple[int, ...]:
    """The slots that batches of 1 to `most` need; larger ones than the last go through it in parts."""
    return tuple(slot for slot in SLOTS if slot < 2 * most)


class HostValues(TorchFunctionMode):
    """Values that the host reads from the GPU or uploads to it in a pass: noted, or repeated.

    A captured pass may do neither. With inputs of one size networks ask the same each time: is anything
    padded, do the sizes fit?

    Args:
        repeated: what another pass has noted; None notes.
    """

    def __init__(self, repeated: list[Any] | None = None) -> None:
        super().__init__()
        self.noted: list[Any] = []
        self._repeated = None if repeated is None else iter(repeated)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        here = bool(args) and _on_gpu(args[0])
        uploads = name in UPLOADS and not here and any(map(_on_gpu, (*args[1:], *kwargs.values())))
        if not uploads and not (here and name in READS):
            return func(*args, **kwargs)
        value = func(*args, **kwargs) if self._repeated is None else next(self._repeated)
        self.noted.append(value)
        return value.clone() if uploads else value  # which the network may change


READS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__")
UPLOADS = ("tensor", "as_tensor", "to")


def _on_gpu(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_cuda
    return isinstance(value, str | torch.device) and str(value).startswith("cuda")


class CudaGraphEngine:
    """Replays a captured pass; a batch takes the next slot that holds it."""

    def __init__(
        self, module: nn.Module, example: Tensor, slots: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.module = module
        self.dtype = dtype
        self._uploaded: list[Any] = []  # which the graphs read
        self._pool = torch.cuda.graph_pool_handle()
        # Its own: the room that cuBLAS works in belongs to a stream, and two engines may run at once.
        self._stream = torch.cuda.Stream()
        self._captured = {n: self._capture(example, n) for n in sorted(slots, reverse=True)}
        self._sizes = sorted(self._captured)

    def __call__(self, x: Tensor) -> Any:
        """Copies (B, ...) into the captured input, replays, and copies the outputs out.

        The copies stay on the device and on the current stream; the outputs are the caller's
        own, so a later replay does not overwrite them.
        """
        return as_module_output(self._outputs(x))

    def _outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        n = len(x)
        size = next((s for s in self._sizes if s >= n), self._sizes[-1])
        if n > size:
            parts = [self._outputs(part) for part in x.split(size)]
            return tuple(torch.cat(outs) for outs in zip(*parts, strict=True))
        graph, static_in, static_out = self._captured[size]
        static_in[:n].copy_(x, non_blocking=True)
        with torch.inference_mode():  # in which the graph's own memory was made
            graph.replay()
        return tuple(out[:n].clone() if len(out) == size else out.clone() for out in static_out)

    def _capture(self, example: Tensor, n: int) -> tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, ...]]:
        dtype = self.dtype if example.is_floating_point() else example.dtype
        static_in = torch.zeros(n, *example.shape[1:], dtype=dtype, device="cuda")
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            passes = []
            for _ in range(WARM_UP):  # libraries choose their kernels and make room before they are recorded
                static_in.normal_() if static_in.is_floating_point() else static_in.random_(0, 256)
                passes.append(self._pass(static_in)[1])
            # What is kept for all frames is made in the first pass.
            read = [[v.tolist() if isinstance(v, Tensor) else v for v in noted] for noted in passes[1:]]
        if any(values != read[0] for values in read):
            raise UnavailableError(
                f"the host reads values that depend on the frame (first {read[0]}, last {read[-1]}), which a "
                "CUDA graph cannot hold: take a rung without one, such as half_cuda"
            )
        torch.cuda.current_stream().wait_stream(self._stream)
        kept = [v.clone() if isinstance(v, Tensor) else v for v in passes[-1]]
        torch.cuda.synchronize()  # what the warm-up made may be freed, and a capture begins with it anyway
        graph = torch.cuda.CUDAGraph()
        # What other threads ask of the GPU meanwhile, as in a notebook, is no business of the capture.
        capture = torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        with torch.inference_mode(), capture:
            out, _ = self._pass(static_in, kept)
        self._uploaded.append(kept)
        return graph, static_in, out if isinstance(out, tuple) else (out,)

    def _pass(self, x: Tensor, repeated: list[Any] | None = None) -> tuple[Any, list[Any]]:
        """The module's outputs, and what the host read and uploaded meanwhile."""
        if hasattr(self.module, "_orig_mod"):  # compiled for good before the first pass is over
            return self.module(x), []
        with HostValues(repeated) as values:
            return self.module(x), values.noted


def build(request: Request) -> CudaGraphEngine:
    """Captures one graph per slot; options as for eager, plus compile (a mode, or None).

    Raises:
        UnavailableError: there is no GPU.
    """
    if request.device != "cuda" or not torch.cuda.is_available():
        raise UnavailableError("CUDA graphs need an NVIDIA GPU")
    module, memory_format = shape_up(request)
    del memory_format  # a module in channels-last keeps its activations so
    mode = request.options.get("compile")
    if mode is not None:
        request.report("compiling for this GPU, once (minutes)")
        module = torch.compile(module, mode=mode, fullgraph=False)
    with convolutions_timed(bool(request.options.get("time_convolutions"))):
        return CudaGraphEngine(
            module, request.example, slots_for(max(request.batches)), DTYPES[request.precision]
        )
