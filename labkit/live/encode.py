"""Pictures of the live view: drawn with boxes and names, as JPEG, kept as PNG, recorded as MP4."""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labkit.core.annotate import draw_detections
from labkit.core.errors import ResultsError
from labkit.core.files import results_folder, write_atomic
from labkit.core.types import Detections, Size
from labkit.live.player import Shot
from labkit.live.settings import LiveSettings

QUALITY = 80
RECORD_FPS = 30.0
_QUEUE = 8
CLOSE_S = 5.0
"""Longest time that the end of a recording may take."""


def annotate_shot(shot: Shot, settings: LiveSettings) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the frame with the boxes; with two rungs, two of them beside one another.

    The settings say which boxes are drawn, and whether the picture is mirrored (the names are not).
    """
    parts = []
    image = np.ascontiguousarray(shot.frame.image[:, ::-1]) if settings.mirror else shot.frame.image
    rates_px = _rates_px(shot.frame.size, len(shot.answers))
    for place, answer in enumerate(shot.answers, 1):
        # Right after a change of size the last answer may refer to frames of another size.
        if answer is None or tuple(answer.found.frame_size) != shot.frame.size:
            parts.append(image)
        else:
            found = shown_detections(answer.found, settings)
            found = mirrored(found) if settings.mirror else found
            corner = rates_px if place == len(shot.answers) else (0, 0)
            parts.append(draw_detections(image, found, corner=corner))
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def _rates_px(size: Size, rungs: int) -> tuple[int, int]:
    """(width, height) px of the plate at the top right on which the page writes each rung's FPS."""
    px = max(11, round(size[1] / 30))  # as in live.js
    width = round((1 + 5.5 * rungs) * px)
    return (width, round(1.5 * px)) if 2 * width <= size[0] else (0, 0)  # or names had no place


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode an (H, W, 3) uint8 RGB image as JPEG."""
    import cv2

    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def shown_detections(found: Detections, settings: LiveSettings) -> Detections:
    """The detections that are drawn: those above the threshold and of the chosen classes."""
    lowest, names = settings.threshold or 0.0, enumerate(found.name)
    return found.take([i for i, name in names if found.score[i] >= lowest and settings.draws(name)])


def mirrored(found: Detections) -> Detections:
    """The detections in the frame as a mirror shows it."""
    width = np.float32(found.frame_size[0])
    x_min, y_min, x_max, y_max = found.xyxy.T
    return replace(found, xyxy=np.stack([width - x_max, y_min, width - x_min, y_max], axis=1))


def describe_detections(shot: Shot, settings: LiveSettings) -> list[str]:
    """Detections of each rung in words, best first, as alternative text."""
    lines = []
    for answer in shot.answers:
        if answer is None:
            lines.append("no answer yet")
            continue
        found = shown_detections(answer.found, settings)
        order = np.argsort(-found.score, kind="stable").tolist()
        ids = [""] * len(found) if found.track_id is None else [f"#{number} " for number in found.track_id]
        lines.append(", ".join(f"{ids[i]}{found.name[i]} {found.score[i]:.2f}" for i in order))
    return lines


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
    return write_atomic(_new_name(folder, "picture", ".png"), data, private=True)


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
            self.path = _new_name(folder, "recording", ".mp4")
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
        import cv2

        deadline_s = time.monotonic() + CLOSE_S
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=0.1)
                self._thread.join(max(0.0, deadline_s - time.monotonic()))
            if time.monotonic() > deadline_s:
                return f"the recording {self.path} is not finished: its disk takes nothing for {CLOSE_S:g} s"
        film = cv2.VideoCapture(str(self.path))  # its writer says nothing when a disk is full
        came, _ = film.read()
        film.release()
        if not came:
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
                picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
                if (image.shape[1], image.shape[0]) != self._size:
                    picture = cv2.resize(picture, self._size)
                for _ in range(min(until - written, int(10 * RECORD_FPS))):
                    self._writer.write(picture)
                written = max(written, until)
        finally:
            self._writer.release()


def _new_name(folder: Path, kind: str, suffix: str) -> Path:
    return folder / f"{kind}-{datetime.now():%Y%m%d-%H%M%S-%f}{suffix}"
