"""The guided filter in numba's CUDA Python: a thread per value, in the words of NumPy.

The steps are those of `kernels/guided_1_global.cu`. With NUMBA_ENABLE_CUDASIM=1 set before the import the
kernels run on the CPU, in numba's simulator.
"""

from __future__ import annotations

from typing import Any

import numba.cuda
import numpy as np
import torch
from numpy.typing import NDArray

from labkit.core.errors import UnavailableError
from labkit.filters.torch_filter import on_device

Image = NDArray[np.uint8]

cuda: Any = numba.cuda
config: Any = numba.config
SIMULATED = bool(config.ENABLE_CUDASIM)
BLOCK = (32, 8, 1)


@cuda.jit
def coefficients(image: Any, a: Any, b: Any, radius: int, eps: Any) -> None:
    """The line of each window: a and b of its fit."""
    x, y, c = cuda.grid(3)
    height, width = image.shape[:2]
    if x >= width or y >= height:
        return
    left, right = max(x - radius, 0), min(x + radius, width - 1)
    top, bottom = max(y - radius, 0), min(y + radius, height - 1)
    total, squares = 0, 0
    for v in range(top, bottom + 1):
        for u in range(left, right + 1):
            value = int(image[v, u, c])
            total += value
            squares += value * value
    count = np.float32((right - left + 1) * (bottom - top + 1))
    mean = np.float32(total) / count
    variance = max(np.float32(squares) / count - mean * mean, np.float32(0))
    slope = variance / (variance + eps)
    a[y, x, c] = slope
    b[y, x, c] = mean - slope * mean


@cuda.jit
def apply(image: Any, a: Any, b: Any, out: Any, radius: int) -> None:
    """The means of a and b over the windows that hold a value, and its result."""
    x, y, c = cuda.grid(3)
    height, width = image.shape[:2]
    if x >= width or y >= height:
        return
    left, right = max(x - radius, 0), min(x + radius, width - 1)
    top, bottom = max(y - radius, 0), min(y + radius, height - 1)
    sum_a, sum_b = np.float32(0), np.float32(0)
    for v in range(top, bottom + 1):
        for u in range(left, right + 1):
            sum_a += a[v, u, c]
            sum_b += b[v, u, c]
    count = np.float32((right - left + 1) * (bottom - top + 1))
    q = (sum_a * np.float32(image[y, x, c]) + sum_b) / count
    out[y, x, c] = np.uint8(min(max(q, np.float32(0)), np.float32(255)) + np.float32(0.5))


def guided_tensor(image: torch.Tensor, radius: int, eps: float) -> torch.Tensor:
    """Guided filter of each channel by itself, on torch's current stream.

    Args:
        image: (H, W, C) uint8, contiguous, on the GPU; on the CPU in the simulator.
        radius: px.
        eps: in squared intensity of images in [0, 1].

    Returns:
        (H, W, C) uint8.

    Raises:
        UnavailableError: numba cannot use a GPU here.
    """
    if not SIMULATED and not cuda.is_available():
        raise UnavailableError(
            "numba's CUDA sees no GPU or lacks a part of CUDA; pip install 'numba-cuda[cu13]' "
            "([cu12] for a driver of CUDA 12)"
        )
    height, width, channels = image.shape
    a, b = (torch.empty(image.shape, dtype=torch.float32, device=image.device) for _ in range(2))
    out = torch.empty_like(image)
    pixels, slopes, offsets, result = (
        each.numpy() if SIMULATED else cuda.as_cuda_array(each) for each in (image, a, b, out)
    )
    grid = -(-width // BLOCK[0]), -(-height // BLOCK[1]), channels
    stream = 0 if SIMULATED else cuda.external_stream(torch.cuda.current_stream().cuda_stream)
    coefficients[grid, BLOCK, stream](pixels, slopes, offsets, radius, np.float32(eps * 255**2))
    apply[grid, BLOCK, stream](pixels, slopes, offsets, result, radius)
    return out


def guided(image: Image, radius: int, eps: float) -> Any:
    """`guided_tensor` for arrays: with an upload and a download."""
    device = "cpu" if SIMULATED else "cuda"
    return on_device(device, lambda tensor, _: guided_tensor(tensor, radius, eps), image, None)
