"""A profile as a notebook shows it: table, timeline, lines that read, and the report's place."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from labkit.core.shown import table_html
from labkit.profiling.capture import Capture
from labkit.profiling.perfetto import PerfettoTrace, perfetto_trace
from labkit.profiling.profile_timeline import timeline
from labkit.profiling.range_table import range_table, read_table

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart


@dataclass(frozen=True)
class Profile:
    """Profile of a cell or a rung: table, timeline and reads.

    Attributes:
        capture: everything that was seen.
    """

    capture: Capture

    def table(self) -> pd.DataFrame:
        """One row per range; see `labkit.profiling.range_table.range_table`."""
        return range_table(self.capture)

    def reads(self) -> pd.DataFrame:
        """One row per source line that makes the host read a tensor."""
        return read_table(self.capture)

    def timeline(self, frames: int = 2, around: str | None = None) -> Chart:
        """The first frames, or the first range named `around`, as a picture."""
        return timeline(self.capture, frames=frames, around=around)

    def perfetto(self) -> PerfettoTrace:
        """The trace with a button that opens it in Perfetto, and a link to download it."""
        return perfetto_trace(self.capture)

    def words(self) -> list[str]:
        """Profiler, report file and notes, in lines."""
        lines = [f"Seen by {self.capture.profiler}. Report: {self.capture.file}", *self.capture.notes]
        if not self.capture.ranges:
            return [*lines, "No range of labkit was entered: run a rung in this cell, or use span(...)."]
        per_frame = len(self.capture.reads) / max(self.capture.n_frames, 1)
        reads = f"The host read tensors {len(self.capture.reads)} times, {per_frame:.4g} per frame"
        if self.capture.has_gpu:
            return [*lines, f"{reads}; each read of a tensor on the GPU is a wait for it."]
        return [*lines, f"{reads}. Without a GPU nothing waits for them; on one, each is a wait."]

    def _repr_html_(self) -> str:
        parts = ["<br>".join(map(escape, self.words()))]
        if self.capture.ranges:
            parts += [table_html(self.table().round(2)), self.timeline()._repr_html_()]
        if self.capture.reads:
            reads = table_html(self.reads().round(2))
            parts += ["<b>Lines that make the host read a tensor</b>", reads]
        return "\n".join(parts)

    def __repr__(self) -> str:
        tables = [self.table()] if self.capture.ranges else []
        tables += [self.reads()] if self.capture.reads else []
        return "\n".join([*self.words(), *(t.round(2).to_string(index=False, na_rep="-") for t in tables)])
