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
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_LONGEST_NAME = 60

Box = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max in whole pixels, the last ones included."""


def draw_detections(
    image: NDArray[np.uint8], detections: Detections, *, min_score: float = 0.0
) -> NDArray[np.uint8]:
    """Draw a box and a name for each detection onto a copy of the image.

    Boxes have a colour per label between two black lines, so that they show on light and dark
    backgrounds; the best-scoring one lies on top.

    Args:
        image: (H, W, 3) uint8 RGB, of any memory layout; never changed.
        detections: of this image; a fine name follows the name.
        min_score: detections that score less are left out.

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
    shown = [i for i in by_score if detections.score[i] >= min_score]
    if not shown:
        return image.copy(order="C")
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    boxes = {i: _pixels(detections.xyxy[i], width, height) for i in shown}
    for i, box in boxes.items():
        _draw_box(pen, box, label_colour(int(detections.label[i])), max(1, round(min(width, height) / 240)))
    # Names come last, so that no line runs through one.
    for i, box in boxes.items():
        _draw_name(pen, box, caption(detections, i), label_colour(int(detections.label[i])), (width, height))
    return np.array(canvas)


def label_colour(label: int) -> tuple[int, int, int]:
    """RGB colour of a label, the same in every frame."""
    return COLOURS[label % len(COLOURS)]


def caption(detections: Detections, i: int) -> str:
    """Text for box i: name and score, and those of the classifier where there is one."""
    text = f"{_printable(detections.name[i])} {detections.score[i]:.2f}"
    if detections.fine_name is not None and detections.fine_score is not None:
        text += f" · {_printable(detections.fine_name[i])} {detections.fine_score[i]:.2f}"
    return text


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


def _draw_name(
    pen: ImageDraw.ImageDraw, box: Box, text: str, colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    width, height = size
    font = _font(max(11, round(height / 36)))
    text = _shortened(text, font, width - 6)
    left, top, right, bottom = font.getbbox(text)
    plate_width, plate_height = round(right - left) + 6, round(bottom - top) + 6
    x = max(0, min(box[0], width - plate_width))
    # Above the box, or inside it where there is no room above.
    y = box[1] - plate_height if box[1] >= plate_height else box[1]
    y = max(0, min(y, height - plate_height))
    pen.rectangle((x, y, x + plate_width - 1, y + plate_height - 1), fill=colour, outline=_BLACK)
    pen.text((x + 3 - left, y + 3 - top), text, font=font, fill=_text_colour_on(colour))


def _text_colour_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever contrasts more (WCAG 2 relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour) / 255]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
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
