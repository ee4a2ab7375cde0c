"""A synthetic world: labelled objects that move over textured grounds, with ground truth.

Any frame of any world can be drawn on its own. A world is a run of shots of `SHOT_FRAMES` frames;
each shot has a background, a light and one to eight objects, which sway along smooth paths. All of
it is integer arithmetic on a fixed random stream, so the bytes are the same on every machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labkit.errors import UsageError
from labkit.sources.backdrops import LIGHT_ONE, backdrop
from labkit.sources.dice import ONE, TURN, Dice, cos, sin
from labkit.sources.shapes import FULL, MATERIALS, SHAPES, SUB, box_blur, coverage, place
from labkit.types import Detections, Frame, Size

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (212, 46, 44),
    "orange": (240, 126, 28),
    "yellow": (242, 208, 48),
    "green": (58, 164, 74),
    "blue": (44, 98, 214),
    "purple": (142, 68, 188),
}
COARSE: tuple[str, ...] = tuple(SHAPES)
"""What the detector names."""
FINE: tuple[str, ...] = tuple(f"{colour} {kind}" for kind in COARSE for colour in COLOURS)
"""What the classifier names: fine label = coarse label * number of colours + colour."""

SHOT_FRAMES = 150
MIN_VISIBLE = (1, 4)
"""Objects of which less than this share (as a fraction) can be seen are not in the truth."""
PATTERNS = ("plain", "stripes", "dots", "checks")


@dataclass(frozen=True)
class Thing:
    """One object of a shot and the path it takes; lengths in 1/16 px, angles in 1/4096 turn."""

    coarse: int
    colour: int
    rgb: tuple[int, int, int]
    accent: tuple[int, int, int]
    pattern: str
    pitch: int
    mirrored: bool
    centre: tuple[int, int]
    radius: int
    tilt: int
    reach: tuple[int, int]
    pace: tuple[int, int, int, int]
    phase: tuple[int, int, int, int]

    @property
    def fine(self) -> int:
        """Index into `FINE`."""
        return self.coarse * len(COLOURS) + self.colour

    def at(self, step: int) -> tuple[tuple[int, int], int, int]:
        """Centre, radius and angle in the shot's frame `step`."""
        sway = [sin(phase + pace * step) for phase, pace in zip(self.phase, self.pace, strict=True)]
        centre = (
            self.centre[0] + self.reach[0] * sway[0] // ONE,
            self.centre[1] + self.reach[1] * sway[1] // ONE,
        )
        radius = self.radius + self.radius * sway[2] // (12 * ONE)
        return centre, radius, self.tilt + 140 * sway[3] // ONE


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn frame with what it is made of.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        things: the objects, back to front.
        masks: for each object the (H, W) bool pixels that it would cover alone.
        visible: for each object the share of its whole area that can be seen, as (seen, whole) px.
    """

    image: NDArray[np.uint8]
    things: tuple[Thing, ...]
    masks: tuple[NDArray[np.bool_], ...]
    visible: tuple[tuple[int, int], ...]


def scene(index: int, *, size: Size = (640, 480), seed: int = 0, noise: float = 0.0) -> Frame:
    """Frame `index` of world `seed`, with ground truth.

    Args:
        index: position in the stream, from 0.
        size: (width, height) in px, at least 64 x 48.
        seed: which world.
        noise: standard deviation of added noise in grey levels; seeded, independent per frame.

    Returns:
        A frame whose truth names every object of which at least a quarter can be seen: coarse
        label and name, fine label and name, and the box of its pixels, hidden ones included,
        clipped to the frame. All scores are 1. `t_s` is the time of drawing.

    Raises:
        UsageError: for a negative index or noise, or a size too small to draw in.
    """
    drawing = draw(index, size=size, seed=seed, noise=noise)
    return Frame(drawing.image, index, time.perf_counter(), _truth(drawing, size))


def draw(index: int, *, size: Size = (640, 480), seed: int = 0, noise: float = 0.0) -> Drawing:
    """Draws frame `index` of world `seed`; see `scene` for arguments and errors."""
    if index < 0:
        raise UsageError(f"frames of a world are counted from 0, not {index}")
    if size[0] < 64 or size[1] < 48 or max(size) > 8192:
        raise UsageError(f"scenes are drawn from 64x48 to 8192x8192 px, not {size[0]}x{size[1]}")
    if not 0 <= noise <= 255:
        raise UsageError(f"noise is a standard deviation from 0 to 255 grey levels, not {noise}")
    shot, step = divmod(index, SHOT_FRAMES)
    ground, light = backdrop(seed, shot, (size[0], size[1]))
    image = ground.copy()
    things = cast(seed, shot, size)
    stamps = [_stamp(thing, step, size) for thing in things]
    for thing, stamp in zip(things, stamps, strict=True):
        _paint(image, light, thing, stamp)
    if noise:
        _add_noise(image, Dice(seed, index, 3), noise)
    masks, visible = _account(stamps, size)
    return Drawing(image, things, masks, visible)


def cast(seed: int, shot: int, size: Size) -> tuple[Thing, ...]:
    """The objects of a shot, back to front."""
    dice = Dice(seed, shot, 2)
    unit = min(SUB * size[0] // 640, SUB * size[1] // 480) or 1
    wanted = dice.between(1, 8)
    largest = 118 if wanted < 4 else 92
    things: list[Thing] = []
    for _ in range(40):
        thing = _throw(dice, size, unit, largest)
        if all(_apart(thing, other) for other in things):
            things.append(thing)
        if len(things) == wanted:
            break
    return tuple(things)


def _throw(dice: Dice, size: Size, unit: int, largest: int) -> Thing:
    radius = dice.between(38, dice.between(52, largest)) * unit
    colour = dice.between(0, len(COLOURS) - 1)
    pure = tuple(COLOURS.values())[colour]
    red, green, blue = (min(255, max(0, value + dice.between(-12, 12))) for value in pure)
    toward, share = (255, dice.between(80, 150)) if dice.between(0, 2) else (20, dice.between(60, 95))
    margin = radius * 3 // 4
    return Thing(
        coarse=dice.between(0, len(COARSE) - 1),
        colour=colour,
        rgb=(red, green, blue),
        accent=(_mix(red, toward, share), _mix(green, toward, share), _mix(blue, toward, share)),
        pattern=PATTERNS[dice.between(0, len(PATTERNS) - 1)],
        pitch=max(3 * SUB, radius * dice.between(22, 42) // 100),
        mirrored=bool(dice.between(0, 1)),
        centre=(
            dice.between(margin, SUB * size[0] - margin),
            dice.between(margin, SUB * size[1] - margin),
        ),
        radius=radius,
        tilt=dice.between(-340, 340),
        reach=(dice.between(6, 60) * unit, dice.between(4, 36) * unit),
        pace=_four(dice, 9, 30),
        phase=_four(dice, 0, TURN - 1),
    )


def _four(dice: Dice, low: int, high: int) -> tuple[int, int, int, int]:
    a, b, c, d = (dice.between(low, high) for _ in range(4))
    return a, b, c, d


def _mix(value: int, toward: int, share: int) -> int:
    return value + (toward - value) * share // 256


def _apart(one: Thing, other: Thing) -> bool:
    """Whether two objects may stand where they are: touching a little, not hiding each other."""
    dx, dy = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    return 16 * (dx * dx + dy * dy) >= 13 * (one.radius + other.radius) ** 2


@dataclass(frozen=True, eq=False)
class _Stamp:
    """An object's pixels, on a patch that reaches over the frame's edges if the object does."""

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


def _stamp(thing: Thing, step: int, size: Size) -> _Stamp:
    centre, radius, angle = thing.at(step)
    pad = max(2, 14 * radius // (100 * SUB))  # room for the shadow
    left, top = (c // SUB - radius // SUB - pad for c in centre)
    side = 2 * (radius // SUB + pad) + 2
    shift = np.array([left, top], dtype=np.int64) * SUB
    whole = np.zeros((side, side), np.int32)
    parts = []
    for part in SHAPES[COARSE[thing.coarse]]:
        cover, window = coverage(place(part, centre, radius, angle, thing.mirrored) - shift, side, side)
        np.maximum(whole[window], cover, out=whole[window])
        parts.append((part.made_of, cover, window))
    local = (centre[0] - SUB * left, centre[1] - SUB * top)
    return _Stamp(left, top, whole, tuple(parts), local, angle)


def _paint(image: NDArray[np.uint8], light: NDArray[np.int32], thing: Thing, stamp: _Stamp) -> None:
    on_frame, on_patch = stamp.on_frame((image.shape[1], image.shape[0]))
    paint = _colours(thing, stamp)[on_patch] * light[on_frame][..., None] // LIGHT_ONE
    side = stamp.cover.shape[0]
    drop = max(1, side // 24)
    shadow = np.zeros_like(stamp.cover)
    shadow[drop:, drop:] = stamp.cover[:-drop, :-drop]
    shade = 256 - 110 * box_blur(shadow, drop)[on_patch] // FULL
    cover = stamp.cover[on_patch][..., None]
    ground = image[on_frame] * shade[..., None] >> 8
    mixed = ground + (paint - ground) * cover // FULL
    image[on_frame] = np.clip(mixed, 0, 255).astype(np.uint8)


def _colours(thing: Thing, stamp: _Stamp) -> NDArray[np.int32]:
    """(h, w, 3) unlit colours of an object's patch; beyond its outline they mean nothing."""
    side = stamp.cover.shape[0]
    rgb, accent = np.array(thing.rgb, np.int32), np.array(thing.accent, np.int32)
    body = np.where(_pattern(thing, stamp)[..., None], accent, rgb)
    colours = np.broadcast_to(rgb * 3 // 5, body.shape).copy()
    for made_of, cover, window in stamp.parts:
        patch = colours[window]
        if made_of == "body":
            ink = body[window]
        else:
            ink = np.array(MATERIALS.get(made_of, thing.rgb), np.int32)
            ink = ink * 7 // 10 if made_of == "shade" else ink
        patch += (ink - patch) * cover[..., None] // FULL
    # Light from the upper left, and a darker rim that sets the object off its ground.
    slope = np.arange(side, dtype=np.int32)
    round_light = 290 - 76 * (slope + slope[:, None]) // (2 * side)
    rim = np.minimum(box_blur(stamp.cover, max(1, side // 60)) * 2, 2 * FULL) - FULL
    return colours * (round_light * (rim + 2 * FULL) // (3 * FULL))[..., None] >> 8


def _pattern(thing: Thing, stamp: _Stamp) -> NDArray[np.bool_]:
    """(h, w) where the accent colour goes; the pattern turns with the object."""
    side = stamp.cover.shape[0]
    if thing.pattern == "plain":
        return np.zeros((side, side), bool)
    at = np.arange(side, dtype=np.int64) * SUB + SUB // 2
    x, y = at - stamp.centre[0], (at - stamp.centre[1])[:, None]
    u = (x * cos(stamp.angle) + y * sin(stamp.angle)) >> 14
    v = (y * cos(stamp.angle) - x * sin(stamp.angle)) >> 14
    pitch = thing.pitch
    if thing.pattern == "stripes":
        return (u // (pitch * 2 // 3)) & 1 == 1
    if thing.pattern == "checks":
        return ((u // pitch) ^ (v // pitch)) & 1 == 1
    return (u % pitch - pitch // 2) ** 2 + (v % pitch - pitch // 2) ** 2 < (pitch * 3 // 10) ** 2


def _add_noise(image: NDArray[np.uint8], dice: Dice, noise: float) -> None:
    grain = dice.gaussian(*image.shape).astype(np.int32) * round(noise * 256)
    image[...] = np.clip(image + ((grain + (1 << 15)) >> 16), 0, 255).astype(np.uint8)


def _account(
    stamps: list[_Stamp], size: Size
) -> tuple[tuple[NDArray[np.bool_], ...], tuple[tuple[int, int], ...]]:
    """Masks, and (seen, whole) pixels of each object, given that later ones hide earlier ones."""
    hidden = np.zeros((size[1], size[0]), bool)
    masks, visible = [], []
    for stamp in reversed(stamps):
        on_frame, on_patch = stamp.on_frame(size)
        solid = stamp.cover * 2 >= FULL
        mask = np.zeros_like(hidden)
        mask[on_frame] = solid[on_patch]
        seen = int(np.count_nonzero(mask[on_frame] & ~hidden[on_frame]))
        hidden[on_frame] |= mask[on_frame]
        masks.append(mask)
        visible.append((seen, int(np.count_nonzero(solid))))
    return tuple(reversed(masks)), tuple(reversed(visible))


def _truth(drawing: Drawing, size: Size) -> Detections:
    share, of = MIN_VISIBLE
    kept = [i for i, (seen, whole) in enumerate(drawing.visible) if whole and of * seen >= share * whole]
    things = [drawing.things[i] for i in kept]
    ones = np.ones(len(kept), np.float32)
    return Detections(
        xyxy=np.array([_box(drawing.masks[i]) for i in kept], np.float32).reshape(-1, 4),
        score=ones,
        label=np.array([thing.coarse for thing in things], np.int64),
        name=tuple(COARSE[thing.coarse] for thing in things),
        frame_size=(size[0], size[1]),
        fine_label=np.array([thing.fine for thing in things], np.int64),
        fine_score=ones.copy(),
        fine_name=tuple(FINE[thing.fine] for thing in things),
    )


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x_min, y_min, x_max, y_max) px around the True pixels."""
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1
