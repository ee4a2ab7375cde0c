"""Accuracy of a rung on frames whose truth is known, and its loss against its reference.

The lab's small models are trained on the world of `scenes`; here they are prepared exactly
as the rung prepares the full ones, and look at frames that training never saw. So a rung
that trades correctness for speed shows it, whatever weights its speed was measured with. Detectors
are evaluated on photographs instead, with the very weights of the benchmark, where there are some.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from labkit.bench.agreement import Answers, match
from labkit.bench.coco import Photographs
from labkit.bench.context import Context
from labkit.bench.frames import frames_sha256
from labkit.bench.worker import Worker
from labkit.core.errors import LabError, UnavailableError
from labkit.core.files import write_atomic
from labkit.core.read_json import read_json
from labkit.core.stats import half_width
from labkit.core.types import Detections, Frame, Rung, Workload
from labkit.models.engines.engine_cache import cache_folder
from labkit.models.prepare import resolve_all
from labkit.models.weights import Weights, file_sha256
from labkit.pipelines.ladder import rung as rung_named
from labkit.sources.synthetic.scene import scene_frame

QUICK_SCENES, FULL_SCENES = 24, 100
SHOT = 150  # frames between two scenes that have nothing in common
OBJECTS = 16  # all queries of the small detector
FOLDS = 8
AT_ONCE = 16  # frames on their way to a worker
MAP_LOSS, NAMES_CHANGED = 0.01, 0.01
NAMED = "named"
BOXES_KEPT = {"detect": 100, "combined": 25}
"""Boxes kept per photograph: all of DETR's queries; fewer where each one is also named. The small
detector has fewer than either."""
Names = Sequence[Sequence[str]]


def truth_frames(
    n: int, size: tuple[int, int] = (640, 480), noise: float = 0.0, first: int = 0
) -> list[Frame]:
    """`n` unrelated scenes from the `first` on, of the world that training never saw (seed 0), and truth."""
    scenes = range(first, first + n)
    return [replace(scene_frame(i * SHOT, size=size, seed=0, noise=noise), index=i - first) for i in scenes]


def single_objects(frames: Sequence[Frame]) -> list[Frame]:
    """Each object of the scenes as a frame of its own, for classifiers of whole frames."""
    crops: list[Frame] = []
    for frame in frames:
        truth = frame.truth
        if truth is None:
            continue
        for i, box in enumerate(truth.xyxy):
            left, top, right, bottom = (round(float(side)) for side in box)
            if right - left < 8 or bottom - top < 8:
                continue
            image = np.ascontiguousarray(frame.image[top:bottom, left:right])
            crops.append(Frame(image, len(crops), 0.0, truth.take([i])))
    return crops


def frames_for(task: str, n: int) -> list[Frame]:
    """Test frames of a task: scenes, or single objects for a classifier."""
    frames = truth_frames(n)
    return single_objects(frames) if task == "classify" else frames


def lab_workload(workload: Workload) -> Workload:
    """The workload with the small models and every query kept."""
    own = replace(workload, detector=None, classifier=None)  # the lab set has its own two models
    return replace(own, model_set="lab", size=(640, 480), objects=OBJECTS, threshold=0.0)


def score(
    answers: Answers, frames: Sequence[Frame], crowds: Sequence[Detections] | None = None
) -> dict[str, Any]:
    """Accuracy of a rung's answers to frames whose truth is known.

    Args:
        answers: of the rung.
        frames: with their truth.
        crowds: per frame, boxes around groups: what is found there counts neither way.

    Returns:
        For detectors map_50 and map (over IoU 0.5 to 0.95, torchmetrics) with their 95%
        intervals; for whatever names objects top1, the share of right fine names among matched
        objects, and `NAMED`, the fine name of each object of each frame, "" where it was not surely
        found; n_scenes and sha256 of the frames.

    Raises:
        UnavailableError: torchmetrics or pycocotools is missing.
    """
    truths = [frame.truth for frame in frames if frame.truth is not None]
    found = answers.found
    result: dict[str, Any] = {"n_scenes": len(frames), "sha256": frames_sha256(frames)}
    if _names_whole_frames(found):
        named = [[f.name[0]] for f in found]
    else:
        crowds = crowds or [Detections.empty(t.frame_size) for t in truths]
        result |= _average_precision(found, truths, crowds)
        named = [_names(f, t) for f, t in zip(found, truths, strict=True)]
    right = [
        int(name == true)
        for names, t in zip(named, truths, strict=True)
        for name, true in zip(names, t.fine_name or [""] * len(names), strict=True)
        if name
    ]
    if right:
        result |= {"top1": float(np.mean(right)), "top1_interval": _share_interval(right), NAMED: named}
    return result


def against(reference: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` with what it loses against the reference rung's accuracy on the same scenes.

    Also the share of names that it changes, for better or worse; more than a point of mAP or 1% of
    names is too much.
    """
    loss = {
        f"{key}_loss": reference[key] - own[key]
        for key in ("map_50", "map", "top1")
        if key in own and key in reference
    }
    changed = _names_changed(reference.get(NAMED), own.get(NAMED))
    if changed is not None:
        loss["names_changed"] = changed
    points = max(loss.get("map_50_loss", 0.0), loss.get("map_loss", 0.0))
    names = max(loss.get("top1_loss", 0.0), loss.get("names_changed", 0.0))
    return {**own, **loss, "loses": bool(points > MAP_LOSS or names > NAMES_CHANGED)}


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

    def scored(which: Rung) -> dict[str, Any]:
        return _on_photographs(which, photographs, context) if photographs else _on_scenes(which, context)

    own = scored(rung)
    if rung.reference == rung.name:
        return against(own, own)
    return against(known.get(rung.reference) or scored(rung_named(rung.reference)), own)


def _on_scenes(rung: Rung, context: Context) -> dict[str, Any]:
    workload = lab_workload(context.workload)
    weights = resolve_all(workload)

    def measure() -> dict[str, Any]:
        context.reporter.step(f"{rung.name}: accuracy on {context.scenes} scenes")
        frames = _scenes(rung.prepare.task, context.scenes)
        worker = context.evaluator.prepare(rung, workload, frames[:1], weights)
        return score(worker.answers(frames), frames)

    return cached_score(rung, _mark(weights), context.scenes, measure)


def _on_photographs(rung: Rung, photographs: Photographs, context: Context) -> dict[str, Any]:
    about, frames = photographs.about, photographs.frames
    most = OBJECTS if context.workload.model_set == "lab" else BOXES_KEPT[rung.prepare.task]
    workload = replace(context.workload, objects=most, threshold=0.0)
    data = f"{about['annotations_sha256']}-{about['sha256']}-{workload.objects}"

    def measure() -> dict[str, Any]:
        context.reporter.step(f"{rung.name}: accuracy on {len(frames)} photographs")
        worker = context.evaluator.prepare(rung, workload, frames[:1], context.weights)
        found = detections_of(worker, frames, context.reporter.progress)
        result = score(Answers(rung.name, found, {}), frames, photographs.crowds)
        return result | {"on": "photographs", "boxes_kept": workload.objects, **about}

    return cached_score(rung, _mark(context.weights), len(frames), measure, data)


@lru_cache(maxsize=2)
def _scenes(task: str, n: int) -> list[Frame]:
    """Drawn once for all rungs of a kind of work."""
    return frames_for(task, n)


def _mark(weights: Mapping[str, Weights]) -> str:
    """Hash of weights, for the cache."""
    files = [w.path / "model.safetensors" if w.path.is_dir() else w.path for w in weights.values() if w.path]
    return "-".join(file_sha256(file)[:16] for file in files)


def without_names(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy as a run stores it, without each object's name."""
    return {key: value for key, value in accuracy.items() if key != NAMED}


def _names_changed(reference: Names | None, own: Names | None) -> float | None:
    """Share of the objects that both name, and name differently; None where there are none."""
    if reference is None or own is None:
        return None
    pairs = [
        (a, b)
        for one, other in zip(reference, own, strict=True)
        for a, b in zip(one, other, strict=True)
        if a and b
    ]
    return sum(a != b for a, b in pairs) / len(pairs) if pairs else None


def map_loss(reference: Answers, own: Answers, frames: Sequence[Frame]) -> dict[str, list[float | None]]:
    """Loss of mAP of `own` against `reference` on the same frames.

    Returns:
        For map_50 and map: the loss (below 0 for a gain), and its 95% interval from differences within
        each eighth of the frames, which both have seen; None twice where eighths would be too small.
    """
    truths = [frame.truth for frame in frames if frame.truth is not None]
    crowds = [Detections.empty(truth.frame_size) for truth in truths]
    wholes = [_map(each.found, truths, crowds) for each in (reference, own)]
    folds = list(zip(*(_folds(each.found, truths, crowds) for each in (reference, own)), strict=True))
    result: dict[str, list[float | None]] = {}
    for key in wholes[0]:
        loss = wholes[0][key] - wholes[1][key]
        losses = np.array([a[key] - b[key] for a, b in folds if min(a[key], b[key]) >= 0])
        half = half_width(losses) if len(losses) > 1 else None
        result[key] = [loss, None, None] if half is None else [loss, loss - half, loss + half]
    return result


def detections_of(
    worker: Worker, frames: Sequence[Frame], progress: Callable[[float], None] = lambda share: None
) -> list[Detections]:
    """Detections of a worker in many frames, sent in small batches, as each frame is copied."""
    found: list[Detections] = []
    for start in range(0, len(frames), AT_ONCE):
        found += worker.answers(frames[start : start + AT_ONCE]).found
        progress(len(found) / len(frames))
    return found


def cached_score(
    rung: Rung, weights_sha256: str, n: int, measure: Callable[[], dict[str, Any]], data: str = "scenes"
) -> dict[str, Any]:
    """A rung's accuracy from the cache, or measured now and put there.

    Args:
        rung: that is evaluated.
        weights_sha256: of its networks.
        n: number of frames.
        measure: does it.
        data: identifies the frames and their truth.
    """
    from labkit.core.machine import fingerprint

    mark = fingerprint()
    key = json.dumps(
        [rung.prepare.describe(), rung.run.__qualname__, weights_sha256, n, data, mark["versions"],
         mark["cpu"], mark.get("isa"), (mark["gpu"] or {}).get("name"), mark["commit"], mark["dirty"]],
        sort_keys=True, default=str,
    )  # fmt: skip
    path = cache_folder().parent / "accuracy" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if not mark["dirty"]:
        with suppress(LabError):
            kept: dict[str, Any] = read_json(path)
            return kept
    result = measure()
    with suppress(LabError):  # a folder that cannot be written: then the next one measures again
        write_atomic(path, json.dumps(result))
    return result


def _names_whole_frames(found: Sequence[Detections]) -> bool:
    return all(len(f) == 1 and f.fine_label is None for f in found)


def _names(found: Detections, truth: Detections) -> list[str]:
    """Fine name per object of a confident box that matches it; "" without one."""
    if truth.fine_name is None:
        return []
    names = [""] * len(truth)
    if found.fine_name is None:
        return names
    sure = found.take(np.flatnonzero(found.score >= 0.5))
    assert sure.fine_name is not None
    for i, j in match(truth, sure):
        names[i] = sure.fine_name[j]
    return names


def _average_precision(
    found: Sequence[Detections], truths: Sequence[Detections], crowds: Sequence[Detections]
) -> dict[str, Any]:
    whole = _map(found, truths, crowds)
    result: dict[str, Any] = dict(whole)
    folds = _folds(found, truths, crowds)
    for key in whole:
        values = np.array([fold[key] for fold in folds if fold[key] >= 0])  # -1: no object in the fold
        if len(values) > 1:
            half = half_width(values)
            result[f"{key}_interval"] = [max(0.0, whole[key] - half), min(1.0, whole[key] + half)]
    return result


def _folds(
    found: Sequence[Detections], truths: Sequence[Detections], crowds: Sequence[Detections]
) -> list[dict[str, float]]:
    """The precision of each eighth of the frames; none where eighths would be too small."""
    if len(found) < 2 * FOLDS:
        return []
    return [_map(found[k::FOLDS], truths[k::FOLDS], crowds[k::FOLDS]) for k in range(FOLDS)]


def _map(
    found: Sequence[Detections], truths: Sequence[Detections], crowds: Sequence[Detections]
) -> dict[str, float]:
    try:
        import torch
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise UnavailableError(f"accuracy needs pip install 'labkit[accuracy]' ({error})") from error
    logging.getLogger("torchmetrics").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = MeanAveragePrecision(backend="pycocotools")
        metric.update(
            [
                {
                    "boxes": torch.tensor(f.xyxy),
                    "scores": torch.tensor(f.score),
                    "labels": torch.tensor(f.label),
                }
                for f in found
            ],
            [
                {
                    "boxes": torch.tensor(np.concatenate([t.xyxy, c.xyxy])),
                    "labels": torch.tensor(np.concatenate([t.label, c.label])),
                    "iscrowd": torch.tensor([0] * len(t) + [1] * len(c), dtype=torch.int64),
                }
                for t, c in zip(truths, crowds, strict=True)
            ],
        )
        values = metric.compute()
    return {"map_50": float(values["map_50"]), "map": float(values["map"])}


def _share_interval(right: Sequence[int]) -> list[float]:
    """Wilson's 95% interval of a share (E. B. Wilson, 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(int(sum(right)), len(right)).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]
