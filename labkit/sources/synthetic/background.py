"""Textured, lit backgrounds of the scenes, rendered in integer arithmetic."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from labkit.core.types import Size
from labkit.sources.synthetic.rng import IntegerRng, cos, sin
from labkit.sources.synthetic.shapes import FULL, SUB, coverage

LIGHT_ONE = 256
"""The value 1.0 of a light map."""


@lru_cache(maxsize=4)
def render_background(seed: int, shot: int, size: Size) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Render the background of one shot, without objects.

    Returns:
        The lit image (H, W, 3) uint8 and the light map (H, W) int32 in 1/LIGHT_ONE, both
        read-only, for they are shared between the frames of the shot.
    """
    rng = IntegerRng(seed, shot, 1)
    width, height = size
    unit = _unit(size)
    ink = _texture(rng, size, unit)
    low, high = _two_tones(rng)
    image = low + ((high - low) * ink[..., None] >> 8)
    _scatter_clutter(image, rng, low, unit)
    image += (rng.gaussian(height, width, 1).astype(np.int32) * rng.between(3, 7)) >> 8
    light = _light(rng, size)
    lit = np.clip(image * light[..., None] // LIGHT_ONE, 0, 255).astype(np.uint8)
    lit.setflags(write=False)
    light.setflags(write=False)
    return lit, light


def _unit(size: Size) -> int:
    """1/16 px per 1/480 of the picture's height (or 1/640 of its width, if that is less)."""
    return max(1, min(SUB * size[0] // 640, SUB * size[1] // 480))


def _texture(rng: IntegerRng, size: Size, unit: int) -> NDArray[np.int32]:
    """(H, W) in 0..255: how much of the second tone each pixel has."""
    width, height = size
    coarse, fine = (_value_noise(rng, size, max(2, cell * unit // SUB)) for cell in (150, 34))
    ink = (5 * coarse + 3 * fine) >> 3
    style = rng.between(0, 3)
    pitch = max(4, rng.between(38, 90) * unit // SUB)
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    if style == 0:  # planks: each with a tone of its own, and a dark joint
        tone = rng.bytes_array(height // pitch + 1).astype(np.int32)[y // pitch]
        ink = (2 * ink + tone) // 3 - 60 * (y % pitch < 2)
    elif style == 1:  # tiles
        odd = (x // pitch + y // pitch) & 1
        ink = (ink + 2 * 70 + 60 * odd) // 2 - 50 * ((x % pitch < 2) | (y % pitch < 2))
    elif style == 2:  # wavy ground
        wave = (x + (coarse >> 1) + 2 * y) % (2 * pitch)
        ink = (ink + np.abs(wave - pitch) * 255 // pitch) // 2
    return np.clip(ink, 0, 255)


def _value_noise(rng: IntegerRng, size: Size, cell: int) -> NDArray[np.int32]:
    """(H, W) in 0..255: random values on a lattice of `cell` px, linear in between."""
    width, height = size
    lattice = rng.bytes_array(height // cell + 2, width // cell + 2).astype(np.int32)
    i, f = np.divmod(np.arange(height, dtype=np.int32), cell)
    rows = lattice[i] * (cell - f)[:, None] + lattice[i + 1] * f[:, None]
    j, g = np.divmod(np.arange(width, dtype=np.int32), cell)
    return (rows[:, j] * (cell - g) + rows[:, j + 1] * g) // (cell * cell)


def _two_tones(rng: IntegerRng) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Two muted colours (3,), the first one darker."""
    grey = rng.between(70, 130)
    tint = np.array([rng.between(-26, 26) for _ in range(3)], dtype=np.int32)
    lift = np.array([rng.between(40, 90) + rng.between(-14, 14) for _ in range(3)], dtype=np.int32)
    return grey + tint, grey + tint + lift


def _scatter_clutter(image: NDArray[np.int32], rng: IntegerRng, tone: NDArray[np.int32], unit: int) -> None:
    """Draw half-transparent polygons that belong to no label."""
    height, width = image.shape[:2]
    for _ in range(rng.between(5, 16)):
        polygon = _clutter_polygon(rng, width, height, unit)
        cover, window = coverage(polygon, width, height)
        colour = tone + np.array([rng.between(-60, 90) for _ in range(3)], dtype=np.int32)
        weight = (cover * rng.between(60, 190) // FULL)[..., None]
        patch = image[window]
        patch += (colour - patch) * weight >> 8


def _clutter_polygon(rng: IntegerRng, width: int, height: int, unit: int) -> NDArray[np.int64]:
    x, y = rng.between(0, SUB * width), rng.between(0, SUB * height)
    angle = rng.between(0, 4095)
    long = rng.between(20, 130) * unit
    short = rng.between(3, 9) * unit if rng.between(0, 1) else rng.between(12, 60) * unit
    corners = [(-long, -short), (long, -short * rng.between(0, 3) // 2), (long, short), (-long, short)]
    return np.array(
        [
            (x + ((u * cos(angle) - v * sin(angle)) >> 15), y + ((u * sin(angle) + v * cos(angle)) >> 15))
            for u, v in corners
        ],
        dtype=np.int64,
    )


def _light(rng: IntegerRng, size: Size) -> NDArray[np.int32]:
    """(H, W) light in 1/LIGHT_ONE, brighter towards one side."""
    width, height = size
    angle, strength, level = rng.between(0, 4095), rng.between(20, 75), rng.between(215, 275)
    x = np.arange(width, dtype=np.int64) * 2 - width
    y = np.arange(height, dtype=np.int64)[:, None] * 2 - height
    slope = x * cos(angle) // width + y * sin(angle) // height
    return (level + (slope * strength >> 14)).astype(np.int32)
