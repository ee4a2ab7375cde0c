"""Exercises that cannot be fooled.

Each check runs the learner's function on inputs of its own and says what is wrong, not only
that something is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from labkit.preprocess import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Checked:
    """The outcome of a check: right or not, and why."""

    right: bool
    reason: str

    def __str__(self) -> str:
        return f"{'Right' if self.right else 'Not yet'}: {self.reason}"

    def __bool__(self) -> bool:
        return self.right


def check_normalise(normalise: Callable[[np.ndarray], Any]) -> Checked:
    """Exercise of notebook 01: an (H, W, 3) uint8 RGB image to a (1, 3, H, W) float32 input.

    The image is scaled to [0, 1] and normalised with ImageNet's mean and standard deviation.
    """
    image = np.random.default_rng(11).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    untouched = image.copy()
    try:
        got = normalise(image)
    except Exception as error:  # whatever the learner's code raises is the answer to show
        return Checked(False, f"your function raised {type(error).__name__}: {error}")
    if got is None or got is ...:
        return Checked(False, "your function returns nothing yet; end it with return")
    if not (image == untouched).all():
        return Checked(False, "your function changed the frame it was given; others still need it")
    got = np.asarray(got)
    if got.shape != (1, 3, 6, 9):
        return Checked(
            False, f"the shape is {got.shape}, wanted is (1, 3, H, W) = (1, 3, 6, 9): {_shape(got)}"
        )
    if got.dtype != np.float32:
        return Checked(False, f"the type is {got.dtype}, wanted is float32: a network's weights are float32")
    wanted = _normalised(image)
    if np.allclose(got, wanted, atol=1e-5):
        return Checked(True, "every value is that of the textbook formula")
    return Checked(False, _cause(got, image))


def _normalised(image: np.ndarray, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> np.ndarray:
    scaled = (image / 255 - np.asarray(mean)) / np.asarray(std)
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)


def _shape(got: np.ndarray) -> str:
    if got.shape == (3, 6, 9):
        return "the batch dimension in front is missing"
    if got.shape in ((1, 6, 9, 3), (6, 9, 3)):
        return "channels come first in PyTorch; transpose"
    if got.shape == (1, 3, 9, 6):
        return "height and width are swapped"
    return "look at each axis in turn"


def _cause(got: np.ndarray, image: np.ndarray) -> str:
    """Which well-known mistake gives just these values."""
    mean, std = np.asarray(IMAGENET_MEAN), np.asarray(IMAGENET_STD)
    mistakes = {
        "the channels are in the order BGR; frames of the lab are RGB": _normalised(image[..., ::-1]),
        "the mean and std are applied in the wrong channel order": _normalised(image, mean[::-1], std[::-1]),
        "the values were not divided by 255 before the mean was taken off": _normalised(
            image.astype(np.float64) * 255
        ),
        "the values are scaled to [0, 1], but mean and std are missing": _normalised(image, 0, 1),
        "the mean is taken off, but nothing is divided by std": _normalised(image, mean, 1),
        "std is multiplied instead of divided by": _normalised(image, mean, 1 / std),
        "the rows and columns of pixels are mixed up: use transpose, not reshape": (
            ((image / 255 - mean) / std).reshape(1, 3, 6, 9).astype(np.float32)
        ),
    }
    for reason, values in mistakes.items():
        if np.allclose(got, values, atol=1e-4):
            return reason
    worst = float(np.abs(got - _normalised(image)).max())
    return f"the largest difference from the textbook formula is {worst:.3g}; compare one pixel by hand"
