"""Finished points of a sweep: one row each, written together with its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from labkit.core.errors import UsageError
from labkit.results import codec
from labkit.results.checksums import insert_row, read_row
from labkit.results.records import Run
from labkit.results.store import Store, utc_now


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep that has been measured, or has failed for good.

    Attributes:
        sweep: name of the sweep.
        point: key of the point; unique within its sweep.
        about: what defines the point, as plain data.
        run_id: of its run in the same store; None if it failed.
        reason: why it failed, in a sentence; None if it was measured.
        created: given by the store; UTC in ISO format.
    """

    sweep: str
    point: str
    about: Mapping[str, Any]
    run_id: int | None = None
    reason: str | None = None
    created: str = ""

    @property
    def measured(self) -> bool:
        """True if there is a run of it."""
        return self.run_id is not None


def keep_point(
    store: Store, sweep: str, point: str, about: Mapping[str, Any], result: Run | str
) -> tuple[SweepPoint, Run | None]:
    """Saves how a point ended, its run included, in one transaction.

    A point that has a run keeps it, and nothing is added: two drivers that measure the same
    sweep leave one row. A point that had failed is replaced.

    Args:
        store: where to.
        sweep, point: their names.
        about: what defines the point.
        result: its run, or why it failed.

    Returns:
        The row as it now stands, and the run if this call saved one.
    """
    created = utc_now()
    run = replace(result, created=result.created or created) if isinstance(result, Run) else None
    reason = None if isinstance(result, Run) else result
    if reason is not None and not reason.strip():
        raise UsageError(f"a failed point has a reason; {point} of sweep {sweep} has none")
    text = codec.dump_json(about, "about")
    with store.transaction() as db:
        place = db.execute(
            "SELECT rowid FROM sweep_points WHERE sweep = ? AND point = ?", (sweep, point)
        ).fetchone()
        known = None if place is None else read_row(db, "sweep_points", place["rowid"], _from_row)
        if isinstance(known, SweepPoint) and known.measured:
            return known, None
        if run is not None:
            run = replace(run, id=insert_row(db, "runs", codec.to_row(run)))
        db.execute("DELETE FROM sweep_points WHERE sweep = ? AND point = ?", (sweep, point))
        row: codec.Row = {
            "sweep": sweep, "point": point, "about": text, "run_id": run.id if run else None,
            "reason": reason, "created": created,
        }  # fmt: skip
        insert_row(db, "sweep_points", row)
    return _from_row(row), run


def sweep_points(store: Store, sweep: str) -> dict[str, SweepPoint]:
    """The settled points of a sweep by their keys, oldest first."""
    return {row.point: row for row in store.sweep_points(_from_row) if row.sweep == sweep}


def sweep_names(store: Store) -> list[str]:
    """Names of all sweeps with a settled point, oldest first."""
    return list(dict.fromkeys(row.sweep for row in store.sweep_points(_from_row)))


def _from_row(row: codec.Row) -> SweepPoint:
    names = ("sweep", "point", "run_id", "reason", "created")
    return SweepPoint(about=codec.load_json(row["about"]), **{name: row[name] for name in names})
