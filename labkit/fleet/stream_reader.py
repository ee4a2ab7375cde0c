"""A stream's reader: opens the source on whatever machine it runs, and hands out its newest frame.

It runs in an actor: Ray starts it again where it dies, with the same arguments. Whoever takes
frames says how far it is, so a new start goes on where a camera would be by now.
"""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import LabError, SourceLost
from labkit.fleet.cores import lower_priority
from labkit.fleet.streams import CapturedFrame, EndOfStream, NoFrame, Reply, Stream
from labkit.sources.openers import open_source
from labkit.sources.source import Source

NOMINAL_FPS = 30.0
PATIENCE_S = 2.0
"""Longest wait for a frame before the reply says that there is none."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame in the slot; `offset` is its place among those that this start of the reader saw."""

    image: NDArray[np.uint8]
    offset: int
    captured_unix_s: float


class Reader:
    """The newest frame of a stream, for whoever takes it; each frame is handed out once.

    A camera sets its own pace. Recordings, photographs and scenes fall due at their rate, from
    the first take on; a frame that is late is left out, as a camera would. Indices count the
    frames that were offered.

    Args:
        stream: what is read.
        niceness: how far back reading steps behind the networks on the same cores.
    """

    def __init__(self, stream: Stream, niceness: int = 0) -> None:
        self._niceness = niceness
        self._stream = stream
        self._id = uuid.uuid4().hex[:12]
        self._news = threading.Condition()  # guards everything below
        self._slot: _Seen | None = None
        self._taken = 0
        self._offered = 0  # counted from the first frame that this start could see
        self._base: int | None = None  # index of that frame
        self._began_unix_s: float | None = None
        self._opened = self._wanted = False
        self._note = ""
        self._over: tuple[str, bool] | None = None
        self._stopping = False
        threading.Thread(target=self._run, name=f"labkit reader {stream.shown}", daemon=True).start()

    def ready(self) -> None:
        """Returns once the source is open, or cannot be opened."""
        with self._news:
            self._news.wait_for(lambda: self._opened or self._over is not None)

    def take(self, after: int = -1, began_unix_s: float | None = None) -> Reply:
        """The newest frame that nobody took, once there is one.

        Args:
            after: index of the last frame that the caller has had.
            began_unix_s: when the stream began, if the caller knows.
        """
        with self._news:
            if not self._wanted:
                self._wanted, self._began_unix_s = True, began_unix_s
                self._news.notify_all()
            self._news.wait_for(lambda: self._slot is not None or self._over is not None, PATIENCE_S)
            if self._slot is None:
                return self._end() if self._over is not None else NoFrame(self._note)
            if self._base is None:
                self._base = after + 1
            seen, self._slot = self._slot, None
            self._taken += 1
            assert self._began_unix_s is not None
            return CapturedFrame(
                self._base + seen.offset,
                self._id,
                self._taken,
                self._began_unix_s,
                seen.captured_unix_s,
                seen.image,
            )

    def stop(self, why: str = "it was stopped", failed: bool = False) -> EndOfStream:
        """Ends the stream; whoever waits for a frame hears of it."""
        with self._news:
            self._stopping = True
            self._slot = None
            self._over = self._over or (why, failed)
            self._news.notify_all()
            return self._end()

    def _end(self) -> EndOfStream:
        assert self._over is not None
        base = self._base
        offered = None if base is None and not self._offered else (base or 0) + self._offered
        return EndOfStream(offered, self._id, self._taken, *self._over)

    # From here on everything runs in the reader's thread.

    def _run(self) -> None:
        try:
            with open_source(self._stream.spec, self._stream.size, fps=self._stream.fps) as source:
                with self._news:
                    self._opened = True
                    self._news.notify_all()
                    self._news.wait_for(lambda: self._wanted or self._stopping)
                if self._stopping:
                    return
                if self._niceness:
                    lower_priority(self._niceness)  # this thread: replies are as quick as ever
                self._began_unix_s = self._began_unix_s or time.time()
                why = self._follow(source) if source.live else self._play(source)
            self._finish(why, False)
        except LabError as error:
            self._finish(str(error), True)
        except Exception as error:  # whatever a driver or decoder raises must reach the fleet
            self._finish(f"it cannot be read: {type(error).__name__}: {error}", True)

    def _finish(self, why: str, failed: bool) -> None:
        with self._news:
            self._over = self._over or (why.replace(self._stream.spec, self._stream.shown), failed)
            self._news.notify_all()

    def _follow(self, source: Source) -> str:
        """Frames as a camera sends them."""
        assert self._began_unix_s is not None
        before = source.delivered + source.dropped  # what came before anyone asked was not offered
        while not self._stopping and not self._is_over(time.time() - self._began_unix_s):
            try:
                frame = next(source)
            except SourceLost as error:
                self._note = str(error)
                continue
            except StopIteration:
                return "the camera ended"
            unix_s = time.time() - (time.perf_counter() - frame.t_s)
            count = source.delivered + source.dropped - before  # what the camera brought, up to this frame
            self._put(_Seen(frame.image, count - 1, unix_s), count)
        return self._time_is_over()

    def _play(self, source: Source) -> str:
        """Frames as they fall due; those that are late are left out."""
        assert self._began_unix_s is not None
        with self._news:
            self._base = 0  # a recording's frames have their places, whoever reads them
        period_s = 1 / (self._stream.fps or source.fps or NOMINAL_FPS)
        begun_s = time.perf_counter() - (time.time() - self._began_unix_s)  # clocks may be set meanwhile
        for place, frame in enumerate(source):
            due_s = place * period_s
            if self._is_over(due_s):
                return self._time_is_over()
            late_s = time.perf_counter() - begun_s - due_s
            if late_s < 0:
                self._sleep(-late_s)
            if self._stopping:
                break
            is_late = late_s >= period_s
            seen = None if is_late else _Seen(frame.image, place, self._began_unix_s + due_s)
            self._put(seen, place + 1)
        return "the recording is over"

    def _put(self, seen: _Seen | None, offered: int) -> None:
        with self._news:
            if self._stopping:
                return
            self._offered = offered
            self._note = ""
            if seen is not None:
                self._slot = seen
                self._news.notify_all()

    def _sleep(self, seconds: float) -> None:
        with self._news:
            self._news.wait_for(lambda: self._stopping, seconds)

    def _is_over(self, elapsed_s: float) -> bool:
        return self._stream.seconds is not None and elapsed_s >= self._stream.seconds

    def _time_is_over(self) -> str:
        return f"its {self._stream.seconds:g} s are over" if self._stream.seconds else "it was stopped"
