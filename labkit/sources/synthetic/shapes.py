"""The eight kinds of object of the synthetic world, and the integer rasteriser that draws them.

A shape is a list of parts, painted in order; a part is a polygon in thousandths of the object's
radius (x right, y down, origin in the middle) with a material.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labkit.sources.synthetic.rng import ONE, TURN, cos, sin

SUB = 16
"""Vertices lie on a grid of 1/16 px."""

FULL = 64
"""Coverage of a pixel that lies wholly inside (4 sample rows of 1/16 px precision)."""

Points = Sequence[tuple[int, int]]
Part = tuple[str, Points]
"""A polygon, (x, y) in thousandths of the object's radius, and its material: "body" (the object's colour and
pattern), "shade" (its colour, darker) or a key of `MATERIALS`."""


MATERIALS = {
    "dark": (46, 44, 54),
    "light": (246, 242, 230),
    "wood": (122, 84, 52),
    "glass": (188, 218, 232),
    "grey": (150, 152, 158),
}


def coverage(
    polygon: NDArray[np.int64], width: int, height: int
) -> tuple[NDArray[np.int32], tuple[slice, slice]]:
    """Rasterise a polygon: coverage of each pixel, in integers only.

    Each edge adds its signed area to the right of it on four sample rows per pixel row; a running
    sum along the row then gives the coverage (the method of font rasterisers).

    Args:
        polygon: (V, 2) vertices (x, y) in 1/16 px, simple (no self-crossing), either direction.
        width: of the canvas in px.
        height: of the canvas in px.

    Returns:
        Coverage (h, w) in 0..FULL of the part of the canvas that the polygon can touch, and the
        (rows, columns) slices of the canvas that it stands for.
    """
    x0, y0 = polygon.T
    x1, y1 = np.roll(polygon, -1, axis=0).T
    left, right = _pixels(x0, width)
    top, bottom = _pixels(y0, height)
    window = (slice(top, bottom), slice(left, right))
    columns = right - left
    if bottom <= top or columns <= 0:
        return np.zeros((max(0, bottom - top), max(0, columns)), np.int32), window
    # Sample rows lie at 2, 6, 10 and 14 sixteenths of a pixel; row s is at y = 4 s + 2.
    first = np.clip(-((2 - np.minimum(y0, y1)) // 4), 4 * top, 4 * bottom)
    last = np.clip(-((2 - np.maximum(y0, y1)) // 4), 4 * top, 4 * bottom)
    count = last - first
    edge = np.repeat(np.arange(len(x0)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (4 * row + 2 - y0[edge]) * (x1 - x0)[edge] // (y1 - y0)[edge]
    x = np.clip(x - SUB * left, 0, SUB * columns)
    sign = np.where(y1 > y0, 1, -1)[edge]
    cell = (row // 4 - top) * (columns + 2) + x // SUB
    n_cells = (bottom - top) * (columns + 2)
    area = np.bincount(cell, weights=sign * (SUB - x % SUB), minlength=n_cells)
    area += np.bincount(cell + 1, weights=sign * (x % SUB), minlength=n_cells)
    covered = np.cumsum(area.astype(np.int32).reshape(-1, columns + 2), axis=1)[:, :columns]
    return np.abs(covered), window


def place(
    points: Points, centre: tuple[int, int], radius: int, angle: int, mirrored: bool
) -> NDArray[np.int64]:
    """Transform a part's polygon onto the canvas.

    Args:
        points: of the polygon, in the object's coordinates.
        centre: (x, y) of the object's middle in 1/16 px.
        radius: of the object in 1/16 px.
        angle: clockwise, in 1/4096 turn.
        mirrored: left and right exchanged.

    Returns:
        (V, 2) vertices (x, y) in 1/16 px.
    """
    x, y = np.array(points, dtype=np.int64).T
    x = -x if mirrored else x
    unit = 1000 * ONE
    turned = np.stack([x * cos(angle) - y * sin(angle), x * sin(angle) + y * cos(angle)], axis=1)
    return (turned * radius + unit // 2) // unit + np.array(centre, dtype=np.int64)


def box_blur(values: NDArray[np.int32], reach: int) -> NDArray[np.int32]:
    """Mean over (2 reach + 1)^2 pixels of an (h, w) array, zeros outside, rounded down."""
    side = 2 * reach + 1
    padded = np.pad(values, ((reach + 1, reach), (reach + 1, reach)))
    sums = padded.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    total = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return total // (side * side)


def _pixels(sixteenths: NDArray[np.int64], limit: int) -> tuple[int, int]:
    low = max(0, min(limit, int(sixteenths.min()) // SUB))
    return low, max(low, min(limit, -(-int(sixteenths.max()) // SUB)))


def _ellipse(x: int, y: int, rx: int, ry: int, n: int = 32) -> Points:
    return [_on_arc(x, y, rx, ry, TURN * k // n) for k in range(n)]


def _on_arc(x: int, y: int, rx: int, ry: int, angle: int) -> tuple[int, int]:
    half = ONE // 2
    return x + (rx * cos(angle) + half) // ONE, y + (ry * sin(angle) + half) // ONE


def _rectangle(left: int, top: int, right: int, bottom: int) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _wedge(x: int, y: int, from_deg: int, to_deg: int) -> Points:
    """Slice of the ball from (x, y) out to its rim."""
    turns = [TURN * (8 * from_deg + (to_deg - from_deg) * k) // (8 * 360) for k in range(9)]
    return [(x, y), *(_on_arc(0, 0, 985, 985, turn) for turn in turns)]


def _star() -> Points:
    radii = [1000 if k % 2 == 0 else 470 for k in range(10)]
    return [_on_arc(0, 0, r, r, TURN * k // 10 - TURN // 4) for k, r in enumerate(radii)]


def _heart() -> Points:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    points = []
    for t in range(0, TURN, TURN // 48):
        x = 60 * 16 * sin(t) ** 3 // ONE**3
        y = 60 * (13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) // ONE
        points.append((x, -y - 140))
    return points


def _handle() -> Points:
    """A ring cut open where it meets the mug."""
    turns = [TURN * (2 * k - 12) * 80 // (12 * 360) for k in range(13)]
    outer = [_on_arc(330, 20, 520, 520, turn) for turn in turns]
    inner = [_on_arc(330, 20, 300, 300, turn) for turn in reversed(turns)]
    return outer + inner


_RIGHT_OF_CROWN = [(0, -1000), (430, -400), (270, -400), (620, 100), (400, 100), (800, 640)]
_TREE_CROWN = _RIGHT_OF_CROWN + [(-x, y) for x, y in reversed(_RIGHT_OF_CROWN[1:])]
_CAR_ROOF = [(-1000, 60), (-680, -30), (-420, -480), (380, -480), (660, -20), (960, 60)]
_CAR_BODY = [*_CAR_ROOF, (1000, 380), (-1000, 380)]

SHAPES: dict[str, tuple[Part, ...]] = {
    "ball": (
        ("body", _ellipse(0, 0, 985, 985, 48)),
        *(("light", _wedge(-180, -220, a, a + 46)) for a in (10, 130, 250)),
        ("shade", _ellipse(-180, -220, 170, 170)),
    ),
    "star": (
        ("body", _star()),
        ("dark", _ellipse(-170, -90, 75, 110, 16)),
        ("dark", _ellipse(170, -90, 75, 110, 16)),
        ("dark", [(-190, 150), (190, 150), (110, 270), (0, 310), (-110, 270)]),
    ),
    "heart": (
        ("body", _heart()),
        ("light", _ellipse(-480, -480, 190, 130, 20)),
    ),
    "house": (
        ("grey", _rectangle(380, -900, 620, -300)),
        ("body", _rectangle(-760, -150, 760, 880)),
        ("shade", [(-1000, -120), (0, -960), (1000, -120)]),
        ("wood", _rectangle(-480, 260, -80, 880)),
        ("glass", _rectangle(160, 100, 560, 500)),
        ("dark", _rectangle(340, 100, 380, 500)),
        ("dark", _rectangle(160, 280, 560, 320)),
    ),
    "fish": (
        ("shade", [(380, 0), (1000, -560), (860, 0), (1000, 560)]),
        ("shade", [(-360, -380), (60, -760), (260, -340)]),
        ("body", _ellipse(-200, 0, 790, 520, 40)),
        ("light", _ellipse(-620, -130, 150, 150, 20)),
        ("dark", _ellipse(-650, -120, 80, 80, 16)),
        ("shade", [(-220, 60), (140, -80), (140, 240)]),
    ),
    "tree": (
        ("wood", _rectangle(-150, 500, 150, 1000)),
        ("body", _TREE_CROWN),
    ),
    "car": (
        ("body", _CAR_BODY),
        ("glass", [(-520, -40), (-340, -380), (-50, -380), (-50, -40)]),
        ("glass", [(50, -40), (50, -380), (320, -380), (510, -40)]),
        ("dark", _ellipse(-540, 380, 270, 270, 28)),
        ("dark", _ellipse(540, 380, 270, 270, 28)),
        ("grey", _ellipse(-540, 380, 120, 120, 20)),
        ("grey", _ellipse(540, 380, 120, 120, 20)),
        ("light", _ellipse(-930, 140, 70, 70, 14)),
    ),
    "mug": (
        ("shade", _handle()),
        ("body", [(-800, -700), (480, -700), (420, 780), (300, 860), (-620, 860), (-740, 780)]),
        ("light", _ellipse(-160, -700, 640, 170, 32)),
        ("wood", _ellipse(-160, -680, 540, 120, 32)),
    ),
}
