"""What notebook 08 calls: a rung ready to be profiled, two profiles beside one another, an exercise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from labkit.core.types import Detections, Frame, Size, Workload
from labkit.lessons.profile_checks import check_one_read
from labkit.profiling.profile import Profile
from labkit.profiling.range_table import side_by_side
from labkit.profiling.variant import Job, ready

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["beside", "check_one_read", "pipeline"]


def pipeline(
    rung: str,
    source: str = "photos",
    frames: int = 6,
    *,
    size: Size = (640, 480),
    objects: int = 5,
    weights: str = "auto",
    seed: int = 0,
) -> Callable[[], Iterator[tuple[Frame, Detections]]]:
    """Makes a rung ready and warm, with its frames in memory, so that a profile holds nothing else.

    Args:
        rung: name.
        source: see `open_source`.
        frames: how many.
        size, objects, weights, seed: as in `Workload`.

    Returns:
        A function; each call gives the rung's generator over the same frames.
    """
    workload = Workload(weights=weights, size=size, objects=objects, seed=seed)  # type: ignore[arg-type]
    chosen, prepared, kept = ready(Job(rung, workload, source, frames))
    return lambda: chosen.run(kept, prepared.net)


def beside(before: Profile, after: Profile, names: tuple[str, str] = ("before", "after")) -> pd.DataFrame:
    """Per frame: how often each range came, its CPU time and its reads, in two profiles."""
    return side_by_side(before.capture, after.capture, names).round(2)
