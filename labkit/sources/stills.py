"""The embedded sources: moving photographs and synthetic scenes."""

from __future__ import annotations

import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import SourceError
from labkit.core.types import Size
from labkit.sources.source import RawFrame

# PNG only: how a JPEG is decoded differs in the last bit between libraries and machines.
PHOTOS = ("astronaut", "chelsea", "coffee", "motorcycle_left")
FRAMES_PER_PHOTO = 150  # 5 s at 30 frames per second
_STEP_PX = (2, 1)  # per frame, across and down: unequal, so that the path does not retrace itself at once


class LosslessReader:
    """Base of the readers that drop nothing: every captured image is delivered."""

    live = False
    dropped = 0

    fps: float | None = None

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.captured = 0

    def describe(self) -> dict[str, Any]:
        """Plain data on the reader."""
        return {}

    def close(self) -> None:
        """Nothing is held open."""


class DrawnReader(LosslessReader):
    """Base of the endless readers whose image k depends on k alone."""

    def __init__(self) -> None:
        super().__init__(None)

    def jump(self, n: int) -> None:
        """Go on `n` images later."""
        self.captured += n


class Photos(DrawnReader):
    """A slow pan over real photographs, the same bytes on every machine, without end.

    Frame k is a window at an integer offset into a photograph that was scaled once, by
    Pillow in fixed-point arithmetic, so that the window fits with a quarter of room to move.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self._size = size
        # Four photographs of a very large window would fill the memory: then one is kept.
        most_kept = len(PHOTOS) if size[0] * size[1] <= 4_000_000 else 1
        self._photo = lru_cache(most_kept)(partial(_scaled_photo, size))
        for name in PHOTOS[:most_kept]:
            self._photo(name)

    def take(self) -> RawFrame:
        """The next window."""
        turn, step = divmod(self.captured, FRAMES_PER_PHOTO)
        photo = self._photo(PHOTOS[turn % len(PHOTOS)])
        width, height = self._size
        x = ping_pong(step * _STEP_PX[0], photo.shape[1] - width)
        y = ping_pong(step * _STEP_PX[1], photo.shape[0] - height)
        image = photo[y : y + height, x : x + width].copy()
        self.captured += 1
        return RawFrame(image, time.perf_counter())

    def describe(self) -> dict[str, Any]:
        """Plain data: the photographs."""
        return {"backend": "photos", "photos": list(PHOTOS), "frames_per_photo": FRAMES_PER_PHOTO}


class Scenes(DrawnReader):
    """Synthetic scenes with ground truth, or close-ups of one object of each, seeded, without end."""

    def __init__(self, size: Size, *, seed: int, noise: float, closeup: bool = False) -> None:
        super().__init__()
        from labkit.sources.synthetic.scene import scene_frame

        self._scene = partial(scene_frame, size=size, seed=seed, noise=noise, closeup=closeup)
        self._described = {"backend": "closeups" if closeup else "scenes", "seed": seed, "noise": noise}

    def take(self) -> RawFrame:
        """The next scene with its truth."""
        frame = self._scene(self.captured)
        self.captured += 1
        return RawFrame(frame.image, time.perf_counter(), frame.truth)

    def describe(self) -> dict[str, Any]:
        """Plain data: seed and noise of the scenes."""
        return self._described


def ping_pong(step: int, room: int) -> int:
    """Position after `step` moves of 1 px back and forth between 0 and `room`."""
    return 0 if room <= 0 else room - abs(step % (2 * room) - room)


def _scaled_photo(size: Size, name: str) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(_photo_folder() / f"{name}.png") as opened:
        photo = opened.convert("RGB")
    # Integer arithmetic throughout: a rounding that differs would shift every pixel.
    least = [-(-5 * side // 4) for side in size]  # a quarter larger than the window, rounded up
    if least[0] * photo.height >= least[1] * photo.width:
        target = (least[0], -(-photo.height * least[0] // photo.width))
    else:
        target = (-(-photo.width * least[1] // photo.height), least[1])
    return np.asarray(photo.resize(target, Image.Resampling.BICUBIC)).copy()


def _photo_folder() -> Path:
    import importlib.util

    # The folder is found without importing the library, which takes half a second.
    found = importlib.util.find_spec("skimage")
    for place in (found.submodule_search_locations or []) if found is not None else []:
        folder = Path(place) / "data"
        if all((folder / f"{name}.png").is_file() for name in PHOTOS):
            return folder
    raise SourceError('the photographs of scikit-image are missing; run "pip install scikit-image"')
