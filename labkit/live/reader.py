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
from labkit.live.latest_frame import LatestFrame
from labkit.sources.source import Source

State = Literal["opening", "running", "lost", "ended", "failed"]
Open = Callable[[], Source]

NOMINAL_FPS = 30.0
_owner = threading.Lock()  # a camera has one owner: the next reader opens when the last one has let go


class Reader:
    """Reads a source into a slot until it is stopped.

    Live sources set the pace themselves; recordings, photographs and scenes fall due at their
    own rate, as a camera's frames would.

    Attributes:
        state: how it is doing.
        message: what went wrong, in words; empty while all is well.
        captured: frames put into the slot.
    """

    def __init__(self, open_source: Open, slot: LatestFrame, first_index: int = 0) -> None:
        self.state: State = "opening"
        self.message = ""
        self.captured = 0
        self._open = open_source
        self._slot = slot
        self._next_index = first_index
        self._due_count = 0
        self._source: Source | None = None
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="labkit live reader", daemon=True)
        self._thread.start()

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

    def stop(self) -> None:
        """Lets go of the source; whoever waits for a frame is woken."""
        self._stop.set()
        self._slot.close()
        with self._guard:
            if self._source is not None:
                self._source.close()

    def join(self, timeout_s: float) -> bool:
        """Waits for the thread; whether it has ended."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not _owner.acquire(timeout=0.05):
            if self._stop.is_set():
                return
        try:
            self._read()
        except LabError as error:
            self._report("failed", str(error))
        except Exception as error:  # whatever a driver or decoder raises must reach the learner
            self._report("failed", f"the source cannot be read: {type(error).__name__}: {error}")
        finally:
            with self._guard:
                source, self._source = self._source, None
            if source is not None:
                source.close()
            _owner.release()

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
            self._hand_over(frame)

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
