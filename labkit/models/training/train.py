"""Trains the small models that the package ships, on scenes that know what is in them.

    train("all", world=World(scene, COARSE, FINE), out=Path("trained"), minutes=60)

leaves `out/detr/` and `out/resnet/` in the form that the loader of the `lab` model set reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, box_iou

from labkit.core.errors import UsageError, WeightsError
from labkit.core.read_json import read_json
from labkit.models.lab_resnet import build_lab_resnet
from labkit.models.training.batches import MEAN, STD, flip_and_light, scene_batch, to_input
from labkit.models.training.data import Chunk, World, album
from labkit.models.training.detr import Learner, build_detr, detr_losses, match
from labkit.models.training.loop import Budget, Plan, Progress, fit
from labkit.models.weights import write_checksums

DETECTOR_SIZE = (256, 192)
"""(width, height) that frames are shrunk to for the detector."""
CROP_SIZE = (64, 64)
"""(width, height) that crops are resized to for the classifier."""

TRAIN_SEED = 1_000_000
"""Worlds below this seed are never trained on."""
SCORE_SEED = 2_000_000
DENSE_SHARE = 0.08
"""Share of the detector's budget after which its decoder joins in."""

Report = Callable[[Progress], None]


def train(
    which: Literal["detr", "resnet", "all"],
    *,
    world: World,
    out: Path,
    minutes: float | None = None,
    steps: int | None = None,
    scenes: int = 16_000,
    resume: bool = False,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    progress: Report | None = None,
) -> dict[str, Path]:
    """Trains one or both of the small models and writes them under `out`.

    Args:
        which: what to train.
        world: what they learn from.
        out: folder for weights, checkpoints, logs and drawn scenes.
        minutes: of wall time per model; or
        steps: per model.
        scenes: how many different scenes to draw.
        resume: go on from the checkpoints in `out`.
        seed: of weights, batches and the world (which is `TRAIN_SEED + seed`).
        device: "cpu" or "cuda".
        threads: of torch; None leaves it as it is.
        progress: told about each logged step.

    Returns:
        The folder of each model that was trained.

    Raises:
        UsageError: for an unknown model or a budget that is none.
        WeightsError: if a checkpoint does not fit or the loss is not finite.
    """
    if which not in ("detr", "resnet", "all"):
        raise UsageError(f"train 'detr', 'resnet' or 'all', not {which!r}")
    if threads is not None:
        torch.set_num_threads(threads)
    budget = Budget(steps, minutes)
    both = {"resnet": train_classifier, "detr": train_detector}
    return {
        name: trainer(
            world, out, budget, scenes=scenes, resume=resume, seed=seed, device=device, progress=progress
        )
        for name, trainer in both.items()
        if which in (name, "all")
    }


def train_detector(
    world: World,
    out: Path,
    budget: Budget,
    *,
    scenes: int = 16_000,
    resume: bool = False,
    seed: int = 0,
    device: str = "cpu",
    batch: int = 32,
    progress: Report | None = None,
) -> Path:
    """Trains the small DETR; see `train`. Returns the folder `out/detr`."""
    torch.manual_seed(seed)
    learner = Learner(build_detr(world.coarse)).to(device).to(memory_format=torch.channels_last)
    learner.train()
    chunks = _drop_crops(_album(world, out, scenes, TRAIN_SEED + seed))
    held_out = _drop_crops(_album(world, out, min(scenes, 200), SCORE_SEED + seed))
    plan = Plan("detr", budget, seed, out, lr=5e-4, device=device, bf16=True)

    def step_losses(rng: np.random.Generator, spent: float) -> dict[str, Tensor]:
        images, boxes, labels = scene_batch(chunks, batch, rng)
        dense_only = spent < DENSE_SHARE
        if not dense_only:
            learner.start_decoder()
        pixels = to_input(images, device)
        with plan.autocast():
            return detr_losses(learner, pixels, boxes.to(device), labels.to(device), dense_only=dense_only)

    def score(averaged: nn.Module) -> Mapping[str, float]:
        assert isinstance(averaged, Learner), "the averaged copy is of the learner's class"
        return score_detector(averaged.finished(), held_out, device)

    averaged = fit(learner, step_losses, plan, resume=resume, score=score, progress=progress)
    assert isinstance(averaged, Learner), "the averaged copy is of the learner's class"
    return save_detector(averaged.finished(), out / "detr")


def train_classifier(
    world: World,
    out: Path,
    budget: Budget,
    *,
    scenes: int = 16_000,
    resume: bool = False,
    seed: int = 0,
    device: str = "cpu",
    batch: int = 128,
    progress: Report | None = None,
) -> Path:
    """Trains the small ResNet; see `train`. Returns the folder `out/resnet`."""
    torch.manual_seed(seed)
    config = classifier_config(world.fine)
    model = build_lab_resnet(config).to(device).to(memory_format=torch.channels_last).train()
    crops, labels = _crops(_album(world, out, scenes, TRAIN_SEED + seed))
    test_crops, test_labels = _crops(_album(world, out, min(scenes, 200), SCORE_SEED + seed))
    plan = Plan("resnet", budget, seed, out, lr=2e-3, device=device, bf16=True)

    def step_losses(rng: np.random.Generator, spent: float) -> dict[str, Tensor]:
        chosen = rng.integers(len(crops), size=batch)
        images = flip_and_light(crops[chosen], rng)[0]
        with plan.autocast():
            logits = model(to_input(images, device)).float()
        wanted = torch.from_numpy(labels[chosen]).to(device)
        return {"label": functional.cross_entropy(logits, wanted, label_smoothing=0.05)}

    def score(averaged: nn.Module) -> Mapping[str, float]:
        with torch.inference_mode():
            logits = averaged(to_input(test_crops, device))
        right = logits.argmax(1).cpu().numpy() == test_labels
        return {"top1": float(right.mean())}

    averaged = fit(model, step_losses, plan, resume=resume, score=score, progress=progress)
    return save_classifier(averaged, config, out / "resnet")


@torch.inference_mode()
def score_detector(detr: Any, chunks: list[Chunk], device: str = "cpu") -> dict[str, float]:
    """Quick figures at score 0.5: recall and precision at IoU 0.5 with the right label, mean IoU."""
    found = right = wanted = 0
    overlap = 0.0
    for chunk in chunks:
        for start in range(0, len(chunk.labels), 50):
            part = slice(start, start + 50)
            out = detr(to_input(chunk.images[part], device))
            boxes = torch.from_numpy(chunk.boxes[part]).to(device)
            labels = torch.from_numpy(chunk.labels[part]).to(device)
            score, label = out.logits.softmax(-1)[..., :-1].max(-1)
            _, batch, query, target = match(out.logits[None], out.pred_boxes[None], boxes, labels)
            pairs = (
                box_convert(each, "cxcywh", "xyxy")
                for each in (out.pred_boxes[batch, query], boxes[batch, target])
            )
            iou = box_iou(*pairs).diagonal()
            hit = (iou >= 0.5) & (label[batch, query] == labels[batch, target])
            hit &= score[batch, query] >= 0.5
            found += int((score >= 0.5).sum())
            right += int(hit.sum())
            wanted += len(batch)
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
    _write_json(folder / "preprocessor.json", {"size": DETECTOR_SIZE, "mean": MEAN, "std": STD})
    write_checksums(folder)
    return folder


def save_classifier(model: nn.Module, config: Mapping[str, Any], folder: Path) -> Path:
    """Writes config.json, model.safetensors (float16) and their checksums."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
    }
    save_file(state, folder / "model.safetensors")
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
        "mean": list(MEAN),
        "std": list(STD),
    }


def _album(world: World, out: Path, scenes: int, seed: int) -> list[Chunk]:
    folder = out / "album"
    return list(album(world, folder, scenes, seed=seed, size=DETECTOR_SIZE, crop_size=CROP_SIZE))


def _drop_crops(chunks: list[Chunk]) -> list[Chunk]:
    none = np.empty((0, 1, 1, 3), np.uint8), np.empty(0, np.int64)
    return [Chunk(chunk.images, chunk.boxes, chunk.labels, *none) for chunk in chunks]


def _crops(chunks: list[Chunk]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.concatenate([chunk.crops for chunk in chunks])
    return images, np.concatenate([chunk.crop_labels for chunk in chunks])


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=1) + "\n")
