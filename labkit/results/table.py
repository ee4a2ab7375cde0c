"""Runs as a pandas table, one row each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from labkit.core.shown import shown_table
from labkit.results.records import Run

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "id", "rung", "stage", "scenario", "quick", "n_frames", "fps", "fps_lo", "fps_hi", "p50_ms", "p90_ms",
    "p99_ms", "agreement", "share_of_limit", "peak_mib", "startup_s", "noisy", "weights", "machine",
    "created", "fed", "j_per_frame",
)  # fmt: skip


def table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per run with its main figures; left empty where there are too few frames for one."""
    return shown_table([_row(run) for run in runs], COLUMNS)


def bounds(interval: tuple[float, float]) -> tuple[float, float] | tuple[None, None]:
    """An interval's cells; empty where there were too few samples for one."""
    return interval if math.isfinite(interval[1]) else (None, None)


def _row(run: Run) -> dict[str, Any]:
    own = (
        "id",
        "rung",
        "stage",
        "scenario",
        "quick",
        "n_frames",
        "fps",
        "startup_s",
        "noisy",
        "machine",
        "created",
    )
    return {
        **{name: getattr(run, name) for name in own},
        **dict(zip(("fps_lo", "fps_hi"), bounds(run.fps_interval), strict=True)),
        **{f"p{q}_ms": run.percentile_ms(q) for q in (50, 90, 99)},
        "agreement": run.agreed,
        "share_of_limit": run.share_of_limit,
        "peak_mib": run.peak_bytes / 2**20,
        "weights": run.settings.get("weights"),
        "fed": run.fed,
        "j_per_frame": run.joules_per_frame,
    }
