"""Connections to webcams and network streams through OpenCV, and the reason where there is none."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from labkit.core.errors import SourceError
from labkit.core.types import Size
from labkit.sources.jpeg_stream import JpegStream, NoJpegStreamError
from labkit.sources.spec import redact, scheme_of

_PROBE_S = 2.5
_PORTS = {"http": 80, "https": 443, "rtsp": 554}


class ConnectError(SourceError):
    """The address cannot be opened; why is not known yet, or as far as the attempt told."""


class RecordingError(SourceError):
    """The address is a recording with an end, to be read in order and without loss."""


Connection = tuple[Any, dict[str, Any]]
"""An open camera (`grab`, `retrieve`, `release` as of `cv2.VideoCapture`), and its properties."""
Connect = Callable[[], Connection]
"""Opens the camera; raises SourceError."""


def connect_stream(address: str, open_timeout_s: float, read_timeout_s: float) -> Connection:
    """Connect to the stream at an http, https or rtsp address (over TCP, if it can).

    Raises:
        ConnectError: It cannot be opened.
        SourceError: It refuses, or does not answer in time.
        RecordingError: It is a recording.
    """
    import cv2

    why = "the host answers, but not with a video; check path, user and password"
    if scheme_of(address) in ("http", "https"):
        try:
            stream = JpegStream(address, open_timeout_s, read_timeout_s)
        except NoJpegStreamError as error:
            why = str(error)  # but FFmpeg may know it
        except OSError as error:
            why = f"the connection fails ({error.strerror or error}); try again"
            raise ConnectError(f"{redact(address)} cannot be opened: {why}") from error
        else:
            return stream, {"backend": "JPEG over HTTP", "fps": None, "fourcc": "MJPG"}
    # FFMPEG is named because only it honours the deadlines.
    deadlines = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(open_timeout_s * 1000)]
    deadlines += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_timeout_s * 1000)]
    began_s = time.perf_counter()
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, deadlines)
    if not capture.isOpened():
        capture.release()
        if scheme_of(address) == "rtsp" and time.perf_counter() - began_s >= open_timeout_s:
            why = (
                f"the host has sent no video within {open_timeout_s:g} s; restart the camera, "
                "or raise the open time-out (--open-timeout)"
            )
        raise ConnectError(f"{redact(address)} cannot be opened: {why}")
    if 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < 1e9:
        capture.release()
        raise RecordingError(f"{redact(address)} is a recording, not a camera")
    return capture, {"backend": "opencv/FFMPEG", **_properties(capture)}


def connection_problem(address: str) -> str:
    """Reason why no connection to a host comes about, and what to do; empty if it can be made.

    One deadline holds, for names that are looked up for ever too.
    """
    said: list[str] = []
    probe = threading.Thread(target=lambda: said.append(_connection_problem(address)), daemon=True)
    probe.start()
    probe.join(_PROBE_S)
    return said[0] if said else "its name cannot be looked up in time; check the network"


def _connection_problem(address: str) -> str:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)
        socket.create_connection((host, port), timeout=_PROBE_S / 2).close()
    except ValueError:
        return "the address is malformed; write it as http://host:port/path"
    except socket.gaierror:
        return f"the host {host} is not known; check its name and the network"
    except TimeoutError:
        return f"{host} does not answer on port {port}; check the address, and that the camera is on"
    except OSError as error:
        return f"{host} refuses port {port} ({error.strerror or error}); check the address and the port"
    return ""


def connect_webcam(index: int, size: Size | None, fps: float | None) -> Connection:
    """Connect to webcam number `index`, asking for a size and rate.

    Raises:
        SourceError: It is not there, or cannot be opened.
    """
    device = Path(f"/dev/video{index}")
    if sys.platform.startswith("linux") and not device.exists():
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
