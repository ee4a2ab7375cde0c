"""Snapshots and recordings of the live view."""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import ResultsError
from labkit.core.files import results_folder, write_atomic

RECORD_FPS = 30.0
_QUEUE = 8
CLOSE_S = 5.0
"""Longest time that the end of a recording may take."""


def live_folder() -> Path:
    """The folder of pictures and recordings."""
    return results_folder() / "live"


def save_picture(image: NDArray[np.uint8], folder: Path) -> Path:
    """Writes an (H, W, 3) RGB image as PNG under the current time, for its owner alone to read.

    Raises:
        ResultsError: it cannot be written.
    """
    import cv2

    data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    return write_atomic(_free_name(folder, "picture", ".png"), data, private=True)


class Recorder:
    """Writes pictures to an MP4 file in a thread of its own, at their real pace; only its owner can read it.

    Attributes:
        path: of the file.
        dropped: pictures that came faster than they could be written.
    """

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        """Opens a file for pictures of `size` (width, height).

        Raises:
            ResultsError: it cannot be written.
        """
        import cv2

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = _free_name(folder, "recording", ".mp4")
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise ResultsError(
                f"cannot write into the folder {folder} ({error.strerror}); set LABKIT_HOME"
            ) from error
        self.dropped = 0
        self._size = size
        self._queue: queue.Queue[tuple[NDArray[np.uint8], float] | None] = queue.Queue(_QUEUE)
        self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), RECORD_FPS, size)
        if not self._writer.isOpened():
            raise ResultsError(
                f"cannot write {self.path}; free some space, or set LABKIT_HOME to another folder"
            )
        self._thread = threading.Thread(target=self._run, name="labkit live recorder", daemon=True)
        self._thread.start()

    def add(self, image: NDArray[np.uint8]) -> None:
        """Takes an (H, W, 3) RGB picture shown now; never waits."""
        try:
            self._queue.put_nowait((image, time.perf_counter()))
        except queue.Full:
            self.dropped += 1

    def close(self) -> str:
        """Finishes the file; says where it is, or that there is none."""
        deadline_s = time.monotonic() + CLOSE_S
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=0.1)
                self._thread.join(max(0.0, deadline_s - time.monotonic()))
            if time.monotonic() > deadline_s:
                return f"the recording {self.path} is not finished: its disk takes nothing for {CLOSE_S:g} s"
        if not _is_film(self.path):
            self.path.unlink(missing_ok=True)
            return f"nothing was recorded: no picture came, or the disk of {self.path.parent} is full"
        lost = f" ({self.dropped} pictures left out)" if self.dropped else ""
        return f"recorded to {self.path}{lost}"

    def _run(self) -> None:
        import cv2

        first_s: float | None = None
        written = 0
        try:
            while (item := self._queue.get()) is not None:
                image, at_s = item
                first_s = at_s if first_s is None else first_s
                # A picture lasts until the next one: the file runs as fast as the view did.
                until = int((at_s - first_s) * RECORD_FPS) + 1
                picture = self._fitting(image, cv2)
                for _ in range(min(until - written, int(10 * RECORD_FPS))):
                    self._writer.write(picture)
                written = max(written, until)
        finally:
            self._writer.release()

    def _fitting(self, image: NDArray[np.uint8], cv2: Any) -> NDArray[np.uint8]:
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


def _free_name(folder: Path, kind: str, suffix: str) -> Path:
    stem = time.strftime(f"{kind}-%Y%m%d-%H%M%S")
    path, n = folder / f"{stem}{suffix}", 1
    while path.exists():
        n += 1
        path = folder / f"{stem}-{n}{suffix}"
    return path


def _is_film(path: Path) -> bool:
    """True if pictures can be read back: OpenCV says nothing when a disk is full."""
    import cv2

    film = cv2.VideoCapture(str(path))
    try:
        return bool(film.read()[0])
    finally:
        film.release()
