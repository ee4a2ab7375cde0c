"""Runs as a pandas table, one row each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from labkit.results.records import Run

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "id", "rung", "stage", "scenario", "quick", "n_frames", "fps", "fps_lo", "fps_hi", "p50_ms", "p90_ms",
    "p99_ms", "agreement", "share_of_limit", "peak_mib", "startup_s", "noisy", "weights", "machine",
    "created",
)  # fmt: skip


def table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per run with its main figures; None where there are too few frames for one."""
    import pandas as pd

    return pd.DataFrame([_row(run) for run in runs], columns=list(COLUMNS))


def _row(run: Run) -> dict[str, Any]:
    low, high = run.fps_interval
    bounded = math.isfinite(high)
    return {
        "id": run.id,
        "rung": run.rung,
        "stage": run.stage,
        "scenario": run.scenario,
        "quick": run.quick,
        "n_frames": run.n_frames,
        "fps": run.fps,
        "fps_lo": low if bounded else None,
        "fps_hi": high if bounded else None,
        "p50_ms": run.percentile_ms(50),
        "p90_ms": run.percentile_ms(90),
        "p99_ms": run.percentile_ms(99),
        "agreement": None if run.agreement is None else run.agreement.share,
        "share_of_limit": run.share_of_limit,
        "peak_mib": run.peak_bytes / 2**20,
        "startup_s": run.startup_s,
        "noisy": run.noisy,
        "weights": run.settings.get("weights"),
        "machine": run.machine,
        "created": run.created,
    }
