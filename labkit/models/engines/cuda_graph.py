"""A whole forward pass recorded once as a CUDA graph and replayed with one launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labkit.core.errors import UnavailableError
from labkit.models.engines.build import Request, as_module_output
from labkit.models.engines.eager import DTYPES, convolutions_timed, shape_up

WARM_UP = 5
SLOTS = (1, 2, 4, 8, 16)
"""Batch sizes that are captured; a batch between two of them is padded to the larger."""


def slots_for(most: int) -> tuple[int, ...]:
    """The slots that batches of 1 to `most` need; larger ones than the last go through it in parts."""
    return tuple(slot for slot in SLOTS if slot < 2 * most)


class CudaGraphEngine:
    """Replays a captured pass; a batch takes the next slot that holds it."""

    def __init__(
        self, module: nn.Module, example: Tensor, slots: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.module = module
        self.dtype = dtype
        self._pool = torch.cuda.graph_pool_handle()
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
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(WARM_UP):  # libraries choose their kernels and make room before they are recorded
                self.module(static_in)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # What other threads ask of the GPU meanwhile, as in a notebook, is no business of the capture.
        capture = torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local")
        with torch.inference_mode(), capture:
            out = self.module(static_in)
        return graph, static_in, out if isinstance(out, tuple) else (out,)


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
