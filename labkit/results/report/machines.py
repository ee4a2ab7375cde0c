"""The same rungs on several machines, side by side.

Speeds of unlike fingerprints are never averaged: each kind of machine and software is a column of
its own, and what differs is listed. What makes fingerprints unlike is decided where they are taken
(`labkit.core.machine`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from labkit.core.machine import (
    fingerprint_differences,
    fingerprint_unknowns,
    machine_name,
    speed_facts,
)
from labkit.results.records import Run
from labkit.results.report.groups import Record, Work, work_of


@dataclass(frozen=True, eq=False)
class Machine:
    """Records whose fingerprints agree in what matters.

    Attributes:
        letter: "A" for the first.
        name: processor, cores and GPU.
        fingerprint: of its newest record.
        records: in the order given.
        unknown: what affects speed and does not stand in every record, in words.
    """

    letter: str
    name: str
    fingerprint: Mapping[str, Any]
    records: tuple[Record, ...]
    unknown: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Run]:
        """Its runs."""
        return [record for record in self.records if isinstance(record, Run)]

    def has(self, record: Record) -> bool:
        """True if this very record is one of its own."""
        return any(record is own for own in self.records)


@dataclass(frozen=True)
class Figure:
    """Results of one machine for one rung.

    Attributes:
        n: number of runs.
        fps: frames per second; the median of several runs.
        interval: 95% interval of `fps`; of several runs from the lowest bound to the highest.
            None where there were too few frames to tell.
        agreement: with the reference rung, the lowest of all runs; None if it was not measured.
        loses: whether any of them was found to lose too much against its reference.
        noisy: whether there is a doubt about any of them.
    """

    n: int
    fps: float
    interval: tuple[float, float] | None
    agreement: float | None
    loses: bool
    noisy: bool


def machines(records: Iterable[Record]) -> list[Machine]:
    """The records by like fingerprints, in the order in which each kind first appears."""
    groups: list[_Group] = []
    for record in records:
        group = next((each for each in groups if each.takes(record)), None)
        if group is None:
            groups.append(group := _Group([], []))
        group.add(record)
    return [group.machine(_letter(place)) for place, group in enumerate(groups)]


@dataclass
class _Group:
    """Records of which no two differ; an old one that knows little does not join two that do."""

    records: list[Record]
    kinds: list[Mapping[str, Any]]

    def takes(self, record: Record) -> bool:
        return not any(fingerprint_differences(kind, record.fingerprint) for kind in self.kinds)

    def add(self, record: Record) -> None:
        self.records.append(record)
        if all(speed_facts(kind) != speed_facts(record.fingerprint) for kind in self.kinds):
            self.kinds.append(record.fingerprint)

    def machine(self, letter: str) -> Machine:
        newest = max(self.records, key=lambda record: record.created).fingerprint
        unknown = {word for kind in self.kinds for word in fingerprint_unknowns(newest, kind)}
        return Machine(letter, machine_name(newest), newest, tuple(self.records), tuple(sorted(unknown)))


def figure(runs: Sequence[Run]) -> Figure:
    """One figure of one or more runs of the same work on the same machine."""
    from labkit.results.plots.labels import loses

    lows, highs = zip(*(run.fps_interval for run in runs), strict=True)
    known = bool(np.isfinite(highs).all())
    agreements = [run.agreed for run in runs if run.agreed is not None]
    return Figure(
        n=len(runs),
        fps=median(run.fps for run in runs),
        interval=(float(min(lows)), float(max(highs))) if known else None,
        agreement=min(agreements, default=None),
        loses=any(loses(run) for run in runs),
        noisy=any(run.noisy for run in runs),
    )


def side_by_side(there: Sequence[Machine]) -> list[tuple[Work, dict[str, Figure]]]:
    """Each work that two machines or more have done, with the figure of each by its letter."""
    found: dict[Work, dict[str, list[Run]]] = {}
    for machine in there:
        for run in machine.runs:
            if run.n_frames:
                found.setdefault(work_of(run), {}).setdefault(machine.letter, []).append(run)
    return [
        (work, {letter: figure(runs) for letter, runs in cells.items()})
        for work, cells in found.items()
        if len(cells) > 1
    ]


def what_differs(there: Sequence[Machine]) -> list[tuple[Machine, list[str]]]:
    """Each machine but the first with the lines in which it differs from the first."""
    first = there[0].fingerprint
    return [
        (machine, fingerprint_differences(first, machine.fingerprint, machine.letter))
        for machine in there[1:]
    ]


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"{_letter(place // 26 - 1)}{_letter(place % 26)}"
