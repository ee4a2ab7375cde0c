"""The guided filter as a composition of cv2.boxFilter calls: what one writes first, and well.

Eight passes over memory, each vectorised; the fused versions are measured against it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.filters.reference import window_counts

Image = NDArray[np.uint8]


def guided(image: Image, radius: int, eps: float, guide: Image | None = None) -> Image:
    """Guided filter; arguments and result as in `reference.guided`."""
    import cv2

    height, width, channels = image.shape
    share = np.outer(1 / window_counts(height, radius), 1 / window_counts(width, radius)).astype(np.float32)
    share = np.repeat(share[:, :, None], channels, axis=2)

    def box(values: Any) -> Any:
        # Zeros beyond the border and the true window area: the clipped windows of the paper.
        sums = cv2.boxFilter(
            values, cv2.CV_32F, (2 * radius + 1,) * 2, normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        return cv2.multiply(sums.reshape(image.shape), share, dst=sums.reshape(image.shape))

    p = image.astype(np.float32)
    I = p if guide is None else np.repeat(guide[:, :, None], channels, axis=2).astype(np.float32)  # noqa: E741, N806
    mean_p = box(p)
    mean_I = mean_p if guide is None else box(I)  # noqa: N806
    variance = box(I * I)
    variance -= mean_I * mean_I
    if guide is None:
        covariance = variance.copy()
    else:
        covariance = box(I * p)
        covariance -= mean_I * mean_p
    np.maximum(variance, 0, out=variance)
    variance += np.float32(eps * 255**2)
    a = cv2.divide(covariance, variance)
    a = a.reshape(image.shape)
    b = mean_p - a * mean_I
    mean_a, mean_b = box(a), box(b)
    mean_a *= I
    mean_a += mean_b
    # Rounds to the nearest and saturates.
    return np.asarray(cv2.convertScaleAbs(np.maximum(mean_a, 0, out=mean_a)), np.uint8).reshape(image.shape)


def edges(image: Image) -> Image:
    """Strength of edges; argument and result as in `reference.edges`."""
    import cv2

    padded = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE).reshape(
        image.shape[0] + 2, image.shape[1] + 2, image.shape[2]
    )
    across = cv2.absdiff(padded[1:-1, 2:], padded[1:-1, :-2])
    down = cv2.absdiff(padded[2:, 1:-1], padded[:-2, 1:-1])
    return np.asarray(cv2.add(across, down), np.uint8).reshape(image.shape)  # saturates
