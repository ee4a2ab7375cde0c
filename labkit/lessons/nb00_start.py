"""Lesson 00: boxes as corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from labkit.lessons.exercise import Rng, call, compare, exercise_check, solved
from labkit.lessons.hints import hint

__all__ = ["check_to_corners", "hint", "solved"]


@exercise_check
def check_to_corners(to_corners: Callable[[Any, int, int], Any], rng: Rng) -> str:
    """Check `to_corners(boxes, width, height)`: relative centre boxes -> corners in px."""
    many, sides = int(rng.integers(2, 9)), np.sort(rng.choice(np.arange(50, 900), 2, replace=False))
    for n, (width, height) in ((1, sides), (many, sides[::-1]), (many, sides), (many, sides), (0, sides)):
        boxes = rng.uniform(0.05, 0.95, (n, 4))
        got = call(to_corners, boxes, int(width), int(height))
        scale, centre, size = np.array([width, height] * 2), boxes[:, :2], boxes[:, 2:]
        shares = np.hstack([centre - size / 2, centre + size / 2])
        mistakes = {
            "the corners are still shares of the frame; multiply by its width and height": shares,
            "width and height of the frame are swapped": shares * scale[::-1],
            "the boxes are still centre, width and height": boxes * scale,
            "the centre is taken as the upper left corner": np.hstack([centre, centre + size]) * scale,
            "a whole width goes to each side of the centre; half of it belongs there": (
                np.hstack([centre - size, centre + size]) * scale
            ),
        }
        case = f"boxes {boxes[:1].round(2).tolist()} in {width}x{height} px"
        shape = f"(N, 4), here for {n} boxes"
        compare(got, shares * scale, mistakes, shape=shape, case=case, rtol=1e-4, atol=1e-3)
    return "every box lies where its object is"
