"""Drawing of detections onto frames."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import FrameError, UsageError
from labkit.core.types import Detections, describe_value

if TYPE_CHECKING:
    from PIL import ImageDraw

# Okabe and Ito, "Color Universal Design" (2008): distinguishable with every common colour blindness.
# Their black is left out: it is the outline that sets the boxes off from light backgrounds.
COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)
"""The first colours of the palette; the others are as far from them, and from each other, as can be."""
PALETTE_SIZE = 96
NAMES_COVER = 0.15
"""Share of a frame that names may cover; boxes that score less stay without one then."""
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_LONGEST_NAME = 60

Box = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max in whole pixels, the last ones included."""


def draw_detections(
    image: NDArray[np.uint8],
    detections: Detections,
    *,
    text_px: int | None = None,
    corner: tuple[int, int] = (0, 0),
) -> NDArray[np.uint8]:
    """Draw a box and a name for each detection onto a copy of the image.

    Boxes have a colour per label between two black lines, so that they show on light and dark
    backgrounds; the best-scoring one lies on top. Names cover no other name: each goes above, below
    or into its box, is shortened where the frame is full, and is left out where nothing fits.

    Args:
        image: (H, W, 3) uint8 RGB, of any memory layout; never changed.
        detections: of this image; a fine name follows the name.
        text_px: height of the letters; larger for a picture that is shown smaller than it is.
        corner: (width, height) px at the top right that names leave free.

    Returns:
        (H, W, 3) uint8 RGB, a new C-contiguous array.

    Raises:
        FrameError: The image is of another shape or type.
        UsageError: The detections refer to a frame of another size.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise FrameError(f"only a (H, W, 3) uint8 image can be drawn on, not {describe_value(image)}")
    height, width = image.shape[:2]
    if (width, height) != tuple(detections.frame_size):
        raise UsageError(
            f"the detections refer to a frame of {detections.frame_size} px (width, height), "
            f"but the image has {(width, height)}; draw on the frame that they were found in"
        )
    by_score = np.argsort(detections.score, kind="stable").tolist()
    if not by_score:
        return image.copy(order="C")
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    boxes = {i: _pixels(detections.xyxy[i], width, height) for i in by_score}
    for i, box in boxes.items():
        _draw_box(pen, box, label_colour(int(detections.label[i])), max(1, round(min(width, height) / 240)))
    # Names come last, so that no line runs through one, and the best-scoring one chooses its place first.
    font = _font(text_px or max(10, round(height / 36)))
    taken: list[Box] = [(width - corner[0], 0, width - 1, corner[1] - 1)] if all(corner) else []
    for i in reversed(by_score):
        placed = _place_name(_captions(detections, i), font, boxes[i], taken, (width, height))
        if placed is not None:
            text, plate = placed
            taken.append(plate)
            _draw_name(pen, plate, text, font, label_colour(int(detections.label[i])))
    return np.array(canvas)


def label_colour(label: int) -> tuple[int, int, int]:
    """RGB colour of a label, the same in every frame; the next one with it is PALETTE_SIZE labels away."""
    return _palette()[label % PALETTE_SIZE]


@lru_cache(maxsize=1)
def _palette() -> tuple[tuple[int, int, int], ...]:
    """PALETTE_SIZE colours, each as far as possible from those before it (CIE 1976 distance)."""
    levels = np.linspace(0, 255, 12).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[_luminance(grid) > 0.1]  # the black lines around a box are to be seen
    chosen = np.array(COLOURS, float)
    distance = np.linalg.norm(_lab(grid)[:, None] - _lab(chosen), axis=2).min(axis=1)
    while len(chosen) < PALETTE_SIZE:
        farthest = grid[distance.argmax()]
        chosen = np.vstack([chosen, farthest])
        distance = np.minimum(distance, np.linalg.norm(_lab(grid) - _lab(farthest), axis=1))
    return tuple((int(r), int(g), int(b)) for r, g, b in chosen)


def _luminance(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative luminance (WCAG 2) of (..., 3) sRGB colours."""
    from skimage.color import rgb2xyz

    return rgb2xyz(rgb / 255)[..., 1]


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE 1976 L*a*b* of (..., 3) sRGB colours."""
    from skimage.color import rgb2lab

    return rgb2lab(rgb / 255)


def caption(detections: Detections, i: int) -> str:
    """Text for box i: number of its track, name, score, and those of the classifier, where there are any."""
    text = f"{_numbered(detections, i)} {detections.score[i]:.2f}"
    if detections.fine_name is not None and detections.fine_score is not None:
        text += f" · {_printable(detections.fine_name[i])} {detections.fine_score[i]:.2f}"
    return text


def _captions(detections: Detections, i: int) -> list[str]:
    """Texts for box i, from the whole caption to the bare name."""
    name = _numbered(detections, i)
    texts = [caption(detections, i), f"{name} {detections.score[i]:.2f}", name]
    if detections.fine_name is not None:
        texts[1:1] = [f"{name} · {_printable(detections.fine_name[i])}"]
    return [text for text in texts if text]


def _numbered(detections: Detections, i: int) -> str:
    name = _printable(detections.name[i])
    return name if detections.track_id is None else f"#{detections.track_id[i]} {name}"


def _draw_box(pen: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int], thickness: int) -> None:
    rings = [_BLACK, *[colour] * thickness, _BLACK]
    for inset, ring in enumerate(rings):
        x_min, y_min, x_max, y_max = box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset
        if x_min > x_max or y_min > y_max:
            # Too small for all its rings: what is left of it is at least seen in its colour.
            if inset <= 1:
                pen.rectangle(box, outline=colour)
            return
        pen.rectangle((x_min, y_min, x_max, y_max), outline=ring)


def _place_name(
    texts: list[str], font: Any, box: Box, taken: list[Box], size: tuple[int, int]
) -> tuple[str, Box] | None:
    """The longest text for which there is room, and its plate; None if there is room for none."""
    width, height = size
    covered_px = sum((right - left) * (bottom - top) for left, top, right, bottom in taken)
    if covered_px > NAMES_COVER * width * height:
        return None
    # A name is no wider than its box, unless that is small.
    room_px = max(box[2] - box[0] + 1, round(0.35 * width))
    fitting = [text for text in texts if font.getlength(text) + 6 <= room_px]
    for text in fitting or [_shortened(texts[-1], font, min(room_px, width) - 6)]:
        left, top, right, bottom = font.getbbox(text)
        plate_width, plate_height = round(right - left) + 6, round(bottom - top) + 6
        columns = [box[0], box[2] - plate_width + 1]
        # Above the box; then below it, inside at its top, inside at its bottom.
        rows = [box[1] - plate_height, box[3] + 1, box[1], box[3] - plate_height + 1]
        for y in rows:
            for x in columns:
                x_in = max(0, min(x, width - plate_width))
                plate = (x_in, y, x_in + plate_width - 1, y + plate_height - 1)
                if 0 <= y <= height - plate_height and not any(_overlap(plate, other) for other in taken):
                    return text, plate
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _draw_name(
    pen: ImageDraw.ImageDraw, plate: Box, text: str, font: Any, colour: tuple[int, int, int]
) -> None:
    left, top, _, _ = font.getbbox(text)
    pen.rectangle(plate, fill=colour, outline=_BLACK)
    pen.text((plate[0] + 3 - left, plate[1] + 3 - top), text, font=font, fill=_text_colour_on(colour))


def _text_colour_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever contrasts more (WCAG 2)."""
    luminance = float(_luminance(np.array(colour, float)))
    return _BLACK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else _WHITE


def _pixels(xyxy: NDArray[np.float32], width: int, height: int) -> Box:
    # Every pixel that the box touches, and at least one.
    x_min = min(int(np.floor(xyxy[0])), width - 1)
    y_min = min(int(np.floor(xyxy[1])), height - 1)
    x_max = max(x_min, int(np.ceil(xyxy[2])) - 1)
    y_max = max(y_min, int(np.ceil(xyxy[3])) - 1)
    return x_min, y_min, x_max, y_max


def _printable(name: str) -> str:
    # Line breaks would leave the plate, lone surrogates and control characters have no glyph.
    clean = "".join(c if c.isprintable() else " " for c in name).strip()
    return clean if len(clean) <= _LONGEST_NAME else clean[: _LONGEST_NAME - 1] + "…"


def _shortened(text: str, font: Any, room_px: int) -> str:
    if font.getlength(text) <= room_px:
        return text
    while text and font.getlength(text + "…") > room_px:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=8)
def _font(size_px: int) -> Any:
    from PIL import ImageFont

    # DejaVu Sans comes with Matplotlib and knows far more scripts than Pillow's own font.
    found = importlib.util.find_spec("matplotlib")
    for place in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(place) / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size_px)
    return ImageFont.load_default(size_px)
