"""The exercise on kernels: the second half of the guided filter, in CUDA, checked without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UnavailableError, UsageError
from labkit.filters.emulate import diagnose, emulate_plan
from labkit.filters.image_filters import guided_filter
from labkit.filters.kernel_source import kernel_source
from labkit.filters.launch_config import plan
from labkit.filters.reference import box_mean, window_counts
from labkit.lessons.checks import Checked

FILE = "guided_1_global.cu"
RADIUS, EPS = 2, 0.01
SHAPES = ((21, 37, 3), (3, 4, 1), (40, 9, 1))
"""Images to try: no size is a multiple of a block, and one is smaller than a window."""

OUTSIDE = (
    "a thread reads or writes outside the image: the last blocks hang over the border, so threads "
    "beyond it must return, and windows must be clipped"
)

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]


def kernel_to_complete() -> str:
    """The kernel file up to where the learner goes on: the body of `apply` is missing."""
    text = kernel_source(FILE)
    start = text.index('extern "C" __global__ void apply')
    return text[: text.index("{", start) + 1] + "\n"


def check_kernel(body: str) -> Checked:
    """Exercise of notebook 04: the body of the kernel `apply`, as CUDA text.

    Each thread averages a and b over its window, clipped to the image, and writes
    mean_a * I + mean_b, rounded and saturated. The text is compiled for the CPU, run thread by
    thread, and compared with the float64 reference.
    """
    if "..." in body or not body.strip():
        return Checked(False, "the body is still empty; write what each thread does")
    source = f"{kernel_to_complete()}{body}\n}}\n"
    try:
        for shape in SHAPES:
            wrong = _wrong(source, _image(shape))
            if wrong is not None:
                return wrong
        outside = _outside(source)
    except UsageError as error:
        return Checked(False, OUTSIDE if "crashed" in str(error) else str(error))
    except UnavailableError as error:
        return Checked(False, f"this cannot be checked here: {error}")
    if outside:
        return Checked(False, outside)
    return Checked(True, "every grey level is that of the float64 reference, at the borders too")


def _wrong(source: str, image: Image) -> Checked | None:
    got = emulate_plan(plan(FILE, image.shape, RADIUS), image, EPS, source=source)  # type: ignore[arg-type]
    wanted = guided_filter(image, RADIUS, EPS, version="reference")
    error = got.astype(int) - wanted
    if abs(error).max() <= 1 and abs(error.mean()) < 0.2:
        return None
    return Checked(False, _cause(got, image) or _outside(source) or _where(error))


def _outside(source: str) -> str:
    """A sentence if the kernel touches memory outside its arrays, else ""; "" where nobody can tell."""
    image = _image(SHAPES[0])
    made = plan(FILE, image.shape, RADIUS)  # type: ignore[arg-type]
    launch = made.launches[1]
    floats = np.full(image.shape, 0.5, np.float32)
    named = {"image": image, "a": floats, "b": floats.copy(), "out": np.zeros_like(image)}
    args = [{**named, **made.scalars(EPS)}[name] for name in launch.args]
    try:
        report = diagnose(
            source, launch.kernel, args, launch.grid, launch.block, made.defines, sanitizer="address"
        )
    except UnavailableError:
        return ""
    return OUTSIDE if report else ""


def _cause(got: NDArray[Any], image: Image) -> str:
    """Which well-known mistake gives just these values."""
    p = image.astype(np.float64)
    mean = box_mean(p, RADIUS)
    variance = np.maximum(box_mean(p * p, RADIUS) - mean * mean, 0)
    a = variance / (variance + EPS * 255**2)
    b = (1 - a) * mean
    right = box_mean(a, RADIUS) * p + box_mean(b, RADIUS)
    for reason, values in MISTAKES.items():
        made = np.clip(values(a, b, p, right), 0, 255)
        if abs(got - np.floor(made + 0.5)).max() <= 1 and _leans(got, made):
            return reason
    if abs(got - np.floor(np.clip(right, 0, 255))).mean() < 0.02:
        return "the result is cut to a whole grey level, half a level too dark on average: add 0.5f first"
    if len(np.unique(got)) < 3 < len(np.unique(image)):
        return "the result is nearly the same everywhere; is it on the scale of 0 to 255?"
    return ""


def _leans(got: NDArray[Any], made: Floats) -> bool:
    """Whether the values are those, rounded or cut."""
    return bool(min(abs(got - np.floor(made + 0.5)).mean(), abs(got - np.floor(made)).mean()) < 0.05)


def _share(shape: tuple[int, ...]) -> Floats:
    """Pixels in each clipped window over those of a full one."""
    inside = np.outer(window_counts(shape[0], RADIUS), window_counts(shape[1], RADIUS))
    return np.asarray(inside / (2 * RADIUS + 1) ** 2)[:, :, None]


MISTAKES: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "this averages a * I + b over the window, as the origin's kernel does: a blur. The paper's "
    "result is mean(a) * I + mean(b), with the pixel's own value": lambda a, b, p, right: box_mean(
        a * p + b, RADIUS
    ),
    "this uses the pixel's own a and b; the paper averages those of all windows that the pixel "
    "lies in": lambda a, b, p, right: a * p + b,
    "at the borders the sum is divided by a full window; divide by the pixels that are really "
    "inside": lambda a, b, p, right: right * _share(p.shape),
    "the sums are never divided by the number of pixels in the window": lambda a, b, p, right: (
        right * _share(p.shape) * (2 * RADIUS + 1) ** 2
    ),
    "b is missing: mean(a) * I alone": lambda a, b, p, right: box_mean(a, RADIUS) * p,
    "this is the image itself": lambda a, b, p, right: p,
    "the window stops one pixel short of its right and lower end: use <=": lambda a, b, p, right: (
        _short_mean(a) * p + _short_mean(b)
    ),
}


def _short_mean(values: Floats) -> Floats:
    """Sums over a window without its last row and column, divided by the full count."""
    height, width = values.shape[:2]
    out = np.empty_like(values)
    for y in range(height):
        for x in range(width):
            top, left = max(y - RADIUS, 0), max(x - RADIUS, 0)
            bottom, right = min(y + RADIUS, height - 1), min(x + RADIUS, width - 1)
            count = (bottom - top + 1) * (right - left + 1)
            out[y, x] = values[top:bottom, left:right].sum(axis=(0, 1)) / count
    return out


def _where(error: NDArray[Any]) -> str:
    rows, columns = np.abs(error).max(axis=(1, 2)), np.abs(error).max(axis=(0, 2))
    inner = error[RADIUS:-RADIUS, RADIUS:-RADIUS]
    if inner.size and np.abs(inner).max() <= 1:
        return "the middle is right and the borders are not: clip the window, and count what is inside"
    y, x = int(rows.argmax()), int(columns.argmax())
    return (
        f"grey levels differ from the reference by up to {np.abs(error).max()}, most in row {y} and "
        f"column {x}; work out one pixel by hand"
    )


@lru_cache(maxsize=8)
def _image(shape: tuple[int, int, int]) -> Image:
    """Noise on a bright and a dark half: flat parts and an edge."""
    width = shape[1]
    dice = np.random.default_rng(4)
    halves = np.where(np.arange(width) < width // 2, 60, 190)[None, :, None]
    return np.clip(halves + dice.integers(-25, 26, shape), 0, 255).astype(np.uint8)
