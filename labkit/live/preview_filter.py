"""The filters on live frames: each frame once, whoever asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from labkit.core.types import Frame
from labkit.live.settings import LiveSettings

Apply = Callable[[NDArray[np.uint8], int, float], NDArray[np.uint8]]
"""A filter of an image, given its radius and eps."""


def _guided(image: NDArray[np.uint8], radius: int, eps: float) -> NDArray[np.uint8]:
    from labkit.filters.image_filters import guided_filter

    return guided_filter(image, radius, eps)


def _edges(image: NDArray[np.uint8], radius: int, eps: float) -> NDArray[np.uint8]:
    from labkit.filters.image_filters import edge_filter

    return edge_filter(image)  # neither radius nor eps: it looks at the neighbours alone


FILTERS: dict[str, Apply] = {"guided": _guided, "edges": _edges}


class PreviewFilter:
    """Filters frames as the settings say; display and detection get the same picture.

    A filter is compiled when it is first chosen; until it is ready, frames pass as they
    are and `compiling` is true, so that the picture never stands still.
    """

    def __init__(self, filters: Mapping[str, Apply] = FILTERS) -> None:
        self._filters = filters
        self._lock = threading.Lock()
        self._last: tuple[tuple[object, ...], Frame] | None = None
        self._compiling: set[str] = set()
        self._ready: set[str] = set()
        self.message = ""

    @property
    def compiling(self) -> bool:
        """True if a filter was asked for and is not ready yet."""
        return bool(self._compiling)

    def apply(self, frame: Frame, settings: LiveSettings) -> Frame:
        """The frame, filtered if a filter is chosen and ready."""
        name = settings.filter
        if name == "none":
            return frame
        if name not in self._ready:
            self._begin(name)
            return frame
        key = (frame.index, name, settings.radius, settings.eps)
        with self._lock:
            if self._last is None or self._last[0] != key:
                image = self._filters[name](frame.image, settings.radius, settings.eps)
                self._last = key, replace(frame, image=image)
            return self._last[1]

    def _begin(self, name: str) -> None:
        with self._lock:
            if name in self._compiling or self.message:
                return
            self._compiling.add(name)
        threading.Thread(target=self._compile, args=(name,), name="labkit live filter", daemon=True).start()

    def _compile(self, name: str) -> None:
        try:
            self._filters[name](np.zeros((32, 32, 3), np.uint8), 4, 0.01)
            self._ready.add(name)
        except Exception as error:  # the picture goes on without the filter, and says so
            self.message = f"the filter does not work here: {error}"
        finally:
            self._compiling.discard(name)
