"""The filter on the host, before everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from labkit.core.trace import span
from labkit.core.types import Frame
from labkit.models.filter_stage import Filtered


def smoothed(frames: Iterable[Frame], net: Filtered) -> Iterator[Frame]:
    """The frames after the filter; detector and crops then both see the smoothed picture."""
    for frame in frames:
        with span("filter", frame):
            image = net.smooth(frame.image)
        yield replace(frame, image=image)
