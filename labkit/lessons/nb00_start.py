"""Lesson 00: boxes as corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from labkit.lessons.exercise import Mistake, call_for_numbers, exercise_check, find_mistake
from labkit.lessons.hints import hint

__all__ = ["check_to_corners", "hint"]


@exercise_check
def check_to_corners(to_corners: Callable[[Any, int, int], Any]) -> str:
    """Check `to_corners(boxes, width, height)`: relative centre boxes -> corners in px."""
    rng = np.random.default_rng()
    for n in (1, int(rng.integers(2, 9)), 0):
        width, height = map(int, rng.integers(50, 900, 2))
        boxes = rng.uniform(0.05, 0.95, (n, 4))
        right = _corners(boxes, width, height)
        got = call_for_numbers(to_corners, boxes, width, height)
        if got.shape != (n, 4):
            raise Mistake(f"{n} boxes became an array of shape {got.shape}, not ({n}, 4)")
        if not np.allclose(got, right, rtol=1e-4, atol=1e-3):
            raise Mistake(
                find_mistake(got, _mistakes(boxes, right, width, height), right, rtol=1e-4, atol=1e-3)
                or f"the first box {np.round(boxes[0], 2)} in {width}x{height} px became "
                f"{np.round(got[0], 1)}, not {np.round(right[0], 1)}"
            )
    return "every box lies where its object is"


def _corners(boxes: Any, width: int, height: int) -> Any:
    centre, size = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1) * [width, height, width, height]


def _mistakes(boxes: Any, right: Any, width: int, height: int) -> dict[str, Any]:
    scale, centre, size = np.array([width, height, width, height]), boxes[:, :2], boxes[:, 2:]
    return {
        "the corners are still shares of the frame; multiply by its width and height": right / scale,
        "width and height of the frame are swapped": _corners(boxes, height, width),
        "the boxes are still centre, width and height": boxes * scale,
        "the centre is taken as the upper left corner": np.hstack([centre, centre + size]) * scale,
        "a whole width goes to each side of the centre; half of it belongs there": (
            np.hstack([centre - size, centre + size]) * scale
        ),
    }
