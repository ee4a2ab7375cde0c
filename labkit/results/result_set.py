"""Results of a benchmark or of the store: runs and comparisons with their tables and plots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from labkit.core.errors import UsageError
from labkit.core.files import recorded_folder
from labkit.core.shown import Sentences, shown_table, table_html
from labkit.core.terminal import printable
from labkit.results.ceilings import spans_overlap, with_ceilings
from labkit.results.checksums import describe_damage
from labkit.results.exports import load_exports
from labkit.results.records import Comparison, Run, describe_disturbances
from labkit.results.store import Store, default_path
from labkit.results.table import bounds, table

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart

MAIN_COLUMNS = ["rung", "fps", "fps_lo", "fps_hi", "p50_ms", "p90_ms", "p99_ms", "agreement",
                "share_of_limit", "noisy", "weights"]  # fmt: skip
PACED_COLUMNS = ["rung", "fed", "fps", "p50_ms", "p99_ms", "times_closed", "dropped", "cpu_ms", "j_per_frame"]
MOST_NAMED = 8  # rungs in a command; with more of them the whole ladder is measured again
RECORDED_COLUMNS = ["machine", "created", "rung", "fps", "fps_lo", "fps_hi", "p50_ms", "agreement", "weights"]


@dataclass
class ResultSet:
    """Runs and comparisons that belong together.

    Attributes:
        runs: one per rung that was measured alone.
        comparisons: pairs of rungs that were measured in interleaved rounds.
        skipped: rung name -> the reason why it was not measured.
        notes: sentences on what could not be saved, or was left out because it is damaged.
    """

    runs: list[Run] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """One row per run with its main figures; empty where there were too few frames for one.

        Runs of several machines, such as recorded ones, name machine and date.
        """
        several = len({run.machine for run in self.runs}) > 1
        columns = RECORDED_COLUMNS if several else MAIN_COLUMNS
        if any(run.scenario == "paced" for run in self.runs):
            columns = [*columns, "fed", "j_per_frame"]
        return table(self.runs)[columns].round(2)

    def paced(self) -> pd.DataFrame:
        """Each rung as fast as it can and fed at given rates, as a camera does: one row per rung and rate.

        `times_closed` is the median latency over that of the closed run, in which nothing ever naps;
        `dropped` is the share of frames that nobody was free to take, `cpu_ms` the processor time and
        `j_per_frame` the energy of a frame with its nap: the price of threads that spin. Empty where there
        were too few frames, or where the machine shows no counter.
        """
        rows = []
        for run in self._fed():
            closed, p50 = self.run(run.rung), run.percentile_ms(50)
            base = closed.percentile_ms(50) if closed.scenario == "closed" else None
            rows.append(
                (
                    run.rung, run.fed, run.fps, p50, run.percentile_ms(99),
                    p50 / base if p50 and base else None,
                    run.dropped / run.offered if run.offered else None,
                    run.cpu_ms_per_frame, run.joules_per_frame,
                )
            )  # fmt: skip
        return shown_table(rows, PACED_COLUMNS).round(3)

    def _fed(self) -> list[Run]:
        """Runs of rungs that were fed at some rate, a rung's closed run first."""
        names = dict.fromkeys(run.rung for run in self.runs if run.scenario == "paced")
        runs = [run for run in self.runs if run.rung in names]
        place = {name: i for i, name in enumerate(names)}
        return sorted(runs, key=lambda run: (place[run.rung], run.settings.get("paced_fps") or 0))

    @property
    def _closed(self) -> list[Run]:
        """Runs as fast as it can; all where there is none."""
        return [run for run in self.runs if run.scenario == "closed"] or self.runs

    def gains(self) -> pd.DataFrame:
        """One row per comparison: how many times faster b is than a, with interval and verdict."""
        columns = ["a", "b", "ratio", "ci_low", "ci_high", "verdict", "agrees", "rounds", "processes"]
        rows = [
            (c.a, c.b, c.ratio, *bounds(c.interval), c.verdict, c.agrees, c.rounds, c.processes)
            for c in self.comparisons
        ]
        return shown_table(rows, columns).round(3)

    def disturbed(self, command: str | None = None) -> str:
        """The worst disturbance, told once, and the command that repeats it; empty if there was none.

        Args:
            command: that measured these results; by default one that measures the disturbed rungs again.
        """
        records: list[Run | Comparison] = [*self.runs, *self.comparisons]
        if not (disturbed := describe_disturbances(records)):
            return ""
        if command is None:
            doubted = [record for record in records if record.disturbances]
            named = [name for r in doubted for name in ((r.rung,) if isinstance(r, Run) else (r.a, r.b))]
            names = list(dict.fromkeys(named))
            quick = " --quick" if all(record.quick for record in doubted) else ""
            command = f"labkit bench {' '.join(names) if len(names) <= MOST_NAMED else ''}".strip() + quick
        return f"{disturbed}. To repeat: {command}"

    def sentences(self) -> Sentences:
        """Each comparison in words with its interval, what was not measured, and the notes."""
        no_energy = dict.fromkeys(filter(None, (run.why_no_energy for run in self._fed())))
        return Sentences(
            [
                *(f"Energy per frame is not measurable here: {reason}." for reason in no_energy),
                *(comparison.finding for comparison in self.comparisons),
                *(f"{name} was not measured: {reason}." for name, reason in self.skipped.items()),
                *self.notes,
            ]
        )

    def ceilings(self) -> pd.DataFrame:
        """Amdahl's ceiling of each span of each run: the speed-up if that span took no time at all.

        Empty where spans overlap: what runs beside another part is no share of the frame.
        """
        columns = ["rung", "part", "ms per frame", "share of the frame", "ceiling"]
        rows = []
        for run in self._closed:
            overlap = spans_overlap(run)
            for name, seconds in run.spans_s.items():
                spent_s = float(np.nansum(seconds))
                share = spent_s / run.wall_s
                ceiling = None if overlap else 1 / max(1e-9, 1 - share)
                rows.append((run.rung, name, 1e3 * spent_s / run.n_frames, share, ceiling))
        return shown_table(rows, columns).round({columns[2]: 2, columns[3]: 3, columns[4]: 2})

    def cost_per_box(self) -> pd.DataFrame:
        """Fitted line of each rung that was measured with several numbers of boxes, with 95% intervals.

        `ms_per_box` is what each further box adds to a frame, `ms_at_0` what is left without boxes;
        bounds are empty for fewer than three runs.
        """
        from labkit.results.plots.by_boxes import lines

        columns = ["rung", "ms_per_box", "lo", "hi", "ms_at_0", "ms_at_0_lo", "ms_at_0_hi"]
        rows = [
            (rung, line.slope, *line.slope_interval, line.start, *line.start_interval)
            for rung, line in lines(self.runs).items()
        ]
        return shown_table(rows, columns).replace([np.inf, -np.inf], np.nan).round(3)

    def plot(self, kind: str = "throughput") -> Chart:
        """One figure with a caption and a text for those who cannot see it.

        Args:
            kind: "throughput", "latency", "where_time_goes", "share_of_peak", "roofline",
                "speed_accuracy", "by_boxes" (the same rungs with different numbers of boxes), "gains"
                (each rung's gain over the one that it changes), or "paced" (latency at each rate).

        Raises:
            UsageError: there is no such plot, or nothing in these results to draw it from.
        """
        from labkit.results.plots.breakdown import latency
        from labkit.results.plots.by_boxes import cost_of_boxes
        from labkit.results.plots.save import CHARTS
        from labkit.results.plots.speedup import waterfall

        steps = self.steps() or self.comparisons
        charts = {
            **{name: partial(chart, self._closed) for name, chart in CHARTS.items()},
            "by_boxes": partial(cost_of_boxes, self._closed),
            "gains": partial(waterfall, steps, runs=self._closed),
            "paced": partial(latency, self._fed()),
        }
        if kind not in charts:
            raise UsageError(f"no plot named {kind!r}; there are {', '.join(charts)}")
        if not {"gains": steps, "paced": self._fed()}.get(kind, self.runs):
            raise UsageError(f"nothing to plot: no rung was {'compared' if kind == 'gains' else 'measured'}")
        return charts[kind]()

    def steps(self) -> list[Comparison]:
        """The comparisons of a rung with the one that it changes one thing of."""
        changes = {run.rung: run.settings.get("changes") for run in self.runs}
        return [comparison for comparison in self.comparisons if changes.get(comparison.b) == comparison.a]

    def comparison(self, a: str, b: str) -> Comparison:
        """The newest comparison of rung `b` with rung `a`.

        Raises:
            UsageError: these two were not compared.
        """
        for comparison in reversed(self.comparisons):
            if (comparison.a, comparison.b) == (a, b):
                return comparison
        raise UsageError(f"{b} was not compared with {a} here")

    def run(self, rung: str) -> Run:
        """The newest run of a rung, as fast as it can where there is one.

        Raises:
            UsageError: it was not measured.
        """
        for run in (*reversed(self._closed), *reversed(self.runs)):
            if run.rung == rung:
                return run
        raise UsageError(f"{rung} was not measured here")

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __add__(self, other: ResultSet) -> ResultSet:
        return ResultSet(
            self.runs + other.runs,
            self.comparisons + other.comparisons,
            self.skipped | other.skipped,
            list(dict.fromkeys(self.notes + other.notes)),
        )

    def __str__(self) -> str:
        figures = self.table().to_string(index=False, na_rep="-") if self.runs else "no runs"
        return printable("\n".join(filter(None, [self.disturbed(), figures, *self.sentences()])))

    def _repr_html_(self) -> str:
        figures = table_html(self.table()) if self.runs else "<p>no runs</p>"
        sentences = "".join(f"<li>{escape(printable(sentence))}</li>" for sentence in self.sentences())
        first = f"<p>{escape(printable(self.disturbed()))}</p>" if self.disturbed() else ""
        return f"{first}{figures}<ul>{sentences}</ul>" if sentences else f"{first}{figures}"


def results(rung: str | None = None, stage: int | None = None, *, recorded: bool = False) -> ResultSet:
    """Read the runs and comparisons that were measured before, oldest first.

    Args:
        rung: only runs of this rung, and comparisons that it takes part in.
        stage: only runs of this stage.
        recorded: what was recorded on other machines and ships with the project, instead of the
            store of this one.

    Returns:
        The runs and comparisons; empty where there are none.

    Raises:
        ResultsError: the store cannot be read.

    Example:
        >>> import labkit
        >>> found = labkit.results(rung="no_such_rung")
        >>> len(found)
        0
    """
    notes: list[str] = []
    if recorded:
        folders = sorted(path.parent for path in recorded_folder().glob("*/runs.parquet"))
        exports = [export for folder in folders for export in load_exports(folder)]
        runs = [run for export in exports for run in export.runs]
        comparisons = [comparison for export in exports for comparison in export.comparisons]
    else:
        with Store(default_path(), read_only=True) as store:
            runs, comparisons = store.runs(), store.comparisons()
            notes = describe_damage(store.damaged)
    comparisons = with_ceilings(comparisons, runs)
    runs = [run for run in runs if rung in (None, run.rung) and stage in (None, run.stage)]
    names = {run.rung for run in runs}
    chosen = [c for c in comparisons if rung in (c.a, c.b) or (rung is None and {c.a, c.b} & names)]
    return ResultSet(runs, chosen if (rung or stage) else comparisons, notes=notes)
