"""Latest frame of a stream, read in a thread; an actor holds the readers of several streams.

An idle Ray process costs some CPU time and 100 MB or more, so streams share processes. Ray restarts an
actor with the same arguments. Requests for frames tell how far the stream is, so a restarted reader
continues where a camera would be by now.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from labkit.core.errors import LabError, SourceLost
from labkit.fleet.cores import lower_priority
from labkit.fleet.streams import CapturedFrame, EndOfStream, NoFrame, Reply, Stream, check_frame_size
from labkit.sources.openers import open_source
from labkit.sources.source import Source

NOMINAL_FPS = 30.0
PATIENCE_S = 2.0
"""Longest wait for a frame until the reply is `NoFrame`."""


class Reader:
    """Hands out the latest frame of a stream, each frame once.

    A camera sets its own pace. Recordings, photographs and scenes play at their rate from the first
    `take` on; a frame that is late is dropped, as by a camera, and with it those that are due by then,
    which are not even drawn. Indices count all frames offered.

    Args:
        stream: to read.
        niceness: added to the reading thread's niceness, so that the networks get the cores first.
    """

    def __init__(self, stream: Stream, niceness: int = 0) -> None:
        self._niceness = niceness
        self._stream = stream
        self._id = uuid.uuid4().hex[:12]
        self._changed = threading.Condition()  # guards everything below
        self._latest: CapturedFrame | None = None  # not numbered yet; its index counts from the base
        self._taken = 0
        self._offered = 0  # from the base on
        self._base: int | None = None  # index of the first frame that this start could see
        self._began_unix_s: float | None = None
        self._opened = self._started = False
        self._note = ""
        self._ended: tuple[str, bool] | None = None
        self._stopping = False
        threading.Thread(target=self._run, name=f"labkit reader {stream.shown}", daemon=True).start()

    def ready(self) -> None:
        """Return once the source is open or has failed to open."""
        with self._changed:
            self._changed.wait_for(lambda: self._opened or self._ended is not None)

    def take(self, after: int = -1, began_unix_s: float | None = None) -> Reply:
        """Wait for a frame that was not taken yet.

        Args:
            after: index of the last frame that the caller has taken.
            began_unix_s: when the stream began, if the caller knows.

        Returns:
            The frame; `NoFrame` after `PATIENCE_S`; `EndOfStream` once the stream is over.
        """
        with self._changed:
            if not self._started:
                self._started, self._began_unix_s = True, began_unix_s
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._latest is not None or self._ended is not None, PATIENCE_S)
            if self._latest is None:
                return self._end() if self._ended is not None else NoFrame(self._note)
            if self._base is None:
                self._base = after + 1
            latest, self._latest = self._latest, None
            self._taken += 1
            return replace(latest, index=self._base + latest.index, number=self._taken)

    def stop(self) -> EndOfStream:
        """End the stream; a waiting `take` returns."""
        with self._changed:
            self._stopping = True
            self._latest = None
            self._ended = self._ended or ("it was stopped", False)
            self._changed.notify_all()
            return self._end()

    def _end(self) -> EndOfStream:
        assert self._ended is not None
        base = self._base
        offered = None if base is None and not self._offered else (base or 0) + self._offered
        return EndOfStream(offered, self._id, self._taken, *self._ended)

    # The methods below run in the reader's thread.

    def _run(self) -> None:
        try:
            stream = self._stream
            with open_source(
                stream.spec,
                stream.size,
                fit=stream.fit,
                fps=stream.fps,
                open_timeout_s=stream.open_timeout_s,
                read_timeout_s=stream.read_timeout_s,
            ) as source:
                with self._changed:
                    self._opened = True
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._started or self._stopping)
                if self._stopping:
                    return
                if self._niceness:
                    lower_priority(self._niceness)  # of this thread alone: replies stay fast
                self._began_unix_s = self._began_unix_s or time.time()
                why = self._follow(source) if source.live else self._play(source)
            self._finish(why, False)
        except LabError as error:
            self._finish(str(error), True)
        except Exception as error:  # whatever a driver or decoder raises is reported
            self._finish(f"cannot read it: {type(error).__name__}: {error}", True)

    def _finish(self, why: str, failed: bool) -> None:
        with self._changed:
            self._ended = self._ended or (why.replace(self._stream.spec, self._stream.shown), failed)
            self._changed.notify_all()

    def _follow(self, source: Source) -> str:
        """Pass on frames as a camera sends them; returns why they end."""
        assert self._began_unix_s is not None
        before = source.delivered + source.dropped  # frames before the first request were not offered
        while not self._stopping and not self._time_over(time.time() - self._began_unix_s):
            try:
                frame = next(source)
            except SourceLost as error:
                self._note = str(error)
                continue
            except StopIteration:
                return "the camera ended"
            unix_s = time.time() - (time.perf_counter() - frame.t_s)
            count = source.delivered + source.dropped - before  # the camera's frames up to this one
            began_unix_s = self._began_unix_s
            latest = CapturedFrame(count - 1, self._id, 0, began_unix_s, unix_s, frame.image, frame.placed)
            self._put(latest, count)
        return self._why_stopped()

    def _play(self, source: Source) -> str:
        """Pass on a recording's frames when they are due, except late ones; returns why they end."""
        assert self._began_unix_s is not None
        with self._changed:
            self._base = 0  # a recording's indices do not depend on the reader
        period_s = 1 / (self._stream.fps or source.fps or NOMINAL_FPS)
        begun_s = time.perf_counter() - (time.time() - self._began_unix_s)  # wall clocks may be set
        passed_over = False
        for frame in source:
            index = source.delivered - 1
            due_s = index * period_s
            if self._stream.fps is None and frame.time_s is not None:
                due_s = frame.time_s
            if self._time_over(due_s):
                return self._why_stopped()
            late_s = time.perf_counter() - begun_s - due_s
            if late_s < 0:
                self._sleep(-late_s)
            if self._stopping:
                break
            if late_s >= period_s and not passed_over:  # what is slower than its rate is seen all the same
                due = int(late_s / period_s) - 1
                if self._stream.seconds is not None:
                    due = min(due, int(self._stream.seconds / period_s) - source.delivered)
                source.skip(max(due, 0))
                self._put(None, source.delivered)
                passed_over = True
                continue
            passed_over = False
            latest = CapturedFrame(
                index, self._id, 0, self._began_unix_s, self._began_unix_s + due_s, frame.image, frame.placed,
                frame.time_s,
            )  # fmt: skip
            self._put(latest, index + 1)
        return f"the recording is over{f' ({source.note})' if source.note else ''}"

    def _put(self, frame: CapturedFrame | None, offered: int) -> None:
        if frame is not None:
            check_frame_size((frame.image.shape[1], frame.image.shape[0]), self._stream.size)
        with self._changed:
            if self._stopping:
                return
            self._offered = offered
            self._note = ""
            if frame is not None:
                self._latest = frame
                self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)

    def _time_over(self, elapsed_s: float) -> bool:
        return self._stream.seconds is not None and elapsed_s >= self._stream.seconds

    def _why_stopped(self) -> str:
        return f"its {self._stream.seconds:g} s are over" if self._stream.seconds else "it was stopped"


class Readers:
    """The readers of several streams, each created at its first call.

    After a restart of the process, only sources that are still requested are opened again.

    Args:
        streams: the streams to read.
        niceness: added to the reading threads' niceness, so that the networks get the cores first.
    """

    def __init__(self, streams: Sequence[Stream], niceness: int = 0) -> None:
        if niceness:
            import cv2

            cv2.setNumThreads(1)  # several would compete with the networks
        self._niceness = niceness
        self._streams = {stream.position: stream for stream in streams}
        self._readers: dict[int, Reader] = {}
        self._lock = threading.Lock()

    def ready(self) -> None:
        """Return once every source is open or has failed to open."""
        for reader in [self._reader(position) for position in self._streams]:
            reader.ready()

    def call(self, position: int, method: str, *args: Any) -> Any:
        """Call a method of a stream's `Reader`."""
        return getattr(self._reader(position), method)(*args)

    def _reader(self, position: int) -> Reader:
        with self._lock:
            if position not in self._readers:
                self._readers[position] = Reader(self._streams[position], self._niceness)
            return self._readers[position]


@dataclass(frozen=True)
class StreamHandle:
    """The reader of one stream, in whichever process it runs.

    Attributes:
        actor: handle of the `Readers` that hold it.
        position: of the stream.
    """

    actor: Any
    position: int

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the `Reader`; returns Ray's future of its result."""
        return self.actor.call.remote(self.position, method, *args)
