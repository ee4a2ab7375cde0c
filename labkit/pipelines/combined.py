"""DETR finds the objects, ResNet-18 names each of them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from labkit.core.trace import span
from labkit.core.types import Detections, Frame

if TYPE_CHECKING:
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


def awake_crops(frames: Iterable[Frame], net: Combined) -> Iterator[tuple[Frame, Detections]]:
    """As `batched_crops`, with a core that is kept at work while there is no frame."""
    yield from batched_crops(kept_awake(frames), net)


def kept_awake(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames; while one is waited for, a thread works, so that no clock falls and no core sleeps."""
    waiting, ended = threading.Event(), threading.Event()

    def work() -> None:
        block = bytes(2**18)  # a fraction of a millisecond, without Python's lock
        while waiting.wait() and not ended.is_set():
            hashlib.sha256(block)

    thread = threading.Thread(target=work, name="labkit awake", daemon=True)
    thread.start()
    try:
        waiting.set()
        for frame in frames:
            waiting.clear()
            yield frame
            waiting.set()
    finally:
        ended.set()
        waiting.set()
        thread.join()
