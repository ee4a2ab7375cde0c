"""Frames of a benchmark: read once, kept in memory, identified by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from labkit.core.errors import SourceError, UsageError
from labkit.core.types import Frame, Size
from labkit.sources.openers import open_source
from labkit.sources.source import Source

N_FRAMES = 24
STRIDE = 25  # endless sources: far enough apart to see several pictures
AGREEMENT_FRAMES = 8


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Frames in memory, with where they came from.

    Attributes:
        frames: in order, indices counting from 0.
        source: spec, sha256, n_frames, size and the source's own description.
    """

    frames: tuple[Frame, ...]
    source: dict[str, Any]

    def __len__(self) -> int:
        return len(self.frames)

    def spread(self, n: int = AGREEMENT_FRAMES) -> tuple[Frame, ...]:
        """At most `n` of the frames, evenly spaced."""
        which = np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).astype(int))
        return tuple(self.frames[i] for i in which)


def collect(spec: str, size: Size | None = (640, 480), n: int = N_FRAMES, **opening: Any) -> FrameSet:
    """Reads `n` frames for a benchmark.

    From a recording they are spaced evenly over its length, from an endless source they are
    `STRIDE` apart; from a camera they are the next ones.

    Args:
        spec, size: as in `open_source`.
        n: number of frames; a shorter source gives fewer.
        opening: further arguments of `open_source`.

    Raises:
        SourceError: the source cannot be opened or gives no frame.
    """
    if n < 1:
        raise UsageError(f"a benchmark has one frame or more, not {n}")
    with open_source(spec, size, **opening) as source:
        frames = _read(source, n)
        measured = source.length
    if not source.live and len(frames) < n and measured is not None and measured > len(frames):
        # The container stated too many frames, so too few were far enough apart: again, evenly.
        with open_source(spec, size, **opening) as source:
            frames = _read(source, n, measured)
    about = {
        "spec": source.spec,
        "sha256": frames_sha256(frames),
        "n_frames": len(frames),
        "size": list(frames[0].size),
        **{key: value for key, value in source.describe().items() if key not in ("spec", "size")},
    }
    return FrameSet(frames, about)


def frames_sha256(frames: Sequence[Frame]) -> str:
    """SHA-256 over the shapes and pixels of frames, in order."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(str(frame.image.shape).encode())
        digest.update(frame.image.tobytes())
    return digest.hexdigest()


def _read(source: Source, n: int, length: int | None = None) -> tuple[Frame, ...]:
    length = length or source.length
    if source.live:
        stride = 1
    elif length is not None:
        stride = max(1, length // n)
    else:
        stride = STRIDE
    kept: list[Frame] = []
    for frame in source:
        kept.append(replace(frame, index=len(kept)))
        if len(kept) == n:
            break
        source.skip(stride - 1)
    if not kept:
        raise SourceError(f"{source.spec} gave no frame")
    return tuple(kept)
