"""Groups of results with the same workload; unlike ones never share a table or plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from labkit.results.records import OWN_MODELS, Comparison, Run, models_in

Record = Run | Comparison


@dataclass(frozen=True)
class Work:
    """Workload that must be the same for two speeds to stand in one row."""

    rung: str
    size: tuple[int, ...]
    objects: int | None
    source: str
    source_sha256: str
    model_set: str
    models: tuple[str, str]
    weights: str
    weights_sha256: str
    scenario: str
    paced_fps: float | None
    quick: bool

    @property
    def words(self) -> str:
        """All but the rung's name, for people."""
        size = "x".join(str(side) for side in self.size) or "unknown size"
        boxes = "" if self.objects is None else f", {self.objects} boxes" if self.objects != 1 else ", 1 box"
        rate = f" at {self.paced_fps:g} FPS" if self.paced_fps else ""
        quick = ", quick" if self.quick else ""
        named = "" if self.models in OWN_MODELS.values() else f" ({' and '.join(self.models)})"
        models = f"{self.model_set} models{named}, {self.weights} weights"
        return f"{self.source} {size}{boxes}; {models}; {self.scenario}{rate}{quick}"


class Group(NamedTuple):
    """Results of the same work, whatever the rung; `work.objects` is None where none of them keeps boxes."""

    work: Work
    runs: list[Run]
    comparisons: list[Comparison]


def work_of(run: Run) -> Work:
    """Key of the work of a run, to find the same work elsewhere."""
    weights = repr(sorted((run.settings.get("weights_sha256") or {}).items()))
    return replace(_shared(run), rung=run.rung, weights_sha256=weights, quick=run.quick)


def groups(records: Sequence[Record]) -> list[Group]:
    """The records by what they worked on, in the order in which each work first appears.

    What names whole frames keeps no boxes, so it stands with any number of boxes.
    """
    tasks = _tasks(records)
    found: list[Group] = []
    for record in records:
        work = _grouped(record, tasks)
        for place, group in enumerate(found):
            known = group.work
            objects = known.objects if work.objects is None else work.objects
            alike = replace(known, objects=objects) == replace(work, objects=objects)
            if alike and known.objects in (None, objects):
                found[place] = group = group._replace(work=replace(known, objects=objects))
                break
        else:
            found.append(group := Group(work, [], []))
        if isinstance(record, Run):
            group.runs.append(record)
        else:
            group.comparisons.append(record)
    return found


def newest(records: Sequence[Record]) -> list[Record]:
    """The last record of each rung, or pair of rungs, at each work; of one machine."""
    tasks = _tasks(records)
    found: dict[tuple[object, ...], Record] = {}
    for record in sorted(records, key=lambda each: (each.created, each.id or 0)):
        names = (record.rung,) if isinstance(record, Run) else (record.a, record.b)
        found[names, _grouped(record, tasks)] = record
    return list(found.values())


def by_boxes(runs: Sequence[Run]) -> list[tuple[Work, list[Run]]]:
    """The newest runs of rungs that were measured with several numbers of boxes and are otherwise alike."""
    tasks = _tasks(runs)
    kinds: dict[Work, dict[str, list[Run]]] = {}
    for run in (record for record in newest(runs) if isinstance(record, Run)):
        if run.n_frames and run.settings.get("objects") is not None and tasks[run.rung] != "classify":
            work = replace(_grouped(run, tasks), objects=None)
            kinds.setdefault(work, {}).setdefault(run.rung, []).append(run)
    several = {
        work: [run for own in rungs.values() if len(own) > 1 for run in own] for work, rungs in kinds.items()
    }
    return [(work, alike) for work, alike in several.items() if alike]


def _shared(record: Record) -> Work:
    """Workload of a record, but for the rung; comparisons are of the closed scenario."""
    settings, source = record.settings, record.source
    return Work(
        rung="",
        size=tuple(settings.get("size") or ()),
        objects=settings.get("objects"),
        source=str(source.get("spec", "unknown")),
        source_sha256=str(source.get("sha256")),
        model_set=str(settings.get("model_set", "unknown")),
        models=models_in(settings),
        weights=str(settings.get("weights", "unknown")),
        weights_sha256="",
        scenario=record.scenario if isinstance(record, Run) else "closed",
        paced_fps=settings.get("paced_fps"),
        quick=False,
    )


def _grouped(record: Record, tasks: Mapping[str, str]) -> Work:
    """The work by which a record is grouped: a camera shows other frames each time."""
    work = _shared(record)
    name = record.rung if isinstance(record, Run) else record.b
    if tasks.get(name) == "classify":
        work = replace(work, objects=None)
    return replace(work, source_sha256="") if record.source.get("live") else work


def _tasks(records: Iterable[Record]) -> dict[str, str]:
    """Description of each rung, from its runs."""
    return {
        record.rung: str(record.settings.get("preparation", {}).get("task"))
        for record in records
        if isinstance(record, Run)
    }
