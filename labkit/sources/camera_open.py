"""Connections to webcams and network streams through OpenCV."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import SourceError
from labkit.core.types import Size
from labkit.sources.jpeg_stream import JpegStream, NoJpegStreamError
from labkit.sources.spec import redact, scheme_of


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that a reader uses."""

    def grab(self) -> bool: ...  # noqa: D102
    def retrieve(self) -> tuple[bool, NDArray[Any]]: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


class ConnectError(SourceError):
    """OpenCV cannot open the address; it gives no reason."""


class RecordingError(SourceError):
    """The address is a recording with an end, to be read in order and without loss."""


Connect = Callable[[], tuple[Capture, dict[str, Any]]]
"""Opens the camera: the capture, and the properties that it got. Raises SourceError."""


def connect_stream(address: str, open_timeout_s: float, read_timeout_s: float) -> Connect:
    """A function that connects to the stream at an http, https or rtsp address (over TCP, if it can)."""

    def connect() -> tuple[Capture, dict[str, Any]]:
        import cv2

        if scheme_of(address) in ("http", "https"):
            try:
                stream = JpegStream(address, open_timeout_s, read_timeout_s)
            except NoJpegStreamError:
                pass  # FFmpeg may know it
            except OSError as error:
                raise ConnectError(f"{redact(address)} cannot be opened") from error
            else:
                return stream, {"backend": "JPEG over HTTP", "fps": None, "fourcc": "MJPG"}
        # FFMPEG is named because only it honours the deadlines.
        deadlines = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            round(open_timeout_s * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            round(read_timeout_s * 1000),
        ]
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, deadlines)
        if not capture.isOpened():
            capture.release()
            raise ConnectError(f"{redact(address)} cannot be opened")
        if 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < 1e9:
            capture.release()
            raise RecordingError(f"{redact(address)} is a recording, not a camera")
        return capture, {"backend": "opencv/FFMPEG", **_properties(capture)}

    return connect


def connect_webcam(index: int, size: Size | None, fps: float | None) -> Connect:
    """A function that connects to webcam number `index`, asking for a size and rate."""

    def connect() -> tuple[Capture, dict[str, Any]]:

        device = Path(f"/dev/video{index}")
        linux = sys.platform.startswith("linux")
        if linux and not device.exists():
            raise SourceError(
                f'there is no webcam {index} ({device} is missing); plug one in, or use "photos" or "scenes"'
            )
        capture = _opened(index)
        if capture is None:
            raise SourceError(
                f"webcam:{index} cannot be opened; close other programs that use it, "
                "check that you may read it (on Linux: the group video), or try another number"
            )
        asked = _ask(capture, size, fps)
        return capture, {"backend": f"opencv/{capture.getBackendName()}", **asked, **_properties(capture)}

    return connect


def _opened(index: int) -> Any:
    """The capture of a webcam, None if it cannot be opened."""
    import cv2

    # On Windows DirectShow first: Media Foundation takes 12 s to the first frame of many cameras.
    backends = {"win32": [cv2.CAP_DSHOW, cv2.CAP_MSMF], "darwin": [cv2.CAP_AVFOUNDATION]}
    for backend in backends.get(sys.platform, [cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY]):
        capture = cv2.VideoCapture(index, backend)
        if capture.isOpened():
            return capture
        capture.release()
    return None


def _ask(capture: Any, size: Size | None, fps: float | None) -> dict[str, Any]:
    import cv2

    # In this order: many cameras offer the size and rate only once they compress.
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return {"asked_size": None if size is None else list(size), "asked_fps": fps, "asked_fourcc": "MJPG"}


def _properties(capture: Any) -> dict[str, Any]:
    import cv2

    fps = capture.get(cv2.CAP_PROP_FPS)
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    fourcc = "".join(chr((code >> shift) & 0xFF) for shift in (0, 8, 16, 24))
    return {
        "camera_size": [int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)],
        "fps": fps if np.isfinite(fps) and 0 < fps < 1000 else None,
        "fourcc": fourcc if fourcc.isprintable() else None,
    }
