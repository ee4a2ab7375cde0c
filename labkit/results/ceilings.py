"""Amdahl's ceiling of a change, from the time that each part of a frame takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from labkit.results.records import SAME_WORK, Ceiling, Comparison, Run, Samples

MOST = 0.8
"""A part with more than this share of what changed is taken to be the change."""


def with_ceilings(comparisons: Iterable[Comparison], runs: Iterable[Run]) -> list[Comparison]:
    """The comparisons with their ceilings, beyond which no verdict is believed; see `ceiling`.

    Args:
        comparisons: of any rungs; one that has a ceiling keeps it.
        runs: of any rungs; those count that did the same work on the same machine, the last first.
    """
    known: dict[str, list[Run]] = {}
    for run in runs:
        if run.scenario == "closed" and run.n_frames:
            known.setdefault(run.rung, []).insert(0, run)
    limits = [(each, each.ceiling or ceiling(each, known)) for each in comparisons]
    return [
        replace(each, settings={**each.settings, "ceiling": {"parts": list(limit.parts), "gain": limit.gain}})
        if limit
        else each
        for each, limit in limits
    ]


def ceiling(comparison: Comparison, known: Mapping[str, Sequence[Run]]) -> Ceiling | None:
    """The most that a comparison's change can gain: what its parts cost in a run of rung a.

    The parts are those of each step from a to b, where every rung changes one thing of another. They are
    known from the two preparations. Where these are alike and only the schedule differs, it is the part
    that makes up most of what changed: a guess, which is dropped where the comparison refutes it.

    Args:
        comparison: of two rungs.
        known: closed runs of each rung, the one that counts first.

    Returns:
        None where a run of a step is missing, where no part of the rung before is meant (work was
        added, or everything changed), or where spans overlap, so that none has a share of the frame.
    """
    path = _path(comparison, known)
    steps = list(pairwise(path))
    named = [_meant(*step) for step in steps]
    meant = [parts or _guess(*step) for parts, step in zip(named, steps, strict=True)]
    if not steps or not all(meant) or spans_overlap(path[0]) or spans_overlap(path[-1]):
        return None
    parts_s = _parts_s(path[0])
    parts = tuple(name for name in parts_s if any(name in each for each in meant))
    share = sum(parts_s[name] for name in parts) / _frame_s(path[0])
    if not parts or share >= 1:
        return None
    gain = 1 / (1 - share)
    return None if not all(named) and comparison.interval[0] > gain else Ceiling(parts, gain)


def _path(comparison: Comparison, known: Mapping[str, Sequence[Run]]) -> list[Run]:
    """Runs of the rungs from a to b, each of which changes one thing of the one before; empty without."""
    path: list[Run] = []
    name: Any = comparison.b
    while name is not None and all(name != run.rung for run in path):
        run = next((each for each in known.get(name, ()) if _same_work(each, comparison)), None)
        if run is None:
            return []
        path.insert(0, run)
        if name == comparison.a:
            return path
        name = run.settings.get("changes", comparison.a)  # not noted in old runs
    return []


def _same_work(run: Run, comparison: Comparison) -> bool:
    """True unless the two say that they differ in work or machine."""
    settings = comparison.settings
    keys = (*SAME_WORK, "detector", "classifier")
    alike = all(settings.get(key, run.settings.get(key)) == run.settings.get(key) for key in keys)
    sources = {each.source.get("sha256", "") for each in (run, comparison)} - {""}
    return alike and len(sources) < 2 and run.machine == comparison.machine


def _meant(before: Run, after: Run) -> tuple[str, ...]:
    """The spans of `before` that the preparations of the two say a change is about."""
    first, second = (run.settings.get("preparation", {}) for run in (before, after))
    keys = {key for key in {*first, *second} if first.get(key) != second.get(key)}
    if keys & {"task", "form", "device"}:
        return ()
    meant = {part for key in keys for part in _parts_of(key)}
    return tuple(name for name in _spans(before) if name in meant)


def _guess(before: Run, after: Run) -> tuple[str, ...]:
    """The span that makes up most of what changed, where the two are prepared alike."""
    if before.settings.get("preparation", {}) != after.settings.get("preparation", {}):
        return ()
    earlier, later = _parts_s(before), _parts_s(after)
    if earlier.keys() != later.keys():
        return ()
    change_s = {name: abs(earlier[name] - later[name]) for name in earlier}
    least_s = MOST * sum(change_s.values())
    return tuple(name for name, seconds in change_s.items() if seconds > least_s)


def _parts_of(key: str) -> tuple[str, ...]:
    """The spans that a line of a preparation decides."""
    if key == "preprocess":
        return ("preprocess", "crop")
    return ("filter",) if key.startswith("filter") else ("infer", "detect", "classify")


def _spans(run: Run) -> Mapping[str, Samples]:
    """Time per frame of each part; of a GPU's rung on the GPU, since the host does not wait for it."""
    return run.spans_gpu_s if run.settings.get("device") == "cuda" else run.spans_s


def _parts_s(run: Run) -> dict[str, float]:
    """Mean seconds per frame of each span."""
    return {name: float(np.nansum(seconds)) / run.n_frames for name, seconds in _spans(run).items()}


def spans_overlap(run: Run) -> bool:
    """True if its spans overlap: together they last longer than the frame."""
    return sum(_parts_s(run).values()) > _frame_s(run)


def _frame_s(run: Run) -> float:
    """Mean seconds from one frame to the next."""
    return run.wall_s / run.n_frames
