"""torch.compile: PyTorch's own compiler, Inductor, with the weights frozen into the code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.models.engines.build import Engine, Request
from labkit.models.engines.eager import DTYPES, shape_up


def build(request: Request) -> Engine:
    """Compiles at the first call of each batch size, which takes a minute or more.

    Options: mode ("default", "max-autotune-no-cudagraphs", ...), and those of eager.
    """
    import torch._inductor.config as inductor

    inductor.freezing = True
    module, _ = shape_up(request)
    compiled = torch.compile(module, mode=request.options.get("mode", "default"), dynamic=False)
    dtype = DTYPES[request.precision]

    def engine(x: Tensor) -> Any:
        with torch.no_grad():  # weights are frozen under this, not in inference mode
            return compiled(x.to(dtype) if x.is_floating_point() else x)

    request.report("compiling with torch.compile (minutes the first time)")
    largest = request.batches[-1]
    engine(request.example.to(request.device).repeat(largest, *[1] * (request.example.ndim - 1)))
    return engine
