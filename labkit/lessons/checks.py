"""Exercises that cannot be fooled.

Each check runs the learner's function on inputs of its own and says what is wrong, not only
that something is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from labkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD


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


def check_corners(corners: Callable[[Any, int, int], Any]) -> Checked:
    """Exercise of notebook 03: a float box to whole pixels inside the frame, at least one each way."""
    width, height = 20, 10
    cases = {
        "an ordinary box": ((2.2, 3.7, 8.1, 9.0), (2, 3, 9, 9)),
        "a box that touches part of a pixel": ((4.9, 4.9, 5.1, 5.1), (4, 4, 6, 6)),
        "a box that reaches over the edges": ((-3.0, -2.0, 25.5, 12.0), (0, 0, 20, 10)),
        "a box without area": ((6.0, 7.0, 6.0, 7.0), (6, 7, 7, 8)),
        "a box without area in the far corner": ((20.0, 10.0, 20.0, 10.0), (19, 9, 20, 10)),
        "the whole frame": ((0.0, 0.0, 20.0, 10.0), (0, 0, 20, 10)),
    }
    for what, (box, wanted) in cases.items():
        try:
            got = corners(np.array(box, np.float32), width, height)
        except Exception as error:  # whatever the learner's code raises is the answer to show
            return Checked(False, f"your function raised {type(error).__name__}: {error}")
        if got is None:
            return Checked(False, "your function returns nothing yet; end it with return")
        if len(got) != 4 or any(float(side) != int(side) for side in got):
            return Checked(False, f"for {what} it gives {got}; wanted are four whole numbers")
        left, top, right, bottom = (int(side) for side in got)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            return Checked(
                False, f"for {what} it gives {got}, which is empty or leaves the {width}x{height} frame"
            )
        if (left, top, right, bottom) != wanted:
            return Checked(False, f"for {what}, {box}, it gives {tuple(map(int, got))}; wanted is {wanted}")
    return Checked(True, "every box gives pixels that can be cut out")


def check_speed_up(speed_up: Callable[[float, float], Any]) -> Checked:
    """Exercise of notebook 06: Amdahl's law for one part of the time."""
    cases = ((0.3, 4.0), (0.5, 2.0), (0.9, 10.0), (0.0, 5.0), (1.0, 3.0), (0.4, 0.5), (0.6, 1.0))
    for share, factor in cases:
        wanted = 1 / (1 - share + share / factor)
        try:
            got = speed_up(share, factor)
        except Exception as error:  # whatever the learner's code raises is the answer to show
            return Checked(False, f"your function raised {type(error).__name__}: {error}")
        if got is None:
            return Checked(False, "your function returns nothing yet; end it with return")
        if abs(float(got) - wanted) > 1e-6:
            return Checked(False, _amdahl_cause(float(got), share, factor, wanted))
    return Checked(True, "that is Amdahl's law, also when a part becomes slower")


def _amdahl_cause(got: float, share: float, factor: float, wanted: float) -> str:
    """Which well-known slip gives just this value."""
    slips = {
        "that is the new time as a share of the old one; a gain is its inverse": 1 / wanted,
        "that adds the part's gain in proportion; times add up, gains do not": 1 - share + share * factor,
        "the part does not vanish, it becomes faster; that is the ceiling": 1 / max(1e-12, 1 - share),
        "only this part becomes faster, not the whole": factor,
    }
    case = f"for a share of {share:g} made {factor:g} times faster it gives {got:.4g}"
    for reason, value in slips.items():
        if abs(got - value) < 1e-6:
            return f"{case}: {reason}"
    return f"{case}; write down the old time as 1 and the new time as what stays plus what shrinks"


def check_device_time(device_time: Callable[[Any, Any], Any]) -> Checked:
    """Exercise of notebook 02: how long a device worked on each of several things it was asked for.

    It does one thing after another: it begins when it has been asked and the one before is done.
    """
    cases = {
        "a device that is never waited for": ([0.0, 1.0, 2.0], [4.0, 7.0, 12.0]),
        "a device that idles between frames": ([0.0, 10.0, 20.0], [3.0, 12.0, 27.0]),
        "both by turns": ([0.0, 1.0, 9.0, 9.5], [4.0, 6.0, 10.0, 13.0]),
        "a single frame": ([2.0], [5.0]),
    }
    for what, (asked_s, done_s) in cases.items():
        asked, done = np.array(asked_s), np.array(done_s)
        wanted = done - np.maximum(asked, np.concatenate([[-np.inf], done[:-1]]))
        try:
            got = device_time(asked.copy(), done.copy())
        except Exception as error:  # whatever the learner's code raises is the answer to show
            return Checked(False, f"your function raised {type(error).__name__}: {error}")
        if got is None or got is ...:
            return Checked(False, "your function returns nothing yet; end it with return")
        got = np.asarray(got, float)
        if got.shape != wanted.shape:
            return Checked(False, f"for {what} it gives {got.shape} values; wanted is one per frame")
        if not np.allclose(got, wanted, atol=1e-9):
            told = f"for {what} (asked at {asked_s}, done at {done_s} s) it gives {got.tolist()}"
            return Checked(False, f"{told}: {_device_cause(got, asked, done)}")
    return Checked(True, "neither waiting in the queue nor idling counts as work")


def _device_cause(got: np.ndarray, asked: np.ndarray, done: np.ndarray) -> str:
    """Which well-known slip gives just these values."""
    slips = {
        "that counts the wait in the queue as work; the device was busy with the frame before": done - asked,
        "that counts idling as work; nobody had asked yet": np.diff(done, prepend=asked[0]),
        "that is when the host asked, not when the device worked": np.diff(asked, prepend=asked[0]),
        "that is when each frame was done, not how long it took": done,
        "that is the mean of all; each frame has its own": np.full(
            len(done), (done[-1] - asked[0]) / len(done)
        ),
    }
    for reason, values in slips.items():
        if np.allclose(got, values):
            return reason
    return "when could it begin? Not before it was asked, and not before the frame before was done"
