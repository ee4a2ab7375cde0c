"""A benchmark from beginning to end: rungs in, stored runs and comparisons out.

This is what `labkit bench`, `labkit compare` and the notebooks call. Every rung works in a
process of its own; its answers are compared with its reference's before it is timed; each
finished run is stored at once, so that an interruption loses only what was under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from labkit.busy import busy, busy_with
from labkit.errors import LabError, UnavailableError, UsageError
from labkit.measure import (
    FULL,
    FULL_TURNS,
    FrameSet,
    Plan,
    Turns,
    Watch,
    Worker,
    accuracy,
    collect,
    compare,
    fidelity,
    fingerprint,
    measure_peaks,
)
from labkit.measure.fidelity import Answers
from labkit.models.prepare import resolve_all
from labkit.models.weights import Weights, file_sha256
from labkit.models.work import gflop_per_frame
from labkit.needs import missing
from labkit.pipelines import rung as rung_named
from labkit.records import Comparison, Fidelity, Run
from labkit.results import Store
from labkit.types import Rung, Workload

WORKER_BYTES = 1.8 * 2**30  # what one worker may need; decides how many live at once


class Reporter:
    """Hears what a benchmark does; this one is silent. Screens override what they show."""

    def step(self, text: str) -> None:
        """A new step begins."""

    def progress(self, share: float) -> None:
        """The step is finished to this share, from 0 to 1."""

    def note(self, text: str) -> None:
        """One line that the user should see."""

    def finished(self, result: Run | Comparison) -> None:
        """A result is there, and stored if there is a store."""


@dataclass
class Outcome:
    """What a benchmark gave.

    Attributes:
        skipped: rung name -> why it cannot run here, or how it failed.
    """

    runs: list[Run] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Checks:
    """What is known of the rungs' answers when their speeds are compared."""

    fidelities: Mapping[str, Fidelity]
    scores: Mapping[str, Mapping[str, Any]]

    def agrees(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether a gain of this rung may be claimed.

        Trained models decide: their accuracy on scenes, and agreement on the frames unless the
        weights are random. With random weights the best queries differ by less than rounding, so
        which of them win says nothing; there only numbers that are no numbers count.
        """
        fidelity_, score = self.fidelities[name], self.scores.get(name) or {}
        if settings.get("weights") == "random" and "loses" in score:
            return not score["loses"] and fidelity_.nan_count == 0
        return fidelity_.agrees and not score.get("loses", False)


@dataclass(frozen=True)
class Job:
    """What all rungs of a benchmark share.

    Attributes:
        frames: pictures in memory.
        weights: chosen once for all rungs.
        plan: of the timed runs; None compares only.
        turns: of the comparisons; None runs only.
        peaks: GFLOP/s by precision, from this machine.
        store: where finished results go, or None.
        scenes: number of scenes with known truth for the accuracy; 0 leaves it out.
        others: what else of the lab was running when the benchmark began.
    """

    frames: FrameSet
    workload: Workload
    weights: Mapping[str, Weights]
    plan: Plan | None
    turns: Turns | None
    peaks: Mapping[str, Mapping[str, float]]
    reporter: Reporter
    store: Store | None
    scenes: int = 0
    others: tuple[str, ...] = ()


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

    Raises:
        SourceError: the source gives no frames.
        WeightsError: weights that were asked for cannot be had.
        UsageError: there is no rung to measure.
    """
    if not rungs:
        raise UsageError("no rung to measure; labkit rungs lists them")
    reporter = reporter or Reporter()
    workload = workload or Workload()
    outcome = Outcome()
    able = _able(rungs, outcome, reporter)
    if not able:
        return outcome
    reporter.step("reading frames")
    frames = collect(source, workload.size, seed=workload.seed, noise=noise)
    reporter.step("looking for weights")
    weights = resolve_all(workload, progress=True)
    _tell_of_weights(weights, reporter)
    peaks = _peaks(able, reporter) if plan is not None else {}
    job = Job(frames, workload, weights, plan, turns, peaks, reporter, store, scenes, _others(reporter))
    with busy("a benchmark"):
        for family in _families(able):
            _measure_family(family, job, outcome)
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


def _able(rungs: Sequence[Rung], outcome: Outcome, reporter: Reporter) -> list[Rung]:
    able = []
    for rung in rungs:
        reason = missing(rung.needs)
        if reason is None:
            able.append(rung)
        else:
            outcome.skipped[rung.name] = reason
    if outcome.skipped:
        reporter.note(f"{len(outcome.skipped)} rungs cannot run here: {', '.join(outcome.skipped)}")
    return able


def _families(rungs: Sequence[Rung]) -> list[list[Rung]]:
    """Rungs of the same work belong together."""
    families: dict[str, list[Rung]] = {}
    for rung in rungs:
        families.setdefault(rung.prepare.work, []).append(rung)
    return list(families.values())


def _pairs(rungs: Sequence[Rung]) -> list[tuple[str, str]]:
    """What is compared: each rung with the one it changes, and with the first of its family."""
    names = [rung.name for rung in rungs]
    pairs = [(rung.changes, rung.name) for rung in rungs if rung.changes in names]
    pairs += [(names[0], name) for name in names[1:]]
    return [(a, b) for a, b in dict.fromkeys(pairs) if a is not None]


def _peaks(rungs: Sequence[Rung], reporter: Reporter) -> dict[str, dict[str, float]]:
    reporter.step("measuring this machine's peak")
    return {device: measure_peaks(device) for device in sorted({rung.prepare.device for rung in rungs})}


def _others(reporter: Reporter) -> tuple[str, ...]:
    """A live view or another benchmark that disturbs this one; it is marked, never silent."""
    other = busy_with()
    if other is None:
        return ()
    reporter.note(f"{other} is running: these measurements are marked as disturbed")
    return (f"{other} was running",)


def _measure_family(family: Sequence[Rung], job: Job, outcome: Outcome) -> None:
    """All rungs of one kind of work. Their workers stay alive for the comparison if memory allows."""
    known: dict[str, Answers] = {}
    fidelities: dict[str, Fidelity] = {}
    scores: dict[str, dict[str, Any]] = {}
    roomy = psutil.virtual_memory().available > WORKER_BYTES * len(family)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for rung in family:
            try:
                worker = stack.enter_context(_start(rung, job))
                fidelities[rung.name] = _check(rung, worker, known, job)
                scores[rung.name] = _accuracy(rung, scores, job)
                if job.plan is not None:
                    run = _run(rung, worker, fidelities[rung.name], job)
                    _finish(replace(run, accuracy=scores[rung.name]), outcome.runs, job)
            except LabError as error:
                outcome.skipped[rung.name] = f"failed: {error}"
                job.reporter.note(f"{rung.name} failed: {error}")
                continue
            workers[rung.name] = worker
            if not (roomy and job.turns is not None):
                worker.close()
        done = [rung for rung in family if rung.name in workers]
        if job.turns is None or len(done) < 2:
            return
        if roomy:
            _compare(done, workers, _pairs(done), Checks(fidelities, scores), job, outcome)
            return
    by_name = {rung.name: rung for rung in done}
    for a, b in _pairs(done):
        with _start(by_name[a], job) as first, _start(by_name[b], job) as second:
            _compare(
                [by_name[a], by_name[b]],
                {a: first, b: second},
                [(a, b)],
                Checks(fidelities, scores),
                job,
                outcome,
            )


def _start(rung: Rung, job: Job) -> Worker:
    job.reporter.step(f"{rung.name}: getting ready")
    return Worker(rung, job.workload, job.frames.frames, job.weights, report=job.reporter.note)


def _check(rung: Rung, worker: Worker, known: dict[str, Answers], job: Job) -> Fidelity:
    """Agreement with the reference rung; known answers are used again."""
    job.reporter.step(f"{rung.name}: comparing answers with {rung.reference}")
    frames = job.frames.spread()
    known[rung.name] = worker.answers(frames)
    if rung.reference not in known:
        with _start(rung_named(rung.reference), job) as reference:
            known[rung.reference] = reference.answers(frames)
    return fidelity(known[rung.reference], known[rung.name])


def _accuracy(rung: Rung, known: Mapping[str, Mapping[str, Any]], job: Job) -> dict[str, Any]:
    """Accuracy on scenes with the small models, and what it loses against the reference rung's."""
    if not job.scenes:
        return {}
    own = _score(rung, job)
    reference = known.get(rung.reference) or (
        own if rung.reference == rung.name else _score(rung_named(rung.reference), job)
    )
    return accuracy.against(reference, own)


def _score(rung: Rung, job: Job) -> dict[str, Any]:
    weights = resolve_all(accuracy.lab_workload(job.workload))
    mark = "-".join(file_sha256(w.path / "model.safetensors")[:16] for w in weights.values() if w.path)
    path, result = accuracy.remembered(rung, mark, job.scenes, 0.0)
    if result is None:
        job.reporter.step(f"{rung.name}: accuracy on {job.scenes} scenes")
        frames = accuracy.frames_for(rung, job.scenes)
        workload = accuracy.lab_workload(job.workload)
        with Worker(rung, workload, frames[:1], weights, report=job.reporter.note) as worker:
            result = accuracy.score(worker.answers(frames), frames)
        accuracy.remember(path, result)
    return result


def _run(rung: Rung, worker: Worker, agreement: Fidelity, job: Job) -> Run:
    assert job.plan is not None
    job.reporter.step(f"{rung.name}: measuring")
    with Watch((worker.pid,)) as watch:
        timed = worker.run(job.plan, job.reporter.progress)
    return Run(
        rung=rung.name,
        stage=rung.stage,
        scenario="paced" if job.plan.scenario == "paced" else "closed",
        quick=job.plan.quick,
        latency_s=timed.latency_s,
        done_s=timed.done_s,
        spans_s=timed.per_span(),
        spans_gpu_s=timed.per_span(gpu=True),
        warmup_s=timed.warmup_s,
        offered=timed.offered,
        dropped=timed.dropped,
        failed=timed.failed,
        startup_s=worker.ready.startup_s,
        peak_bytes=worker.peak_bytes(),
        settings={**worker.ready.settings, "paced_fps": job.plan.fps, "changes": rung.changes},
        source=job.frames.source,
        limit=_limit(rung, job),
        fidelity=agreement,
        disturbances=(*watch.disturbances(), *job.others),
        fingerprint=fingerprint(),
    )


def _limit(rung: Rung, job: Job) -> dict[str, Any]:
    peaks = job.peaks[rung.prepare.device]
    return {
        "gflop_per_frame": gflop_per_frame(rung.prepare, job.workload),
        "precision": rung.prepare.precision,
        "peak_gflops": peaks.get(rung.prepare.precision),
        "peaks": dict(peaks),
    }


def _compare(
    rungs: Sequence[Rung],
    workers: Mapping[str, Worker],
    pairs: Sequence[tuple[str, str]],
    checks: Checks,
    job: Job,
    outcome: Outcome,
) -> None:
    assert job.turns is not None
    job.reporter.step(f"comparing {len(rungs)} rungs in turns")
    settings = {**workers[rungs[0].name].ready.settings}
    settings.pop("preparation", None)
    settings["baseline"] = rungs[0].name
    try:
        with Watch(tuple(worker.pid for worker in workers.values())) as watch:
            comparisons = compare(
                rungs[0].name,
                workers,
                job.turns,
                pairs=pairs,
                fidelities=checks.fidelities,
                agreeing={name: checks.agrees(name, workers[name].ready.settings) for name in workers},
                seed=job.workload.seed,
                about={"settings": settings, "source": job.frames.source, "fingerprint": fingerprint()},
                progress=job.reporter.progress,
            )
    except LabError as error:
        job.reporter.note(f"the comparison failed: {error}")
        outcome.skipped["comparison"] = str(error)
        return
    for comparison in comparisons:
        disturbances = (*watch.disturbances(), *job.others)
        _finish(replace(comparison, disturbances=disturbances), outcome.comparisons, job)


def _finish(result: Any, results: list[Any], job: Job) -> None:
    if job.store is not None:
        add = job.store.add_run if isinstance(result, Run) else job.store.add_comparison
        result = add(result)
    results.append(result)
    job.reporter.finished(result)
