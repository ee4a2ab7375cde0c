"""From raw network outputs to `Detections`: plain functions on NumPy arrays and tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.core.boxes import cxcywh_to_xyxy
from labkit.core.types import Detections, Size


def best_queries(logits: Tensor, objects: int) -> tuple[Tensor, Tensor, Tensor]:
    """DETR's k best-scoring queries, worked out where the logits are.

    Args:
        logits: (Q, C + 1); the last class means "no object".
        objects: k, at most Q are kept.

    Returns:
        score (k,) float32, label (k,) int64 and query (k,) int64, best first.
    """
    score, label = logits.float().softmax(-1)[..., :-1].max(-1)
    score, query = score.topk(min(objects, score.shape[-1]))
    return score, label[query], query


def detections(
    logits: Tensor, boxes: Tensor, size: Size, names: Sequence[str], objects: int, threshold: float
) -> Detections:
    """DETR's outputs for one frame, with one copy from device to host.

    Args:
        logits: (Q, C + 1) class logits; boxes: (Q, 4) relative centre boxes.
        size: (width, height) of the frame in px.
        names: C label names.
        objects: number of best-scoring boxes to keep.
        threshold: lowest score to keep.
    """
    score, label, query = best_queries(logits, objects)
    packed = torch.cat([boxes.float()[query], score[:, None], label[:, None].float()], 1)  # (k, 6)
    return unpack_detections(packed.cpu().numpy(), size, names, threshold)


def unpack_detections(
    packed: NDArray[np.float32], size: Size, names: Sequence[str], threshold: float
) -> Detections:
    """(k, 6) rows of relative centre box, score and label -> Detections above `threshold`."""
    packed = packed[packed[:, 4] >= threshold]
    label = packed[:, 5].astype(np.int64)
    return Detections(
        xyxy=cxcywh_to_xyxy(packed[:, :4], size),
        score=packed[:, 4].astype(np.float32),
        label=label,
        name=tuple(names[i] for i in label),
        frame_size=size,
    )


def top1(logits: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(N, C) class logits -> the best label (N,) and its probability (N,), on the host."""
    score, label = logits.float().softmax(-1).max(-1)
    packed = torch.stack([score, label.float()]).cpu().numpy()  # labels below 2**24 are exact
    return packed[1].astype(np.int64), packed[0].astype(np.float32)


def whole_frame(logits: Tensor, size: Size, names: Sequence[str]) -> Detections:
    """A classifier's answer for a frame: one detection whose box is the frame."""
    label, score = top1(logits)
    return Detections(
        xyxy=np.array([[0, 0, *size]], np.float32),
        score=score[:1],
        label=label[:1],
        name=(names[label[0]],),
        frame_size=size,
    )


def with_names(found: Detections, logits: Tensor, names: Sequence[str]) -> Detections:
    """The same boxes with the classifier's best label for each crop; (N, C) logits."""
    if not len(found):
        return found.with_fine(np.empty(0, np.int64), np.empty(0, np.float32), ())
    label, score = top1(logits)
    return found.with_fine(label, score, tuple(names[i] for i in label))
