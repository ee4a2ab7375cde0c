"""The filter in the loop: on the host before everything else, or on the device after the upload."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from labkit.core.trace import span
from labkit.core.types import Detections, Frame
from labkit.pipelines.baseline import baseline_combined
from labkit.pipelines.combined import batched_crops

if TYPE_CHECKING:
    from labkit.models.filter_stage import Filtered


def smoothed(frames: Iterable[Frame], net: Filtered) -> Iterator[Frame]:
    """The frames after the filter; detector and crops then both see the smoothed picture."""
    for frame in frames:
        with span("filter", frame):
            image = net.smooth(frame.image)
        yield replace(frame, image=image)


def filtered_baseline(frames: Iterable[Frame], net: Filtered) -> Iterator[tuple[Frame, Detections]]:
    """The origin's loop with the filter before it; frames are answered as they were seen, smoothed."""
    yield from baseline_combined(smoothed(frames, net), net.inner)


def filtered_batched(frames: Iterable[Frame], net: Filtered) -> Iterator[tuple[Frame, Detections]]:
    """As `batched_crops`, with the filter before it."""
    yield from batched_crops(smoothed(frames, net), net.inner)


def filtered_on_device(frames: Iterable[Frame], net: Filtered) -> Iterator[tuple[Frame, Detections]]:
    """Upload bytes, filter them on the device, and copy back nothing but the detections."""
    for frame in frames:
        with span("preprocess", frame):
            x = net.inner.preprocess(frame.image)
        with span("filter", frame):
            x = net.smooth(x)
        with span("infer", frame):
            y = net.inner.infer(x)
        with span("decode", frame):
            found = net.inner.decode(y, frame.size)
        yield frame, found
