"""Frames, clock and work that every pitfall is measured with.

The work is a plain substitute for a pipeline, on a real image: crops of it are resized as a
classifier wants them, more of them in crowded frames. It needs no network, so a pitfall
takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.bench.timing import Clock
from labkit.core.errors import UsageError
from labkit.core.types import Frame

CROWDED_EVERY = 30
CROWD = 40
DEVICE_S = 0.002
QUIET = (1, 3, 2, 4, 2)


def crops_in(index: int) -> int:
    """Number of crops in frame `index`: a few, and in one of thirty a crowd."""
    return CROWD if index % CROWDED_EVERY == CROWDED_EVERY - 1 else QUIET[index % len(QUIET)]


def resize_crops(frame: Frame) -> float:
    """Cut windows out of a frame, one per "object", and resize each for a classifier."""
    import cv2

    image = frame.image
    height, width = image.shape[:2]
    total = 0.0
    for k in range(crops_in(frame.index)):
        x, y = (37 * k) % max(1, width // 2), (23 * k) % max(1, height // 2)
        window = image[y : y + height // 2, x : x + width // 2]
        small = cv2.resize(window, (224, 224), interpolation=cv2.INTER_AREA)
        total += float((small.astype(np.float32) / 255).mean())
    return total


def jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode an image of any channel order as JPEG bytes, on one thread."""
    import cv2

    return np.asarray(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1])


def idle_device(prepared: Any) -> Any:
    """A device at work: it takes 2 ms, in which the host's processor is free."""
    time.sleep(DEVICE_S)
    return prepared


def find_edges(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Canny edges of the blurred image: work that grows with the frame's size."""
    import cv2

    return np.asarray(cv2.Canny(cv2.GaussianBlur(image, (7, 7), 0), 60, 120))


@dataclass(frozen=True, eq=False)
class Setup:
    """Frames, rounds, clock and work of a measurement.

    Attributes:
        frames: pictures in memory, repeated for as long as it takes.
        rounds: number of times that each figure is taken; 5 or more give an interval.
        per_round: frames per figure.
        clock: tests put a simulated one in its place.
        task: the work per frame.
        edges: work on the whole of an image.
        host, device: the two halves of a frame's work where a host and a device share it; the
            device gets what the host made.
    """

    frames: Sequence[Frame]
    rounds: int = 7
    per_round: int = 60
    clock: Clock = field(default_factory=Clock)
    task: Callable[[Frame], Any] = resize_crops
    edges: Callable[[NDArray[np.uint8]], Any] = find_edges
    host: Callable[[NDArray[np.uint8]], Any] = jpeg
    device: Callable[[Any], Any] = idle_device

    def __post_init__(self) -> None:
        if not len(self.frames):
            raise UsageError("a pitfall needs at least one frame; take some with collect(...)")
        if self.rounds < 1 or self.per_round < 2:
            raise UsageError(
                f"rounds is 1 or more and per_round 2 or more, not {self.rounds} and {self.per_round}"
            )

    def stream(self, n: int) -> list[Frame]:
        """`n` frames with indices from 0, the pictures repeated."""
        return [Frame(self.frames[i % len(self.frames)].image, i, 0.0) for i in range(n)]

    def identical(self, n: int) -> list[Frame]:
        """The first frame `n` times: work that is the same each time."""
        return [Frame(self.frames[0].image, 0, 0.0)] * n

    def time_each(self, frames: Sequence[Frame]) -> NDArray[np.float64]:
        """(n,) s that the task took for each frame."""
        return np.array([self.time_of(partial(self.task, frame)) for frame in frames])

    def time_of(self, work: Callable[[], Any]) -> float:
        """Seconds that `work` took."""
        began = self.clock.now()
        work()
        return self.clock.now() - began

    @cached_property
    def encoded(self) -> list[NDArray[np.uint8]]:
        """The frames as a camera delivers them: JPEG."""
        return [jpeg(frame.image[..., ::-1].copy()) for frame in self.frames]
