"""Rendering of the scenes' objects: outline, colours, shadow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labkit.core.types import Size
from labkit.sources.synthetic.background import LIGHT_ONE
from labkit.sources.synthetic.objects import COARSE, SceneObject
from labkit.sources.synthetic.rng import cos, sin
from labkit.sources.synthetic.shapes import FULL, MATERIALS, SHAPES, SUB, box_blur, coverage, place


@dataclass(frozen=True, eq=False)
class Sprite:
    """An object's pixels on a patch, which extends beyond the frame's edges if the object does."""

    left: int
    top: int
    cover: NDArray[np.int32]
    parts: tuple[tuple[str, NDArray[np.int32], tuple[slice, slice]], ...]
    centre: tuple[int, int]
    angle: int

    def on_frame(self, size: Size) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """(rows, columns) on the frame, and the same on the patch."""
        height, width = self.cover.shape
        x0, x1 = max(0, self.left), min(size[0], self.left + width)
        y0, y1 = max(0, self.top), min(size[1], self.top + height)
        x1, y1 = max(x0, x1), max(y0, y1)
        frame = (slice(y0, y1), slice(x0, x1))
        return frame, (
            slice(y0 - self.top, y1 - self.top),
            slice(x0 - self.left, x1 - self.left),
        )


def rasterise(item: SceneObject, step: int) -> Sprite:
    """Rasterise an object as it is in the shot's frame `step`."""
    centre, radius, angle = item.pose(step)
    pad = max(2, 14 * radius // (100 * SUB))  # room for the shadow
    left, top = (c // SUB - radius // SUB - pad for c in centre)
    side = 2 * (radius // SUB + pad) + 2
    shift = np.array([left, top], dtype=np.int64) * SUB
    whole = np.zeros((side, side), np.int32)
    parts = []
    for part in SHAPES[COARSE[item.coarse]]:
        cover, window = coverage(place(part, centre, radius, angle, item.mirrored) - shift, side, side)
        np.maximum(whole[window], cover, out=whole[window])
        parts.append((part.material, cover, window))
    local = (centre[0] - SUB * left, centre[1] - SUB * top)
    return Sprite(left, top, whole, tuple(parts), local, angle)


def draw_object(
    image: NDArray[np.uint8], light: NDArray[np.int32], item: SceneObject, sprite: Sprite
) -> None:
    """Draw an object and its shadow onto a frame.

    Args:
        image: (H, W, 3), changed in place.
        light: (H, W) in 1/`LIGHT_ONE`.
        item, sprite: the object, and its pixels.
    """
    on_frame, on_patch = sprite.on_frame((image.shape[1], image.shape[0]))
    colours = _colours(item, sprite)[on_patch] * light[on_frame][..., None] // LIGHT_ONE
    side = sprite.cover.shape[0]
    drop = max(1, side // 24)
    shadow = np.zeros_like(sprite.cover)
    shadow[drop:, drop:] = sprite.cover[:-drop, :-drop]
    shade = 256 - 110 * box_blur(shadow, drop)[on_patch] // FULL
    cover = sprite.cover[on_patch][..., None]
    ground = image[on_frame] * shade[..., None] >> 8
    mixed = ground + (colours - ground) * cover // FULL
    image[on_frame] = np.clip(mixed, 0, 255).astype(np.uint8)


def _colours(item: SceneObject, sprite: Sprite) -> NDArray[np.int32]:
    """(h, w, 3) unlit colours of an object's patch; arbitrary beyond its outline."""
    side = sprite.cover.shape[0]
    rgb, accent = np.array(item.rgb, np.int32), np.array(item.accent, np.int32)
    body = np.where(_pattern(item, sprite)[..., None], accent, rgb)
    colours = np.broadcast_to(rgb * 3 // 5, body.shape).copy()
    for material, cover, window in sprite.parts:
        patch = colours[window]
        if material == "body":
            ink = body[window]
        else:
            ink = np.array(MATERIALS.get(material, item.rgb), np.int32)
            ink = ink * 7 // 10 if material == "shade" else ink
        patch += (ink - patch) * cover[..., None] // FULL
    # Light from the upper left, and a darker rim that sets the object off its ground.
    slope = np.arange(side, dtype=np.int32)
    round_light = 290 - 76 * (slope + slope[:, None]) // (2 * side)
    rim = np.minimum(box_blur(sprite.cover, max(1, side // 60)) * 2, 2 * FULL) - FULL
    return colours * (round_light * (rim + 2 * FULL) // (3 * FULL))[..., None] >> 8


def _pattern(item: SceneObject, sprite: Sprite) -> NDArray[np.bool_]:
    """(h, w) where the accent colour goes; the pattern turns with the object."""
    side = sprite.cover.shape[0]
    if item.pattern == "plain":
        return np.zeros((side, side), bool)
    at = np.arange(side, dtype=np.int64) * SUB + SUB // 2
    x, y = at - sprite.centre[0], (at - sprite.centre[1])[:, None]
    u = (x * cos(sprite.angle) + y * sin(sprite.angle)) >> 14
    v = (y * cos(sprite.angle) - x * sin(sprite.angle)) >> 14
    pitch = item.pitch
    if item.pattern == "stripes":
        return (u // (pitch * 2 // 3)) & 1 == 1
    if item.pattern == "checks":
        return ((u // pitch) ^ (v // pitch)) & 1 == 1
    return (u % pitch - pitch // 2) ** 2 + (v % pitch - pitch // 2) ** 2 < (pitch * 3 // 10) ** 2
