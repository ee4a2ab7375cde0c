"""Callbacks for the progress of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.fleet.sweep.point import Point
    from labkit.results.records import Run
    from labkit.results.sweeps import SweepPoint


class SweepProgress:
    """Receives a sweep's progress and shows nothing; override what is to be shown."""

    def planned(self, total: int, stored: int) -> None:
        """The sweep has `total` points, of which `stored` are there from before."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def stored(self, point: Point, row: SweepPoint, run: Run | None) -> None:
        """A point is stored, with its run unless it failed."""
