"""Runs as a pandas table, one row each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

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


def shown_table(rows: Sequence[Any], columns: Sequence[str]) -> pd.DataFrame:
    """A data frame that a notebook shows without row numbers, and with blanks for what is not known."""
    frame: pd.DataFrame = _table_class()(rows, columns=list(columns))
    for name in frame.columns[frame.isna().all()]:
        frame[name] = math.nan  # a column of nothing but None would show that word
    return frame


def table_html(frame: pd.DataFrame) -> str:
    """HTML of a table: no row numbers, blanks for what is not known."""
    return str(frame.to_html(index=False, na_rep="", border=0))


@cache
def _table_class() -> Any:
    import pandas as pd

    class Table(pd.DataFrame):
        @property
        def _constructor(self) -> Any:
            return Table

        def _repr_html_(self) -> str:
            return table_html(self)

    return Table


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
        "agreement": None if run.agreement is None else run.agreement.share,
        "share_of_limit": run.share_of_limit,
        "peak_mib": run.peak_bytes / 2**20,
        "weights": run.settings.get("weights"),
        "fed": run.fed,
        "j_per_frame": run.joules_per_frame,
    }
