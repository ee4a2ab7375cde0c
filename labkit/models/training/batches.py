"""Random, augmented batches out of an album, and the form in which networks take them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.models.training.data import Chunk

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per RGB channel, on values in [0, 1]; those of ImageNet, as the large models use."""


def scene_batch(
    chunks: list[Chunk], batch: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Tensor, Tensor]:
    """A random batch, augmented: images (B, H, W, 3), boxes (B, M, 4), labels (B, M)."""
    which = rng.integers(len(chunks), size=batch)
    at = [int(rng.integers(len(chunks[c].labels))) for c in which]
    images = np.stack([chunks[c].images[i] for c, i in zip(which, at, strict=True)])
    boxes = np.stack([chunks[c].boxes[i] for c, i in zip(which, at, strict=True)])
    labels = np.stack([chunks[c].labels[i] for c, i in zip(which, at, strict=True)])
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
    import cv2

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
    return np.asarray(part, np.uint8), boxes[order], np.where(kept, labels, -1)[order]


def to_input(images: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """(B, H, W, 3) uint8 RGB to the networks' (B, 3, H, W) float32 input."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # stays channels-last in memory
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(STD, device=device).view(3, 1, 1)
    return pixels.float().div_(255).sub_(mean).div_(std)


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
