"""The baseline's guided filter, with its three mistakes.

Kept because it looks right on a screen. In numbers it is a box blur:

1. the last step averages a_k * I_k + b_k over the window, where the paper has
   mean(a) * I_i + mean(b): the pixel's own value counts no more than any other's in the window,
   so edges blur even where a = 1;
2. eps (0.1 to 0.4 in use) is compared with variances of 0-255 values, which are hundreds to
   thousands at edges: a is nearly 1 everywhere and eps changes nothing;
3. the result is cut to a whole grey level, not rounded: half a level darker on average.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labkit.filters.reference import Floats, box_mean

Image = NDArray[np.uint8]


def coefficient_a(image: Image, radius: int, eps: float) -> Floats:
    """(H, W, C) the a of each window by this formula: variance / (variance + eps) of 0-255 values."""
    I = image.astype(np.float64)  # noqa: E741, N806
    mean = box_mean(I, radius)
    variance = np.maximum(box_mean(I * I, radius) - mean * mean, 0)
    return variance / (variance + eps)


def guided(image: Image, radius: int, eps: float, guide: Image | None = None) -> Image:
    """The baseline's output; arguments as in `reference.guided` but for eps, taken as it stands."""
    I = image.astype(np.float64)  # noqa: E741, N806
    a = coefficient_a(image, radius, eps)
    b = (1 - a) * box_mean(I, radius)
    return np.clip(box_mean(a * I + b, radius), 0, 255).astype(np.uint8)
