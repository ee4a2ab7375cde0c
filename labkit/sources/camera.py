"""Live sources: webcams and network streams, read by one thread that keeps the newest frame.

The thread owns its capture: it alone opens, reads and releases it, because a release during
a read in another thread crashes the process. It reads as fast as frames come, so that none
grows old in a queue, and puts each into a slot for one frame, over the one before.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from labkit.core.errors import SourceError, SourceLost, UnavailableError
from labkit.core.types import Size
from labkit.sources.camera_list import NO_CAMERA, CameraInfo, list_cameras
from labkit.sources.camera_open import (
    Connect,
    ConnectError,
    connect_stream,
    connect_webcam,
    connection_problem,
)
from labkit.sources.convert import to_rgb
from labkit.sources.source import RawFrame
from labkit.sources.spec import ANY_WEBCAM, redact, webcam_index

# A loss is to be reported within 2 s; the rest is for a busy machine to get round to it.
LOST_AFTER_S = 1.8
SLOW_START_S = 15.0
"""Wait for a webcam on Windows: Media Foundation, where DirectShow fails, takes up to 12 s to a picture."""

_LEAST_PATIENCE_S = 0.5
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 1.0
_CLOSE_WAIT_S = 0.2
_EXIT_WAIT_S = 2.5
_UNLISTED = 4  # numbers to try where cameras cannot be listed
_GAP_S = 0.5  # a pause shorter than this leaves no backlog worth dropping
_LONGEST_BACKLOG_S = 1.0
_FRESH_IN_A_ROW = 2


class Backlog:
    """Detector of frames that waited in a buffer while the reader was held up.

    After a pause (of the network, or of this process) and right after connecting, the
    buffered frames arrive at once. A frame that had to be waited for is a new one.
    """

    def __init__(self, interval_s: float, now_s: float) -> None:
        self._interval_s = interval_s  # between frames in steady flow
        self._pause_s = max(_GAP_S, 3 * interval_s)
        self._last_s = now_s
        self._since_s: float | None = now_s  # when the backlog began to come in, None outside one
        self._waited_for = 0
        self._was_pause = False

    def is_stale(self, asked_s: float, arrived_s: float) -> bool:
        """True if the frame requested and received at these times (s) should be dropped."""
        gap_s, self._last_s = arrived_s - self._last_s, arrived_s
        if gap_s > self._pause_s and self._was_pause:
            # Two pauses with one frame between are no pauses: this camera is slow.
            self._since_s, self._interval_s, self._pause_s = None, gap_s, 2 * gap_s
            return False
        self._was_pause = gap_s > self._pause_s
        if self._was_pause:
            self._since_s, self._waited_for = arrived_s, 0
            # A slow camera's ordinary interval must not look like a pause for ever.
            self._pause_s = min(2 * self._pause_s, 2 * gap_s)
            return True
        if self._since_s is None:
            self._interval_s += 0.2 * (gap_s - self._interval_s)
            self._pause_s += 0.2 * (max(_GAP_S, 3 * self._interval_s) - self._pause_s)
            return False
        waited = arrived_s - asked_s > 0.3 * min(self._interval_s, 0.1)
        self._waited_for = self._waited_for + 1 if waited else 0
        over = self._waited_for >= _FRESH_IN_A_ROW or arrived_s - self._since_s > _LONGEST_BACKLOG_S
        if over:
            self._since_s = None
        return not over


class Camera:
    """Reader of a live source that keeps only the newest frame.

    Attributes:
        size: (width, height) px of the first frame.
        shown: its name, without credentials.
        captured: frames that it delivered to this process.
        dropped: frames that newer ones replaced before anyone took them, and stale ones.
    """

    live = True
    length = None

    def __init__(
        self,
        connect: Connect,
        shown: str,
        *,
        open_timeout_s: float,
        read_timeout_s: float,
        start_timeout_s: float | None = None,
    ) -> None:
        """Start reading and wait for the first frame, by default for both time-outs together.

        Raises:
            SourceError: It does not open, or opens and sends nothing.
        """
        self._connect = connect
        self.shown = shown
        self._changed = threading.Condition()  # guards everything below
        self._slot: tuple[NDArray[Any], float] | None = None
        self.captured = self.dropped = self._connections = 0
        self._heard_s = time.perf_counter()  # when a frame came, or its absence was reported
        self._failure: SourceError | None = None
        self._started = self._closing = False
        self._got: dict[str, Any] = {}
        self._timeouts_s = (open_timeout_s, read_timeout_s)
        self._interrupt: Callable[[], None] | None = None
        self._interval_s = 0.0  # between frames, as this camera sends them
        self._arrived_s: float | None = None
        self.size: Size = (0, 0)
        self.fps: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"labkit camera {shown}", daemon=True)
        self._thread.start()
        _open_cameras.add(self)
        try:
            self._wait_for_start(start_timeout_s or open_timeout_s + read_timeout_s)
        except BaseException:
            self.close()
            raise

    def take(self) -> RawFrame | None:
        """The newest frame that was not taken yet; waits for one. None once closed.

        Raises:
            SourceLost: None came in time; the camera is being reconnected meanwhile.
        """
        with self._changed:
            # A camera that sends a picture every few seconds is not lost between two of them.
            lost_after_s = min(self._timeouts_s[1], max(LOST_AFTER_S, 1.5 * self._interval_s))
            now_s = time.perf_counter()
            if self._slot is not None and now_s - self._slot[1] > lost_after_s:  # too old
                self._slot = None
                self.dropped += 1
            # Counted from the last frame, whoever asks how late; a little is left to a reader that
            # was itself held up.
            patience_s = max(self._heard_s + lost_after_s - now_s, min(_LEAST_PATIENCE_S, lost_after_s))
            self._changed.wait_for(lambda: self._slot is not None or self._closing, patience_s)
            if self._closing:
                return None
            if self._slot is None:
                self._heard_s = time.perf_counter()  # the next report takes its time again
                why = f" ({self._failure})" if self._failure is not None else ""
                raise SourceLost(
                    f"{self.shown} has stopped sending frames{why}; "
                    "it is being reconnected, so reading again may succeed"
                )
            (image, t_s), self._slot = self._slot, None
        return RawFrame(to_rgb(image), t_s)

    def describe(self) -> dict[str, Any]:
        """Plain data: backend, requested and actual properties, number of connections so far."""
        with self._changed:
            return {**self._got, "got_size": list(self.size), "connections": self._connections}

    def close(self, wait_s: float = _CLOSE_WAIT_S) -> None:
        """Stop the thread; if it hangs in a read, it ends by itself at the read's deadline."""
        with self._changed:
            self._closing = True
            interrupt = self._interrupt
            self._changed.notify_all()
        if interrupt is not None:
            interrupt()
        if self._thread is not threading.current_thread():
            self._thread.join(wait_s)

    def _wait_for_start(self, timeout_s: float) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: self._started or self._failure is not None, timeout_s)
            failure = self._failure
        if self._started:
            return
        if done and failure is not None:
            raise failure
        open_s, read_s = self._timeouts_s
        raise SourceError(
            f"{self.shown} has sent no frame within {timeout_s:.3g} s; is it in use elsewhere? "
            f"If it is slow, raise --open-timeout ({open_s:g} s) or --read-timeout ({read_s:g} s)"
        )

    # From here on everything runs in the reader's thread.

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._closing:
            before = self.captured
            try:
                self._read_one_connection()
            except SourceError as error:
                self._fail(error)
            except Exception as error:  # whatever a driver raises must reach the user, not end the thread
                self._fail(SourceError(f"{self.shown} cannot be read: {error}"))
            retry_s = _FIRST_RETRY_S if self.captured > before else min(2 * retry_s, _LAST_RETRY_S)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, retry_s)

    def _read_one_connection(self) -> None:
        capture, got = self._connect()
        try:
            fps = got.get("fps")
            with self._changed:
                self._got = got
                self._connections += 1
                self.fps = fps
                self._interrupt = getattr(capture, "interrupt", None)
            backlog = Backlog(1 / fps if fps else 1 / 30, time.perf_counter())
            while not self._closing:
                asked_s = time.perf_counter()
                if not capture.grab():
                    early = "opened, but ended before it sent a frame that can be used; check the camera"
                    how = "ended or was disconnected" if self._started else early
                    raise SourceError(f"{self.shown} {how}")
                t_s = time.perf_counter()
                stale = backlog.is_stale(asked_s, t_s)
                ok, image = (False, None) if stale else capture.retrieve()
                self._store(image if ok else None, t_s)
        finally:
            capture.release()

    def _store(self, image: NDArray[Any] | None, t_s: float) -> None:
        with self._changed:
            self.captured += 1
            if self._arrived_s is not None:
                self._interval_s = t_s - self._arrived_s
            self._arrived_s = t_s
            if image is None:
                self.dropped += 1
                return
            self.dropped += self._slot is not None
            self._slot = (image, t_s)
            self._heard_s = t_s
            self._failure = None
            self._got.setdefault("camera_size", [image.shape[1], image.shape[0]])
            if not self._started:
                self.size = (image.shape[1], image.shape[0])
                self._started = True
            self._changed.notify_all()

    def _fail(self, error: SourceError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()


def open_camera(
    spec: str, size: Size | None, fps: float | None, *, open_timeout_s: float, read_timeout_s: float
) -> Camera:
    """A webcam ("webcam:N", or "webcam" for the first that gives a picture), or the stream at an address.

    Raises:
        SourceError: It cannot be opened, with the reason where there is one to be found.
        RecordingError: The address is a recording.
    """
    index, timeouts_s = (
        webcam_index(spec),
        {"open_timeout_s": open_timeout_s, "read_timeout_s": read_timeout_s},
    )
    if index == ANY_WEBCAM:
        return _first_webcam(size, fps, **timeouts_s)
    shown = redact(spec)
    if index is None:
        try:
            return Camera(partial(connect_stream, spec, **timeouts_s), shown, **timeouts_s)
        except ConnectError as error:
            if problem := connection_problem(spec):
                raise SourceError(f"{shown} cannot be opened: {problem}") from error
            raise
    patience_s = max(open_timeout_s + read_timeout_s, SLOW_START_S if sys.platform == "win32" else 0.0)
    connect = partial(connect_webcam, index, size, fps)
    return Camera(connect, shown, **timeouts_s, start_timeout_s=patience_s)


def _first_webcam(
    size: Size | None, fps: float | None, *, open_timeout_s: float, read_timeout_s: float
) -> Camera:
    """The first webcam that gives a picture, within the two time-outs together, however many there are."""
    until_s = time.perf_counter() + open_timeout_s + read_timeout_s
    try:
        listed = list_cameras()
    except UnavailableError:  # their usual numbers are tried instead
        listed = [CameraInfo(n, "") for n in range(_UNLISTED)]
    tried = [f"{camera.spec} ({camera.problem})" for camera in listed if camera.problem]
    able = [camera for camera in listed if not camera.problem]
    for left, camera in zip(range(len(able), 0, -1), able, strict=True):
        # One that hangs leaves their share to those behind it.
        share_s = max(0.01, (until_s - time.perf_counter()) / left)
        try:
            return Camera(
                partial(connect_webcam, camera.index, size, fps), camera.spec, open_timeout_s=open_timeout_s,
                read_timeout_s=read_timeout_s, start_timeout_s=share_s,
            )  # fmt: skip
        except SourceError as error:
            name = f"{camera.spec} ({camera.name})" if camera.name else camera.spec
            tried.append(str(error).partition(";")[0].replace(camera.spec, name, 1))
    what = NO_CAMERA
    if tried:
        what = f"no camera of this machine gives a picture: {', '.join(tried)}; "
        what += "close other programs that use them, or raise --open-timeout"
    raise SourceError(
        f'{what}; the camera beside a notebook is the source "browser" of the live view, '
        'and "photos", "scenes" and "closeups" need none'
    )


_open_cameras: weakref.WeakSet[Camera] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A reader inside native code while the interpreter is taken down would crash the process.
    cameras = list(_open_cameras)
    for camera in cameras:
        camera.close(0)
    until_s = time.perf_counter() + _EXIT_WAIT_S  # for all of them together
    for camera in cameras:
        camera.close(max(0.0, until_s - time.perf_counter()))
