"""The thread that owns the source: opens it, keeps its newest frame in a slot, lets go of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from labkit.core.errors import LabError, SourceLost
from labkit.core.types import Frame
from labkit.live.handover import Handover
from labkit.live.latest_frame import LatestFrame
from labkit.sources.source import Source

State = Literal["opening", "running", "lost", "ended", "failed"]
Open = Callable[[], Source]

NOMINAL_FPS = 30.0
CLOSE_S = 0.1
"""Longest wait of a stop for a source to close; one that hangs does so in a thread of its own."""

_owners = Handover(patience_s=3.0)  # a camera has one owner: the next reader opens when the last has let go


class Reader:
    """Reads a source into a slot until it is stopped.

    Live sources set the pace themselves; recordings, photographs and scenes fall due at their
    own rate, as a camera's frames would.

    Attributes:
        state: how it is doing.
        message: what went wrong, in words; empty while all is well.
        captured: frames put into the slot.
        stopped_s: when it was told to stop, None before.
        left_behind: the source of an earlier reader that hung, in words; empty if there was none.
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
        self.stopped_s: float | None = None
        self.left_behind = ""
        self.state: State = "opening"
        self.message = ""
        self.captured = 0
        self._open = open_source
        self._slot = slot
        self._next_index = first_index
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
    def live(self) -> bool:
        """True if the source sets the pace."""
        return self._source is not None and self._source.live

    @property
    def next_index(self) -> int:
        """The index that the next frame will get."""
        return self._next_index

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
        """Waits for the thread; whether it has ended."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        hung = _owners.wait(self, self._stop)
        if hung is None:
            return
        if hung:
            names = ", ".join(dict.fromkeys(getattr(each, "name", "") for each in hung))
            self.left_behind = f"{names} hangs and was left behind; restart the kernel to be rid of it"
        try:
            self._read()
        except LabError as error:
            self._report("failed", str(error))
        except Exception as error:  # whatever a driver or decoder raises must reach the learner
            self._report("failed", f"the source cannot be read: {type(error).__name__}: {error}")
        finally:
            with self._guard:
                source, self._source = self._source, None
            if self._closing is not None:
                self._closing.join()
            elif source is not None:
                source.close()

    def _read(self) -> None:
        if self._stop.is_set():
            return
        source = self._open()
        with self._guard:
            self._source = source
            if self._stop.is_set():
                return
        period_s = 1 / (source.fps or NOMINAL_FPS)
        due_s, shown_s = time.perf_counter() - period_s, None
        while not self._stop.is_set():
            if not source.live and self._waited_for_leave():
                due_s, shown_s = time.perf_counter() - period_s, None
            try:
                frame = next(source)
            except SourceLost as error:
                self._report("lost", str(error))
                continue
            except StopIteration:
                if not self._stop.is_set():
                    self._report("ended", "the source has no more frames; start again to see it anew")
                return
            if not source.live:
                known = frame.time_s is not None and shown_s is not None
                gap_s = frame.time_s - shown_s if known else period_s  # type: ignore[operator]
                due_s, shown_s = self._wait_until(due_s + gap_s, period_s), frame.time_s
                frame = replace(frame, t_s=time.perf_counter())
            elif not self._may_pass():
                continue
            self._hand_over(frame)

    def _waited_for_leave(self) -> bool:
        """Waits, while paused, for a step or the end of the pause; whether it had to."""
        with self._pace:
            waited = self._paused and self._steps == 0
            self._pace.wait_for(lambda: not self._paused or self._steps > 0 or self._stop.is_set())
            self._steps = max(0, self._steps - 1)
        return waited

    def _may_pass(self) -> bool:
        """True if a camera's frame is to be shown: it is not paused, or a step was asked for."""
        with self._pace:
            passes = not self._paused or self._steps > 0
            self._steps = max(0, self._steps - 1)
        return passes

    def _hand_over(self, frame: Frame) -> None:
        if self._stop.is_set():
            return
        if self.state != "running":
            self._report("running", "")
        self.captured += 1
        numbered = replace(frame, index=self._next_index)
        self._next_index += 1
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
        self.state, self.message = state, message
        with suppress(RuntimeError), self._slot.news:
            self._slot.news.notify_all()
