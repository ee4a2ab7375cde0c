"""The objects of the scenes: what they are called, how they look, and the paths they take."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.core.types import Size
from labkit.sources.synthetic.rng import ONE, TURN, Dice, sin
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
"""What the detector names."""
FINE: tuple[str, ...] = tuple(f"{colour} {kind}" for kind in COARSE for colour in COLOURS)
"""What the classifier names: fine label = coarse label * number of colours + colour."""

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
