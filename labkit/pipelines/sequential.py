"""The plain loop: one frame at a time, each step waits for the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from labkit.core.trace import span
from labkit.core.types import Detections, Frame

if TYPE_CHECKING:
    from labkit.models.callables import Classifier, Detector


def sequential(frames: Iterable[Frame], net: Classifier | Detector) -> Iterator[tuple[Frame, Detections]]:
    """One frame at a time; the host waits for every result."""
    for frame in frames:
        with span("preprocess", frame):
            x = net.preprocess(frame.image)
        with span("infer", frame):
            y = net.infer(x)
        with span("decode", frame):
            found = net.decode(y, frame.size)
        yield frame, found
