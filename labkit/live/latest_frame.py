"""A slot for the latest frame; a newer one replaces it, and so the live view drops frames here."""

from __future__ import annotations

import threading

from labkit.core.types import Frame


class LatestFrame:
    """Hands the latest frame to any number of readers, each at its own pace.

    Attributes:
        news: notified at every change; may be shared, so that a reader waits for several things.
        put_count: frames put in so far.
    """

    def __init__(self, news: threading.Condition | None = None) -> None:
        self.news = news or threading.Condition()
        self.put_count = 0
        self._frame: Frame | None = None
        self._closed = False

    def put(self, frame: Frame) -> None:
        """Replaces the frame in the slot."""
        with self.news:
            self._frame = frame
            self.put_count += 1
            self.news.notify_all()

    def peek(self) -> Frame | None:
        """The latest frame, without waiting."""
        return self._frame

    def newer_than(self, index: int, timeout_s: float | None = None) -> Frame | None:
        """Waits for a frame with a higher index than `index`; None at the time-out or once closed."""
        with self.news:
            self.news.wait_for(lambda: self._closed or self._has_newer(index), timeout_s)
            return None if self._closed or not self._has_newer(index) else self._frame

    @property
    def closed(self) -> bool:
        """True if no more frames will come."""
        return self._closed

    def close(self) -> None:
        """Wakes everyone who waits; they get None from now on."""
        with self.news:
            self._closed = True
            self._frame = None
            self.news.notify_all()

    def _has_newer(self, index: int) -> bool:
        return self._frame is not None and self._frame.index > index
