"""Accuracy lost by single changes: figures, verdicts, sentences, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from math import isfinite
from typing import Literal

from labkit.core.errors import ResultsError
from labkit.core.shown import Sentences

Metric = Literal["map_50", "map", "top1"]
Loss = Literal["map_50", "map"]
Verdict = Literal["costs", "costs nothing", "gains", "cannot tell"]

POINT = 0.01
"""Losses are given in points; a loss that is surely below one counts as none."""

HEADS: dict[Verdict, str] = {
    "costs": "Points that are lost",
    "gains": "Points that are gained",
    "costs nothing": "Surely less than a point is lost",
    "cannot tell": "No significant difference, points lost",
}

NAMES: dict[Metric, str] = {
    "map_50": "mAP at IoU 0.5",
    "map": "mAP at IoU 0.5 to 0.95",
    "top1": "share of right names",
}


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval; bounds are None where too few scenes give none."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def points(self) -> str:
        """The figure in points (hundredths), with its interval."""
        if self.low is None or self.high is None:
            return f"{_points(self.value)}, on too few scenes for an interval"
        return f"{_points(self.value)}, {_points(self.low)} to {_points(self.high)}"

    @property
    def negative(self) -> Estimate:
        """The same figure with the other sign."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Estimate(-self.value, low, high)


def _points(share: float) -> str:
    return f"{round(share / POINT, 1) + 0.0:.1f}"  # never -0.0


@dataclass(frozen=True)
class AblationRow:
    """Accuracy after one change, on scenes with one level of noise.

    Attributes:
        change: its name.
        about: what exactly was done.
        noise: standard deviation of the noise in grey levels.
        n_scenes: number of scenes.
        map_50, map, top1: accuracy.
        lost_map_50, lost_map: how much is lost against the unchanged network on the very same
            scenes; below 0 where the change gains.
    """

    change: str
    about: str
    noise: float
    n_scenes: int
    map_50: Estimate
    map: Estimate
    top1: Estimate
    lost_map_50: Estimate
    lost_map: Estimate

    def lost(self, metric: Loss) -> Estimate:
        """The loss of one measure."""
        return self.lost_map if metric == "map" else self.lost_map_50

    def verdict(self, metric: Loss) -> Verdict:
        """Verdict that the interval of the loss allows."""
        low, high = self.lost(metric).low, self.lost(metric).high
        if low is None or high is None:
            return "cannot tell"
        if low > 0 and high >= POINT:
            return "costs"
        if high < POINT:
            return "gains" if high < 0 else "costs nothing"
        return "cannot tell"


def sentences(rows: Iterable[AblationRow], metric: Loss = "map") -> Sentences:
    """One sentence or more per strength of noise: which changes cost accuracy, and how much.

    Args:
        rows: the unchanged network first.
        metric: "map_50" asks whether objects are found, "map" also how exactly.
    """
    by_noise: dict[float, list[AblationRow]] = {}
    for row in rows:
        by_noise.setdefault(row.noise, []).append(row)
    return Sentences(_sentence(noise, some, metric) for noise, some in sorted(by_noise.items()))


def _sentence(noise: float, rows: Sequence[AblationRow], metric: Loss) -> str:
    first, *changed = rows
    scenes = "clean scenes" if noise == 0 else f"scenes with noise of {noise:g} grey levels"
    value: Estimate = getattr(first, metric)
    text = f"On {first.n_scenes} {scenes}, {NAMES[metric]} of the unchanged network is {value}."
    for verdict, head in HEADS.items():
        some = [row for row in changed if row.verdict(metric) == verdict]
        if some:
            figures = [row.lost(metric).negative if verdict == "gains" else row.lost(metric) for row in some]
            changes = (f"{row.change} ({figure.points})" for row, figure in zip(some, figures, strict=True))
            text += f" {head}: {'; '.join(changes)}."
    return text


ESTIMATES = ("map_50", "map", "top1", "lost_map_50", "lost_map")


def to_csv(rows: Iterable[AblationRow]) -> str:
    """One line per change and noise, six decimals; empty cells where there is no interval."""
    import pandas as pd

    lines = [
        {"change": row.change, "noise": f"{row.noise:g}", "n_scenes": row.n_scenes}
        | {
            f"{name}{end}": None if value is None else float(value)
            for name in ESTIMATES
            for end, value in zip(("", "_low", "_high"), astuple(getattr(row, name)), strict=True)
        }
        | {"about": row.about}
        for row in rows
    ]
    return str(pd.DataFrame(lines).to_csv(index=False, float_format="%.6f"))


def from_csv(text: str) -> list[AblationRow]:
    """Reads what `to_csv` wrote.

    Raises:
        ResultsError: it is something else.
    """
    try:
        rows = []
        for cells in csv.DictReader(io.StringIO(text), strict=True):
            figures = {name: _estimate(cells, name) for name in ESTIMATES}
            noise, scenes = float(cells["noise"]), int(cells["n_scenes"])
            if noise < 0 or scenes < 0:
                raise ValueError(f"noise and number of scenes are from 0, not {noise}, {scenes}")
            rows.append(AblationRow(cells["change"], cells["about"], noise, scenes, **figures))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ResultsError(f"this is no ablation table ({error!r}); write it again") from error
    return rows


def _estimate(cells: dict[str, str], name: str) -> Estimate:
    bounds = (cells[f"{name}_low"], cells[f"{name}_high"])
    low, high = (_finite(cell) if cell else None for cell in bounds)
    return Estimate(_finite(cells[name]), low, high)


def _finite(cell: str) -> float:
    value = float(cell)
    if not isfinite(value):
        raise ValueError(f"a figure is a finite number, not {cell[:40]}")
    return value
