"""The filters in float64, as plainly as the paper states them.

Every other version is compared with these. Symbols are those of He, Sun and Tang,
"Guided Image Filtering" (ECCV 2010; IEEE TPAMI 35(6), 2013): I is the guide, p the input,
q the output, q_i = mean_a_i * I_i + mean_b_i.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

GRAY_LEVELS = 255.0
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
"""Statistics of ImageNet's pictures in RGB, with which networks' inputs are normalised."""


def box_mean(values: Floats, radius: int) -> Floats:
    """Mean over the (2 radius + 1)^2 window around each pixel, clipped to the image.

    A window that hangs over the border holds fewer pixels, and the mean divides by the number
    that it really holds, as the paper's `boxfilter(X, r) ./ boxfilter(ones, r)` does.

    Args:
        values: (H, W, C).
        radius: px; may exceed the image.

    Returns:
        (H, W, C) float64.
    """
    return _sliding_mean(_sliding_mean(values, radius, axis=0), radius, axis=1)


def guided(image: Image, radius: int, eps: float, guide: Image | None = None) -> Image:
    """Guided filter of each channel, by itself or by a gray guide.

    Args:
        image: (H, W, C) uint8, the input p.
        radius: window radius in px.
        eps: regularisation, in squared intensity of images in [0, 1].
        guide: (H, W) uint8, the guide I; None filters each channel guided by itself.

    Returns:
        (H, W, C) uint8, rounded to the nearest grey level and saturated.
    """
    return to_bytes(guided_float(image, radius, eps, guide))


def guided_float(image: Image, radius: int, eps: float, guide: Image | None = None) -> Floats:
    """As `guided`, before rounding: (H, W, C) float64, grey levels in [0, 1]."""
    p = image / GRAY_LEVELS
    I = p if guide is None else guide[:, :, None] / GRAY_LEVELS
    mean_I = box_mean(I, radius)
    mean_p = box_mean(p, radius)
    var_I = box_mean(I * I, radius) - mean_I * mean_I
    cov_Ip = box_mean(I * p, radius) - mean_I * mean_p
    a = cov_Ip / (var_I + eps)
    b = mean_p - a * mean_I
    mean_a = box_mean(a, radius)
    mean_b = box_mean(b, radius)
    return mean_a * I + mean_b


def detector_input(image: Image, radius: int, eps: float) -> Floats:
    """The filtered image as a network's input: (3, H, W) float64, normalised with ImageNet's statistics."""
    return ((guided_float(image, radius, eps) - MEAN) / DEVIATION).transpose(2, 0, 1)


def edges(image: Image) -> Image:
    """Strength of edges, |I(x+1, y) - I(x-1, y)| + |I(x, y+1) - I(x, y-1)|, saturating at 255.

    Neighbours beyond the border are the border pixel itself.

    Args:
        image: (H, W, C) uint8.

    Returns:
        (H, W, C) uint8.
    """
    padded = np.pad(image.astype(np.int64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = np.abs(padded[1:-1, 2:] - padded[1:-1, :-2])
    down = np.abs(padded[2:, 1:-1] - padded[:-2, 1:-1])
    return np.minimum(across + down, 255).astype(np.uint8)


def to_bytes(values: Floats) -> Image:
    """Grey levels in [0, 1] -> uint8, rounded to the nearest and saturated."""
    return np.clip(np.floor(values * GRAY_LEVELS + 0.5), 0, 255).astype(np.uint8)


def window_counts(length: int, radius: int) -> NDArray[np.int64]:
    """(length,) how many positions the clipped window around each position holds along one axis."""
    at = np.arange(length)
    return np.minimum(at + radius, length - 1) - np.maximum(at - radius, 0) + 1


def _sliding_mean(values: Floats, radius: int, axis: int) -> Floats:
    length = values.shape[axis]
    total = np.zeros_like(values)
    for shift in range(-min(radius, length - 1), min(radius, length - 1) + 1):
        to = [slice(None)] * values.ndim
        source = list(to)
        to[axis] = slice(max(-shift, 0), length - max(shift, 0))
        source[axis] = slice(max(shift, 0), length - max(-shift, 0))
        total[tuple(to)] += values[tuple(source)]
    counts = window_counts(length, radius).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
    return total / counts
