"""The camera of the browser as a source: the page sends JPEGs, the newest one is kept."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from labkit.core.errors import SourceError, SourceLost
from labkit.core.types import Size
from labkit.sources.convert import to_rgb
from labkit.sources.source import RawFrame, Source

LOST_AFTER_S = 1.8
MOST_BYTES = 8_000_000  # of one JPEG; a 4096x4096 photograph stays below

CAMERA_ERRORS = {
    "insecure": "the browser gives its camera to secure pages only; open this notebook over https, "
    "or as http://localhost through an SSH tunnel",
    "NotAllowedError": "the browser was not allowed to use the camera; allow it beside the page's address, "
    "then press Stop and Start",
    "NotFoundError": "the browser finds no camera; plug one in, then press Stop and Start",
    "NotReadableError": "the browser's camera is in use by another program; close it, then Stop and Start",
    "OverconstrainedError": "the chosen camera is not there, or cannot give this size; choose another one",
    "ended": "the browser's camera was unplugged or switched off; plug it in, then press Stop and Start",
}
"""Why a page's camera gives no pictures, by the name that the browser has for it."""


def describe_camera_error(name: str) -> str:
    """The sentence for a trouble, with what to do."""
    known = {"SecurityError": "insecure", "AbortError": "NotReadableError"}
    sentence = CAMERA_ERRORS.get(known.get(name, name))
    return sentence or f"the browser's camera does not start ({name[:60]}); reload the page"


class PageClock:
    """From the page's clock to this process's: the offset of the quickest answers to pings.

    An answer to a ping comes half a round trip after the page stamped it, give or take the
    other half; so the shortest of the recent round trips gives the closest offset (the filter
    of NTP, RFC 5905).
    """

    def __init__(self, kept: int = 20) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=kept)  # (round trip s, offset s)

    def answered(self, asked_s: float, page_s: float, now_s: float) -> None:
        """Notes an answer: when it was asked and came (here), and the page's own time between."""
        if now_s >= asked_s:
            self._samples.append((now_s - asked_s, (asked_s + now_s) / 2 - page_s))

    def here(self, page_s: float, now_s: float) -> float:
        """The page's time on this process's clock, never later than `now_s`."""
        if not self._samples:
            return now_s
        return min(now_s, page_s + min(self._samples)[1])


class BrowserCamera:
    """A feed that is fed: `deliver` is called for each picture that a page sends.

    Attributes:
        problem: why the page sends none, in words, as it told us; empty while it does.
    """

    live = True
    length = None
    fps: float | None = None

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._slot: tuple[bytes, float] | None = None
        self._closed = False
        self._arrived = self._dropped = self._offered = 0
        self._heard_s = time.perf_counter()
        self.problem = ""
        self._told = ""  # the problem that was last raised

    @property
    def captured(self) -> int:
        """Pictures that the camera brought to the page, those that were not sent included."""
        return max(self._offered, self._arrived)

    @property
    def dropped(self) -> int:
        """Pictures that the page did not send, and those that a newer one replaced."""
        return self._dropped + self.captured - self._arrived

    def deliver(self, jpeg: bytes, t_s: float, offered: int) -> None:
        """Takes a picture captured at `t_s`; `offered` counts what the camera brought so far.

        Raises:
            SourceError: it is empty or too large to be a picture.
        """
        if not 0 < len(jpeg) <= MOST_BYTES:
            raise SourceError(f"a picture of {len(jpeg)} bytes came; a JPEG has up to {MOST_BYTES}")
        with self._news:
            if self._closed:
                return
            self._arrived += 1
            self._offered = max(self._offered, offered)
            self._dropped += self._slot is not None
            self._slot = (jpeg, t_s)
            self._heard_s = time.perf_counter()
            self.problem = self._told = ""
            self._news.notify_all()

    def fail(self, problem: str) -> None:
        """Notes why no pictures come; shown at once to who waits for one."""
        with self._news:
            self.problem = problem
            self._news.notify_all()

    def take(self) -> RawFrame | None:
        """The newest picture not taken yet; waits for one. None once closed.

        Raises:
            SourceLost: none came in time, or the page said why none comes.
        """
        import cv2

        with self._news:
            self._news.wait_for(
                lambda: self._slot is not None or self._closed or self.problem != self._told, LOST_AFTER_S
            )
            if self._closed:
                return None
            if self._slot is None:
                self._told = self.problem
                raise SourceLost(self.problem or "no pictures come from the browser's camera yet")
            (jpeg, t_s), self._slot = self._slot, None
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise SourceLost("a damaged picture came from the browser's camera; waiting for the next")
        return RawFrame(to_rgb(image), t_s)

    def describe(self) -> dict[str, Any]:
        """The source and how it is read, as plain data."""
        return {"backend": "getUserMedia"}

    def close(self) -> None:
        """Wakes who waits; later pictures are ignored."""
        with self._news:
            self._closed = True
            self._slot = None
            self._news.notify_all()


def browser_source(opened: Callable[[BrowserCamera], None]) -> Callable[[Size], Source]:
    """Opener of the browser's camera; `opened` receives each camera, to deliver pictures to."""

    def open_source(size: Size) -> Source:
        feed = BrowserCamera()
        opened(feed)
        return Source(feed, "browser", size)

    return open_source
