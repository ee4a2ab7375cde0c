"""Convolution, bias, ReLU and residual in one call.

PyTorch adds a convolution's bias on a GPU with a kernel of its own, and so it does ReLU and the
residual: four kernels, three of which only carry the same values through memory again. cuDNN does
all four in one. On the CPU the same modules call the four operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FusedConv(nn.Module):
    """A convolution with bias, and ReLU after it.

    Args:
        conv: with zeros for padding, as all of them in a ResNet.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
        self.weight, self.bias = conv.weight, nn.Parameter(bias, requires_grad=False)
        self.how = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """ReLU(conv(x) + bias + residual); (B, I, h, w) -> (B, O, h', w')."""
        if not x.is_cuda:
            y = nn.functional.conv2d(x, self.weight, self.bias, *self.how)
            return y.relu_() if residual is None else y.add_(residual).relu_()
        if residual is None:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *self.how)
        return torch.cudnn_convolution_add_relu(x, self.weight, residual, 1.0, self.bias, *self.how)


class FusedBlock(nn.Module):
    """A block of a ResNet: convolutions, and a way around them.

    Args:
        convs: in order, with ReLU after each; the last one's comes after the residual was added.
        shortcut: convolution on the way around, or None. Its bias moves into the last of `convs`.
    """

    def __init__(self, convs: list[nn.Conv2d], shortcut: nn.Conv2d | None) -> None:
        super().__init__()
        *first, last = map(FusedConv, convs)
        self.first, self.last, self.shortcut = nn.Sequential(*first), last, shortcut
        if shortcut is not None and shortcut.bias is not None:
            last.bias.add_(shortcut.bias)
            shortcut.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, h, w) -> (B, O, h', w')."""
        return self.last(self.first(x), x if self.shortcut is None else self.shortcut(x))


def fuse_convolutions(module: nn.Module) -> int:
    """Replaces stems and blocks of ResNets by fused ones, in place; returns how many convolutions.

    Takes those of torchvision and transformers whose batch norms have been folded; whatever else
    there is stays as it is.
    """
    fused = 0
    if _is_conv_and_relu(module, "conv1", "bn1", "relu") and hasattr(module, "maxpool"):  # torchvision's stem
        module.conv1, module.relu = FusedConv(module.conv1), nn.Identity()
        fused += 1
    for name, child in list(module.named_children()):
        new = _fused(child)
        if new is None:
            fused += fuse_convolutions(child)
        else:
            setattr(module, name, new)
            fused += sum(isinstance(each, nn.Conv2d | FusedConv) for each in new.modules())
    return fused


def _fused(module: nn.Module) -> FusedBlock | FusedConv | None:
    """Replacement of a stem or block of a ResNet that does the same, or None."""
    if _is_conv_and_relu(module, "convolution", "normalization", "activation"):  # transformers' stem
        return FusedConv(module.convolution)
    parts: Any = module
    if hasattr(module, "layer") and hasattr(module, "shortcut"):  # transformers
        steps = [(step.convolution, step.normalization) for step in parts.layer]
        around = tuple(parts.shortcut.children())  # of an Identity: none
        relus = [parts.activation, *(step.activation for step in parts.layer[:-1])]
    elif hasattr(module, "conv2") and hasattr(module, "downsample"):  # torchvision
        numbers = [i for i in (1, 2, 3) if hasattr(module, f"conv{i}")]
        steps = [(getattr(parts, f"conv{i}"), getattr(parts, f"bn{i}")) for i in numbers]
        around = () if parts.downsample is None else tuple(parts.downsample)
        relus = [parts.relu]
    else:
        return None
    pairs = [*steps, around] if around else steps
    if not all(_is_folded(*pair) for pair in pairs) or not all(isinstance(relu, nn.ReLU) for relu in relus):
        return None
    return FusedBlock([conv for conv, _ in steps], around[0] if around else None)


def _is_conv_and_relu(module: nn.Module, conv: str, norm: str, relu: str) -> bool:
    parts = [getattr(module, name, None) for name in (conv, norm, relu)]
    return _is_folded(*parts[:2]) and isinstance(parts[2], nn.ReLU)


def _is_folded(*pair: Any) -> bool:
    """True for a convolution and what is left of its batch norm."""
    return len(pair) == 2 and isinstance(pair[0], nn.Conv2d) and isinstance(pair[1], nn.Identity)
