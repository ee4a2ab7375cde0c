"""Trains the small models that the package ships, on scenes that know what is in them.

    train("all", World(scene, COARSE, FINE), Plan(Path("trained"), Budget(minutes=60)))

leaves `out/detr/` and `out/resnet/` in the form that the loader of the `lab` model set reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, box_iou

from labkit.core.errors import UsageError, WeightsError
from labkit.core.read_json import read_json
from labkit.models.lab_resnet import build_lab_resnet
from labkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from labkit.models.training.data import Chunk, World, album, flip_and_light, scene_batch, to_input
from labkit.models.training.detr import MATCHER, Learner, build_detr, detr_losses, targets_of
from labkit.models.training.loop import Plan, fit
from labkit.models.weights import write_checksums

DETECTOR_SIZE = (256, 192)
"""(width, height) that frames are shrunk to for the detector."""
CROP_SIZE = (64, 64)
"""(width, height) that crops are resized to for the classifier."""
BATCH = {"detr": 32, "resnet": 128}

TRAIN_SEED = 1_000_000
"""Worlds below this seed are never trained on."""
SCORE_SEED = 2_000_000
SCORE_SCENES = 200
DENSE_SHARE = 0.08
"""Share of the detector's budget after which its decoder joins in."""


def train(which: Literal["detr", "resnet", "all"], world: World, plan: Plan) -> dict[str, Path]:
    """Trains one or both of the small models and writes them under `plan.out`.

    Args:
        which: what to train.
        world: what they learn from; its seed is `TRAIN_SEED + plan.seed`.
        plan: how.

    Returns:
        The folder of each model that was trained.

    Raises:
        UsageError: for an unknown model or a budget that is none.
        WeightsError: if a checkpoint does not fit or the loss is not finite.
    """
    if which not in ("detr", "resnet", "all"):
        raise UsageError(f"train 'detr', 'resnet' or 'all', not {which!r}")
    both = {"resnet": train_classifier, "detr": train_detector}
    return {name: trainer(world, plan) for name, trainer in both.items() if which in (name, "all")}


def train_detector(world: World, plan: Plan) -> Path:
    """Trains the small DETR; see `train`. Returns the folder `out/detr`."""
    torch.manual_seed(plan.seed)
    learner = Learner(build_detr(world.coarse)).to(plan.device).to(memory_format=torch.channels_last).train()
    none = np.empty(0)  # in the place of the crops, which would fill memory
    chunks, held_out = (
        [replace(chunk, crops=none, crop_labels=none) for chunk in chunks] for chunks in _albums(world, plan)
    )

    def step_losses(rng: np.random.Generator, spent: float) -> dict[str, Tensor]:
        images, boxes, labels = scene_batch(chunks, BATCH["detr"], rng)
        dense_only = spent < DENSE_SHARE
        if not dense_only:
            learner.start_decoder()
        pixels, boxes, labels = to_input(images, plan.device), boxes.to(plan.device), labels.to(plan.device)
        with torch.autocast(plan.device, torch.bfloat16):
            return detr_losses(learner, pixels, boxes, labels, dense_only=dense_only)

    def score(averaged: nn.Module) -> Mapping[str, float]:
        return score_detector(averaged.finished(), held_out, plan.device)

    averaged: Any = fit("detr", learner, step_losses, plan, lr=5e-4, score=score)
    return save_detector(averaged.finished(), plan.out / "detr")


def train_classifier(world: World, plan: Plan) -> Path:
    """Trains the small ResNet; see `train`. Returns the folder `out/resnet`."""
    torch.manual_seed(plan.seed)
    config = classifier_config(world.fine)
    model = build_lab_resnet(config).to(plan.device).to(memory_format=torch.channels_last).train()
    (crops, labels), (test_crops, test_labels) = (
        map(np.concatenate, zip(*((chunk.crops, chunk.crop_labels) for chunk in chunks), strict=True))
        for chunks in _albums(world, plan)
    )

    def step_losses(rng: np.random.Generator, spent: float) -> dict[str, Tensor]:
        chosen = rng.integers(len(crops), size=BATCH["resnet"])
        images = flip_and_light(crops[chosen], rng)[0]
        with torch.autocast(plan.device, torch.bfloat16):
            logits = model(to_input(images, plan.device)).float()
        wanted = torch.from_numpy(labels[chosen]).to(plan.device)
        return {"label": functional.cross_entropy(logits, wanted, label_smoothing=0.05)}

    def score(averaged: nn.Module) -> Mapping[str, float]:
        with torch.inference_mode():
            found = averaged(to_input(test_crops, plan.device)).argmax(1).cpu().numpy()
        return {"top1": float((found == test_labels).mean())}

    averaged = fit("resnet", model, step_losses, plan, lr=2e-3, score=score)
    return save_classifier(averaged, config, plan.out / "resnet")


@torch.inference_mode()
def score_detector(detr: Any, chunks: list[Chunk], device: str = "cpu") -> dict[str, float]:
    """Quick figures at score 0.5: recall and precision at IoU 0.5 with the right label, mean IoU."""
    found = right = wanted = 0
    overlap = 0.0
    for chunk in chunks:
        for start in range(0, len(chunk.labels), 50):
            part = slice(start, start + 50)
            out = detr(to_input(chunk.images[part], device))
            truths = targets_of(*(torch.from_numpy(x[part]).to(device) for x in (chunk.boxes, chunk.labels)))
            score, label = out.logits.softmax(-1)[..., :-1].max(-1)
            found += int((score >= 0.5).sum())
            for i, (query, target) in enumerate(MATCHER(out, truths)):
                pairs = out.pred_boxes[i, query], truths[i]["boxes"][target]
                iou = box_iou(*(box_convert(each, "cxcywh", "xyxy") for each in pairs)).diagonal()
                named = label[i, query] == truths[i]["class_labels"][target]
                right += int(((iou >= 0.5) & named & (score[i, query] >= 0.5)).sum())
                wanted += len(target)
                overlap += float(iou.sum())
    return {
        "recall": right / max(1, wanted),
        "precision": right / max(1, found),
        "mean_iou": overlap / max(1, wanted),
    }


def save_detector(detr: Any, folder: Path) -> Path:
    """Writes config.json, model.safetensors (float16), preprocessor.json and their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    detr.half().save_pretrained(folder)
    # Stored in half precision to be small; loaded and run in single precision.
    config = read_json(folder / "config.json", error=WeightsError)
    _write_json(folder / "config.json", config | {"dtype": "float32"})
    preprocessor = {"size": DETECTOR_SIZE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    _write_json(folder / "preprocessor.json", preprocessor)
    write_checksums(folder)
    return folder


def save_classifier(model: nn.Module, config: Mapping[str, Any], folder: Path) -> Path:
    """Writes config.json, model.safetensors (float16) and their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model.half().cpu(), str(folder / "model.safetensors"))
    _write_json(folder / "config.json", config)
    write_checksums(folder)
    return folder


def classifier_config(labels: tuple[str, ...]) -> dict[str, Any]:
    """The config.json of a `build_lab_resnet`, with class names and input form."""
    return {
        "block": "basic",
        "layers": [1, 1, 1, 1],
        "width": 24,
        "num_classes": len(labels),
        "labels": list(labels),
        "size": list(CROP_SIZE),
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }


def _albums(world: World, plan: Plan) -> list[Iterator[Chunk]]:
    """Scenes to learn from, and scenes of another world to be scored on."""
    return [
        album(
            world, plan.out / "album", scenes, seed=seed + plan.seed, size=DETECTOR_SIZE, crop_size=CROP_SIZE
        )
        for seed, scenes in ((TRAIN_SEED, plan.scenes), (SCORE_SEED, min(plan.scenes, SCORE_SCENES)))
    ]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=1) + "\n")
