"""What a rung's answers are worth, and what it loses against its reference.

Detectors are examined on photographs of which the user has the truth, with the very weights of the
benchmark; whatever has no such exam is examined on drawn scenes, with the lab's small models
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
from labkit.bench.context import Job
from labkit.core.types import Frame, Rung
from labkit.models.prepare import resolve_all
from labkit.models.weights import Weights, file_sha256
from labkit.pipelines.ladder import rung as rung_named

KEPT = {"detect": 100, "combined": 25}
"""Boxes kept per photograph: all of DETR's queries; fewer where each one is also named. The small
detector has fewer than either."""


def examine(rung: Rung, known: Mapping[str, Mapping[str, Any]], job: Job) -> dict[str, Any]:
    """A rung's accuracy and what it loses against its reference's; empty where there is no exam.

    Args:
        rung: to examine.
        known: accuracies by name, from the same benchmark.
        job: what all rungs share.
    """
    photographs = job.photographs if rung.prepare.task in KEPT else None
    if photographs is None and not job.scenes:
        return {}

    def score(which: Rung) -> dict[str, Any]:
        return _on_scenes(which, job) if photographs is None else _on_photographs(which, photographs, job)

    own = score(rung)
    if rung.reference == rung.name:
        return accuracy.against(own, own)
    return accuracy.against(known.get(rung.reference) or score(rung_named(rung.reference)), own)


def _on_scenes(rung: Rung, job: Job) -> dict[str, Any]:
    workload = accuracy.lab_workload(job.workload)
    weights = resolve_all(workload)
    path, result = accuracy.remembered(rung, _mark(weights), job.scenes, 0.0)
    if result is None:
        job.reporter.step(f"{rung.name}: accuracy on {job.scenes} scenes")
        frames = _scenes(rung.prepare.task, job.scenes)
        worker = job.examiner.prepare(rung, workload, frames[:1], weights)
        result = accuracy.score(worker.answers(frames), frames)
        accuracy.remember(path, result)
    return result


def _on_photographs(rung: Rung, photographs: Photographs, job: Job) -> dict[str, Any]:
    about, frames = photographs.about, photographs.frames
    most = accuracy.OBJECTS if job.workload.model_set == "lab" else KEPT[rung.prepare.task]
    workload = replace(job.workload, objects=most, threshold=0.0)
    exam = f"{about['annotations_sha256']}-{about['sha256']}-{workload.objects}"
    path, result = accuracy.remembered(rung, _mark(job.weights), len(frames), 0.0, exam)
    if result is None:
        job.reporter.step(f"{rung.name}: accuracy on {len(frames)} photographs")
        worker = job.examiner.prepare(rung, workload, frames[:1], job.weights)
        found = accuracy.found_by(worker, frames, job.reporter.progress)
        result = accuracy.score(Answers(rung.name, found, {}), frames, photographs.crowds)
        result |= {"on": "photographs", "boxes_kept": workload.objects, **about}
        accuracy.remember(path, result)
    return result


@lru_cache(maxsize=2)
def _scenes(task: str, n: int) -> list[Frame]:
    """Drawn once for all rungs of a kind of work."""
    return accuracy.frames_for(task, n)


def _mark(weights: Mapping[str, Weights]) -> str:
    """What tells these weights from others, for the cache."""
    files = [w.path / "model.safetensors" if w.path.is_dir() else w.path for w in weights.values() if w.path]
    return "-".join(file_sha256(file)[:16] for file in files)
