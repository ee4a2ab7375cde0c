"""The origin's combined loop, step for step, as the baseline of every ratio.

What it does on purpose, because the original did: it walks through all queries (DETR's 100) in
Python and reads each score from the device by itself, then four corners, score and label of
each object that it keeps (a hidden wait every time), converts the frame on the host, and
gives every crop its own upload and its own classifier call. It differs in what is kept: a
fixed number of best objects, chosen after the walk, where the original compares with a
threshold on its way. What it does not copy are plain faults (BGR fed as RGB, shifted label
names): those are lessons of their own, and mending a fault is not a speed-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from labkit.core.trace import span, tap
from labkit.core.types import Detections, Frame, Size

if TYPE_CHECKING:
    from labkit.models.callables import Combined


def baseline_combined(frames: Iterable[Frame], net: Combined) -> Iterator[tuple[Frame, Detections]]:
    """Per-query host reads, per-box crops, uploads and classifier calls."""
    for frame in frames:
        with span("preprocess", frame):
            x = net.detector.preprocess(frame.image)
        with span("detect", frame):
            logits, boxes = net.detector.infer(x)
        with span("decode", frame):
            found = read_queries_one_by_one(logits[0], boxes[0], frame.size, net)
        yield frame, name_one_by_one(frame, found, net)


def read_queries_one_by_one(logits: Tensor, boxes: Tensor, size: Size, net: Combined) -> Detections:
    """The best queries' boxes, each number read from the device by itself."""
    tap("detector.logits", logits)
    tap("detector.boxes", boxes)
    decode = net.detector.decode
    scores, labels, queries = decode.rule.candidates(logits)
    boxes = boxes * torch.tensor([*size, *size]).to(boxes.device)
    walked = [(score.item(), i) for i, score in enumerate(scores)]  # waits once per candidate
    walked.sort(key=lambda each: -each[0])
    rows = []
    for score, i in walked[: decode.objects]:
        if score < decode.threshold:
            break
        x, y, width, height = boxes[queries[i]]
        corners = float(x - width / 2), float(y - height / 2), float(x + width / 2), float(y + height / 2)
        rows.append((corners, scores[i].item(), labels[i].item()))
    if not rows:
        return Detections.empty(size)
    corner, score, label = zip(*rows, strict=True)
    return Detections(
        xyxy=np.clip(np.array(corner, np.float32), 0, np.array([*size, *size], np.float32)),
        score=np.array(score, np.float32),
        label=np.array(label, np.int64),
        name=tuple(net.detector.network.labels[int(each)] for each in label),
        frame_size=size,
    )


def name_one_by_one(frame: Frame, found: Detections, net: Combined) -> Detections:
    """The boxes with their names, from one crop and one call of the classifier each."""
    labels, scores = [], []
    for box in found.xyxy:
        with span("crop", frame):
            crop = net.classifier.crops(frame.image, box[None])
        with span("classify", frame):
            logits = net.classifier.infer(crop)
            tap("classifier.logits", logits)
            probabilities = torch.nn.functional.softmax(logits[0], dim=0)
            labels.append(int(probabilities.argmax().item()))
            scores.append(float(probabilities[labels[-1]].item()))
    with span("name", frame):
        names = tuple(net.classifier.network.labels[label] for label in labels)
        return found.with_fine(np.array(labels, np.int64), np.array(scores, np.float32), names)
