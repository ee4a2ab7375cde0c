"""Agreement of two rungs: boxes, names, and the raw outputs behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labkit.core.boxes import box_iou
from labkit.core.types import MOST_OBJECTS, Detections, Frame
from labkit.results.records import Agreement

IOU = 0.5
NEAR = 0.05
"""So far above the lowest score that is kept, a box is there in one rung and not in another by rounding."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Detections and raw outputs of a rung for fixed frames.

    Attributes:
        rung: its name.
        found: detections per frame.
        raw: the networks' raw outputs by name, one array per call.
        steady: as in `Agreement`.
    """

    rung: str
    found: list[Detections]
    raw: Mapping[str, list[NDArray[np.float32]]]
    steady: float | None = None


def match(reference: Detections, other: Detections) -> list[tuple[int, int]]:
    """Pairs (i in reference, j in other) of the same object; each box is used once.

    Best-overlapping pairs first; a pair has the same label and an IoU of at least 0.5.
    """
    overlap = box_iou(reference.xyxy, other.xyxy)
    overlap[reference.label[:, None] != other.label[None]] = 0
    pairs: list[tuple[int, int]] = []
    free_i, free_j = set(range(len(reference))), set(range(len(other)))
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), overlap.shape[1])
        if overlap[i, j] < IOU:
            break
        if i in free_i and j in free_j:
            pairs.append((i, j))
            free_i.remove(i)
            free_j.remove(j)
    return pairs


def measure_agreement(
    reference: Answers, other: Answers, objects: int = MOST_OBJECTS, threshold: float = 0.0
) -> Agreement:
    """Agreement of `other` with `reference` on the same frames; the rest as in `extra_share`."""
    wanted = matched = named = same_name = 0
    for a, b in zip(reference.found, other.found, strict=True):
        pairs = match(a, b)
        wanted += len(a)
        matched += len(pairs)
        if a.fine_label is not None and b.fine_label is not None:
            named += len(pairs)
            same_name += sum(int(a.fine_label[i] == b.fine_label[j]) for i, j in pairs)
    return Agreement(
        reference=reference.rung,
        n_frames=len(reference.found),
        share=matched / wanted if wanted else 1.0,
        same_name=same_name / named if named else None,
        relative_error=relative_error(reference.raw, other.raw),
        nan_count=sum(int((~np.isfinite(x)).sum()) for parts in other.raw.values() for x in parts),
        steady=reference.steady,
        extra=extra_share(reference, other, objects, threshold),
    )


def extra_share(
    reference: Answers, other: Answers, objects: int = MOST_OBJECTS, threshold: float = 0.0
) -> float:
    """Share of `other`'s boxes that `reference` has nowhere, though it would have kept them.

    Args:
        reference, other: answers for the same frames.
        objects: how many of its best boxes the reference keeps of a frame; where it has so many, it keeps
            none with a lower score than its last one.
        threshold: lowest score that it keeps anyway.
    """
    same = extra = 0
    for a, b in zip(reference.found, other.found, strict=True):
        matched = [j for _, j in match(a, b)]
        lowest = max(threshold, float(a.score.min())) if 0 < objects <= len(a) else threshold
        same += len(matched)
        extra += int((np.delete(b.score, matched) > lowest + NEAR).sum())
    return extra / (same + extra) if extra else 0.0


def one_level_off(frame: Frame) -> Frame:
    """The frame with the lowest bit of every 101st value turned over."""
    image = frame.image.copy()
    image.reshape(-1)[::101] ^= 1
    return replace(frame, image=image)


def relative_error(
    reference: Mapping[str, Sequence[NDArray[np.float32]]], other: Mapping[str, Sequence[NDArray[np.float32]]]
) -> float | None:
    """Largest ||out - ref|| / ||ref|| over the outputs that both have, or None.

    The classifier's outputs belong to crops, whose order follows the boxes' scores; they are
    comparable only where both saw the same number of rows, and are then taken as one matrix.
    """
    errors = []
    for name, parts in reference.items():
        if name not in other:
            continue
        a = np.concatenate([x.reshape(-1, x.shape[-1]) for x in parts])
        b = np.concatenate([x.reshape(-1, x.shape[-1]) for x in other[name]])
        if a.shape == b.shape and np.linalg.norm(a) > 0:
            errors.append(float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(a)))
    return max(errors) if errors else None
