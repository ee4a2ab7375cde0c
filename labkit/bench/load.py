"""Frames as a pipeline takes them: whenever it likes, or as they fall due; each one counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from labkit.core.types import Frame


@dataclass(frozen=True)
class Clock:
    """Time as the drive sees it; tests put a simulated one in its place."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


class Feed:
    """The frames as the pipeline sees them: an iterator that notes when each was taken."""

    def __init__(self, frames: Sequence[Frame], clock: Clock) -> None:
        self._frames = frames
        self._clock = clock
        self._next = 0
        self._period: float | None = None
        self._start = 0.0
        self._first = 0
        self._open = True
        self._until: float | None = None
        self.began: dict[int, float] = {}  # frame index -> when taken, or when due
        self.dropped = 0

    def pace(self, fps: float, seconds: float) -> int:
        """From now on frames fall due at `fps`, for `seconds`; gives the index of the first one."""
        self._start = self._clock.now()
        self._until = seconds
        self._first = self._next
        self._period = 1 / fps  # last: a schedule's own thread may be asking for a frame meanwhile
        return self._first

    def stop(self) -> None:
        """No more frames: the pipeline finishes what it has and ends."""
        self._open = False

    @property
    def is_open(self) -> bool:
        """Whether there are frames left to take."""
        return self._open

    @property
    def offered(self) -> int:
        """Frames taken or dropped so far."""
        return self._next

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if not self._open:
            raise StopIteration
        began = self._clock.now() if self._period is None else self._wait_until_due()
        index, self._next = self._next, self._next + 1
        self.began[index] = began
        return Frame(self._frames[index % len(self._frames)].image, index, began)

    def _wait_until_due(self) -> float:
        """Skips to the newest frame that is due, or waits for the next one; gives its due time."""
        assert self._period is not None and self._until is not None
        passed = self._clock.now() - self._start
        newest = self._first + int(passed / self._period + 1e-9)
        last = self._first + int(self._until / self._period + 1e-9)  # first one that is not offered
        if newest > self._next:
            self.dropped += min(newest, last) - self._next
            self._next = min(newest, last)
        if self._next >= last:
            self._open = False
            raise StopIteration
        due = self._start + (self._next - self._first) * self._period
        wait = due - self._clock.now()
        if wait > 0:
            self._clock.sleep(wait)
        return due
