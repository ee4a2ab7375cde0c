"""Recorded video, from a file or an address: every frame, in order."""

from __future__ import annotations

import threading
import time
from typing import Any

from numpy.typing import NDArray

from labkit.core.errors import SourceError
from labkit.sources.convert import to_rgb
from labkit.sources.probe import connection_problem
from labkit.sources.source import RawFrame
from labkit.sources.spec import scheme_of


class Video:
    """Reader of a recording, in the caller's thread, that drops nothing.

    Attributes:
        size: (width, height) px as stored.
    """

    live = False
    dropped = 0

    def __init__(
        self, address: str, shown: str, *, loop: bool, open_timeout_s: float, read_timeout_s: float
    ) -> None:
        self._address = address
        self._shown = shown
        self._loop = loop
        self._timeouts_s = (open_timeout_s, read_timeout_s)
        self._closed = threading.Event()
        # Releasing a capture while another thread reads it crashes the process.
        self._in_use = threading.Lock()
        self.captured = 0
        self._position = 0
        self._capture = self._open()
        import cv2

        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else None
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._stated = int(count) if 0 < count < 1e9 else None
        self.length = None if loop else self._stated
        # A first frame that was really decoded: a header alone proves nothing.
        self._ahead = self._read()
        if self._ahead is None:
            self.close()
            raise SourceError(f"{shown} holds no frame that can be read; it is damaged, or not a video")
        self.size = (self._ahead.shape[1], self._ahead.shape[0])

    def take(self) -> RawFrame | None:
        """The next frame, None at the end.

        Raises:
            SourceError: The recording ends before its stated length, or cannot be read on.
        """
        with self._in_use:
            try:
                if self._closed.is_set():
                    return None
                image, self._ahead = self._ahead, None
                if image is None:
                    image = self._read()
                if image is None:
                    self._check_complete()
                    if not self._loop:
                        return None
                    self._restart()
                    image = self._read()
                    if image is None:
                        raise SourceError(f"{self._shown} cannot be read from its start again; open it anew")
                self._position += 1
                self.captured += 1
                t_s = time.perf_counter()
                return RawFrame(to_rgb(image), t_s)
            finally:
                if self._closed.is_set():
                    self._capture.release()

    def describe(self) -> dict[str, Any]:
        """Plain data: backend, stored size and number of frames."""
        return {
            "backend": "opencv/FFMPEG",
            "stored_size": list(self.size),
            "stored_frames": self._stated,
            "loop": self._loop,
        }

    def close(self) -> None:
        """Releases the file now, or as soon as the read in progress is over."""
        self._closed.set()
        if self._in_use.acquire(timeout=0.2):
            try:
                self._capture.release()
            finally:
                self._in_use.release()

    def _open(self) -> Any:
        import cv2

        open_s, read_s = self._timeouts_s
        deadlines = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            round(open_s * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            round(read_s * 1000),
        ]
        capture = cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, deadlines)
        if not capture.isOpened():
            capture.release()
            if scheme_of(self._address) is not None:
                raise SourceError(f"{self._shown} cannot be opened: {connection_problem(self._address)}")
            raise SourceError(
                f"{self._shown} is not a video that can be read here; "
                "play it elsewhere to see whether it is whole, or convert it to MP4"
            )
        return capture

    def _read(self) -> NDArray[Any] | None:
        """(H, W, 3) BGR, None at the end."""
        asked_s = time.perf_counter()
        ok, image = self._capture.read()
        if not ok and time.perf_counter() - asked_s >= 0.9 * self._timeouts_s[1]:
            raise SourceError(
                f"{self._shown} has sent nothing for {self._timeouts_s[1]:g} s after "
                f"{self._position} frames; check the connection, or raise read_timeout_s"
            )
        return image if ok else None

    def _restart(self) -> None:
        # Opening again is exact; seeking to frame 0 is not, for some containers.
        self._capture.release()
        self._capture = self._open()
        self._position = 0

    def _check_complete(self) -> None:
        stated = self._stated
        # Containers without a frame count state an estimate; a few frames more or less are no fault.
        if stated is not None and self._position + max(2, stated // 20) < stated:
            raise SourceError(
                f"{self._shown} ends after {self._position} of {stated} frames; "
                "the file is cut off or damaged, copy or record it again"
            )
