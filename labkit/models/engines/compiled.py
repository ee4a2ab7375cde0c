"""torch.compile: PyTorch's own compiler, Inductor, with the weights frozen into the code."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from labkit.models.engines.build import Request
from labkit.models.engines.eager import DTYPES, fold_batch_norms


class CompiledEngine:
    """A compiled module behind the engine's interface."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, mode: str, device: str) -> None:
        self.module = torch.compile(module, mode=mode, dynamic=False)
        self.dtype = dtype
        self.device = device

    def __call__(self, x: Tensor) -> Any:
        """Runs the compiled module on (B, ...)."""
        if x.is_floating_point():
            x = x.to(self.dtype)
        with torch.no_grad():
            return self.module(x)


def build(request: Request) -> CompiledEngine:
    """Compiles at the first call of each batch size, which takes a minute or more.

    Options: mode ("default", "max-autotune-no-cudagraphs", ...), channels_last, fold_batch_norm.
    """
    import torch._inductor.config as inductor

    inductor.freezing = True
    module = copy.deepcopy(request.module)
    if request.options.get("fold_batch_norm"):
        fold_batch_norms(module)
    module = module.to(device=request.device, dtype=DTYPES[request.precision]).eval()
    if request.options.get("channels_last"):
        module = module.to(memory_format=torch.channels_last)
    engine = CompiledEngine(
        module, DTYPES[request.precision], request.options.get("mode", "default"), request.device
    )
    request.report("compiling with torch.compile (minutes the first time)")
    for n in request.batches[-1:]:
        engine(request.example.to(request.device).repeat(n, *[1] * (request.example.ndim - 1)))
    return engine
