"""DETR finds the objects, ResNet-18 names each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from labkit.core.trace import span
from labkit.core.types import Detections, Frame
from labkit.models.callables import Combined


def one_by_one(frames: Iterable[Frame], net: Combined) -> Iterator[tuple[Frame, Detections]]:
    """Boxes come back in one copy; then one classifier call per box."""
    for frame in frames:
        with span("preprocess", frame):
            x = net.detector.preprocess(frame.image)
        with span("detect", frame):
            y = net.detector.infer(x)
        with span("decode", frame):
            found = net.detector.decode(y, frame.size)
        logits = []
        for box in found.xyxy:
            with span("crop", frame):
                crop = net.classifier.crops(frame.image, box[None])
            with span("classify", frame):
                logits.append(net.classifier.infer(crop))
        with span("name", frame):
            found = net.classifier.name(found, logits)
        yield frame, found


def batched_crops(frames: Iterable[Frame], net: Combined) -> Iterator[tuple[Frame, Detections]]:
    """As `one_by_one`, but all crops of a frame go through the classifier in one batch."""
    for frame in frames:
        with span("preprocess", frame):
            x = net.detector.preprocess(frame.image)
        with span("detect", frame):
            y = net.detector.infer(x)
        with span("decode", frame):
            found = net.detector.decode(y, frame.size)
        logits = []
        if len(found):
            with span("crop", frame):
                crops = net.classifier.crops(frame.image, found.xyxy)
            with span("classify", frame):
                logits = [net.classifier.infer(crops)]
        with span("name", frame):
            found = net.classifier.name(found, logits)
        yield frame, found
