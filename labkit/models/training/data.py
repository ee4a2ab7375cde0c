"""Scenes to learn from: drawn ahead into an album, and random, augmented batches out of it.

An album is a folder of chunks. A chunk holds some hundred scenes, shrunk to the detector's input,
and one crop per object for the classifier; it is written whole, so an interrupted run picks up
where it stopped. Every scene comes from a shot of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.core.boxes import xyxy_to_cxcywh
from labkit.core.errors import UsageError
from labkit.core.files import open_atomic
from labkit.core.types import Frame, Size
from labkit.models.callables import cut
from labkit.models.preprocess import DETR_INPUT, normalise_torch

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
                np.savez(file, **vars(chunk))
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
        images[i] = _shrink(frame.image, size, rng)
        boxes[i, : len(truth)] = xyxy_to_cxcywh(truth.xyxy, frame.size)
        labels[i, : len(truth)] = truth.label
        for box in truth.xyxy:  # each edge is moved by up to 8%, as a detector would
            moved = box + rng.uniform(-1, 1, 4) * np.tile(box[2:] - box[:2], 2) * 0.08
            inside = np.clip(moved, 0, [*frame.size, *frame.size])
            crops.append(_shrink(cut(frame.image, inside), crop_size, rng))
        crop_labels += truth.fine_label.tolist()
    stacked = np.stack(crops) if crops else np.empty((0, crop_size[1], crop_size[0], 3), np.uint8)
    return Chunk(images, boxes, labels, stacked, np.array(crop_labels, np.int64))


def _shrink(image: NDArray[np.uint8], size: Size, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Resizes by one of the two ways that pipelines use, so that the models take to both."""
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if rng.random() < 0.5 else cv2.INTER_LINEAR)


def scene_batch(
    chunks: list[Chunk], batch: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Tensor, Tensor]:
    """A random batch, augmented: images (B, H, W, 3), boxes (B, M, 4), labels (B, M)."""
    which = rng.integers(len(chunks), size=batch)
    at = [int(rng.integers(len(chunks[c].labels))) for c in which]
    images, boxes, labels = (
        np.stack([getattr(chunks[c], part)[i] for c, i in zip(which, at, strict=True)])
        for part in ("images", "boxes", "labels")
    )
    for i in range(batch):
        if rng.random() < 0.5:
            images[i], boxes[i], labels[i] = zoom(images[i], boxes[i], labels[i], rng)
    images, flipped = flip_and_light(images, rng)
    boxes[flipped, :, 0] = 1 - boxes[flipped, :, 0]
    return images, torch.from_numpy(boxes), torch.from_numpy(labels)


def zoom(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """A random part of the scene, at least 75% of each side, enlarged to the whole.

    Objects of which less than 40% of the box is left lose their label.
    """
    height, width = image.shape[:2]
    share = rng.uniform(0.75, 1)
    w, h = round(width * share), round(height * share)
    left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    part = cv2.resize(image[top : top + h, left : left + w], (width, height), interpolation=cv2.INTER_LINEAR)
    scale = np.array([width / w, height / h], np.float32)
    shift = np.array([left / width, top / height], np.float32)
    low = ((boxes[:, :2] - boxes[:, 2:] / 2) - shift) * scale
    high = ((boxes[:, :2] + boxes[:, 2:] / 2) - shift) * scale
    area = (high - low).prod(axis=1)
    low, high = low.clip(0, 1), high.clip(0, 1)
    kept = (high - low).prod(axis=1) >= 0.4 * area
    # Real objects come first in the lists, so the order closes the gaps (and keeps front to back).
    order = np.argsort(~(kept & (labels >= 0)), kind="stable")
    boxes = np.concatenate([(low + high) / 2, high - low], axis=1).astype(np.float32)
    return part, boxes[order], np.where(kept, labels, -1)[order]


def flip_and_light(
    images: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Half of the images mirrored (which ones is returned), all a little brighter or darker."""
    flipped = rng.random(len(images)) < 0.5
    mirrored = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    for image in mirrored:
        table = np.arange(256) * rng.uniform(0.85, 1.15) + rng.uniform(-12, 12)
        image[...] = table.clip(0, 255).astype(np.uint8)[image]
    return mirrored, flipped


def to_input(images: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """(B, H, W, 3) uint8 RGB to the networks' (B, 3, H, W) float32 input."""
    return normalise_torch(torch.from_numpy(images).to(device).permute(0, 3, 1, 2), DETR_INPUT)
