"""The objects of the scenes: labels, looks and paths."""

from __future__ import annotations

from dataclasses import dataclass, replace

from labkit.core.types import Size
from labkit.sources.synthetic.rng import ONE, TURN, IntegerRng, sin
from labkit.sources.synthetic.shapes import SHAPES, SUB

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (212, 46, 44),
    "orange": (240, 126, 28),
    "yellow": (242, 208, 48),
    "green": (58, 164, 74),
    "blue": (44, 98, 214),
    "purple": (142, 68, 188),
}
COARSE: tuple[str, ...] = tuple(SHAPES)
"""The detector's labels."""
FINE: tuple[str, ...] = tuple(f"{colour} {kind}" for kind in COARSE for colour in COLOURS)
"""The classifier's labels: fine label = coarse label * number of colours + colour."""

PATTERNS = ("plain", "stripes", "dots", "checks")


@dataclass(frozen=True)
class SceneObject:
    """One object of a shot and its path; lengths in 1/16 px, angles in 1/4096 turn."""

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

    def pose(self, step: int) -> tuple[tuple[int, int], int, int]:
        """Centre, radius and angle in the shot's frame `step`."""
        sway = [sin(phase + pace * step) for phase, pace in zip(self.phase, self.pace, strict=True)]
        centre = (
            self.centre[0] + self.reach[0] * sway[0] // ONE,
            self.centre[1] + self.reach[1] * sway[1] // ONE,
        )
        radius = self.radius + self.radius * sway[2] // (12 * ONE)
        return centre, radius, self.tilt + 140 * sway[3] // ONE


def shot_objects(seed: int, shot: int, size: Size) -> tuple[SceneObject, ...]:
    """Place the objects of a shot at random; back to front."""
    rng = IntegerRng(seed, shot, 2)
    unit = min(SUB * size[0] // 640, SUB * size[1] // 480) or 1
    wanted = rng.between(1, 8)
    largest = 118 if wanted < 4 else 92
    objects: list[SceneObject] = []
    for _ in range(40):
        item = _random_object(rng, size, unit, largest)
        if all(_are_apart(item, other) for other in objects):
            objects.append(item)
        if len(objects) == wanted:
            break
    return tuple(objects)


def enlarged(item: SceneObject, size: Size) -> SceneObject:
    """The object in the middle of the frame, which it fills."""
    radius = SUB * min(size) // 2
    return replace(
        item,
        centre=(SUB * size[0] // 2, SUB * size[1] // 2),
        radius=radius,
        pitch=item.pitch * radius // item.radius,
        reach=(item.reach[0] // 4, item.reach[1] // 4),
    )


def _random_object(rng: IntegerRng, size: Size, unit: int, largest: int) -> SceneObject:
    radius = rng.between(38, rng.between(52, largest)) * unit
    colour = rng.between(0, len(COLOURS) - 1)
    pure = tuple(COLOURS.values())[colour]
    red, green, blue = (min(255, max(0, value + rng.between(-12, 12))) for value in pure)
    toward, share = (255, rng.between(80, 150)) if rng.between(0, 2) else (20, rng.between(60, 95))
    margin = radius * 3 // 4
    return SceneObject(
        coarse=rng.between(0, len(COARSE) - 1),
        colour=colour,
        rgb=(red, green, blue),
        accent=(_mix(red, toward, share), _mix(green, toward, share), _mix(blue, toward, share)),
        pattern=PATTERNS[rng.between(0, len(PATTERNS) - 1)],
        pitch=max(3 * SUB, radius * rng.between(22, 42) // 100),
        mirrored=bool(rng.between(0, 1)),
        centre=(
            rng.between(margin, SUB * size[0] - margin),
            rng.between(margin, SUB * size[1] - margin),
        ),
        radius=radius,
        tilt=rng.between(-340, 340),
        reach=(rng.between(6, 60) * unit, rng.between(4, 36) * unit),
        pace=_four(rng, 9, 30),
        phase=_four(rng, 0, TURN - 1),
    )


def _four(rng: IntegerRng, low: int, high: int) -> tuple[int, int, int, int]:
    a, b, c, d = (rng.between(low, high) for _ in range(4))
    return a, b, c, d


def _mix(value: int, toward: int, share: int) -> int:
    return value + (toward - value) * share // 256


def _are_apart(one: SceneObject, other: SceneObject) -> bool:
    """True if two objects overlap little enough that neither hides the other."""
    dx, dy = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    return 16 * (dx * dx + dy * dy) >= 13 * (one.radius + other.radius) ** 2
