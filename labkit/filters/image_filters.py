"""`guided_filter` and `edge_filter`: one definition each, versions that differ only in speed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import FrameError, UsageError
from labkit.core.types import MAX_RADIUS, describe_value, is_whole
from labkit.filters.versions import VERSIONS, find_version

Image = NDArray[np.uint8]


def guided_filter(
    image: Image, radius: int = 4, eps: float = 0.01, *, guide: Image | None = None, version: str = "numba"
) -> Image:
    """Smooth an image and keep its edges (He, Sun and Tang, ECCV 2010; TPAMI 2013).

    Where the variance of a window is well above eps the pixel stays, where it is well below the
    pixel becomes the window's mean. Windows are clipped to the image and their means divide by
    the pixels that are really inside, as in the paper. All versions agree with the float64
    reference within one grey level.

    Args:
        image: (H, W, C) uint8 with 1 to 4 channels. A non-contiguous image is copied first.
        radius: of the window, 1 to 16 px; a window has (2 radius + 1)^2 pixels.
        eps: above 0, in squared intensity of images in [0, 1]: 0.01 smooths what varies by less
            than about 0.1, that is 26 grey levels.
        guide: (H, W) uint8, whose edges are kept instead; None guides each channel by itself.
        version: which of `VERSIONS` computes it.

    Returns:
        (H, W, C) uint8, a new array, rounded to the nearest grey level and saturated.

    Raises:
        FrameError: the image or the guide has another shape or type.
        UsageError: radius, eps or version is outside what is accepted.
        UnavailableError: the version needs a GPU or a package that is not there.
    """
    chosen = find_version("guided", version)
    if chosen.output != "image":
        raise UsageError(
            f"version {chosen.short!r} ends in a network's input; use labkit.filters.cuda.DeviceFilter"
        )
    pixels = _checked(image)
    if not is_whole(radius, 1, MAX_RADIUS):
        raise UsageError(f"radius is a whole number of px from 1 to {MAX_RADIUS}, not {radius!r}")
    if not isinstance(eps, int | float | np.number) or not 0 < float(eps) < np.inf:
        raise UsageError(
            f"eps is a number above 0, in squared intensity of [0, 1] images, e.g. 0.01; not {eps!r}"
        )
    if guide is None:
        return np.asarray(chosen.function(pixels, int(radius), float(eps)))
    if not chosen.guide:
        able = ", ".join(each.short for each in VERSIONS.values() if each.guide)
        raise UsageError(f"version {chosen.short!r} takes no guide; those that do: {able}")
    return np.asarray(chosen.function(pixels, int(radius), float(eps), _checked_guide(guide, pixels)))


def edge_filter(image: Image, *, version: str = "numba") -> Image:
    """Strength of edges: |I(x+1, y) - I(x-1, y)| + |I(x, y+1) - I(x, y-1)|, saturating at 255.

    A neighbour beyond the border is the border pixel itself. All versions agree exactly.

    Args:
        image: (H, W, C) uint8 with 1 to 4 channels. A non-contiguous image is copied first.
        version: which of `VERSIONS` computes it.

    Returns:
        (H, W, C) uint8, a new array.

    Raises:
        FrameError, UsageError, UnavailableError: as `guided_filter`.
    """
    chosen = find_version("edge", version)
    return np.asarray(chosen.function(_checked(image)))


def _checked(image: Any) -> Image:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise FrameError(f"an image to filter is a uint8 array, not {describe_value(image)}")
    if image.ndim != 3 or not 1 <= image.shape[2] <= 4 or 0 in image.shape:
        hint = "; add a last axis: image[:, :, None]" if image.ndim == 2 else ""
        raise FrameError(
            f"an image to filter has the shape (H, W, C) with 1 to 4 channels, not {image.shape}{hint}"
        )
    return np.ascontiguousarray(image)


def _checked_guide(guide: Any, image: Image) -> Image:
    if not isinstance(guide, np.ndarray) or guide.dtype != np.uint8 or guide.shape != image.shape[:2]:
        raise FrameError(f"a guide is a gray image, uint8 {image.shape[:2]}, not {describe_value(guide)}")
    return np.ascontiguousarray(guide)
