"""Accuracy of a rung, and its loss against its reference.

Detectors are evaluated on photographs of which the user has the truth, with the very weights of the
benchmark; everything else is evaluated on drawn scenes, with the lab's small models
prepared alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from labkit.bench import accuracy
from labkit.bench.agreement import Answers
from labkit.bench.coco import Photographs
from labkit.bench.context import Context
from labkit.core.types import Frame, Rung
from labkit.models.prepare import resolve_all
from labkit.models.weights import Weights, file_sha256
from labkit.pipelines.ladder import rung as rung_named

BOXES_KEPT = {"detect": 100, "combined": 25}
"""Boxes kept per photograph: all of DETR's queries; fewer where each one is also named. The small
detector has fewer than either."""


def evaluate(rung: Rung, known: Mapping[str, Mapping[str, Any]], context: Context) -> dict[str, Any]:
    """A rung's accuracy and what it loses against its reference's; empty without a data set.

    Args:
        rung: to evaluate.
        known: accuracies by name, from the same benchmark.
        context: shared by all rungs.
    """
    if rung.prepare.form == "own":  # its networks are its own: the lab's models cannot take their place
        return {}
    photographs = context.photographs if rung.prepare.task in BOXES_KEPT else None
    if photographs is None and not context.scenes:
        return {}
    if photographs is None and (context.workload.detector or context.workload.classifier):
        context.reporter.note(
            "no accuracy on scenes: the lab's trained models are a DETR and a ResNet, and say nothing of "
            f"{context.workload.detector or context.workload.classifier}; --coco evaluates pretrained weights"
        )
        return {}

    def score(which: Rung) -> dict[str, Any]:
        return (
            _on_scenes(which, context)
            if photographs is None
            else _on_photographs(which, photographs, context)
        )

    own = score(rung)
    if rung.reference == rung.name:
        return accuracy.against(own, own)
    return accuracy.against(known.get(rung.reference) or score(rung_named(rung.reference)), own)


def _on_scenes(rung: Rung, context: Context) -> dict[str, Any]:
    workload = accuracy.lab_workload(context.workload)
    weights = resolve_all(workload)
    path, result = accuracy.cached_score(rung, _mark(weights), context.scenes, 0.0)
    if result is None:
        context.reporter.step(f"{rung.name}: accuracy on {context.scenes} scenes")
        frames = _scenes(rung.prepare.task, context.scenes)
        worker = context.evaluator.prepare(rung, workload, frames[:1], weights)
        result = accuracy.score(worker.answers(frames), frames)
        accuracy.cache_score(path, result)
    return result


def _on_photographs(rung: Rung, photographs: Photographs, context: Context) -> dict[str, Any]:
    about, frames = photographs.about, photographs.frames
    most = accuracy.OBJECTS if context.workload.model_set == "lab" else BOXES_KEPT[rung.prepare.task]
    workload = replace(context.workload, objects=most, threshold=0.0)
    data = f"{about['annotations_sha256']}-{about['sha256']}-{workload.objects}"
    path, result = accuracy.cached_score(rung, _mark(context.weights), len(frames), 0.0, data)
    if result is None:
        context.reporter.step(f"{rung.name}: accuracy on {len(frames)} photographs")
        worker = context.evaluator.prepare(rung, workload, frames[:1], context.weights)
        found = accuracy.detections_of(worker, frames, context.reporter.progress)
        result = accuracy.score(Answers(rung.name, found, {}), frames, photographs.crowds)
        result |= {"on": "photographs", "boxes_kept": workload.objects, **about}
        accuracy.cache_score(path, result)
    return result


@lru_cache(maxsize=2)
def _scenes(task: str, n: int) -> list[Frame]:
    """Drawn once for all rungs of a kind of work."""
    return accuracy.frames_for(task, n)


def _mark(weights: Mapping[str, Weights]) -> str:
    """Hash of weights, for the cache."""
    files = [w.path / "model.safetensors" if w.path.is_dir() else w.path for w in weights.values() if w.path]
    return "-".join(file_sha256(file)[:16] for file in files)
