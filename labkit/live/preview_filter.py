"""The guided filter on live frames: each frame once, whoever asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from labkit.core.types import Frame
from labkit.live.settings import LiveSettings

Smooth = Callable[[NDArray[np.uint8], int, float], NDArray[np.uint8]]


def _guided(image: NDArray[np.uint8], radius: int, eps: float) -> NDArray[np.uint8]:
    from labkit.filters.image_filters import guided_filter

    return guided_filter(image, radius, eps)


class PreviewFilter:
    """Filters frames as the settings say; display and detection get the same picture.

    The filter is compiled when it is first switched on; until it is ready, frames pass as they
    are and `compiling` is true, so that the picture never stands still.
    """

    def __init__(self, smooth: Smooth = _guided) -> None:
        self._smooth = smooth
        self._lock = threading.Lock()
        self._last: tuple[int, int, float, Frame] | None = None
        self._thread: threading.Thread | None = None
        self._ready = False
        self.message = ""

    @property
    def compiling(self) -> bool:
        """True if the filter was asked for and is not ready yet."""
        return self._thread is not None and not self._ready and not self.message

    def apply(self, frame: Frame, settings: LiveSettings) -> Frame:
        """The frame, smoothed if the filter is on and ready."""
        if not settings.filter_on:
            return frame
        if not self._ready:
            self._begin(settings)
            return frame
        with self._lock:
            last = self._last
            if last is not None and last[:3] == (frame.index, settings.radius, settings.eps):
                return last[3]
            image = self._smooth(frame.image, settings.radius, settings.eps)
            smoothed = replace(frame, image=image)
            self._last = (frame.index, settings.radius, settings.eps, smoothed)
            return smoothed

    def _begin(self, settings: LiveSettings) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._compile, args=(settings,), name="labkit live filter", daemon=True
                )
                self._thread.start()

    def _compile(self, settings: LiveSettings) -> None:
        try:
            self._smooth(np.zeros((32, 32, 3), np.uint8), settings.radius, settings.eps)
            self._ready = True
        except Exception as error:  # the picture goes on without the filter, and says so
            self.message = f"the filter does not work here: {error}"
