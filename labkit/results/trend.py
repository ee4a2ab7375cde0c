"""The speed of one rung from commit to commit on one machine, and a verdict on the newest one.

Each commit is evaluated once, against the last known good: the commits before it that were neither
slower nor under suspicion. A history of many commits raises no alarm by their mere number: "slower"
and "faster" need more than a 95% interval. By simulation (runs that scatter by 0.5 to 2% from process
to process and by 1% besides) 20 commits without a change raise any alarm in at most 5% of histories,
and a regression of 5% is found:

| runs per commit | processes differ by 0.5% | 1% | 2% |
|---|---|---|---|
| 1, by its third commit | 99% | 90% | 43% |
| 3, at its first commit | 99% | 95% | 48% |
| 3, by its third commit | 99% | 99% | 95% |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.core import stats
from labkit.core.errors import UsageError
from labkit.core.shown import shown_table, table_html
from labkit.core.terminal import printable
from labkit.results.history import commit_of, comparable, history, when
from labkit.results.records import Run, Verdict, finite
from labkit.results.table import bounds

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart

ALARM = 0.001
"""Chance that one commit without a change is called slower or faster: 20 of them stay below 5%."""

SAME = (0.95, 1.05)
"""Ratios in this band count as the same speed from one day to another."""

MIN_FREEDOM = 3
"""Degrees of freedom from which the scatter between commits is known: four commits before the newest."""


@dataclass(frozen=True)
class Step:
    """One commit of a trend.

    Attributes:
        commit: short hash, "+" after it where files were changed since; the version of an own loop.
        runs: its runs, oldest first.
        verdict: against the last known good.
        ratio, interval: how many times as fast as that, with 95% interval; commits under suspicion are
            evaluated together with the next one.
    """

    commit: str
    runs: tuple[Run, ...]
    verdict: Verdict
    ratio: float
    interval: stats.Interval

    @property
    def fps(self) -> float:
        """Geometric mean over its runs."""
        return float(np.exp(_level(self.runs)))


@dataclass(frozen=True)
class Trend:
    """A rung's commits in the order of time; shows itself as a table with a sentence.

    Attributes:
        rung: its name.
        steps: oldest first, each against those before it.
        left_out: runs that did other work or ran on another machine than the newest one.
        notes: sentences on stored rows that are damaged, and left out.
    """

    rung: str
    steps: tuple[Step, ...]
    left_out: int = 0
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """On the newest commit."""
        return self.steps[-1].verdict

    def table(self) -> pd.DataFrame:
        """One row per commit."""
        rows = [
            (when(step.runs[0]), step.commit, len(step.runs), step.fps, step.ratio,
             *bounds(step.interval), step.verdict, any(run.noisy for run in step.runs))
            for step in self.steps
        ]  # fmt: skip
        columns = ["when", "commit", "runs", "fps", "ratio", "ratio_lo", "ratio_hi", "verdict", "noisy"]
        return shown_table(rows, columns).round(3)

    def __str__(self) -> str:
        newest = self.steps[-1]
        low, high = newest.interval
        n = f"{len(newest.runs)} run{'' if len(newest.runs) == 1 else 's'}"
        basis = (
            f"{newest.ratio:.3f} times as fast as the last known good, 95% CI {low:.3f}-{high:.3f}, {n}"
            if np.isfinite(high)
            else f"{len(self.steps) - 1} commits before it on this machine; their scatter is known from "
            f"{MIN_FREEDOM + 1} on; labkit compare --commits A B needs none"
        )
        left_out = (
            f"; {self.left_out} runs of other work or other machines are left out" if self.left_out else ""
        )
        return "; ".join(
            [f"{self.rung} at {newest.commit}: {newest.verdict} ({basis}){left_out}", *self.notes]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        steps = [
            {"commit": step.commit, "runs": len(step.runs), "fps": step.fps, "ratio": step.ratio,
             "ci": finite(step.interval), "verdict": step.verdict}
            for step in self.steps
        ]  # fmt: skip
        return {"rung": self.rung, "verdict": self.verdict, "sentence": str(self), "commits": steps}

    def plot(self) -> Chart:
        """FPS of all runs over time, by machine."""
        from labkit.results.plots.over_time import over_time

        labels = {id(run): step.commit for step in self.steps for run in step.runs}
        for step in self.steps:
            if step.verdict in ("slower", "faster"):
                labels[id(step.runs[-1])] += f"\n{step.verdict}"
        runs = [run for step in self.steps for run in step.runs]
        return over_time(self.rung, runs, label=lambda run: labels[id(run)])

    def _repr_html_(self) -> str:
        return f"{table_html(self.table())}<p>{escape(printable(str(self)))}</p>"


def trend(rung: str | Callable[..., object], *, good: str | None = None) -> Trend:
    """Evaluates each commit of a rung against the last known good one before it.

    Args:
        rung: name, or a loop of your own.
        good: a commit from which the known good begins, such as one whose slower speed is accepted;
            by default the first.

    Raises:
        UsageError: there is no run of it, or no commit `good`.
    """
    found = history(rung)
    if not found.runs:
        raise UsageError(f"{found}; measure it first: labkit bench {found.rung}")
    alike = [run for run in found.runs if comparable(run, found.runs[-1])]
    groups = [(name, tuple(runs)) for name, runs in groupby(alike, commit_of)]
    if good is not None:
        places = [i for i, (name, _) in enumerate(groups) if good[:7] and name.startswith(good[:7])]
        if not places:
            raise UsageError(
                f"no run of {found.rung} at commit {good}; there are {', '.join(n for n, _ in groups)}"
            )
        groups = groups[places[0] :]
    verdicts = evaluate_commits([_level(runs) for _, runs in groups], [len(runs) for _, runs in groups])
    steps = tuple(Step(name, runs, *each) for (name, runs), each in zip(groups, verdicts, strict=True))
    return Trend(found.rung, steps, len(found.runs) - len(alike), found.notes)


def evaluate_commits(
    levels: Sequence[float], counts: Sequence[int]
) -> list[tuple[Verdict, float, stats.Interval]]:
    """Evaluates each of a series of commits by the last known good ones before it.

    Scatter is that of commits around the mean of their stretch, so that days and processes are in it.
    A commit outside the 95% interval is under suspicion: it does not count as good yet, and the next is
    evaluated both alone and together with it. One that is faster for sure begins a new good stretch.

    Args:
        levels: log frames per second of each commit, the mean of its runs.
        counts: number of its runs.

    Returns:
        verdict, ratio to the known good, and 95% interval of it, for each commit.
    """
    x, runs = np.asarray(levels, np.float64), np.asarray(counts, np.float64)
    before: list[list[int]] = []  # stretches of known good commits that have ended
    good: list[int] = []
    suspects: list[int] = []
    verdicts: list[tuple[Verdict, float, stats.Interval]] = []
    for i in range(len(x)):
        freedom = sum(len(stretch) - 1 for stretch in (*before, good) if stretch)
        if freedom < MIN_FREEDOM:
            ratio = float(np.exp(x[i] - np.average(x[good], weights=runs[good]))) if good else 1.0
            verdicts.append(("cannot tell", ratio, stats.UNBOUNDED))
            good.append(i)
            continue
        scatter = np.sqrt(sum(_squares(x[each], runs[each]) for each in (*before, good)) / freedom)
        alone, together = (_change(x, runs, good, now, scatter) for now in ([i], [*suspects, i]))
        now, (change, error) = max(
            ([i], alone), ([*suspects, i], together), key=lambda one: abs(one[1][0]) / one[1][1]
        )
        width = stats.t_value(freedom) * error
        interval = (float(np.exp(change - width)), float(np.exp(change + width)))
        verdict: Verdict = "same" if SAME[0] <= interval[0] and interval[1] <= SAME[1] else "cannot tell"
        if abs(change) > stats.t_value(freedom, 1 - ALARM) * error:
            verdict = "faster" if change > 0 else "slower"
        verdicts.append((verdict, float(np.exp(change)), interval))
        if verdict == "faster":
            before.append(good)
            good, suspects = now, []
        elif abs(change) > width:
            suspects = now
        else:
            good = [*good, *(each for each in suspects if verdicts[each][0] != "slower"), i]
            suspects = []
    return verdicts


def _change(
    x: stats.Floats, runs: stats.Floats, good: list[int], now: list[int], scatter: float
) -> tuple[float, float]:
    """Log ratio of some commits to the known good, with its standard error."""
    # More runs than the known good had do not average away what differs from day to day.
    weights = np.minimum(runs[now], runs[good].mean())
    change = np.average(x[now], weights=weights) - np.average(x[good], weights=runs[good])
    return float(change), max(float(scatter * np.sqrt(1 / runs[good].sum() + 1 / weights.sum())), 1e-12)


def _squares(x: stats.Floats, weights: stats.Floats) -> float:
    return float(weights @ (x - np.average(x, weights=weights)) ** 2)


def _level(runs: Sequence[Run]) -> float:
    return float(np.mean(np.log([run.fps for run in runs])))
