"""Benchmarks: rungs in, stored runs and comparisons out.

Every rung runs in a process of its own; its answers are compared with its reference's before it is
timed; each finished run is stored at once, so that an interruption loses only what was under way.
"""

from __future__ import annotations

import inspect
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from labkit.bench.accuracy import BOXES_KEPT, FULL_SCENES, QUICK_SCENES, evaluate, without_names
from labkit.bench.agreement import Answers, measure_agreement, one_level_off
from labkit.bench.check_loop import try_own_loops
from labkit.bench.coco import N_IMAGES, CocoFolder, Photographs, detector_labels, find_coco, read_coco
from labkit.bench.context import Context, EvaluationWorker, may_claim
from labkit.bench.frames import collect
from labkit.bench.headroom import gpu_used
from labkit.bench.interleave import FULL_ROUNDS, QUICK_PAIR, QUICK_ROUNDS, RoundPlan, time_interleaved
from labkit.bench.noise import NoiseMonitor
from labkit.bench.peaks import PEAK_TRIES, cached_peaks
from labkit.bench.plan import EXTENDED, FULL, QUICK, Plan
from labkit.bench.progress import Reporter, shown_progress
from labkit.bench.worker import Worker, restless
from labkit.core.errors import LabError, UnavailableError, UsageError
from labkit.core.lock import lock_holder, machine_lock
from labkit.core.machine import fingerprint
from labkit.core.requirements import fallback, precision_here, unmet_requirement
from labkit.core.stats import frames_needed
from labkit.core.types import Fit, Rung, Size, Workload, WorkOptions, is_positive, read_work
from labkit.models.flops import gflop_per_frame, mb_per_frame
from labkit.models.prepare import resolve_all
from labkit.models.weights import Weights, models_of
from labkit.pipelines.ladder import MEASURED_LAST, select_rungs
from labkit.pipelines.ladder import rung as rung_named
from labkit.pipelines.own_loop import again, as_rung, keep_previous, own_loop
from labkit.results.ceilings import with_ceilings
from labkit.results.records import Agreement, Comparison, Run
from labkit.results.result_set import ResultSet
from labkit.results.saving import Saving
from labkit.results.store import Store

TIME_IS_UP = "left out: the benchmark reached its time limit"
STEADY_FRAMES = 4
"""Frames on which a reference with random weights is held against itself."""
FAILED = "failed"
"""First word of the reason why a rung that can run here was not measured."""
MEMORY_RAN_OUT = re.compile("memory r[au]ns? out|out of memory", re.IGNORECASE)
_STARTED_TOGETHER = min(4, os.cpu_count() or 1)


def bench(
    *rungs: str | Rung | Callable[..., Any],
    against: str | None = None,
    stage: int | None = None,
    device: str | None = None,
    source: str = "photos",
    size: Size = (640, 480),
    fit: Fit = "letterbox",
    objects: int = 5,
    model_set: str = "full",
    detector: str | None = None,
    classifier: str | None = None,
    weights: str = "auto",
    seed: int = 0,
    noise: float = 0.0,
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 2.0,
    scenario: str = "closed",
    fps: float | None = None,
    paced: Sequence[float] = (),
    quick: bool = False,
    seconds: float | None = None,
    compare: bool = True,
    accuracy: bool = False,
    coco: Path | str | None = None,
    images: int = N_IMAGES,
    minutes: float | None = None,
    progress: Reporter | None = None,
) -> ResultSet:
    """Measures rungs and compares each with the one that it changes and with the first of its kind.

    Each rung runs in a process of its own; its detections are compared with its reference's before
    it is timed; each finished run is saved in the store at once.

    Args:
        rungs: names, rungs, or loops of your own (see `labkit.pipelines.own_loop`): a generator function
            of frames, of frames and networks, or a function of one image; also "FILE.py:FUNCTION".
            None means the whole ladder, or a stage or device of it.
        against: rung that your own loops are compared with, in answers and speed, and whose
            networks they get; by default the first of `rungs` that is the lab's.
        stage: all rungs of this stage.
        device: all rungs on "cpu" or "cuda", with their references.
        source: see `open_source`.
        size: (width, height) px of the frames.
        fit: how images of another shape are brought to that size, see `open_source`.
        objects: best boxes kept per frame.
        model_set: "full" (DETR-R50 and ResNet-18) or "lab" (small models that ship with labkit).
        detector, classifier: others than the full set's DETR-R50 and ResNet-18, such as
            "rt_detr_v2_r18" and "convnext_tiny"; `labkit weights` lists them.
        weights: "auto", "pretrained" or "random".
        seed: of random weights, drawn scenes and the order of rounds.
        noise: standard deviation of noise added to drawn scenes, in grey levels.
        open_timeout_s, read_timeout_s: as in `open_source`.
        scenario: "closed" (as fast as it can) or "paced" (frames fall due at `fps` per second).
        fps: rate of the paced scenario.
        paced: rates at which each rung is also fed, after its run as fast as it can, with the naps that a
            camera gives; see `ResultSet.paced`. Each lasts long enough for a 99th percentile, unless
            `quick` or `seconds` says otherwise.
        quick: shorter runs and fewer rounds, marked as such.
        seconds: length of each timed run; by default 10 s, and if quick 2 s, or up to 7 s where that gives
            an interval.
        compare: also measure the rungs in interleaved rounds; closed scenario only.
        accuracy: also measure mAP and top-1 on drawn scenes whose truth is known.
        coco: a folder in COCO's format; detectors are evaluated on its photographs instead.
        images: how many of its photographs, the same ones each time.
        minutes: begin nothing new after this time.
        progress: hears of steps and results; None shows a progress bar on standard error.

    Returns:
        Runs and comparisons; `skipped` says why a rung was not measured.

    Raises:
        UsageError: a rung, stage or option does not exist, or a loop's answer cannot be read.
        LoopError: a loop of your own failed; the message is its own traceback.
        SourceError: the source gives no frames.
        WeightsError: weights that were asked for cannot be had.

    A store that cannot be written ends nothing: `notes` of the result say what was not saved.

    Example:
        >>> import labkit
        >>> result = labkit.bench(
        ...     "resnet_opencv_cpu", size=(160, 128), model_set="lab", quick=True, seconds=0.2
        ... )
        >>> result.runs[0].rung
        'resnet_opencv_cpu'
    """
    if fps is not None and scenario != "paced":
        raise UsageError("fps is the rate of the paced scenario; add scenario='paced'")
    if coco is not None and not accuracy:
        raise UsageError("coco is for accuracy, which is switched off; drop one of them")
    if paced and scenario == "paced":
        raise UsageError("paced adds rates to the closed scenario; for one rate alone: fps")
    if not isinstance(paced, list | tuple):
        raise UsageError(f"paced is a list of rates, such as [10, 30], not {paced!r}")
    chosen = select_rungs(_with_own(rungs, against), stage, device)
    plan = replace(QUICK if quick else FULL, scenario=scenario, fps=fps)
    if seconds is not None:
        plan = replace(plan, seconds=seconds)
    elif quick:
        plan = replace(plan, extend_to_s=EXTENDED * plan.seconds)
    with shown_progress(progress) as reporter, Saving(report=reporter.note) as store:
        result = run_benchmark(
            chosen,
            source=source,
            workload=Workload(
                model_set,  # type: ignore[arg-type]
                weights,  # type: ignore[arg-type]
                size,
                objects,
                seed=seed,
                fit=fit,
                detector=detector,
                classifier=classifier,
            ),
            plan=plan,
            paced=[_paced(plan, rate, long=seconds is None and not quick) for rate in paced],
            rounds=_round_plan(quick, len(chosen)) if compare and scenario == "closed" else None,
            store=store,
            reporter=reporter,
            noise=noise,
            opening={"open_timeout_s": open_timeout_s, "read_timeout_s": read_timeout_s},
            scenes=(QUICK_SCENES if quick else FULL_SCENES) if accuracy else 0,
            minutes=minutes,
            coco=coco,
            images=images,
        )
    result.notes += store.notes
    for note in store.notes if progress is None else ():
        reporter.note(note)
    return result


def compare(
    a: str | Rung | Callable[..., Any],
    b: str | Rung | Callable[..., Any],
    *,
    quick: bool = False,
    rounds: int | None = None,
    progress: Reporter | None = None,
    **work: Unpack[WorkOptions],
) -> Comparison:
    """Compares rung `b` with rung `a` in interleaved rounds on the same frames.

    Args:
        a, b: two rungs that do the same work: names, rungs or loops of your own, as in `bench`;
            "my_loop@previous" is the version of a loop before its cell was changed. Twice the same
            one shows how far two measurements of one thing differ.
        quick, progress: as in `bench`.
        rounds: 9 or more, shared out over 7 pairs of fresh processes, or 5 where `quick`; default 14, or
            10 where `quick`.
        work: source, size, fit, objects, model_set, detector, classifier, weights, seed, open_timeout_s,
            read_timeout_s, as in `bench`.

    Returns:
        The speed-up of b over a with its 95% interval and verdict; it is saved in the store.

    Raises:
        UsageError: a rung does not exist.
        UnavailableError: the two do different work, or one of them cannot run here.

    Example:
        >>> import labkit
        >>> pair = labkit.compare(
        ...     "resnet_pil_cpu", "resnet_opencv_cpu", size=(160, 128), model_set="lab", quick=True
        ... )
        >>> pair.verdict in ("faster", "slower", "same", "cannot tell")
        True
    """
    plan, rungs = _round_plan(quick, 2, rounds), _with_own([a, b], None)
    source, workload, timeouts = read_work(work)
    with shown_progress(progress) as reporter, Saving(report=reporter.note) as store:
        comparison = run_comparison(
            rungs[0], rungs[-1], source=source, workload=workload, rounds=plan, store=store,
            reporter=reporter, opening=timeouts,
        )  # fmt: skip
    for note in store.notes:
        reporter.note(note)
    return comparison


def _with_own(rungs: Sequence[str | Rung | Callable[..., Any]], against: str | None) -> list[Rung]:
    """Names and loops as rungs; with a loop comes the rung that it is compared with."""
    for each in rungs:
        if inspect.isfunction(each):
            keep_previous(each)  # which a name here may ask for
    names = [each for each in rungs if isinstance(each, str) and ".py:" not in each]
    named = {each: as_rung(each) for each in names}
    other = rung_named(against) if against is not None else next(iter(named.values()), None)
    chosen = [named[each] if each in names else as_rung(each, other) for each in rungs]
    if against is not None and other is not None:
        if not any(own_loop(rung) for rung in chosen):
            raise UsageError("against is the rung that your own loop is compared with; name a loop too")
        chosen.append(other)
    loops = {
        (rung.name, loop.sha256, getattr(loop.function, "__code__", None))
        for rung in chosen
        if (loop := own_loop(rung))
    }
    if twice := next((name for name, n in Counter(name for name, *_ in loops).items() if n > 1), None):
        raise UsageError(
            f"two loops are named {twice}; give one of them another name, with def (the version before a "
            f'change is "{twice}@previous")'
        )
    return list({rung.name: rung for rung in chosen}.values())


def _paced(plan: Plan, fps: float, *, long: bool) -> Plan:
    """The plan with frames that fall due at `fps`; a long one has frames enough for a 99th percentile."""
    plan = replace(plan, scenario="paced", fps=fps)
    return replace(plan, seconds=max(plan.seconds, (frames_needed(99) + 1) / fps)) if long else plan


def _round_plan(quick: bool, n_rungs: int, rounds: int | None = None) -> RoundPlan:
    """Rounds for so many rungs: of two, more processes can be had in the same time."""
    plan = FULL_ROUNDS if not quick else QUICK_PAIR if n_rungs <= 2 else QUICK_ROUNDS
    return plan if rounds is None else replace(plan, rounds=rounds)


def run_benchmark(
    rungs: Sequence[Rung],
    *,
    source: str = "photos",
    workload: Workload | None = None,
    plan: Plan | None = FULL,
    paced: Sequence[Plan] = (),
    rounds: RoundPlan | None = FULL_ROUNDS,
    store: Store | Saving | None = None,
    reporter: Reporter | None = None,
    noise: float = 0.0,
    opening: Mapping[str, Any] | None = None,
    scenes: int = 0,
    minutes: float | None = None,
    coco: Path | str | None = None,
    images: int = N_IMAGES,
) -> ResultSet:
    """Measures rungs and compares them with what they change and with the first of their group.

    Args:
        rungs: in the order in which to measure them; those that cannot run here are skipped
            with the reason.
        source, noise, minutes, coco, images: as in `bench`.
        workload: model set, weights, frame size, boxes.
        plan: of the timed runs; None makes no runs.
        paced: of further runs of each rung, at rates at which frames fall due.
        rounds: of the comparisons; None makes no comparisons.
        store: where to put each result as soon as it is there.
        opening: further arguments of `open_source`.
        scenes: number of scenes with known truth on which to measure each rung's accuracy; 0
            for none.

    Raises:
        SourceError: the source gives no frames.
        WeightsError: weights that were asked for cannot be had, or random ones meet photographs.
        UsageError: there is no rung to measure, or `coco` is no such folder.
    """
    if not rungs:
        raise UsageError("no rung to measure; labkit rungs lists them")
    if minutes is not None and not is_positive(minutes):
        raise UsageError(f"minutes is more than 0, not {minutes!r}")
    place = None if coco is None else find_coco(coco)
    until_s = float("inf") if minutes is None else time.perf_counter() + 60 * minutes
    reporter = reporter or Reporter()
    workload = workload or Workload()
    result = ResultSet()
    models_of(workload)  # an unknown name is told before anything is read
    runnable = _runnable(rungs, result, reporter)
    if not runnable:
        return result
    if place is not None and not any(rung.prepare.task in BOXES_KEPT for rung in runnable):
        names = ", ".join(rung.name for rung in runnable)
        raise UsageError(f"--coco evaluates detectors, and none of {names} is one")
    reporter.step("reading frames")
    frames = collect(source, workload.size, fit=workload.fit, seed=workload.seed, noise=noise,
                     **(opening or {}))  # fmt: skip
    workload = replace(workload, size=frames.frames[0].size)
    reporter.step("looking for weights")
    weights = resolve_all(workload, [rung.prepare.task for rung in runnable], progress=True)
    random = [name for name, each in weights.items() if each.kind == "random"]
    if random and any(rung.prepare.form != "own" for rung in runnable):
        reporter.note(f"{' and '.join(random)}: {weights[random[0]].note}")
    counted = try_own_loops(runnable, workload, frames.frames, weights)
    photographs = None if place is None else _photographs(place, weights, workload, images, reporter)
    disturbances = _other_measurements(reporter)
    peaks: dict[str, Mapping[str, float]] = {}
    if plan is not None:
        reporter.step("measuring this machine's peak")
        tries = 1 if plan.quick else PEAK_TRIES
        devices = sorted({rung.prepare.device for rung in runnable})
        peaks = {device: cached_peaks(device, tries, reporter.note) for device in devices}
    with machine_lock("a benchmark") as own_lock, EvaluationWorker(reporter.note) as evaluator:
        context = Context(
            frames, workload, weights, plan, rounds, peaks, reporter, store, evaluator, scenes, until_s,
            disturbances, own_lock, photographs, counted, paced=tuple(paced),
        )  # fmt: skip
        groups = _groups(runnable, short_of_time=minutes is not None)
        for k, group in enumerate(groups):
            _measure_group(group, context, result, to_come=sum(map(len, groups[k + 1 :])))
    return result


def run_comparison(a: str | Rung, b: str | Rung, **options: Any) -> Comparison:
    """Compares rung `b` with rung `a`; options as for `run_benchmark`.

    Raises:
        UnavailableError: one of them cannot run here, or failed, or they do different work.
    """
    first, second = as_rung(a), as_rung(b)
    if first.prepare.work != second.prepare.work:
        raise UnavailableError(
            f"{first.name} and {second.name} cannot be compared: they do different work "
            f"({first.prepare.work}; {second.prepare.work})"
        )
    if first == second:
        second = again(second)
    result = run_benchmark([first, second], **{"plan": None, **options})
    for comparison in result.comparisons:
        if (comparison.a, comparison.b) == (first.name, second.name):
            return comparison
    reasons = "; ".join(f"{name} {why}" for name, why in result.skipped.items())
    raise UnavailableError(f"{first.name} and {second.name} were not compared: {reasons}")


def _photographs(
    place: CocoFolder, weights: Mapping[str, Weights], workload: Workload, n: int, reporter: Reporter
) -> Photographs:
    labels = detector_labels(weights[models_of(workload)[0]])
    reporter.step("reading photographs")
    photographs = read_coco(place, labels, workload.size, n)
    if unknown := photographs.about["categories_unknown"]:
        reporter.note(f"categories that the network cannot name are left out: {', '.join(unknown)}")
    return photographs


def _runnable(rungs: Sequence[Rung], result: ResultSet, reporter: Reporter) -> list[Rung]:
    runnable = []
    for rung in rungs:
        reason = unmet_requirement(rung.needs)
        if reason is None:
            runnable.append(rung)
            if instead := fallback(rung.prepare):
                reporter.note(f"{rung.name}: {instead}")
        else:
            result.skipped[rung.name] = reason
    if result.skipped:
        reporter.note(f"cannot run here: {', '.join(result.skipped)}")
    return runnable


def _groups(rungs: Sequence[Rung], short_of_time: bool = False) -> list[list[Rung]]:
    """Rungs grouped by the work that they do.

    Args:
        rungs: in the order in which to measure them.
        short_of_time: peers, and what takes minutes to get ready, come after everything else, with
            those rungs that they are compared with.
    """
    if short_of_time:
        soon = [rung for rung in rungs if rung not in MEASURED_LAST and not rung.prepare.compiles]
        late = _groups([rung for rung in rungs if rung not in soon])
        return _groups(soon) + [[*_baselines(group, soon), *group] for group in late]
    groups: dict[str, list[Rung]] = {}
    for rung in rungs:
        groups.setdefault(rung.prepare.work, []).append(rung)
    return list(groups.values())


def _baselines(late: Sequence[Rung], soon: Sequence[Rung]) -> list[Rung]:
    """Of what was measured before, the first rung of the same work, and what the late ones change."""
    same = [rung for rung in soon if rung.prepare.work == late[0].prepare.work]
    return [rung for rung in same if rung == same[0] or rung.name in {each.changes for each in late}]


def _other_measurements(reporter: Reporter) -> tuple[str, ...]:
    """A live view or another benchmark that disturbs this one; it is marked, never silent."""
    if os.environ.get("NSYS_PROFILING_SESSION_ID"):
        reporter.note("this process runs under a profiler: these measurements are marked as disturbed")
        return ("measured under a profiler",)
    other = lock_holder()
    if other is None:
        return ()
    reporter.note(f"{other} is running: these measurements are marked as disturbed")
    return (f"{other} was running",)


def _measure_group(group: Sequence[Rung], context: Context, result_set: ResultSet, to_come: int) -> None:
    """All rungs of one kind of work. Their workers stay alive for the comparison while memory allows.

    Where it gets short, those that wait are closed; comparisons then start two at a time.
    A rung that has a run in the result_set is only compared with the others.

    Args:
        group: in the order in which to measure them.
        context: of the whole benchmark.
        result_set: takes what is measured.
        to_come: number of rungs in later groups, which need their time too.
    """
    before = {run.rung for run in result_set.runs}
    known: dict[str, Answers] = {}
    agreements: dict[str, Agreement] = {}
    scores: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        waiting = _Waiting(context)
        for rung in group:
            least = None if context.rounds is None else replace(context.rounds, processes=1)
            if context.out_of_time(_comparing_s(result_set.runs, waiting.measured, least)):
                if rung.name not in before:
                    result_set.skipped[rung.name] = TIME_IS_UP
                continue
            while True:
                try:
                    waiting.make_room(rung)
                    _answer_reference(rung, known, context)
                    gpu_used_before = gpu_used() if rung.prepare.device == "cuda" else None
                    worker = stack.enter_context(_start(rung, context))
                    agreement = agreements[rung.name] = _check(rung, worker, known, context)
                    waiting.make_room(rung)  # evaluating takes another process
                    score = scores[rung.name] = _evaluate(rung, scores, context, result_set)
                    for plan in context.plans if rung.name not in before else ():
                        run = _run(rung, worker, agreement, plan, context)
                        _finish(replace(run, accuracy=without_names(score)), result_set.runs, context)
                    context.headroom.note(worker, gpu_used_before)
                    waiting.add(rung, worker)
                except LabError as error:
                    if own_loop(rung):  # its writer waits for this traceback, not for the other rungs
                        raise
                    if MEMORY_RAN_OUT.search(str(error)) and waiting.close():
                        continue  # once more, by itself
                    result_set.skipped[rung.name] = f"{FAILED}: {error}"
                    context.reporter.note(f"{rung.name} failed: {error}")
                break
        done = [rung for rung in group if rung.name in waiting.measured]
        pairs = _pairs(done, before)
        if context.rounds is None or not pairs:
            return
        if context.out_of_time():
            names = ", ".join(waiting.measured)
            result_set.skipped[f"comparing {names}"] = f"{TIME_IS_UP}: labkit compare A B"
            return
        expected_s = _comparing_s(result_set.runs, waiting.measured, context.rounds)
        rounds = context.rounds_in_time(expected_s, len(result_set.runs), to_come)
        if not waiting.closed:
            _compare(done, waiting.measured, pairs, rounds, agreements, scores, context, result_set, stack)
            return
        waiting.close()
    by_name = {rung.name: rung for rung in done}
    for a, b in pairs:
        with ExitStack() as stack:
            pair = [by_name[a], by_name[b]]
            if lacking := context.headroom.lacking(by_name[b], [], len(pair)):
                result_set.skipped[f"comparing {a}, {b}"] = f"left out: {lacking}"
                continue
            workers = _start_all(pair, context, stack)
            _compare(pair, workers, [(a, b)], rounds, agreements, scores, context, result_set, stack)


class _Waiting:
    """Workers of measured rungs, which wait for their comparison.

    Attributes:
        measured: by name; ended ones too.
        closed: True once memory was short: from then on none waits.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.measured: dict[str, Worker] = {}
        self.closed = context.rounds is None

    def add(self, rung: Rung, worker: Worker) -> None:
        """Keeps a worker until the comparison, or closes it if none is kept."""
        self.measured[rung.name] = worker
        if self.closed:
            worker.close()

    def make_room(self, rung: Rung) -> None:
        """Ends the evaluating process, then the waiting ones, if one more with this rung does not fit."""
        live = [worker for worker in self.measured.values() if worker.alive]
        lacking = self.context.headroom.lacking(rung, live)
        if not lacking:
            return
        self.context.evaluator.close()
        if live and (lacking := self.context.headroom.lacking(rung, live)):
            self.close()
            self.context.reporter.note(f"{lacking}: rungs are measured one by one and compared in pairs")

    def close(self) -> bool:
        """Ends all, for good; True if any was alive."""
        alive = [worker for worker in self.measured.values() if worker.alive]
        for worker in alive:
            worker.close()
        self.context.evaluator.close()
        self.closed = True
        return bool(alive)


def _comparing_s(runs: Sequence[Run], measured: Mapping[str, Worker], rounds: RoundPlan | None) -> float:
    """Expected length of the comparisons in s, at most: processes start one after another.

    0 without comparisons.
    """
    if rounds is None:
        return 0.0
    compared = [run for run in runs if run.rung in measured and run.scenario == "closed"]
    start_s = sum(run.startup_s for run in compared)
    return rounds.expected_s([1 / run.fps for run in compared], start_s)


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
    return _worker(rung, context)


def _start_all(rungs: Sequence[Rung], context: Context, stack: ExitStack) -> dict[str, Worker]:
    """Starts fresh processes, as many at once as there are cores, since nothing is timed meanwhile.

    Raises:
        LabError: one of them could not be started; the others end with the stack.
    """
    context.reporter.step(f"{len(rungs)} rungs: fresh processes")
    pool = ThreadPoolExecutor(_STARTED_TOGETHER)
    starting = {rung.name: pool.submit(_worker, rung, context) for rung in rungs}
    try:
        wait(starting.values())
    finally:
        pool.shutdown(cancel_futures=True)
        for each in starting.values():
            if not each.cancelled() and each.exception() is None:
                stack.enter_context(each.result())
    return {name: each.result() for name, each in starting.items()}


def _worker(rung: Rung, context: Context) -> Worker:
    return Worker(
        rung, context.workload, context.frames.frames, context.weights, report=context.reporter.note
    )


def _check(rung: Rung, worker: Worker, known: dict[str, Answers], context: Context) -> Agreement:
    """Agreement with the reference rung, whose answers are known."""
    context.reporter.step(f"{rung.name}: comparing answers with {rung.reference}")
    known[rung.name] = _answers(rung, worker, context)
    work = context.workload
    return measure_agreement(known[rung.reference], known[rung.name], work.objects, work.threshold)


def _answer_reference(rung: Rung, known: dict[str, Answers], context: Context) -> None:
    """Answers of a rung's reference, unless they are known; its process ends before the rung's begins."""
    if rung.reference not in known and rung.reference != rung.name:
        other = rung_named(rung.reference)
        with _start(other, context) as reference:
            known[other.name] = _answers(other, reference, context)


def _answers(rung: Rung, worker: Worker, context: Context) -> Answers:
    """A rung's answers; of a reference with random weights also how steady they are."""
    frames = context.frames.spread()
    answers = worker.answers(frames)
    if rung.reference != rung.name or worker.ready.settings["weights"] not in ("random", "mixed"):
        return answers
    found = worker.answers([one_level_off(frame) for frame in frames[:STEADY_FRAMES]]).found
    again = Answers(rung.name, found, {})
    first = replace(answers, found=answers.found[:STEADY_FRAMES], raw={})
    return replace(answers, steady=measure_agreement(first, again).share)


def _evaluate(
    rung: Rung, scores: Mapping[str, Mapping[str, Any]], context: Context, result_set: ResultSet
) -> dict[str, Any]:
    """A rung's accuracy; where it cannot be had, the rung is measured without."""
    try:
        return evaluate(rung, scores, context)
    except UnavailableError as error:  # a package is missing: then accuracy is not asked for
        context.reporter.note(f"accuracy is not measured: {error}")
        return {}
    except LabError as error:
        result_set.skipped[f"accuracy of {rung.name}"] = f"{FAILED}: {error}"
        context.reporter.note(f"the accuracy of {rung.name} failed: {error}")
        return {}


def _run(rung: Rung, worker: Worker, agreement: Agreement, plan: Plan, context: Context) -> Run:
    context.reporter.step(f"{rung.name}: measuring" + (f" at {plan.fps:g} FPS" if plan.fps else ""))
    with NoiseMonitor((worker.pid,)) as monitor:
        timed = worker.run(plan, context.reporter.progress)
    loop, held = own_loop(rung), worker.footprint()
    return Run(
        rung=rung.name,
        stage=rung.stage,
        scenario="paced" if plan.scenario == "paced" else "closed",
        quick=plan.quick,
        latency_s=timed.latency_s,
        done_s=timed.done_s,
        spans_s=timed.per_span(),
        spans_gpu_s=timed.per_span(gpu=True),
        warmup_s=timed.warmup_s,
        offered=timed.offered,
        dropped=timed.dropped,
        failed=timed.failed,
        startup_s=worker.ready.startup_s,
        peak_bytes=held.peak_bytes,
        settings={
            **worker.ready.settings,
            "paced_fps": plan.fps,
            "changes": rung.changes,
            "cpu_s": timed.cpu_s,
            "energy_j": timed.joules,
            "no_energy": timed.no_energy,
            **({} if loop is None else {"loop_sha256": loop.sha256, "loop_source": loop.source}),
            **({} if held.gpu_bytes is None else {"gpu_peak_bytes": held.gpu_bytes}),
        },
        source=context.frames.source,
        limit=_limit(rung, context),
        agreement=agreement,
        disturbances=(*monitor.disturbances(), *context.disturbed_by()),
        fingerprint={**fingerprint(), "state": monitor.state()},
    )


def _limit(rung: Rung, context: Context) -> dict[str, Any]:
    peaks, precision = context.peaks[rung.prepare.device], precision_here(rung.prepare)
    return {
        "gflop_per_frame": gflop_per_frame(rung.prepare, context.workload) or context.counted.get(rung.name),
        "mb_per_frame": mb_per_frame(rung.prepare, context.workload),
        "precision": precision,
        "peak_gflops": peaks.get(precision),
        "peaks": dict(peaks),
    }


def _compare(
    rungs: Sequence[Rung],
    workers: Mapping[str, Worker],
    pairs: Sequence[tuple[str, str]],
    rounds: RoundPlan,
    agreements: Mapping[str, Agreement],
    scores: Mapping[str, Mapping[str, Any]],
    context: Context,
    result_set: ResultSet,
    stack: ExitStack,
) -> None:
    """Compares rungs in interleaved rounds; new processes are ended with the stack."""
    step = f"comparing {len(rungs)} rungs in interleaved rounds"
    alive, every = dict(workers), list(workers.values())

    def renew() -> Mapping[str, Worker]:
        for worker in alive.values():
            worker.close()
        alive.update(_start_all(rungs, context, stack))
        every.extend(alive.values())
        monitor.include(tuple(worker.pid for worker in alive.values()))
        context.reporter.step(step)
        return alive

    context.reporter.step(step)
    settings = {**workers[rungs[0].name].ready.settings, "baseline": rungs[0].name}
    settings.pop("preparation", None)
    try:
        with NoiseMonitor(tuple(worker.pid for worker in workers.values())) as monitor:
            measured = time_interleaved(
                workers, rounds, seed=context.workload.seed, renew=renew,
                progress=context.reporter.progress,
            )  # fmt: skip
    except LabError as error:
        context.reporter.note(f"the comparison failed: {error}")
        result_set.skipped["comparison"] = f"{FAILED}: {error}"
        return
    sound = {
        name: may_claim(agreements[name], scores[name], worker.ready.settings)
        for name, worker in workers.items()
    }
    named = {rung.name: rung for rung in rungs}
    state = {**fingerprint(), "state": monitor.state()}
    load = {"foreign_cpu": round(monitor.foreign, 3), "steal": round(monitor.steal, 3)}
    comparisons = [
        measured.comparison(
            a,
            b,
            agrees=_alike(named[a], named[b], sound),
            agreement=agreements[b],
            settings={**settings, **load},
            source=context.frames.source,
            fingerprint=state,
            disturbances=(*monitor.disturbances(), *restless(every), *context.disturbed_by()),
        )
        for a, b in pairs
    ]
    closed = [run for run in result_set.runs if run.scenario == "closed"]
    for comparison in with_ceilings(comparisons, closed):
        _finish(comparison, result_set.comparisons, context)


def _alike(a: Rung, b: Rung, sound: Mapping[str, bool]) -> bool:
    """True if two rungs answer alike: each as its reference does, unless one is the other's."""
    own_reference = {a.name: b.reference, b.name: a.reference}
    return all(sound[name] for name, reference in own_reference.items() if reference != name)


def _finish(result: Any, results: list[Any], context: Context) -> None:
    if context.store is not None:
        result = context.store.add(result)
    results.append(result)
    context.reporter.finished(result)
