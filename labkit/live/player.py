"""The player: a source, one or two rungs and the newest of everything, without any front end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.lock import lock_holder, machine_lock
from labkit.core.trace import span
from labkit.core.types import Frame, Size
from labkit.live.inference import Answer, Inference, Ready, prepare_rungs
from labkit.live.rates import Rates
from labkit.live.reader import LatestFrame, Reader
from labkit.live.settings import LiveSettings
from labkit.sources.source import Source

Open = Callable[[Size], Source]
Prepare = Callable[[LiveSettings, Callable[[str], None]], Ready]
Filter = Callable[[NDArray[np.uint8], LiveSettings], NDArray[np.uint8]]

STOP_S = 0.2
"""Longest wait of a stop for the threads; one inside native code ends by itself after that."""

MOST_CLASSES = 100
"""So many names of classes are offered to choose from."""


@dataclass(frozen=True, eq=False)
class Shot:
    """The newest frame, and per rung the newest answer (None before the first)."""

    frame: Frame
    answers: tuple[Answer | None, ...]


def filter_image(image: NDArray[np.uint8], settings: LiveSettings) -> NDArray[np.uint8]:
    """The image through the filter of the settings."""
    from labkit.filters.image_filters import edge_filter, guided_filter

    if settings.filter == "edges":
        return edge_filter(image)  # neither radius nor eps: it looks at the neighbours alone
    return guided_filter(image, settings.radius, settings.eps)


class PreviewFilter:
    """Filters frames as the settings say, each once: display and detection get the same picture.

    A filter is compiled when it is first chosen; until it is ready, frames pass as they
    are and `compiling` is true, so that the picture never stands still.
    """

    def __init__(self, filter_image: Filter = filter_image) -> None:
        self._filter = filter_image
        self._lock = threading.Lock()
        self._last: tuple[tuple[object, ...], Frame] | None = None
        self._ready: dict[str, bool] = {}  # by name: False while it is compiled
        self._troubles: dict[str, str] = {}

    def compiling(self, name: str) -> bool:
        """True if the filter of this name was asked for and is not ready yet."""
        return self._ready.get(name) is False and name not in self._troubles

    def trouble(self, name: str) -> str:
        """Why there is no filter of this name, in words; empty if there is one."""
        return self._troubles.get(name, "")

    def apply(self, frame: Frame, settings: LiveSettings) -> Frame:
        """The frame, filtered if a filter is chosen and ready."""
        if settings.filter == "none":
            return frame
        key = (frame.index, settings.filter, settings.radius, settings.eps)
        with self._lock:
            if settings.filter not in self._ready:
                self._ready[settings.filter] = False
                compile_it = threading.Thread(
                    target=self._compile, args=(settings,), name="labkit live filter", daemon=True
                )
                compile_it.start()
            if not self._ready[settings.filter]:
                return frame
            if self._last is None or self._last[0] != key:
                self._last = key, replace(frame, image=self._filter(frame.image, settings))
            return self._last[1]

    def _compile(self, settings: LiveSettings) -> None:
        try:
            self._filter(np.zeros((32, 32, 3), np.uint8), settings)
            self._ready[settings.filter] = True
        except Exception as error:  # the picture goes on without the filter, and says so
            self._troubles[settings.filter] = f"the filter does not work here: {error}"


class Player:
    """Captures, infers and keeps the newest of both; starts, stops and changes at any time.

    A camera, an engine and the window that shows them each go at their own pace, and nothing
    queues up between them: what is too late is dropped and counted. Methods may be called from
    any thread.

    Attributes:
        news: notified whenever there is something new to show or to say.
        asked: the settings as they were asked for, with what is "auto" in them.
        settings: the settings in force.
        rates: counts since the rungs were last chosen.
        source_name: what the source is called, without credentials.
        paused: the picture stands still; `step` shows one more frame.
        revision: goes up with every answer and every change of settings.
        classes: names of the classes shown so far, with their labels.
        disturbs: the benchmark that was running when it was started, in words; mostly empty.
    """

    def __init__(
        self,
        open_source: Open,
        settings: LiveSettings,
        *,
        prepare: Prepare | None = None,
        source_name: str = "",
    ) -> None:
        self.news = threading.Condition()
        self.asked = self.settings = settings
        self.rates = Rates()
        self.disturbs = ""
        self.source_name = source_name
        self.paused = False
        self.revision = 0
        self.classes: dict[str, int] = {}
        self._open = open_source
        self._prepare = prepare or prepare_rungs
        self._settle = threading.Lock()  # guards both settings: they are replaced, never changed
        self._preview_filter = PreviewFilter()
        self._turn = threading.RLock()  # start, stop and change exclude one another
        self._reader: Reader | None = None
        self._inference: Inference | None = None
        self._slot: LatestFrame | None = None
        self._answers: dict[str, Answer] = {}
        self._next_index = 0
        self._announcement = ExitStack()
        self._ending: list[Reader | Inference] = []

    @property
    def running(self) -> bool:
        """True if it has been started and not stopped since."""
        return self._reader is not None

    @property
    def ending(self) -> bool:
        """True if a thread of an earlier run still finishes what it was inside of."""
        self._ending = [part for part in self._ending if not part.join(0)]
        return bool(self._ending)

    def start(self) -> None:
        """Begins to read and to infer; returns at once. Does nothing while running."""
        with self._turn:
            if self.running:
                return
            other = lock_holder() or ""
            self.disturbs = f"{other} is running, and this view disturbs it" if "benchmark" in other else ""
            self._announcement.enter_context(machine_lock("a live view"))
            self._start_reader()
            self._start_inference()

    def stop(self) -> bool:
        """Ends reading and inferring; waits no longer than STOP_S. Whether all threads have ended."""
        with self._turn:
            deadline_s = time.perf_counter() + STOP_S
            self.paused = False
            self._stop_inference()
            self._stop_reader()
            self._announcement.close()
            with self.news:
                self.news.notify_all()
            for part in list(self._ending):
                part.join(deadline_s - time.perf_counter())
            return not self.ending

    def forget(self) -> None:
        """Lets go of what was counted and of the last picture; for one that is not started again."""
        self.rates = Rates()
        self._preview_filter = PreviewFilter()

    def wait_until_ended(self, timeout_s: float) -> bool:
        """Waits until no thread of an earlier run is left; whether that is so."""
        deadline_s = time.perf_counter() + timeout_s
        for part in list(self._ending):
            part.join(deadline_s - time.perf_counter())
        return not self.ending

    def change(self, wanted: Mapping[str, Any]) -> None:
        """Changes settings by name, while running or not.

        Raises:
            UsageError: a name or value is not accepted; nothing is changed then.
        """
        with self._turn:
            with self._settle:
                old = self.asked
                self.asked, self.settings = old.changed(wanted), self.settings.changed(wanted)
                self.revision += 1
            resized = self.asked.size != old.size
            if self.running and (resized or _networks(self.asked) != _networks(old)):
                self._restart(reader=resized)
            with self.news:
                self.news.notify_all()

    def switch(self, open_source: Open, name: str) -> None:
        """Reads another source from now on, with the same settings."""
        with self._turn:
            self._open, self.source_name = open_source, name
            self.paused = False
            self.classes = {}
            self.revision += 1
            if self.running:
                self._restart(reader=True)

    def pause(self, on: bool) -> None:
        """Holds the picture, or lets it go on; a recording goes on where it stood."""
        with self._turn:
            self.paused = on
            if self._reader is not None:
                self._reader.pause(on)

    def step(self) -> None:
        """Shows one more frame, and holds the picture there."""
        with self._turn:
            if not self.paused:
                self.pause(True)
            elif self._reader is not None:
                self._reader.step()

    def latest_shot(self, after: int = -1) -> Shot | None:
        """The newest shot, if its frame is newer than index `after`; never waits.

        The frame is smoothed if the filter is on; the answers are the newest there are, which
        were found in this frame or in an earlier one.
        """
        slot = self._slot
        frame = slot.peek(after) if slot is not None else None
        if frame is None:
            return None
        settings = self.settings
        return Shot(
            self._preview_filter.apply(frame, settings),
            tuple(self._answers.get(rung) for rung in settings.rungs),
        )

    def has_newer(self, after: int) -> bool:
        """True if a frame with a higher index than `after` is there."""
        slot = self._slot
        return slot is not None and slot.peek(after) is not None

    def status(self) -> dict[str, Any]:
        """State as plain data: state, message, current activity, weights."""
        reader, inference = self._reader, self._inference
        if reader is None or inference is None:
            return {"state": "stopped", "message": "", "doing": "", "fault": "", "weights": []}
        chosen = self.settings.filter
        compiling = self._preview_filter.compiling(chosen)
        return {
            "state": "paused" if self.paused and reader.state == "running" else reader.state,
            "message": reader.message,
            "doing": "compiling the filter" if compiling else inference.doing,
            "fault": inference.fault or self._preview_filter.trouble(chosen),
            "weights": list(inference.weights),
        }

    def summary(self) -> dict[str, Any]:
        """Rates, ages and drops of the last seconds."""
        reader = self._reader
        offered, captured = (reader.offered, reader.captured) if reader is not None else (0, 0)
        failed = self._inference.failed if self._inference is not None else 0
        return self.rates.summary(offered, captured) | {"failed": failed}

    def _restart(self, *, reader: bool) -> None:
        self._stop_inference()
        if reader:
            self._stop_reader()
            self._start_reader()
        self._start_inference()

    def _start_reader(self) -> None:
        size = self.asked.size
        self._slot = LatestFrame(self.news)
        opens = self._open
        self._reader = Reader(
            lambda: opens(size), self._slot, self._next_index, name=self.source_name, paused=self.paused
        )

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.stop()
            self._next_index = self._reader.next_index + 1
            self._ending.append(self._reader)
            self._reader = self._slot = None

    def _start_inference(self) -> None:
        assert self._slot is not None and self._reader is not None
        rates = self.rates = Rates(self._reader.offered, self._reader.captured)

        def answered(answer: Answer) -> None:
            self._answers[answer.timing.rung] = answer
            if len(self.classes) < MOST_CLASSES:
                found = answer.found.take(
                    np.flatnonzero(answer.found.score >= (self.settings.threshold or 0.0))
                )
                self.classes |= zip(found.name, found.label.tolist(), strict=True)
            self.revision += 1
            rates.answered(answer.timing)
            with self.news:
                self.news.notify_all()

        self._inference = Inference(
            self._slot, lambda report: self._prepare(self._resolved(), report), self._filtered, answered
        )

    def _filtered(self, frame: Frame) -> Frame:
        if self.settings.filter == "none":
            return frame
        with span("filter", frame):
            return self._preview_filter.apply(frame, self.settings)

    def _resolved(self) -> LiveSettings:
        while True:  # finding out what recognises something may ask a hub, and holds no lock meanwhile
            asked, source = self.asked, self.source_name
            resolved = asked.resolved(source)
            with self._settle:
                if (self.asked, self.source_name) == (asked, source):
                    self.settings = resolved
                    return resolved

    def _stop_inference(self) -> None:
        if self._inference is not None:
            self._inference.stop()
            self._ending.append(self._inference)
            self._inference = None
        self._answers = {}


def _networks(settings: LiveSettings) -> tuple[Any, ...]:
    """The settings for which networks are prepared anew."""
    return settings.rungs, settings.model_set, settings.objects
