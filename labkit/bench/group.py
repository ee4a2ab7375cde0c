"""Measure rungs that do the same work: each alone first, then in interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psutil

from labkit.bench.accuracy import without_names
from labkit.bench.agreement import Answers, measure_agreement
from labkit.bench.context import Context, Correctness
from labkit.bench.evaluate import evaluate
from labkit.bench.interleave import compare
from labkit.bench.noise import NoiseMonitor
from labkit.bench.worker import Worker
from labkit.core.errors import LabError
from labkit.core.machine import fingerprint
from labkit.core.types import Rung
from labkit.models.flops import gflop_per_frame, mb_per_frame
from labkit.pipelines.ladder import rung as rung_named
from labkit.results.records import Agreement, Run
from labkit.results.result_set import ResultSet

TIME_IS_UP = "left out: the benchmark reached its time limit"
WORKER_BYTES = 1.8 * 2**30  # what one worker may need; decides how many live at once


def measure_group(group: Sequence[Rung], context: Context, result_set: ResultSet) -> None:
    """All rungs of one kind of work. Their workers stay alive for the comparison if memory allows.

    A rung that has a run in the result_set is only compared with the others.
    """
    before = {run.rung for run in result_set.runs}
    known: dict[str, Answers] = {}
    agreements: dict[str, Agreement] = {}
    scores: dict[str, dict[str, Any]] = {}
    roomy = psutil.virtual_memory().available > WORKER_BYTES * len(group)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for rung in group:
            if context.out_of_time(_comparing_s(result_set.runs, workers, context)):
                if rung.name not in before:
                    result_set.skipped[rung.name] = TIME_IS_UP
                continue
            try:
                worker = stack.enter_context(_start(rung, context))
                agreements[rung.name] = _check(rung, worker, known, context)
                scores[rung.name] = evaluate(rung, scores, context)
                if context.plan is not None and rung.name not in before:
                    run = _run(rung, worker, agreements[rung.name], context)
                    _finish(replace(run, accuracy=without_names(scores[rung.name])), result_set.runs, context)
            except LabError as error:
                result_set.skipped[rung.name] = f"failed: {error}"
                context.reporter.note(f"{rung.name} failed: {error}")
                continue
            workers[rung.name] = worker
            if not (roomy and context.rounds is not None):
                worker.close()
        done = [rung for rung in group if rung.name in workers]
        pairs = _pairs(done, before)
        if context.rounds is None or not pairs:
            return
        if context.out_of_time():
            result_set.skipped[f"comparing {', '.join(workers)}"] = f"{TIME_IS_UP}: labkit compare A B"
            return
        if roomy:
            _compare(done, workers, pairs, Correctness(agreements, scores), context, result_set, stack)
            return
    by_name = {rung.name: rung for rung in done}
    for a, b in pairs:
        with ExitStack() as stack:
            pair = [by_name[a], by_name[b]]
            workers = {rung.name: stack.enter_context(_start(rung, context)) for rung in pair}
            _compare(pair, workers, [(a, b)], Correctness(agreements, scores), context, result_set, stack)


def _comparing_s(runs: Sequence[Run], measured: Mapping[str, Worker], context: Context) -> float:
    """Expected length of the comparisons in s; 0 without comparisons."""
    if context.rounds is None:
        return 0.0
    return context.rounds.expected_s([1 / run.fps for run in runs if run.rung in measured])


def _pairs(rungs: Sequence[Rung], before: Set[str]) -> list[tuple[str, str]]:
    """Pairs to compare: each new rung with the one it changes, and with the first of its group."""
    if len(rungs) < 2:
        return []
    names = [rung.name for rung in rungs]
    pairs = [(rung.changes, rung.name) for rung in rungs if rung.changes in names]
    pairs += [(names[0], name) for name in names[1:]]
    return [(a, b) for a, b in dict.fromkeys(pairs) if a is not None and not {a, b} <= before]


def _start(rung: Rung, context: Context) -> Worker:
    context.reporter.step(f"{rung.name}: getting ready")
    return Worker(
        rung, context.workload, context.frames.frames, context.weights, report=context.reporter.note
    )


def _check(rung: Rung, worker: Worker, known: dict[str, Answers], context: Context) -> Agreement:
    """Agreement with the reference rung; known answers are used again."""
    context.reporter.step(f"{rung.name}: comparing answers with {rung.reference}")
    frames = context.frames.spread()
    known[rung.name] = worker.answers(frames)
    if rung.reference not in known:
        with _start(rung_named(rung.reference), context) as reference:
            known[rung.reference] = reference.answers(frames)
    return measure_agreement(known[rung.reference], known[rung.name])


def _run(rung: Rung, worker: Worker, agreement: Agreement, context: Context) -> Run:
    assert context.plan is not None
    context.reporter.step(f"{rung.name}: measuring")
    with NoiseMonitor((worker.pid,)) as monitor:
        timed = worker.run(context.plan, context.reporter.progress)
    return Run(
        rung=rung.name,
        stage=rung.stage,
        scenario="paced" if context.plan.scenario == "paced" else "closed",
        quick=context.plan.quick,
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
            "paced_fps": context.plan.fps,
            "changes": rung.changes,
            **_gpu_memory(worker),
        },
        source=context.frames.source,
        limit=_limit(rung, context),
        agreement=agreement,
        disturbances=(*monitor.disturbances(), *context.disturbed_by()),
        fingerprint=fingerprint(),
    )


def _gpu_memory(worker: Worker) -> dict[str, int]:
    held = worker.gpu_peak_bytes()
    return {} if held is None else {"gpu_peak_bytes": held}


def _limit(rung: Rung, context: Context) -> dict[str, Any]:
    peaks = context.peaks[rung.prepare.device]
    return {
        "gflop_per_frame": gflop_per_frame(rung.prepare, context.workload),
        "mb_per_frame": mb_per_frame(rung.prepare, context.workload),
        "precision": rung.prepare.precision,
        "peak_gflops": peaks.get(rung.prepare.precision),
        "peaks": dict(peaks),
    }


def _compare(
    rungs: Sequence[Rung],
    workers: Mapping[str, Worker],
    pairs: Sequence[tuple[str, str]],
    correctness: Correctness,
    context: Context,
    result_set: ResultSet,
    stack: ExitStack,
) -> None:
    """Compares rungs in interleaved rounds; new processes are ended with the stack."""
    assert context.rounds is not None
    step = f"comparing {len(rungs)} rungs in interleaved rounds"
    alive = dict(workers)

    def renew() -> Mapping[str, Worker]:
        for rung in rungs:
            alive[rung.name].close()
            alive[rung.name] = stack.enter_context(_start(rung, context))
            monitor.include((alive[rung.name].pid,))
        context.reporter.step(step)
        return alive

    context.reporter.step(step)
    settings = {**workers[rungs[0].name].ready.settings}
    settings.pop("preparation", None)
    settings["baseline"] = rungs[0].name
    try:
        with NoiseMonitor(tuple(worker.pid for worker in workers.values())) as monitor:
            comparisons = compare(
                rungs[0].name,
                workers,
                context.rounds,
                pairs=pairs,
                agreements=correctness.agreements,
                agreeing={name: correctness.agrees(name, workers[name].ready.settings) for name in workers},
                seed=context.workload.seed,
                renew=renew,
                about={"settings": settings, "source": context.frames.source, "fingerprint": fingerprint()},
                progress=context.reporter.progress,
            )
    except LabError as error:
        context.reporter.note(f"the comparison failed: {error}")
        result_set.skipped["comparison"] = str(error)
        return
    disturbances = (*monitor.disturbances(), *context.disturbed_by())
    for comparison in comparisons:
        _finish(replace(comparison, disturbances=disturbances), result_set.comparisons, context)


def _finish(result: Any, results: list[Any], context: Context) -> None:
    if context.store is not None:
        add = context.store.add_run if isinstance(result, Run) else context.store.add_comparison
        result = add(result)
    results.append(result)
    context.reporter.finished(result)
