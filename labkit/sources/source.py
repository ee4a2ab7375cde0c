"""`Source`: numbers the frames of a reader, gives them one size, and closes it."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from labkit.core.types import Detections, Fit, Frame, Size
from labkit.sources.convert import fit_image
from labkit.sources.spec import EMBEDDED

Picture = tuple[NDArray[np.uint8], float | None]
"""(H, W, 3) RGB, and for how many seconds an animation shows it."""


@dataclass(frozen=True, eq=False, slots=True)
class RawFrame:
    """One image from a reader.

    Attributes:
        image: (H, W, 3) uint8 RGB, of any size, not to be changed.
        t_s: when it was captured, on `time.perf_counter`.
        truth: what is in it, where the reader knows it.
        time_s: its own time in a recording, in seconds from the start; None where there is none.
    """

    image: NDArray[np.uint8]
    t_s: float
    truth: Detections | None = None
    time_s: float | None = None


class FrameReader(Protocol):
    """Interface of the readers, one per kind of source.

    Attributes:
        live: whether images come at their own pace and are dropped when nobody takes them.
        fps: nominal images per second, None if unknown.
        length: number of images, None if endless or unknown; of a film an estimate until its end.
        captured, dropped: images that arrived, and those of them that nobody took.
    """

    @property
    def live(self) -> bool: ...  # noqa: D102
    @property
    def fps(self) -> float | None: ...  # noqa: D102
    @property
    def length(self) -> int | None: ...  # noqa: D102
    @property
    def captured(self) -> int: ...  # noqa: D102
    @property
    def dropped(self) -> int: ...  # noqa: D102

    def take(self) -> RawFrame | None:
        """The next image, None at the end; raises SourceError or SourceLost."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain data on the reader, for fingerprints."""
        ...

    def close(self) -> None:
        """Release all resources; may be called repeatedly and from any thread."""
        ...


class Source:
    """A stream of frames.

    Iterating gives `Frame`s, numbered from 0 in the order in which they are handed out.
    `SourceLost` ends a `for` loop but not the source: iterating again goes on where it was.

    Attributes:
        spec: what was opened, without credentials.
        size: (width, height) px of every frame; None if each image keeps its own.
        fit: how images of another size are brought to it.
    """

    def __init__(
        self,
        reader: FrameReader,
        spec: str,
        size: Size | None,
        *,
        fit: Fit = "letterbox",
        fps: float | None = None,
        limit: int | None = None,
    ) -> None:
        """Wrap a reader; `fps` is the nominal rate to report if the reader knows none."""
        self.spec = spec
        self.size = size
        self.fit: Fit = fit
        self._reader = reader
        self._fps = fps
        self._limit = limit
        self._delivered = 0
        self._closed = threading.Event()
        # A source that a notebook forgot must not keep the camera: a reader's thread would live on.
        weakref.finalize(self, reader.close)

    @property
    def live(self) -> bool:
        """True if frames come at their own pace, so that a slow consumer misses some."""
        return self._reader.live

    @property
    def fps(self) -> float | None:
        """Nominal frames per second; nothing is paced by it. None if unknown."""
        return self._reader.fps or self._fps

    @property
    def length(self) -> int | None:
        """Number of frames until the end, None if endless or unknown.

        For a film it is what the container states, an estimate, until the end was seen.
        """
        known = [n for n in (self._reader.length, self._limit) if n is not None]
        return min(known) if known else None

    @property
    def note(self) -> str:
        """A sentence on what was skipped so far; empty if nothing was."""
        return getattr(self._reader, "note", "")

    @property
    def captured(self) -> int:
        """Frames that arrived: delivered + dropped + at most one that waits to be taken."""
        return self._reader.captured

    @property
    def delivered(self) -> int:
        """Frames handed out or passed over so far."""
        return self._delivered

    @property
    def dropped(self) -> int:
        """Frames that arrived and that nobody took."""
        return self._reader.dropped

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        if self._closed.is_set() or self._delivered == self._limit:
            raise StopIteration
        taken = self._reader.take()
        if taken is None:
            raise StopIteration
        image, placed = taken.image, None
        if self.size is not None and (image.shape[1], image.shape[0]) != self.size:
            image, placed = fit_image(image, self.size, self.fit)
        frame = Frame(image, self._delivered, taken.t_s, taken.truth, taken.time_s, placed)
        self._delivered += 1
        return frame

    def skip(self, n: int) -> None:
        """Pass over the next `n` frames, or those that are left; what is drawn is not drawn for that."""
        if self._limit is not None:
            n = min(n, self._limit - self._delivered)
        jump = getattr(self._reader, "jump", None)
        if jump is None:
            for _ in zip(range(n), self, strict=False):
                pass
        else:
            jump(n)
            self._delivered += n

    def describe(self) -> dict[str, Any]:
        """Plain data for fingerprints: what was opened, and how."""
        embedded = self.spec in EMBEDDED  # made in the size that is asked for
        return {
            "spec": self.spec,
            "size": None if self.size is None else list(self.size),
            **({} if embedded else {"fit": self.fit}),
            "live": self.live,
            "fps": self.fps,
            "length": self.length,
            **self._reader.describe(),
        }

    def close(self) -> None:
        """End the stream and release camera or file; may be repeated, from any thread."""
        self._closed.set()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
