"""Bounding boxes on NumPy arrays: overlap and formats.

`xyxy` is (x_min, y_min, x_max, y_max) in pixels; `cxcywh` is centre, width and height as shares of
the frame, as DETR predicts them. On tensors, `torchvision.ops` has the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labkit.core.types import Size


def box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes.

    Two boxes of zero area at the same place count as equal (1).

    Args:
        a: (N, 4) xyxy.
        b: (M, 4) xyxy.

    Returns:
        (N, M) in [0, 1].
    """
    first, second = a[:, None].astype(np.float64), b[None].astype(np.float64)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1)
    union = areas - shared
    same = (first == second).all(-1)
    return np.where(union > 0, shared / np.where(union > 0, union, 1), same.astype(np.float64))


def xyxy_to_cxcywh(xyxy: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Pixel corners to relative centre boxes, (N, 4) float32."""
    x_min, y_min, x_max, y_max = xyxy.T
    centred = np.stack([(x_min + x_max) / 2, (y_min + y_max) / 2, x_max - x_min, y_max - y_min], axis=1)
    return (centred / np.array([*size, *size])).astype(np.float32)
