"""The filters as compositions of OpenCV calls.

Bytes go into the box filters as they are (whole-number sums, `sqrBoxFilter` for the squares), every
array between two calls is reused from one image to the next, and the division by the window's area
is left to the end of each half. Yet each call is a pass over memory; the fused version has one.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.filters.reference import window_counts

Image = NDArray[np.uint8]


def guided(image: Image, radius: int, eps: float, guide: Image | None = None) -> Image:
    """Guided filter; arguments and result as in `reference.guided`."""
    import cv2

    channels = image.shape[2]
    share, mean_p, products, a, b, room = _arrays(image.shape, radius, threading.get_ident())
    eps_gray2 = np.float32(eps * 255**2)

    if guide is None:
        I: Any = image  # noqa: E741, N806 - the paper's name
        mean_I = _box_mean(image, radius, share, mean_p)  # noqa: N806
        variance = _box_mean(image, radius, share, products, squares=True)
        cv2.subtract(variance, cv2.multiply(mean_I, mean_I, dst=room), dst=variance)
        np.maximum(variance, 0, out=variance)
        cv2.divide(variance, np.add(variance, eps_gray2, out=room), dst=a)
        cv2.subtract(mean_I, cv2.multiply(a, mean_I, dst=room), dst=b)
    else:
        I = np.repeat(guide[:, :, None], channels, axis=2)  # noqa: E741, N806
        mean_I = _box_mean(I, radius, share, np.empty_like(mean_p))  # noqa: N806
        _box_mean(image, radius, share, mean_p)
        variance = _box_mean(I, radius, share, products, squares=True)
        cv2.subtract(variance, cv2.multiply(mean_I, mean_I, dst=room), dst=variance)
        np.maximum(variance, 0, out=variance)
        covariance = _box_mean(cv2.multiply(I, image, dtype=cv2.CV_32F).reshape(I.shape), radius, share, a)
        cv2.subtract(covariance, cv2.multiply(mean_I, mean_p, dst=room), dst=covariance)
        cv2.divide(covariance, np.add(variance, eps_gray2, out=room), dst=a)
        cv2.subtract(mean_p, cv2.multiply(a, mean_I, dst=room), dst=b)

    q = cv2.multiply(_box_sum(a, radius, mean_p), I, dst=mean_p, dtype=cv2.CV_32F)
    cv2.add(q, _box_sum(b, radius, products), dst=q)
    np.maximum(cv2.multiply(q, share, dst=q), 0, out=q)
    return np.asarray(cv2.convertScaleAbs(q), np.uint8).reshape(image.shape)  # rounds, saturates


def edges(image: Image) -> Image:
    """Strength of edges; argument and result as in `reference.edges`."""
    import cv2

    height, width, channels = image.shape
    padded = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    padded = padded.reshape(height + 2, width + 2, channels)
    across = cv2.absdiff(padded[1:-1, 2:], padded[1:-1, :-2])
    down = cv2.absdiff(padded[2:, 1:-1], padded[:-2, 1:-1])
    return np.asarray(cv2.add(across, down), np.uint8).reshape(image.shape)  # saturates


@lru_cache(maxsize=4)
def _arrays(shape: tuple[int, int, int], radius: int, thread: int) -> tuple[Any, ...]:
    """1 / the true area of each clipped window, and five arrays to work in, per thread."""
    height, width, channels = shape
    share = np.outer(1 / window_counts(height, radius), 1 / window_counts(width, radius))
    # OpenCV gives images of one channel two axes, so they have two here.
    plane = shape if channels > 1 else shape[:2]
    spread = np.repeat(share[:, :, None], channels, axis=2).astype(np.float32).reshape(plane)
    return (spread, *(np.empty(plane, np.float32) for _ in range(5)))


def _box_mean(values: Any, radius: int, share: Any, out: Any, *, squares: bool = False) -> Any:
    """Means of `values`, or of their squares, over clipped windows, into `out`."""
    import cv2

    return cv2.multiply(_box_sum(values, radius, out, squares=squares), share, dst=out)


def _box_sum(values: Any, radius: int, out: Any, *, squares: bool = False) -> Any:
    import cv2

    box = cv2.sqrBoxFilter if squares else cv2.boxFilter
    side = 2 * radius + 1
    # Zeros beyond the border add nothing: the clipped windows of the paper.
    return box(values, cv2.CV_32F, (side, side), dst=out, normalize=False, borderType=cv2.BORDER_CONSTANT)
