"""Who hears what a sweep does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.fleet.sweep.point import Point
    from labkit.results.records import Run
    from labkit.results.sweeps import SweepPoint


class SweepProgress:
    """Hears what a sweep does; this one is silent. Screens override what they show."""

    def planned(self, total: int, settled: int) -> None:
        """The sweep has so many points, of which so many are settled already."""

    def settled(self, point: Point, row: SweepPoint, run: Run | None) -> None:
        """A point is stored, with its run unless it failed."""
