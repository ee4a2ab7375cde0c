"""Synthetic scenes with ground truth: labelled objects that move over textured backgrounds.

Any frame of any world (seed) can be rendered on its own. A world is a sequence of shots of
`SHOT_FRAMES` frames; each shot has a background, a light and one to eight objects, which sway along
smooth paths. All of it is integer arithmetic on a fixed random stream, so the bytes are the same on
every machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UsageError
from labkit.core.types import Detections, Frame, Size
from labkit.sources.synthetic.background import LIGHT_ONE, render_background
from labkit.sources.synthetic.objects import COARSE, FINE, SceneObject, enlarged, shot_objects
from labkit.sources.synthetic.rng import IntegerRng, cos, sin
from labkit.sources.synthetic.shapes import FULL, MATERIALS, SHAPES, SUB, box_blur, coverage, place

SHOT_FRAMES = 150
MIN_VISIBLE = (1, 4)
"""Least visible share, as (numerator, denominator), of an object in the truth."""


@dataclass(frozen=True, eq=False)
class RenderedScene:
    """A rendered frame with its objects and masks.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        objects: back to front.
        masks: for each object the (H, W) bool pixels that it would cover alone.
        visible: for each object the share of its whole area that can be seen, as (seen, whole) px.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    masks: tuple[NDArray[np.bool_], ...]
    visible: tuple[tuple[int, int], ...]


def scene_frame(
    index: int, *, size: Size = (640, 480), seed: int = 0, noise: float = 0.0, closeup: bool = False
) -> Frame:
    """Frame `index` of world `seed`, with ground truth.

    Args:
        index: position in the stream, from 0.
        size: (width, height) in px, at least 64 x 48.
        seed: which world.
        noise: standard deviation of added noise in grey levels; seeded, independent per frame.
        closeup: one object of the scene alone, which fills the frame.

    Returns:
        A frame whose truth names every object of which at least a quarter can be seen: coarse
        label and name, fine label and name, and the box of its pixels, hidden ones included,
        clipped to the frame. All scores are 1. `t_s` is the time of rendering.

    Raises:
        UsageError: for a negative index or noise, or a size too small to draw in.
    """
    rendered = render_scene(index, size=size, seed=seed, noise=noise, closeup=closeup)
    return Frame(rendered.image, index, time.perf_counter(), _truth(rendered, size))


def render_scene(
    index: int, *, size: Size = (640, 480), seed: int = 0, noise: float = 0.0, closeup: bool = False
) -> RenderedScene:
    """Render frame `index` of world `seed`; see `scene_frame` for arguments and errors."""
    if index < 0:
        raise UsageError(f"frames of a world are counted from 0, not {index}")
    if size[0] < 64 or size[1] < 48 or max(size) > 8192:
        raise UsageError(f"scenes are drawn from 64x48 to 8192x8192 px, not {size[0]}x{size[1]}")
    if not 0 <= noise <= 255:
        raise UsageError(f"noise is a standard deviation from 0 to 255 grey levels, not {noise}")
    shot, step = divmod(index, SHOT_FRAMES)
    background, light = render_background(seed, shot, (size[0], size[1]))
    image = background.copy()
    objects = shot_objects(seed, shot, size)
    if closeup:
        objects = (enlarged(objects[0], size),)
    sprites = [_rasterise(item, step) for item in objects]
    for item, sprite in zip(objects, sprites, strict=True):
        _draw_object(image, light, item, sprite)
    if noise:
        _add_noise(image, IntegerRng(seed, index, 3), noise)
    masks, visible = _masks_and_visibility(sprites, size)
    return RenderedScene(image, objects, masks, visible)


def _add_noise(image: NDArray[np.uint8], rng: IntegerRng, noise: float) -> None:
    grain = rng.gaussian(*image.shape).astype(np.int32) * round(noise * 256)
    image[...] = np.clip(image + ((grain + (1 << 15)) >> 16), 0, 255).astype(np.uint8)


def _masks_and_visibility(
    sprites: list[_Sprite], size: Size
) -> tuple[tuple[NDArray[np.bool_], ...], tuple[tuple[int, int], ...]]:
    """Masks, and (seen, whole) pixels of each object, given that later ones hide earlier ones."""
    hidden = np.zeros((size[1], size[0]), bool)
    masks, visible = [], []
    for sprite in reversed(sprites):
        on_frame, on_patch = sprite.on_frame(size)
        solid = sprite.cover * 2 >= FULL
        mask = np.zeros_like(hidden)
        mask[on_frame] = solid[on_patch]
        seen = int(np.count_nonzero(mask[on_frame] & ~hidden[on_frame]))
        hidden[on_frame] |= mask[on_frame]
        masks.append(mask)
        visible.append((seen, int(np.count_nonzero(solid))))
    return tuple(reversed(masks)), tuple(reversed(visible))


def _truth(rendered: RenderedScene, size: Size) -> Detections:
    share, of = MIN_VISIBLE
    kept = [i for i, (seen, whole) in enumerate(rendered.visible) if whole and of * seen >= share * whole]
    objects = [rendered.objects[i] for i in kept]
    ones = np.ones(len(kept), np.float32)
    return Detections(
        xyxy=np.array([_box(rendered.masks[i]) for i in kept], np.float32).reshape(-1, 4),
        score=ones,
        label=np.array([item.coarse for item in objects], np.int64),
        name=tuple(COARSE[item.coarse] for item in objects),
        frame_size=(size[0], size[1]),
        fine_label=np.array([item.fine for item in objects], np.int64),
        fine_score=ones.copy(),
        fine_name=tuple(FINE[item.fine] for item in objects),
    )


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x_min, y_min, x_max, y_max) px around the True pixels."""
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


@dataclass(frozen=True, eq=False)
class _Sprite:
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


def _rasterise(item: SceneObject, step: int) -> _Sprite:
    """Rasterise an object as it is in the shot's frame `step`."""
    centre, radius, angle = item.pose(step)
    pad = max(2, 14 * radius // (100 * SUB))  # room for the shadow
    left, top = (c // SUB - radius // SUB - pad for c in centre)
    side = 2 * (radius // SUB + pad) + 2
    shift = np.array([left, top], dtype=np.int64) * SUB
    whole = np.zeros((side, side), np.int32)
    parts = []
    for material, points in SHAPES[COARSE[item.coarse]]:
        cover, window = coverage(place(points, centre, radius, angle, item.mirrored) - shift, side, side)
        np.maximum(whole[window], cover, out=whole[window])
        parts.append((material, cover, window))
    local = (centre[0] - SUB * left, centre[1] - SUB * top)
    return _Sprite(left, top, whole, tuple(parts), local, angle)


def _draw_object(
    image: NDArray[np.uint8], light: NDArray[np.int32], item: SceneObject, sprite: _Sprite
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


def _colours(item: SceneObject, sprite: _Sprite) -> NDArray[np.int32]:
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


def _pattern(item: SceneObject, sprite: _Sprite) -> NDArray[np.bool_]:
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
