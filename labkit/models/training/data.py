"""Scenes drawn ahead of training, so that drawing never holds the training up.

An album is a folder of chunks. A chunk holds some hundred scenes, shrunk to the detector's input,
and one crop per object for the classifier; it is written whole, so an interrupted run picks up
where it stopped. Every scene comes from a shot of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labkit.core.boxes import xyxy_to_cxcywh
from labkit.core.errors import UsageError
from labkit.core.files import open_atomic
from labkit.core.types import Frame, Size

SHOT_FRAMES = 150
CHUNK_SCENES = 500
MAX_OBJECTS = 8


@dataclass(frozen=True)
class World:
    """Source of labelled scenes that the models learn from.

    Attributes:
        scene: draws frame `index` of world `seed`, with truth: `scene(index, seed=..., noise=...)`.
        coarse: names of the detector's labels.
        fine: names of the classifier's labels.
    """

    scene: Callable[..., Frame]
    coarse: tuple[str, ...]
    fine: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some scenes and their crops.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        boxes: (N, MAX_OBJECTS, 4) float32, (cx, cy, w, h) as shares of the frame.
        labels: (N, MAX_OBJECTS) int64, -1 where there is no object.
        crops: (M, h, w, 3) uint8 RGB, one per object.
        crop_labels: (M,) int64.
    """

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crops: NDArray[np.uint8]
    crop_labels: NDArray[np.int64]


def album(
    world: World, folder: Path, scenes: int, *, seed: int, size: Size, crop_size: Size
) -> Iterator[Chunk]:
    """The chunks of an album of at least `scenes` scenes; draws and keeps those that are missing.

    Args:
        world: what is drawn.
        folder: where chunks are kept.
        scenes: how many, rounded up to whole chunks (a smaller number gives one small chunk).
        seed: of the world; models are tested on other seeds.
        size: (width, height) of the shrunken scenes.
        crop_size: (width, height) of the crops.
    """
    per_chunk = min(scenes, CHUNK_SCENES)
    name = f"{seed}-{size[0]}x{size[1]}-{crop_size[0]}x{crop_size[1]}-{per_chunk}"
    for number in range(-(-scenes // per_chunk)):
        path = folder / f"{name}-{number:04d}.npz"
        if not path.exists():
            chunk = draw_chunk(world, number, per_chunk, seed=seed, size=size, crop_size=crop_size)
            with open_atomic(path) as file:
                np.savez(file, **{key: getattr(chunk, key) for key in Chunk.__dataclass_fields__})
        with np.load(path) as parts:
            yield Chunk(**{key: parts[key] for key in parts.files})


def draw_chunk(world: World, number: int, scenes: int, *, seed: int, size: Size, crop_size: Size) -> Chunk:
    """Draws `scenes` scenes, from shot `number * scenes` on; arguments as for `album`."""
    rng = np.random.default_rng([seed, number])
    images = np.empty((scenes, size[1], size[0], 3), np.uint8)
    boxes = np.zeros((scenes, MAX_OBJECTS, 4), np.float32)
    labels = np.full((scenes, MAX_OBJECTS), -1, np.int64)
    crops: list[NDArray[np.uint8]] = []
    crop_labels: list[int] = []
    for i in range(scenes):
        step = int(rng.integers(SHOT_FRAMES))
        noise = float(rng.uniform(0, 12)) if rng.random() < 0.3 else 0.0
        frame = world.scene((number * scenes + i) * SHOT_FRAMES + step, seed=seed, noise=noise)
        truth = frame.truth
        if truth is None or truth.fine_label is None:
            raise UsageError("models are trained on a world whose frames carry coarse and fine truth")
        images[i] = shrink(frame.image, size, rng)
        n = len(truth)
        boxes[i, :n] = xyxy_to_cxcywh(truth.xyxy, frame.size)
        labels[i, :n] = truth.label
        for box, fine in zip(truth.xyxy, truth.fine_label, strict=True):
            crops.append(shrink(loose_crop(frame.image, box, rng), crop_size, rng))
            crop_labels.append(int(fine))
    stacked = np.stack(crops) if crops else np.empty((0, crop_size[1], crop_size[0], 3), np.uint8)
    return Chunk(images, boxes, labels, stacked, np.array(crop_labels, np.int64))


def shrink(image: NDArray[np.uint8], size: Size, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Resizes by one of the two ways that pipelines use, so that the models take to both."""
    import cv2

    how = cv2.INTER_AREA if rng.random() < 0.5 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


def loose_crop(
    image: NDArray[np.uint8], xyxy: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The box out of the image, with each edge moved by up to 8%, as a detector would."""
    height, width = image.shape[:2]
    x_min, y_min, x_max, y_max = xyxy
    reach = np.array([x_max - x_min, y_max - y_min, x_max - x_min, y_max - y_min]) * 0.08
    moved = xyxy + rng.uniform(-1, 1, 4) * reach
    left, top = int(max(0, np.floor(moved[0]))), int(max(0, np.floor(moved[1])))
    right, bottom = int(min(width, np.ceil(moved[2]))), int(min(height, np.ceil(moved[3])))
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]
