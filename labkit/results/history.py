"""All runs of one rung in the order of time: when, which commit and version, which machine, how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from labkit.core.errors import UsageError
from labkit.core.machine import fingerprint_differences, fingerprint_unknowns
from labkit.core.shown import shown_table, table_html
from labkit.core.terminal import printable
from labkit.core.types import describe_value
from labkit.results.records import SAME_WORK, Comparison, Run, models_in
from labkit.results.result_set import results
from labkit.results.table import bounds

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart


@dataclass(frozen=True)
class History:
    """Runs of one rung, oldest first; shows itself as a table, a sentence and, from two runs on, a plot.

    Attributes:
        rung: its name; for a loop of your own all its versions.
        runs: oldest first.
        notes: sentences on stored rows that are damaged, and left out.
        comparisons: that it took part in, the newest last.
    """

    rung: str
    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    def table(self) -> pd.DataFrame:
        """One row per run: when (UTC), version of an own loop, commit (+ if changed since), figures."""
        columns = [
            "when", "version", "commit", "fps", "fps_lo", "fps_hi", "p50_ms", "noisy", "work", "machine",
        ]  # fmt: skip
        rows = [
            (when(run), _version(run), _commit(run), run.fps, *bounds(run.fps_interval),
             run.percentile_ms(50), run.noisy, _work(run), run.machine)
            for run in self.runs
        ]  # fmt: skip
        return shown_table(rows, columns).round(2)

    def previous(self) -> Run | None:
        """The last run before the newest one that did the same work on the same kind of machine."""
        return next(iter(self._alike()[-2:-1]), None)

    def _alike(self) -> list[Run]:
        """The newest run, and before it those that did the same work on the same kind of machine."""
        return [run for run in self.runs if comparable(run, self.runs[-1])]

    def __str__(self) -> str:
        """The newest run against the one before it, and the notes."""
        text = self._sentence()
        return "; ".join([text, *(["~: noisy, so doubt it"] if "~" in text else []), *self.notes])

    def _sentence(self) -> str:
        if not self.runs:
            compared = f" by itself; {self.comparisons[-1].finding}" if self.comparisons else ""
            return f"{self.rung} has not been measured yet{compared}"
        now, before = self.runs[-1], self.previous()
        text = f"{self.rung}{_named_version(now)}: {now.rate}"
        if before is None:
            return f"{text}; no earlier run did the same work on this kind of machine{self._elsewhere()}"
        then = f"{_ago(before, now)}, {when(before)} UTC{_named_version(before)}"
        facts = fingerprint_unknowns(before.fingerprint, now.fingerprint)
        unknown = f"; only one of them says: {', '.join(facts)}" if facts else ""
        return (
            f"{text}; {then}: {before.rate}: "
            f"{now.fps / before.fps:.2f}{now.doubt or before.doubt} times as fast. "
            "Two runs at two times differ by what the machine did meanwhile; labkit.compare measures in turns"
            f"{unknown}"
        )

    def _elsewhere(self) -> str:
        """Differences of the machine on which the last run with the same work was made."""
        now = self.runs[-1]
        for run in reversed(self.runs[:-1]):
            if _same_work(run, now):
                there = fingerprint_differences(now.fingerprint, run.fingerprint, "that machine")
                return f"; where it was last done, on {run.created[:10]}: {'; '.join(there)}"
        return ""

    def plot(self) -> Chart:
        """FPS with 95% intervals over time.

        Raises:
            UsageError: there is no run.
        """
        from labkit.results.plots.over_time import over_time

        return over_time(self.rung, self.runs, label=_version)

    def _repr_html_(self) -> str:
        table = table_html(self.table()) if self.runs else ""
        alike = History(self.rung, tuple(self._alike()))
        chart = alike.plot()._repr_html_() if len(alike.runs) > 1 else ""
        return f"{table}<p>{escape(printable(str(self)))}</p>{chart}"


def history(rung: str | Callable[..., Any], *, recorded: bool = False) -> History:
    """All stored runs of a rung, oldest first.

    Args:
        rung: name, or a loop of your own; all versions of its source are in it.
        recorded: what was recorded on other machines and ships with the project, instead.

    Raises:
        UsageError: it is neither.
        ResultsError: the store cannot be read.

    Example:
        >>> import labkit
        >>> print(labkit.history("no_such_rung"))
        no_such_rung has not been measured yet
    """
    if isinstance(rung, str):
        name = rung
    elif callable(rung):
        from labkit.pipelines.own_loop import loop_name

        name = loop_name(rung)
    else:
        raise UsageError(f"history is of a rung: a name or a loop of your own, not {describe_value(rung)}")
    stored = results(recorded=recorded)
    found = [run for run in stored.runs if name in (run.rung, run.rung.partition("@")[0])]
    pairs = [c for c in stored.comparisons if name in (c.a.partition("@")[0], c.b.partition("@")[0])]
    by_time = sorted(found, key=lambda run: run.created)
    return History(name, tuple(by_time), tuple(stored.notes), tuple(pairs))


def _same_work(a: Run, b: Run) -> bool:
    kinds = [(r.scenario, r.quick, r.source.get("sha256"), models_in(r.settings)) for r in (a, b)]
    return kinds[0] == kinds[1] and all(a.settings.get(key) == b.settings.get(key) for key in SAME_WORK)


def comparable(a: Run, b: Run) -> bool:
    """True if two runs did the same work on the same kind of machine."""
    return _same_work(a, b) and not fingerprint_differences(a.fingerprint, b.fingerprint)


def _version(run: Run) -> str:
    return str(run.settings.get("loop_sha256", ""))[:7]


def _named_version(run: Run) -> str:
    return f" (version {_version(run)})" if _version(run) else ""


def _commit(run: Run) -> str:
    commit = run.fingerprint.get("commit")
    return f"{commit[:7]}{'+' if run.fingerprint.get('dirty') else ''}" if commit else ""


def commit_of(run: Run) -> str:
    """Commit of a run, short; the version of a loop of your own, which has no commit of the lab's."""
    return _version(run) or _commit(run) or "no commit"


def _work(run: Run) -> str:
    size = "x".join(map(str, run.settings.get("size", ())))
    quick = "quick" if run.quick else ""
    parts = (run.settings.get("model_set"), run.source.get("spec"), size, run.fed, quick)
    return ", ".join(str(part) for part in parts if part)


def when(record: Run | Comparison) -> str:
    """Day and minute of a result (UTC)."""
    return record.created[:16].replace("T", " ")


def _ago(before: Run, now: Run) -> str:
    """Days between two runs, as one says them."""
    first, last = (
        datetime.fromisoformat(run.created).replace(tzinfo=UTC).astimezone().date() for run in (before, now)
    )
    days = (last - first).days
    return {0: "earlier that day", 1: "the day before"}.get(days, f"{days} days before")
