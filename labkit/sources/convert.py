"""Conversion of decoded images to RGB and one size."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import FrameError
from labkit.core.types import Fit, Placement, Size

Order = Literal["bgr", "rgb"]

PADDING = (124, 116, 104)
"""Colour of the bars beside an image of another shape: ImageNet's mean colour, 0 once normalised."""


def to_rgb(array: NDArray[Any], order: Order = "bgr") -> NDArray[np.uint8]:
    """Convert an image to (H, W, 3) uint8 RGB, C-contiguous.

    Args:
        array: (H, W) or (H, W, 1) gray, (H, W, 3) colour or (H, W, 4) colour with alpha, which
            is dropped; uint8, uint16 (0 to 65535) or floating point (0 to 1).
        order: order of the colour channels in `array`.

    Raises:
        FrameError: Any other shape, type or range of values.
    """
    if order not in ("bgr", "rgb"):
        raise FrameError(f"the order of channels is 'bgr' or 'rgb', not {order!r}")
    if not isinstance(array, np.ndarray):
        raise FrameError(f"an image is a NumPy array, not {type(array).__name__}")
    channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    if channels not in (1, 3, 4) or 0 in array.shape:
        raise FrameError(
            f"cannot read an array {array.shape} {array.dtype} as an image; "
            "give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    depth = _to_uint8(array)
    if channels == 1:
        return np.repeat(depth.reshape(*depth.shape[:2], 1), 3, axis=2)
    colours = depth[:, :, 2::-1] if order == "bgr" else depth[:, :, :3]
    return np.ascontiguousarray(colours)


def on_white(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An (H, W, 4) RGBA image on white, (H, W, 3); one that is transparent everywhere has no alpha at all."""
    from PIL import Image

    if not image[..., 3].any():
        return np.ascontiguousarray(image[..., :3])
    opaque = Image.new("RGBA", (image.shape[1], image.shape[0]), "white")
    return np.asarray(Image.alpha_composite(opaque, Image.fromarray(image)).convert("RGB"))


def fit_image(image: NDArray[np.uint8], size: Size, how: Fit) -> tuple[NDArray[np.uint8], Placement]:
    """Bring an image to exactly `size`, see `placement`.

    Args:
        image: (H, W, 3) uint8.
        size: (width, height) px of the result.
        how: "letterbox", "crop" or "stretch".

    Returns:
        (height, width, 3) uint8, C-contiguous, the input itself where it already fits; and where the
        image's pixels went.
    """
    given = image.shape[1], image.shape[0]
    placed = placement(given, size, how)
    if given == size:
        return image, placed
    if how == "crop":
        x, y, width, height = centre_crop(given, size)
        return resize(image[y : y + height, x : x + width], size), placed
    width, height = (round(side * scale) for side, scale in zip(given, placed.scale, strict=True))
    inner = image if (width, height) == given else resize(image, (width, height))
    if (width, height) == size:
        return inner, placed
    left, top = (round(side) for side in placed.corner)
    frame = np.empty((size[1], size[0], 3), np.uint8)
    frame[:] = PADDING
    frame[top : top + height, left : left + width] = inner
    return frame, placed


def placement(given: Size, size: Size, how: Fit) -> Placement:
    """Place of the pixels of an image of size `given` in a frame of `size`.

    "letterbox" keeps the whole image and its shape, with bars of `PADDING` beside it; "crop" keeps the
    shape and cuts the centre out; "stretch" keeps the whole image, squeezed. "none" is for sources
    that keep their size, and letterboxes what changes size on the way.
    """
    if how == "crop" or how == "stretch":
        x, y, width, height = centre_crop(given, size) if how == "crop" else (0, 0, *given)
        scale = size[0] / width, size[1] / height
        return Placement(given, size, scale, (-x * scale[0], -y * scale[1]))
    factor = min(size[0] / given[0], size[1] / given[1])
    width, height = max(1, round(given[0] * factor)), max(1, round(given[1] * factor))
    corner = (size[0] - width) // 2, (size[1] - height) // 2
    return Placement(given, size, (width / given[0], height / given[1]), corner)


def resize(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resizes (H, W, 3) bytes to (width, height): areas are averaged along a side that shrinks.

    Linear interpolation would skip pixels there, and alias. A side that grows is interpolated linearly:
    OpenCV's INTER_AREA repeats pixels there, and then skips some along the other side.
    """
    import cv2

    smaller = min(size[0], image.shape[1]), min(size[1], image.shape[0])
    for step, interpolation in ((smaller, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if step != (image.shape[1], image.shape[0]):
            image = np.asarray(cv2.resize(image, step, interpolation=interpolation), np.uint8)
    return np.ascontiguousarray(image)


def centre_crop(given: Size, wanted: Size) -> tuple[int, int, int, int]:
    """The largest centred window of `given` with the aspect of `wanted`: x, y, width, height px."""
    width = min(given[0], max(1, round(given[1] * wanted[0] / wanted[1])))
    height = min(given[1], max(1, round(given[0] * wanted[1] / wanted[0])))
    return (given[0] - width) // 2, (given[1] - height) // 2, width, height


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        # 65535 / 255 is 257 exactly, so the ends of the range map onto each other.
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        # The comparison is false for NaN too.
        if not (array.min() >= 0 and array.max() <= 1):
            raise FrameError(
                f"a floating-point image has values from 0 to 1, not {array.min():g} to {array.max():g} "
                f"({array.shape} {array.dtype}); divide by its largest value"
            )
        return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    raise FrameError(
        f"cannot read an array {array.shape} {array.dtype} as an image; "
        "give uint8, uint16 or floats from 0 to 1"
    )
