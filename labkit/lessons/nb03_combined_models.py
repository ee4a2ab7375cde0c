"""Lesson 03: DETR's attention in pictures, the cost of each box, and crops that can be cut out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.lessons.attention import attention_maps, plot_attention
from labkit.lessons.exercise import Mistake, call, exercise_check
from labkit.lessons.hints import hint

if TYPE_CHECKING:
    from labkit.results.plots.style import Chart

__all__ = ["check_corners", "hint", "inside_detr"]


def inside_detr(source: str = "scenes", index: int = 0, *, objects: int = 3, seed: int = 0) -> Chart:
    """Plot the output of DETR's four parts for frame `index` of a source."""
    return plot_attention(attention_maps(source, index, objects=objects, seed=seed))


@exercise_check
def check_corners(corners: Callable[[Any, int, int], Any]) -> str:
    """Check `corners(box, width, height)`: float box -> whole pixels in the frame, one or more each way."""
    width, height = 20, 10
    cases = {
        "an ordinary box": ((2.2, 3.7, 8.1, 9.0), (2, 3, 9, 9)),
        "a box that touches part of a pixel": ((4.9, 4.9, 5.1, 5.1), (4, 4, 6, 6)),
        "a box that reaches over the edges": ((-3.0, -2.0, 25.5, 12.0), (0, 0, 20, 10)),
        "a box without area": ((6.0, 7.0, 6.0, 7.0), (6, 7, 7, 8)),
        "a box without area in the far corner": ((20.0, 10.0, 20.0, 10.0), (19, 9, 20, 10)),
        "the whole frame": ((0.0, 0.0, 20.0, 10.0), (0, 0, 20, 10)),
    }
    for case, (box, right) in cases.items():
        got = call(corners, np.array(box, np.float32), width, height)
        if len(got) != 4 or any(float(side) != int(side) for side in got):
            raise Mistake(f"for {case} it gives {got}; expected are four whole numbers")
        left, top, right_, bottom = (int(side) for side in got)
        if not (0 <= left < right_ <= width and 0 <= top < bottom <= height):
            raise Mistake(f"for {case} it gives {got}, which is empty or leaves the {width}x{height} frame")
        if (left, top, right_, bottom) != right:
            raise Mistake(f"for {case}, {box}, it gives {tuple(map(int, got))}; expected is {right}")
    return "every box gives pixels that can be cut out"
