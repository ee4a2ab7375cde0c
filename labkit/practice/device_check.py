"""The errors of torch for tensors of two devices, in torch's own words."""

from __future__ import annotations

from typing import Any

import torch

_TYPES = {
    torch.float32: "Float", torch.float64: "Double", torch.float16: "Half", torch.bfloat16: "BFloat16",
    torch.uint8: "Byte", torch.int8: "Char", torch.int16: "Short", torch.int32: "Int", torch.int64: "Long",
    torch.bool: "Bool",
}  # fmt: skip


def check_one_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse an operation on tensors of host and GPU, or a convolution of two types, as CUDA does.

    Numbers (tensors without dimensions) may come from the host.

    Raises:
        RuntimeError: as torch words it.
    """
    given = list(_named_tensors(func, args, kwargs))
    if func is torch.ops.aten.convolution.default:
        _check_convolution(dict(given))
    placed = [(name, tensor.device) for name, tensor in given if tensor.ndim]
    other = next((each for each in placed if each[1].type != placed[0][1].type), None)
    if other is None:
        return
    both = "Expected all tensors to be on the same device, but "
    if torch.Tag.pointwise in func.tags:
        raise RuntimeError(f"{both}found at least two devices, {placed[0][1]} and {other[1]}!")
    name, device = other
    raise RuntimeError(
        f"{both}got {name} is on {device}, different from other tensors on {placed[0][1]} (when checking "
        f"argument in method wrapper_CUDA_{str(func).removeprefix('aten.').removesuffix('.default')})"
    )


def _check_convolution(given: dict[str, torch.Tensor]) -> None:
    for name in ("weight", "bias"):
        own, other = given["input"], given.get(name)
        if other is None or (own.is_cuda == other.is_cuda and own.dtype == other.dtype):
            continue
        end = "" if own.is_cuda else f" or input should be a MKLDNN tensor and {name} is a dense tensor"
        raise RuntimeError(
            f"Input type ({type_name(own)}) and {name} type ({type_name(other)}) should be the same{end}"
        )


def type_name(tensor: torch.Tensor) -> str:
    """Name of a tensor's type: "torch.cuda.FloatTensor"."""
    return f"torch.{'cuda.' if tensor.is_cuda else ''}{_TYPES.get(tensor.dtype, str(tensor.dtype))}Tensor"


def _named_tensors(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    names = [argument.name for argument in func._schema.arguments]
    for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, torch.Tensor):
                yield name, each
