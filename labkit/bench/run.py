"""A benchmark from beginning to end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from labkit.bench.coco import N_IMAGES, CocoFolder, Photographs, detector_labels, find_coco, read_coco
from labkit.bench.context import Examiner, Job, Outcome
from labkit.bench.evaluate import KEPT
from labkit.bench.frames import collect
from labkit.bench.group import measure_family
from labkit.bench.interleave import FULL_TURNS, Turns
from labkit.bench.peaks import PEAK_TRIES, measure_peaks
from labkit.bench.plan import FULL, Plan
from labkit.bench.progress import Reporter
from labkit.core.errors import UnavailableError, UsageError
from labkit.core.lock import lock_holder, machine_lock
from labkit.core.requirements import unmet_requirement
from labkit.core.types import Rung, Workload
from labkit.models.networks import MODELS
from labkit.models.prepare import resolve_all
from labkit.models.weights import Weights
from labkit.pipelines.ladder import rung as rung_named
from labkit.pipelines.third_party_rungs import PEERS
from labkit.results.records import Comparison
from labkit.results.store import Store


def bench(
    rungs: Sequence[Rung],
    *,
    source: str = "photos",
    workload: Workload | None = None,
    plan: Plan | None = FULL,
    turns: Turns | None = FULL_TURNS,
    store: Store | None = None,
    reporter: Reporter | None = None,
    noise: float = 0.0,
    scenes: int = 0,
    minutes: float | None = None,
    coco: Path | str | None = None,
    images: int = N_IMAGES,
    peaks_of: Callable[[str], Mapping[str, float]] | None = None,
) -> Outcome:
    """Measures rungs and compares them with what they change and with their family's baseline.

    Args:
        rungs: in the order in which to measure them; those that cannot run here are skipped
            with the reason.
        source: see `open_source`.
        workload: model set, weights, frame size, boxes.
        plan: of the timed runs; None makes no runs.
        turns: of the comparisons; None makes no comparisons.
        store: where to put each result as soon as it is there.
        noise: standard deviation of noise added to `scenes`, in grey levels.
        scenes: number of scenes with known truth on which to measure each rung's accuracy; 0
            for none.
        minutes: time after which nothing new begins; what is left out is told. None for no end.
        coco: a folder in COCO's format (see `find_coco`): what finds boxes is examined on its
            photographs, with the benchmark's own weights, instead of on scenes.
        images: how many of its images, the same ones each time.
        peaks_of: tells the peaks of a device ("cpu", "cuda"); None measures them.

    Raises:
        SourceError: the source gives no frames.
        WeightsError: weights that were asked for cannot be had, or random ones meet photographs.
        UsageError: there is no rung to measure, or `coco` is no such folder.
    """
    if not rungs:
        raise UsageError("no rung to measure; labkit rungs lists them")
    if minutes is not None and not minutes > 0:
        raise UsageError(f"minutes is more than 0, not {minutes}")
    place = None if coco is None else find_coco(coco)
    until_s = float("inf") if minutes is None else time.perf_counter() + 60 * minutes
    reporter = reporter or Reporter()
    workload = workload or Workload()
    outcome = Outcome()
    able = _able(rungs, outcome, reporter)
    if not able:
        return outcome
    if place is not None and not any(rung.prepare.task in KEPT for rung in able):
        names = ", ".join(rung.name for rung in able)
        raise UsageError(f"photographs with boxes judge what finds boxes, which none of {names} does")
    reporter.step("reading frames")
    frames = collect(source, workload.size, seed=workload.seed, noise=noise)
    reporter.step("looking for weights")
    weights = resolve_all(workload, progress=True)
    _tell_of_weights(weights, reporter)
    photographs = None if place is None else _photographs(place, weights, workload, images, reporter)
    others = _others(reporter)
    peaks = {}
    if plan is not None:
        measure = partial(measure_peaks, tries=1 if plan.quick else PEAK_TRIES, report=reporter.note)
        peaks = _peaks(able, peaks_of or measure, reporter)
    with machine_lock("a benchmark") as announced, Examiner(reporter.note) as examiner:
        job = Job(
            frames, workload, weights, plan, turns, peaks, reporter, store, examiner, scenes, until_s,
            others, announced, photographs,
        )  # fmt: skip
        for family in _families(able, short_of_time=minutes is not None):
            measure_family(family, job, outcome)
    return outcome


def compare_two(a: str, b: str, **options: Any) -> Comparison:
    """Compares rung `b` with rung `a`, by name; options as for `bench`.

    Raises:
        UnavailableError: one of them cannot run here, or failed.
    """
    rungs = [rung_named(a), rung_named(b)]
    if rungs[0].prepare.work != rungs[1].prepare.work or a == b:
        raise UnavailableError(f"{a} and {b} cannot be compared: they {_not_comparable(rungs)}")
    outcome = bench(rungs, **{"plan": None, **options})
    for comparison in outcome.comparisons:
        if (comparison.a, comparison.b) == (a, b):
            return comparison
    reasons = "; ".join(f"{name} {why}" for name, why in outcome.skipped.items())
    raise UnavailableError(f"{a} and {b} were not compared: {reasons}")


def _not_comparable(rungs: Sequence[Rung]) -> str:
    if rungs[0] == rungs[1]:
        return "are one and the same"
    return f"do different work ({rungs[0].prepare.work}; {rungs[1].prepare.work})"


def _tell_of_weights(weights: Mapping[str, Weights], reporter: Reporter) -> None:
    """One line on models whose weights are random, whatever kept the pretrained ones away."""
    random = [name for name, w in weights.items() if w.kind == "random"]
    if random:
        reporter.note(f"{' and '.join(random)}: {weights[random[0]].note}")


def _photographs(
    place: CocoFolder, weights: Mapping[str, Weights], workload: Workload, n: int, reporter: Reporter
) -> Photographs:
    labels = detector_labels(weights[MODELS[workload.model_set][0]])
    reporter.step("reading photographs")
    photographs = read_coco(place, labels, workload.size, n)
    if unknown := photographs.about["categories_unknown"]:
        reporter.note(f"categories that the network cannot name are left out: {', '.join(unknown)}")
    return photographs


def _able(rungs: Sequence[Rung], outcome: Outcome, reporter: Reporter) -> list[Rung]:
    able = []
    for rung in rungs:
        reason = unmet_requirement(rung.needs)
        if reason is None:
            able.append(rung)
        else:
            outcome.skipped[rung.name] = reason
    if outcome.skipped:
        reporter.note(f"{len(outcome.skipped)} rungs cannot run here: {', '.join(outcome.skipped)}")
    return able


def _families(rungs: Sequence[Rung], short_of_time: bool = False) -> list[list[Rung]]:
    """Rungs of the same work belong together.

    Args:
        rungs: in the order in which to measure them.
        short_of_time: peers, and what takes minutes to get ready, come after everything else, with
            those rungs that they are compared with.
    """
    if short_of_time:
        soon = [rung for rung in rungs if rung not in PEERS and not rung.prepare.compiles]
        late = _families([rung for rung in rungs if rung not in soon])
        return _families(soon) + [[*_beside(family, soon), *family] for family in late]
    families: dict[str, list[Rung]] = {}
    for rung in rungs:
        families.setdefault(rung.prepare.work, []).append(rung)
    return list(families.values())


def _beside(late: Sequence[Rung], soon: Sequence[Rung]) -> list[Rung]:
    """Of what was measured before, the first rung of the same work, and what the late ones change."""
    same = [rung for rung in soon if rung.prepare.work == late[0].prepare.work]
    return [rung for rung in same if rung == same[0] or rung.name in {each.changes for each in late}]


def _peaks(
    rungs: Sequence[Rung], peaks_of: Callable[[str], Mapping[str, float]], reporter: Reporter
) -> dict[str, Mapping[str, float]]:
    reporter.step("measuring this machine's peak")
    return {device: peaks_of(device) for device in sorted({rung.prepare.device for rung in rungs})}


def _others(reporter: Reporter) -> tuple[str, ...]:
    """A live view or another benchmark that disturbs this one; it is marked, never silent."""
    if os.environ.get("NSYS_PROFILING_SESSION_ID"):
        reporter.note("this process runs under a profiler: these measurements are marked as disturbed")
        return ("measured under a profiler",)
    other = lock_holder()
    if other is None:
        return ()
    reporter.note(f"{other} is running: these measurements are marked as disturbed")
    return (f"{other} was running",)
