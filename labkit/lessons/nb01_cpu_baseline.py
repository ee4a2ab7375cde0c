"""Lesson 01: normalise an image by hand, find blue in the place of red, and count frames."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from labkit.bench.accuracy import frames_for
from labkit.core.errors import UsageError
from labkit.core.types import Frame, is_whole
from labkit.lessons.exercise import Mistake, Rng, call, compare, exercise_check, numbers_in, solved
from labkit.lessons.hints import hint
from labkit.models.callables import OwnLabels
from labkit.models.networks import labels_of
from labkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from labkit.models.weights import lab_weights
from labkit.pipelines.own_loop import own_rung

__all__ = ["check_counters", "check_from_camera", "check_normalise", "hint", "right_names", "solved"]


def right_names(
    loop: Callable[..., Any], from_camera: Callable[[np.ndarray], np.ndarray], scenes: int = 50
) -> str:
    """Counts the right names that a loop gives to drawn objects which a camera delivers as BGR.

    Args:
        loop: a classifier's loop, as in `labkit.bench`, around the lab's small ResNet.
        from_camera: (H, W, 3) uint8 BGR -> what the loop is given as a frame's image.
        scenes: how many scenes the objects are cut from.
    """
    if not is_whole(scenes, 1, 1000):
        raise UsageError(f"scenes is a number from 1 to 1000, not {scenes!r}")
    drawn = frames_for("classify", scenes)
    seen = [
        Frame(np.ascontiguousarray(from_camera(frame.image[..., ::-1].copy())), frame.index, frame.t_s)
        for frame in drawn
    ]
    names = OwnLabels(labels_of(lab_weights("lab_resnet")))
    truths = {frame.index: frame.truth for frame in drawn}
    answers = [(frame.index, found.name[0]) for frame, found in own_rung(loop).run(seen, names)]
    right = sum(name == truths[index].fine_name[0] for index, name in answers)  # type: ignore[union-attr,index]
    return f"{right} of {len(answers)} names are right"


@exercise_check
def check_from_camera(from_camera: Callable[[np.ndarray], Any], rng: Rng) -> str:
    """Check `from_camera(bgr)`: (H, W, 3) uint8 BGR -> the same picture in RGB order."""
    for bgr in _images(rng):
        got = numbers_in(call(from_camera, bgr))
        if got.shape != bgr.shape or got.dtype != np.uint8:
            raise Mistake(f"a picture of uint8 {bgr.shape} became {got.dtype} {got.shape}")
        mistakes = {
            "blue is still first: nothing was changed": bgr,
            "the picture is upside down, and blue is still first: turn the last axis instead": bgr[::-1],
            "left and right are swapped, and blue is still first: turn the last axis instead": bgr[:, ::-1],
            "the channels moved round by one, so green is first now": np.roll(bgr, -1, axis=-1),
            "red is first, but green and blue have changed places": np.roll(bgr, 1, axis=-1),
        }
        otherwise = "the values are not those of the picture; only the order of the channels may change"
        compare(got, bgr[..., ::-1], mistakes, otherwise, rtol=0)
    return "red is red again"


@exercise_check
def check_normalise(normalise: Callable[[np.ndarray], Any], rng: Rng) -> str:
    """Check `normalise(image)`: (H, W, 3) uint8 RGB -> (1, 3, H, W) float32.

    The image is scaled to [0, 1] and normalised with ImageNet's mean and standard deviation.
    Images of several sizes are drawn, a frame of a camera's size among them.
    """
    for image in _images(rng):
        got, height, width = numbers_in(call(normalise, image)), *image.shape[:2]
        shapes = {
            (3, height, width): "the batch dimension in front is missing",
            (1, height, width, 3): "channels come first in PyTorch; transpose",
            (height, width, 3): "channels come first in PyTorch; transpose",
            (1, 3, width, height): "height and width are swapped",
        }
        if got.shape != (1, 3, height, width):
            why = shapes.get(got.shape, "look at each axis in turn")
            raise Mistake(f"the shape is {got.shape}, not (1, 3, H, W) = {(1, 3, height, width)}: {why}")
        if got.dtype != np.float32:
            raise Mistake(f"the type is {got.dtype}, not float32: a network's weights are float32")
        otherwise = "the values differ from the textbook formula; compare one pixel"
        compare(got, _normalised(image), partial(_mistakes, image), otherwise, rtol=1e-5, atol=1e-5)
    return "every value is that of the textbook formula"


@exercise_check
def check_counters(counters: Callable[[np.ndarray, float], Any], rng: Rng) -> str:
    """Check `counters(per_frame_s, wall_s)`: (n,) s and s -> (mean of the rates, throughput) in FPS."""
    few = int(rng.integers(5, 60))
    for n in (few, few, 1, int(rng.integers(60, 400))):
        per_frame_s = rng.uniform(0.004, 0.03, n)
        per_frame_s[-1] *= rng.uniform(5, 20)  # a stall
        wall_s = float(per_frame_s.sum() * rng.uniform(1.3, 4.0))  # with the waiting for frames
        got = call(counters, per_frame_s, wall_s)
        rates, throughput, without = np.mean(1 / per_frame_s), n / wall_s, n / per_frame_s.sum()
        mistakes = {
            "the two have changed places": np.array([throughput, rates]),
            "both are throughput; the author's counter showed the mean of 1 / t": np.full(2, throughput),
            "both are a mean of rates; throughput is frames over all the time": np.full(2, rates),
            "the first is frames over their time; the author's counter showed the mean of 1 / t": (
                np.array([without, throughput])
            ),
            "the second leaves out the waiting for frames; divide by the wall time": (
                np.array([rates, without])
            ),
            "the second is the rate of one frame; there were more": np.array([rates, 1 / wall_s]),
        }
        right, case = np.array([rates, throughput]), f"{n} frame{'' if n == 1 else 's'} in {wall_s:.2f} s"
        compare(got, right, mistakes, shape="two numbers", case=case, rtol=1e-6)
    return "the mean of the rates, and frames over all the time"


def _images(rng: Rng) -> list[np.ndarray]:
    """A small image whose shape no mistake fits by chance, its shape again, and other shapes."""
    width, height = int(rng.integers(9, 40)), int(rng.integers(4, 9))
    frame, long = np.sort(rng.integers(200, 700, 2)), int(rng.integers(700, 4000))
    sizes = [(height, width), (height, width), (frame[1], frame[0]), (2, long), (long, 3), (1, 1)]
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    images += [np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)]
    return [*images, np.full((3, 3, 3), 255, np.uint8), np.zeros((width, height, 3), np.uint8)]


def _normalised(image: np.ndarray, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> np.ndarray:
    scaled = (image / 255 - np.asarray(mean)) / np.asarray(std)
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)


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
            ((image / 255 - mean) / std).reshape(1, 3, *image.shape[:2]).astype(np.float32)
        ),
    }
