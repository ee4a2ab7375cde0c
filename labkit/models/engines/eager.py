"""PyTorch as it is: one operator after the other."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from labkit.models.engines.build import Engine, Request
from labkit.models.fused_convolutions import fuse_convolutions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class EagerEngine:
    """Runs a module under inference mode, its input in the module's precision and memory format."""

    def __init__(
        self, module: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format, timed: bool = False
    ) -> None:
        self.module = module
        self.dtype = dtype
        self.memory_format = memory_format
        self._timed = timed

    def __call__(self, x: Tensor) -> Any:
        """Runs the module on (B, ...)."""
        with torch.inference_mode(), convolutions_timed(self._timed):
            if x.is_floating_point():  # bytes of a whole frame have their channels last as they are
                x = x.to(self.dtype)
                if x.ndim == 4 and self.memory_format is torch.channels_last:
                    x = x.contiguous(memory_format=torch.channels_last)
            return self.module(x)


def build(request: Request) -> Engine:
    """Eager PyTorch; options: fold_batch_norm, fused_convolutions, channels_last, time_convolutions."""
    module, memory_format = shape_up(request)
    timed = bool(request.options.get("time_convolutions"))
    if request.precision == "fp32" and memory_format is torch.contiguous_format and not timed:
        return torch.inference_mode()(module)  # inputs come as such a module wants them
    return EagerEngine(module, DTYPES[request.precision], memory_format, timed)


@contextmanager
def convolutions_timed(wanted: bool) -> Iterator[None]:
    """On a GPU: cuDNN times its kernels for each new shape of convolution and keeps the fastest.

    Else it goes by rules of thumb. Worth its time where all frames have one size.
    """
    if not wanted:
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def shape_up(request: Request) -> tuple[nn.Module, torch.memory_format]:
    """The module in the asked precision, memory format and place; the original stays untouched."""
    module = copy.deepcopy(request.module)
    if request.options.get("fold_batch_norm"):
        fold_batch_norms(module)
    if request.options.get("fused_convolutions"):
        fuse_convolutions(module)
    memory_format = torch.channels_last if request.options.get("channels_last") else torch.contiguous_format
    module = module.to(device=request.device, dtype=DTYPES[request.precision])
    if memory_format is torch.channels_last:
        module = module.to(memory_format=torch.channels_last)
    return module.eval(), memory_format


def fold_batch_norms(module: nn.Module) -> int:
    """Merges each batch norm into the convolution before it, in place; returns how many.

    In eval mode a batch norm is a multiply and an add per channel, so it can be part of the
    convolution's weights. Known by what it holds, not by its name (transformers has a frozen one
    for each family), wherever it directly follows a convolution in the order of its parent's
    children. A convolution without a norm to fold stays as it is.
    """
    folded = 0
    for parent in module.modules():
        previous: nn.Conv2d | None = None
        for name, child in list(parent.named_children()):
            if previous is not None and is_batch_norm(child) and len(child.weight) == previous.out_channels:
                _fold(previous, child)
                setattr(parent, name, nn.Identity())
                folded += 1
            if not isinstance(child, nn.Identity):
                previous = child if isinstance(child, nn.Conv2d) else None
    return folded


def is_batch_norm(module: nn.Module) -> bool:
    """True for a norm with fixed statistics per channel: scale, shift, mean and variance."""
    parts = ("weight", "bias", "running_mean", "running_var")
    values = [getattr(module, part, None) for part in parts]
    return all(isinstance(v, Tensor) and v.ndim == 1 and len(v) == len(values[0]) for v in values)


def _fold(conv: nn.Conv2d, norm: Any) -> None:
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, _eps(norm), norm.weight, norm.bias
    )
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)


def _eps(norm: nn.Module) -> float:
    """Term that the norm adds to its variance: its attribute, or measured where it is a constant in its code.

    For an input of ones after zero mean, the output is weight / sqrt(variance + eps): set variance to
    zero in a copy, and the output tells eps.
    """
    if hasattr(norm, "eps"):
        return float(norm.eps)
    probe = copy.deepcopy(norm).float()
    with torch.no_grad():
        for part, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 0.0)):
            getattr(probe, part).fill_(value)
        return float(probe(torch.ones(1, len(probe.weight), 1, 1)).flatten()[0] ** -2)
