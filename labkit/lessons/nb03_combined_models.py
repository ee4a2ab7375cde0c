"""Lesson 03: DETR's attention in pictures, the cost of each box, and crops that can be cut out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.lessons.attention import attention_maps, plot_attention
from labkit.lessons.exercise import Mistake, call, seeded_check
from labkit.lessons.hints import hint

if TYPE_CHECKING:
    from labkit.results.plots.style import Chart

__all__ = ["check_corners", "hint", "inside_detr"]


def inside_detr(source: str = "scenes", index: int = 0, *, objects: int = 3, seed: int = 0) -> Chart:
    """Plot the output of DETR's four parts for frame `index` of a source."""
    return plot_attention(attention_maps(source, index, objects=objects, seed=seed))


@seeded_check
def check_corners(corners: Callable[[Any, int, int], Any], rng: np.random.Generator) -> str:
    """Check `corners(box, width, height)`: float box -> whole pixels in the frame, one or more each way."""
    drawn = [(f"box {i + 1} of {DRAWN_BOXES}", *_drawn_box(rng)) for i in range(DRAWN_BOXES)]
    for case, box, width, height in [*KNOWN_BOXES, *drawn]:
        got = call(corners, np.array(box, np.float32), width, height)
        sides = _whole_sides(got)
        if sides is None:
            raise Mistake(f"for {case} it gives {got}; expected are four whole numbers")
        left, top, right, bottom = sides
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise Mistake(f"for {case} it gives {got}, which is empty or leaves the {width}x{height} frame")
        expected = _outward(np.array(box, np.float32), width, height)
        if sides != expected:
            raise Mistake(f"for {case}, {box} in {width}x{height}, it gives {sides}; expected is {expected}")
    return "every box gives pixels that can be cut out"


KNOWN_BOXES = [
    ("an ordinary box", (2.2, 3.7, 8.1, 9.0), 20, 10),
    ("a box that touches part of a pixel", (4.9, 4.9, 5.1, 5.1), 20, 10),
    ("a box that reaches over the edges", (-3.0, -2.0, 25.5, 12.0), 20, 10),
    ("a box without area", (6.0, 7.0, 6.0, 7.0), 20, 10),
    ("a box without area in the far corner", (20.0, 10.0, 20.0, 10.0), 20, 10),
    ("the whole frame", (0.0, 0.0, 20.0, 10.0), 20, 10),
]
DRAWN_BOXES = 60


def _drawn_box(rng: np.random.Generator) -> tuple[tuple[float, ...], int, int]:
    """A box inside a frame, over its edges, or beside it, some of them without area."""
    width, height = (int(side) for side in rng.integers(1, (2000, 1200)))
    x, y = (np.sort(rng.uniform(-0.3 * side, 1.3 * side, 2)) for side in (width, height))
    if rng.random() < 0.4:  # a box of a few pixels
        x, y = (pair[0] + rng.uniform(0, 2, 2).cumsum() for pair in (x, y))
    if rng.random() < 0.4:  # sides on whole pixels, and no area where both are the same
        x, y = np.round(x), np.round(y)
    return tuple(round(float(side), 2) for side in (x[0], y[0], x[1], y[1])), width, height


def _whole_sides(got: Any) -> tuple[int, ...] | None:
    """Four whole numbers as ints, or None where they are anything else."""
    try:
        sides = np.asarray([float(side) for side in got])
    except Exception:  # whatever the answer is, it is not four numbers
        return None
    if len(sides) != 4 or not np.isfinite(sides).all() or (sides != np.round(sides)).any():
        return None
    return tuple(int(side) for side in sides)


def _outward(box: Any, width: int, height: int) -> tuple[int, ...]:
    """Sides rounded outwards, inside the frame and one pixel apart at least."""
    low = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1))
    high = np.clip(np.ceil(box[2:]), low + 1, (width, height))
    return tuple(int(side) for side in (*low, *high))
