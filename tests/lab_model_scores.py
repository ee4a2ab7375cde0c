"""Scores of the small models on scenes that they never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.core.boxes import box_iou
from labkit.core.errors import UnavailableError, WeightsError
from labkit.core.types import Detections, Size
from labkit.models.lab_resnet import build_lab_resnet
from labkit.models.training.data import SHOT_FRAMES, World

HELD_OUT_SEED = 0
"""The world that a learner sees first; training starts at `training.TRAIN_SEED`."""


@dataclass(frozen=True, eq=False)
class LabModels:
    """The two small models, read from their folders.

    Attributes:
        detector: DetrForObjectDetection in evaluation mode.
        size: (width, height) of its input.
        classifier: from (N, 3, h, w) to (N, C) logits.
        crop_size: (width, height) of the classifier's input.
        mean, std: (3,) of both inputs.
    """

    detector: Any
    size: Size
    classifier: Any
    crop_size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, image: NDArray[np.uint8], size: Size) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, 3, h, w) float32, shrunk by area."""
        import cv2

        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        scaled = (np.asarray(small, np.float32) / 255 - mean) / std
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32))[None]


def read_models(folder: Path) -> LabModels:
    """Reads `folder/detr` and `folder/resnet`.

    Raises:
        WeightsError: a file is missing or does not fit.
    """
    from safetensors.torch import load_file
    from transformers import DetrForObjectDetection

    try:
        wanted = json.loads((folder / "detr" / "preprocessor.json").read_text())
        detector = DetrForObjectDetection.from_pretrained(
            folder / "detr", local_files_only=True, dtype=torch.float32
        )
        config = json.loads((folder / "resnet" / "config.json").read_text())
        classifier = build_lab_resnet(config)
        classifier.load_state_dict(load_file(folder / "resnet" / "model.safetensors"))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(f"the small models cannot be read from {folder}: {error}") from error
    return LabModels(
        detector.eval(),
        (wanted["size"][0], wanted["size"][1]),
        classifier.eval(),
        (config["size"][0], config["size"][1]),
        tuple(wanted["mean"]),
        tuple(wanted["std"]),
    )


@torch.inference_mode()
def detect(
    models: LabModels, image: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (Q, 4) px, scores (Q,) and labels (Q,) of every query in an (H, W, 3) image."""
    height, width = image.shape[:2]
    out = models.detector(models.pixels(image, models.size))
    score, label = out.logits[0].softmax(-1)[:, :-1].max(-1)
    middle, extent = out.pred_boxes[0, :, :2], out.pred_boxes[0, :, 2:]
    shares = torch.cat([middle - extent / 2, middle + extent / 2], dim=1).clamp(0, 1)
    boxes = shares * torch.tensor([width, height, width, height])
    return boxes.numpy(), score.numpy(), label.numpy()


@torch.inference_mode()
def name(models: LabModels, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Fine labels (N,) of what is in each of the (N, 4) boxes (px) of an (H, W, 3) image."""
    if not len(boxes):
        return np.empty(0, np.int64)
    crops = torch.cat([models.pixels(_cut(image, box), models.crop_size) for box in boxes])
    return np.asarray(models.classifier(crops).argmax(1).numpy())


def accuracy(
    models: LabModels, world: World, *, scenes: int = 1000, seed: int = HELD_OUT_SEED
) -> dict[str, float]:
    """Accuracy on `scenes` frames of world `seed`, each from a shot of its own.

    Returns:
        map (mean over IoU 0.5 to 0.95), map_50, map_75 by torchmetrics; and at score 0.5 and IoU
        0.5 with the right label: recall, precision, mean_iou and fine_right (share of those
        objects whose fine name is right).

    Raises:
        UnavailableError: torchmetrics or pycocotools is not installed.
    """
    try:
        from torchmetrics.detection import MeanAveragePrecision

        metric = MeanAveragePrecision()
    except ImportError as error:
        raise UnavailableError(
            f"mAP needs the extra 'accuracy': pip install labkit[accuracy] ({error})"
        ) from error
    tally = np.zeros(4)  # wanted, found, right, fine right
    overlap = 0.0
    for image, truth in _frames(world, scenes, seed):
        boxes, score, label = detect(models, image)
        metric.update(
            [{"boxes": torch.tensor(boxes), "scores": torch.tensor(score), "labels": torch.tensor(label)}],
            [{"boxes": torch.tensor(truth.xyxy), "labels": torch.tensor(truth.label)}],
        )
        sure = score >= 0.5
        pairs = matched(boxes[sure], label[sure], score[sure], truth)
        fine = name(models, image, boxes[sure])
        tally += len(truth), sure.sum(), len(pairs), 0
        for mine, theirs, iou in pairs:
            assert truth.fine_label is not None, "scenes carry fine truth"
            tally[3] += fine[mine] == truth.fine_label[theirs]
            overlap += iou
    result = metric.compute()
    wanted, found, right, fine_right = tally
    return {
        **{key: float(result[key]) for key in ("map", "map_50", "map_75")},
        "recall": right / max(1, wanted),
        "precision": right / max(1, found),
        "mean_iou": overlap / max(1, right),
        "fine_right": fine_right / max(1, right),
        "objects": float(wanted),
    }


def matched(
    boxes: NDArray[np.float32], label: NDArray[np.int64], score: NDArray[np.float32], truth: Detections
) -> list[tuple[int, int, float]]:
    """Pairs (found, true, IoU) with IoU >= 0.5 and the same label, best score first, one to one."""
    overlap = box_iou(boxes, truth.xyxy)
    overlap[label[:, None] != truth.label[None]] = 0
    pairs: list[tuple[int, int, float]] = []
    for mine in np.argsort(-score):
        if not len(truth):
            break
        theirs = int(overlap[mine].argmax())
        if overlap[mine, theirs] >= 0.5:
            pairs.append((int(mine), theirs, float(overlap[mine, theirs])))
            overlap[:, theirs] = 0
    return pairs


def _frames(world: World, scenes: int, seed: int) -> Iterator[tuple[NDArray[np.uint8], Detections]]:
    for shot in range(scenes):
        frame = world.scene(shot * SHOT_FRAMES + 37 * shot % SHOT_FRAMES, seed=seed)
        if frame.truth is not None:
            yield frame.image, frame.truth


def _cut(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    left, top = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    right, bottom = max(int(np.ceil(box[2])), left + 1), max(int(np.ceil(box[3])), top + 1)
    return image[top:bottom, left:right]
