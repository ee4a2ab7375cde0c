"""Lesson 01: normalise an image by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from labkit.lessons.exercise import Mistake, call, exercise_check, find_mistake
from labkit.lessons.hints import hint
from labkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["check_normalise", "hint"]


@exercise_check
def check_normalise(normalise: Callable[[np.ndarray], Any]) -> str:
    """Check `normalise(image)`: (H, W, 3) uint8 RGB -> (1, 3, H, W) float32.

    The image is scaled to [0, 1] and normalised with ImageNet's mean and standard deviation.
    """
    image = np.random.default_rng(11).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    got = np.asarray(call(normalise, image))
    if got.shape != (1, 3, 6, 9):
        raise Mistake(f"the shape is {got.shape}, not (1, 3, H, W) = (1, 3, 6, 9): {_shape(got)}")
    if got.dtype != np.float32:
        raise Mistake(f"the type is {got.dtype}, not float32: a network's weights are float32")
    right = _normalised(image)
    if np.allclose(got, right, atol=1e-5):
        return "every value is that of the textbook formula"
    worst = float(np.abs(got - right).max())
    raise Mistake(
        find_mistake(got, _mistakes(image), right, atol=1e-4)
        or f"the largest difference from the textbook formula is {worst:.3g}; compare one pixel by hand"
    )


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


def _mistakes(image: np.ndarray) -> dict[str, np.ndarray]:
    mean, std = np.asarray(IMAGENET_MEAN), np.asarray(IMAGENET_STD)
    return {
        "the channels are in the order BGR; frames of the lab are RGB": _normalised(image[..., ::-1]),
        "the mean and std are applied in the wrong channel order": _normalised(image, mean[::-1], std[::-1]),
        "the values were not divided by 255 before the mean was subtracted": _normalised(
            image.astype(np.float64) * 255
        ),
        "the values are scaled to [0, 1], but mean and std are missing": _normalised(image, 0, 1),
        "the mean is subtracted, but nothing is divided by std": _normalised(image, mean, 1),
        "std is multiplied instead of divided by": _normalised(image, mean, 1 / std),
        "the rows and columns of pixels are mixed up: use transpose, not reshape": (
            ((image / 255 - mean) / std).reshape(1, 3, 6, 9).astype(np.float32)
        ),
    }
