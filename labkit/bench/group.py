"""Measuring all rungs that do the same work: each alone first, then together in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psutil

from labkit.bench.accuracy import for_a_row
from labkit.bench.agreement import Answers, measure_agreement
from labkit.bench.context import Checks, Job
from labkit.bench.evaluate import examine
from labkit.bench.interleave import compare
from labkit.bench.noise import Watch
from labkit.bench.worker import Worker
from labkit.core.errors import LabError
from labkit.core.machine import fingerprint
from labkit.core.types import Rung
from labkit.models.flops import gflop_per_frame, mb_per_frame
from labkit.pipelines.ladder import rung as rung_named
from labkit.results.records import Agreement, Run
from labkit.results.result_set import ResultSet

TIME_IS_UP = "left out, the time of this benchmark was up"
WORKER_BYTES = 1.8 * 2**30  # what one worker may need; decides how many live at once


def measure_family(family: Sequence[Rung], job: Job, outcome: ResultSet) -> None:
    """All rungs of one kind of work. Their workers stay alive for the comparison if memory allows.

    A rung that has a run in the outcome already only takes turns with the others.
    """
    before = {run.rung for run in outcome.runs}
    known: dict[str, Answers] = {}
    agreements: dict[str, Agreement] = {}
    scores: dict[str, dict[str, Any]] = {}
    roomy = psutil.virtual_memory().available > WORKER_BYTES * len(family)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for rung in family:
            if job.late(_comparing_s(outcome.runs, workers, job)):
                if rung.name not in before:
                    outcome.skipped[rung.name] = TIME_IS_UP
                continue
            try:
                worker = stack.enter_context(_start(rung, job))
                agreements[rung.name] = _check(rung, worker, known, job)
                scores[rung.name] = examine(rung, scores, job)
                if job.plan is not None and rung.name not in before:
                    run = _run(rung, worker, agreements[rung.name], job)
                    _finish(replace(run, accuracy=for_a_row(scores[rung.name])), outcome.runs, job)
            except LabError as error:
                outcome.skipped[rung.name] = f"failed: {error}"
                job.reporter.note(f"{rung.name} failed: {error}")
                continue
            workers[rung.name] = worker
            if not (roomy and job.turns is not None):
                worker.close()
        done = [rung for rung in family if rung.name in workers]
        pairs = _pairs(done, before)
        if job.turns is None or not pairs:
            return
        if job.late():
            outcome.skipped[f"comparing {', '.join(workers)}"] = f"{TIME_IS_UP}: labkit compare A B"
            return
        if roomy:
            _compare(done, workers, pairs, Checks(agreements, scores), job, outcome, stack)
            return
    by_name = {rung.name: rung for rung in done}
    for a, b in pairs:
        with ExitStack() as stack:
            pair = [by_name[a], by_name[b]]
            workers = {rung.name: stack.enter_context(_start(rung, job)) for rung in pair}
            _compare(pair, workers, [(a, b)], Checks(agreements, scores), job, outcome, stack)


def _comparing_s(runs: Sequence[Run], measured: Mapping[str, Worker], job: Job) -> float:
    """How long these rungs will take turns; 0 without comparisons."""
    if job.turns is None:
        return 0.0
    return job.turns.expected_s([1 / run.fps for run in runs if run.rung in measured])


def _pairs(rungs: Sequence[Rung], before: Set[str]) -> list[tuple[str, str]]:
    """What is compared: each new rung with the one it changes, and with the first of its family."""
    if len(rungs) < 2:
        return []
    names = [rung.name for rung in rungs]
    pairs = [(rung.changes, rung.name) for rung in rungs if rung.changes in names]
    pairs += [(names[0], name) for name in names[1:]]
    return [(a, b) for a, b in dict.fromkeys(pairs) if a is not None and not {a, b} <= before]


def _start(rung: Rung, job: Job) -> Worker:
    job.reporter.step(f"{rung.name}: getting ready")
    return Worker(rung, job.workload, job.frames.frames, job.weights, report=job.reporter.note)


def _check(rung: Rung, worker: Worker, known: dict[str, Answers], job: Job) -> Agreement:
    """Agreement with the reference rung; known answers are used again."""
    job.reporter.step(f"{rung.name}: comparing answers with {rung.reference}")
    frames = job.frames.spread()
    known[rung.name] = worker.answers(frames)
    if rung.reference not in known:
        with _start(rung_named(rung.reference), job) as reference:
            known[rung.reference] = reference.answers(frames)
    return measure_agreement(known[rung.reference], known[rung.name])


def _run(rung: Rung, worker: Worker, agreement: Agreement, job: Job) -> Run:
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
        settings={
            **worker.ready.settings,
            "paced_fps": job.plan.fps,
            "changes": rung.changes,
            **_gpu_memory(worker),
        },
        source=job.frames.source,
        limit=_limit(rung, job),
        agreement=agreement,
        disturbances=(*watch.disturbances(), *job.disturbed_by()),
        fingerprint=fingerprint(),
    )


def _gpu_memory(worker: Worker) -> dict[str, int]:
    held = worker.gpu_peak_bytes()
    return {} if held is None else {"gpu_peak_bytes": held}


def _limit(rung: Rung, job: Job) -> dict[str, Any]:
    peaks = job.peaks[rung.prepare.device]
    return {
        "gflop_per_frame": gflop_per_frame(rung.prepare, job.workload),
        "mb_per_frame": mb_per_frame(rung.prepare, job.workload),
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
    outcome: ResultSet,
    stack: ExitStack,
) -> None:
    """All rungs in turns; whatever new processes they get is ended with the stack."""
    assert job.turns is not None
    words = f"comparing {len(rungs)} rungs in turns"
    alive = dict(workers)

    def renew() -> Mapping[str, Worker]:
        for rung in rungs:
            alive[rung.name].close()
            alive[rung.name] = stack.enter_context(_start(rung, job))
            watch.also((alive[rung.name].pid,))
        job.reporter.step(words)
        return alive

    job.reporter.step(words)
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
                agreements=checks.agreements,
                agreeing={name: checks.agrees(name, workers[name].ready.settings) for name in workers},
                seed=job.workload.seed,
                renew=renew,
                about={"settings": settings, "source": job.frames.source, "fingerprint": fingerprint()},
                progress=job.reporter.progress,
            )
    except LabError as error:
        job.reporter.note(f"the comparison failed: {error}")
        outcome.skipped["comparison"] = str(error)
        return
    disturbances = (*watch.disturbances(), *job.disturbed_by())
    for comparison in comparisons:
        _finish(replace(comparison, disturbances=disturbances), outcome.comparisons, job)


def _finish(result: Any, results: list[Any], job: Job) -> None:
    if job.store is not None:
        add = job.store.add_run if isinstance(result, Run) else job.store.add_comparison
        result = add(result)
    results.append(result)
    job.reporter.finished(result)
