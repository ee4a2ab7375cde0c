"""The guided filter in Triton: a program works on a block of values, and guards are masks.

The steps are those of `kernels/guided_1_global.cu`. With TRITON_INTERPRET=1 set before the import the
kernels run on the CPU, in NumPy.
"""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labkit.core.errors import UnavailableError
from labkit.filters.torch_filter import on_device

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

Image = NDArray[np.uint8]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BLOCK = {"rows": 8, "columns": 128}

if triton is not None:

    @triton.jit
    def coefficients(
        image, a, b, height, width, channels, eps,
        radius: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
    ):  # fmt: skip
        """The line of each window: a and b of its fit."""
        y = tl.program_id(1) * rows + tl.arange(0, rows)[:, None]  # (rows, 1)
        i = tl.program_id(0) * columns + tl.arange(0, columns)[None, :]  # (1, columns) values of a row
        total = tl.full((rows, columns), 0, tl.int32)
        squares = tl.full((rows, columns), 0, tl.int32)
        count = tl.full((rows, columns), 0, tl.int32)
        row = width * channels
        for v in range(-radius, radius + 1):
            for u in range(-radius, radius + 1):
                at = i + u * channels
                inside = (at >= 0) & (at < row) & (y + v >= 0) & (y + v < height)
                value = tl.load(image + (y + v) * row + at, mask=inside, other=0).to(tl.int32)
                total += value
                squares += value * value
                count += inside.to(tl.int32)
        mean = total.to(tl.float32) / tl.maximum(count, 1)
        variance = tl.maximum(squares.to(tl.float32) / tl.maximum(count, 1) - mean * mean, 0.0)
        slope = variance / (variance + eps)
        here = (i < row) & (y < height)
        tl.store(a + y * row + i, slope, mask=here)
        tl.store(b + y * row + i, mean - slope * mean, mask=here)

    @triton.jit
    def apply(
        image, a, b, out, height, width, channels,
        radius: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
    ):  # fmt: skip
        """The means of a and b over the windows that hold a value, and its result."""
        y = tl.program_id(1) * rows + tl.arange(0, rows)[:, None]
        i = tl.program_id(0) * columns + tl.arange(0, columns)[None, :]
        sum_a = tl.full((rows, columns), 0.0, tl.float32)
        sum_b = tl.full((rows, columns), 0.0, tl.float32)
        count = tl.full((rows, columns), 0, tl.int32)
        row = width * channels
        for v in range(-radius, radius + 1):
            for u in range(-radius, radius + 1):
                at = i + u * channels
                inside = (at >= 0) & (at < row) & (y + v >= 0) & (y + v < height)
                sum_a += tl.load(a + (y + v) * row + at, mask=inside, other=0.0)
                sum_b += tl.load(b + (y + v) * row + at, mask=inside, other=0.0)
                count += inside.to(tl.int32)
        here = (i < row) & (y < height)
        value = tl.load(image + y * row + i, mask=here, other=0).to(tl.float32)
        q = (sum_a * value + sum_b) / tl.maximum(count, 1)
        rounded = tl.minimum(tl.maximum(q, 0.0), 255.0) + 0.5
        tl.store(out + y * row + i, rounded.to(tl.uint8), mask=here)


def guided_tensor(image: torch.Tensor, radius: int, eps: float) -> torch.Tensor:
    """Guided filter of each channel by itself, on torch's current stream.

    Args:
        image: (H, W, C) uint8, contiguous, on the GPU; on the CPU where Triton is interpreted.
        radius: px.
        eps: in squared intensity of images in [0, 1].

    Returns:
        (H, W, C) uint8.

    Raises:
        UnavailableError: there is no Triton, or no real GPU for it.
    """
    if triton is None:
        raise UnavailableError("there is no package triton; with torch for Linux it comes along")
    if not INTERPRETED and type(image) is not torch.Tensor:
        raise UnavailableError("Triton compiles for a real GPU only; TRITON_INTERPRET=1 runs it on the CPU")
    height, width, channels = image.shape
    a, b = (torch.empty(image.shape, dtype=torch.float32, device=image.device) for _ in range(2))
    out = torch.empty_like(image)
    grid = triton.cdiv(width * channels, BLOCK["columns"]), triton.cdiv(height, BLOCK["rows"])
    eps_gray2 = eps * 255**2
    coefficients[grid](image, a, b, height, width, channels, eps_gray2, radius=radius, **BLOCK)
    apply[grid](image, a, b, out, height, width, channels, radius=radius, **BLOCK)
    return out


def guided(image: Image, radius: int, eps: float) -> Any:
    """`guided_tensor` for arrays: with an upload and a download."""
    device = "cpu" if INTERPRETED else "cuda"
    return on_device(device, lambda tensor, _: guided_tensor(tensor, radius, eps), image, None)
