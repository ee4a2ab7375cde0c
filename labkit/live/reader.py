"""The thread that owns the source: opens it, keeps its newest frame in a slot, lets go of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal, Protocol

from labkit.core.errors import LabError, SourceLost
from labkit.core.types import Frame
from labkit.sources.source import Source

State = Literal["opening", "running", "lost", "ended", "failed"]
Open = Callable[[], Source]

NOMINAL_FPS = 30.0
CLOSE_S = 0.1
"""Longest wait of a stop for a source to close; one that hangs does so in a thread of its own."""
HANGS_S = 15.0
"""A source that opens or reads for so long is said to hang; its own deadlines are shorter."""


class LatestFrame:
    """A slot for the latest frame; a newer one replaces it, and so the live view drops frames here.

    Attributes:
        news: notified at every change; may be shared, so that a reader waits for several things.
        closed: no more frames will come.
    """

    def __init__(self, news: threading.Condition | None = None) -> None:
        self.news = news or threading.Condition()
        self.closed = False
        self._frame: Frame | None = None

    def put(self, frame: Frame | None) -> None:
        """Replaces the frame in the slot."""
        with self.news:
            self._frame = frame
            self.news.notify_all()

    def peek(self, after: int = -1) -> Frame | None:
        """The latest frame if its index is higher than `after`, without waiting."""
        frame = self._frame
        return frame if frame is not None and frame.index > after else None

    def newer_than(self, index: int, timeout_s: float | None = None) -> Frame | None:
        """Waits for a frame with a higher index than `index`; None at the time-out or once closed."""
        with self.news:
            self.news.wait_for(lambda: self.closed or self.peek(index) is not None, timeout_s)
            return None if self.closed else self.peek(index)

    def close(self) -> None:
        """Wakes everyone who waits; they get None from now on."""
        self.closed = True
        self.put(None)


class Owner(Protocol):
    """A thread that uses what only one may use.

    Attributes:
        stopped_s: when it was told to stop; None while it may go on.
    """

    stopped_s: float | None

    def join(self, timeout_s: float) -> bool:
        """Waits for its thread; whether it has ended."""
        ...


class Handover:
    """Passes a camera, or the networks, from one owner to the next.

    A thread inside native code cannot be ended from outside. An owner that was told to stop and
    has not ended `patience_s` later counts as hung: nobody waits for it again.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._lock = threading.Lock()
        self._owners: list[Owner] = []

    def enter(self, owner: Owner, thread: threading.Thread) -> None:
        """Registers an owner behind the earlier ones, and starts its thread, which calls `wait` first."""
        with self._lock:
            self._owners = [*(each for each in self._owners if not each.join(0)), owner]
            thread.start()

    def wait(self, owner: Owner, stop: threading.Event) -> list[Owner] | None:
        """Waits until all owners before this one have ended or are given up.

        Returns:
            Those given up; None if `stop` was set first.
        """
        with self._lock:
            earlier = self._owners[: self._owners.index(owner)]
        hung: list[Owner] = []
        for each in earlier:
            while not each.join(0.05):
                if stop.is_set():
                    return None
                if each.stopped_s is not None and time.perf_counter() - each.stopped_s > self.patience_s:
                    hung.append(each)
                    break
        with self._lock:
            self._owners = [each for each in self._owners if each not in hung]
        return None if stop.is_set() else hung


_owners = Handover(patience_s=3.0)  # a camera has one owner: the next reader opens when the last has let go


class Reader:
    """Reads a source into a slot until it is stopped.

    Live sources set the pace themselves; recordings, photographs and scenes fall due at their
    own rate, as a camera's frames would.

    Attributes:
        name: of the source, in words.
        state: how it is doing.
        captured: frames put into the slot.
        next_index: the index that the next frame will get.
        stopped_s: when it was told to stop, None before.
    """

    def __init__(
        self,
        open_source: Open,
        slot: LatestFrame,
        first_index: int = 0,
        *,
        name: str = "",
        paused: bool = False,
    ) -> None:
        self.name = name or "the source"
        self.state: State = "opening"
        self.captured = 0
        self.next_index = first_index
        self.stopped_s: float | None = None
        self._open = open_source
        self._slot = slot
        self._said = ""  # what went wrong
        self._left_behind = ""  # the source of an earlier reader that hung
        self._asked_s: float | None = None  # since when it has been inside of the source
        self._due_count = 0
        self._source: Source | None = None
        self._closing: threading.Thread | None = None
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._pace = threading.Condition()
        self._paused = paused
        self._steps = 1 if paused else 0  # a paused view that is opened anew shows its first frame
        self._thread = threading.Thread(target=self._run, name="labkit live reader", daemon=True)
        _owners.enter(self, self._thread)

    @property
    def offered(self) -> int:
        """Frames that the source brought, taken or not; those that fell due, for a recording."""
        source = self._source
        if source is None:
            return self.captured
        return source.captured if source.live else self._due_count

    @property
    def message(self) -> str:
        """Fault in words; empty while all is well."""
        asked_s, hangs = self._asked_s, ""
        if asked_s is not None and time.perf_counter() - asked_s > HANGS_S:
            does = "open" if self.state == "opening" else "give a picture"
            hangs = f"{self.name} did not {does} within {HANGS_S:g} s and hangs; choose another source"
        return " · ".join(part for part in (self._left_behind, self._said, hangs) if part)

    def pause(self, on: bool) -> None:
        """Holds the picture or lets it go on; a recording stands still, a camera's frames pass unseen."""
        with self._pace:
            self._paused, self._steps = on, 0
            self._pace.notify_all()

    def step(self) -> None:
        """Lets one more frame through while paused."""
        with self._pace:
            self._steps += 1
            self._pace.notify_all()

    def stop(self) -> None:
        """Lets go of the source; whoever waits for a frame is woken. Waits no longer than CLOSE_S."""
        self._stop.set()
        self.stopped_s = time.perf_counter()
        self._slot.close()
        with self._pace:
            self._pace.notify_all()
        with self._guard:
            if self._source is not None and self._closing is None:
                self._closing = threading.Thread(
                    target=self._source.close, name="labkit live closing", daemon=True
                )
                self._closing.start()
        if self._closing is not None:
            self._closing.join(CLOSE_S)

    def join(self, timeout_s: float) -> bool:
        """Waits until the source is let go of; whether it is."""
        deadline_s = time.perf_counter() + timeout_s
        threads = [each for each in (self._thread, self._closing) if each is not None]
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.perf_counter()))
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        hung = _owners.wait(self, self._stop)
        if hung is None:
            return
        if hung:
            names = ", ".join(dict.fromkeys(getattr(each, "name", "") for each in hung))
            self._left_behind = f"{names} hangs and was left behind; restart the kernel to be rid of it"
        try:
            self._read()
        except LabError as error:
            self._report("failed", str(error))
        except Exception as error:  # whatever a driver or decoder raises must reach the learner
            self._report("failed", f"the source cannot be read: {type(error).__name__}: {error}")
        finally:
            self._asked_s = None
            with self._guard:
                source, self._source = self._source, None
            if source is not None and self._closing is None:
                source.close()

    def _read(self) -> None:
        self._asked_s = time.perf_counter()
        source = self._open()
        with self._guard:
            self._source = source
            if self._stop.is_set():
                return
        period_s = 1 / (source.fps or NOMINAL_FPS)
        due_s, shown_s = time.perf_counter() - period_s, None
        while not self._stop.is_set():
            if not source.live and self._held(wait=True):
                due_s, shown_s = time.perf_counter() - period_s, None
            self._asked_s = time.perf_counter()
            try:
                frame = next(source)
            except SourceLost as error:
                self._report("lost", str(error))
                continue
            except StopIteration:
                if not self._stop.is_set():
                    self._report("ended", "the source has no more frames; start again to see it anew")
                return
            self._asked_s = None
            if not source.live:
                known = frame.time_s is not None and shown_s is not None
                gap_s = frame.time_s - shown_s if known else period_s  # type: ignore[operator]
                due_s, shown_s = self._wait_until(due_s + gap_s, period_s), frame.time_s
                frame = replace(frame, t_s=time.perf_counter())
            elif self._held(wait=False):
                continue
            self._hand_over(frame)

    def _held(self, *, wait: bool) -> bool:
        """True if the picture is held and no step was asked for; may wait until one is, or the pause ends."""
        with self._pace:
            held = self._paused and self._steps == 0
            if wait:
                self._pace.wait_for(lambda: not self._paused or self._steps > 0 or self._stop.is_set())
            self._steps = max(0, self._steps - 1)
        return held

    def _hand_over(self, frame: Frame) -> None:
        if self._stop.is_set():
            return
        if self.state != "running":
            self._report("running", "")
        self.captured += 1
        numbered = replace(frame, index=self.next_index)
        self.next_index += 1
        self._slot.put(numbered)

    def _wait_until(self, due_s: float, period_s: float) -> float:
        """Sleeps until `due_s`; returns it, or later if frames were missed, which count as offered."""
        now_s = time.perf_counter()
        self._due_count += 1
        if now_s < due_s:
            self._stop.wait(due_s - now_s)
            return due_s
        missed = int((now_s - due_s) / period_s)
        self._due_count += missed
        return due_s + missed * period_s

    def _report(self, state: State, message: str) -> None:
        self.state, self._said = state, message
        with suppress(RuntimeError), self._slot.news:
            self._slot.news.notify_all()
