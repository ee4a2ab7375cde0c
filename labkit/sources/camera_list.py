"""Cameras of this machine, by name, with the sizes and rates that they offer."""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.core.errors import UnavailableError
from labkit.core.types import Size

DEVICES = Path("/dev")
NO_CAMERA = "this machine has no camera that its system knows"
_MOST_MODES = 1000  # a driver that never says "no more" is not asked for ever

# From linux/videodev2.h: the layouts of the structures, and the requests that fill them in.
_CAPABILITY = struct.Struct("=16s32s32s3I12x")  # driver, card, bus, version, capabilities, device_caps
_FORMAT = struct.Struct("=3I32sI16x")  # index, type, flags, description, pixel format
_SIZE = struct.Struct("=3I6I8x")  # index, pixel format, kind, width and height, or their ranges
_INTERVAL = struct.Struct("=5I6I8x")  # index, pixel format, width, height, kind, fraction(s) of a second
_QUERYCAP, _ENUM_FMT, _ENUM_FRAMESIZES, _ENUM_FRAMEINTERVALS = 0x80685600, 0xC0405602, 0xC02C564A, 0xC034564B
_DEVICE_CAPS, _CAPTURE, _CAPTURE_MPLANE = 0x80000000, 0x1, 0x1000
_DISCRETE = 1

_LOGGED_MODE = re.compile(r"(\d+)x(\d+)(?: fps=|@\[[\d.]+ )([\d.]+)")
"""In FFmpeg's words: "max s=1280x720 fps=30" (DirectShow), "1280x720@[1.0 30.0]fps" (AVFoundation)."""
Mode = tuple[Size, float | None]


@dataclass(frozen=True)
class CameraInfo:
    """A camera that is plugged in.

    Attributes:
        index: N of "webcam:N".
        name: what its maker calls it.
        modes: the highest rate in frames per second (None where it is not told) of each size in px,
            the largest size first; empty where the system does not tell.
        problem: why it cannot be used, and what to do; empty if nothing is known against it.
    """

    index: int
    name: str
    modes: tuple[Mode, ...] = ()
    problem: str = ""

    @property
    def spec(self) -> str:
        """The name that `open_source` takes."""
        return f"webcam:{self.index}"

    def offers(self, most: int = 4, rest: bool = True) -> str:
        """Sizes and rates in words, such as "1280x720 at 30, 640x480 at 60 FPS"; empty if unknown.

        Args:
            most: how many are named.
            rest: also say how many more there are.
        """
        shown = [
            f"{width}x{height}{'' if fps is None else f' at {fps:.3g}'}"
            for (width, height), fps in self.modes[:most]
        ]
        words = ", ".join(shown) + (" FPS" if any(fps for _, fps in self.modes[:most]) else "")
        return words + (f", {len(self.modes) - most} more" if rest and len(self.modes) > most else "")


def list_cameras() -> list[CameraInfo]:
    """The cameras of this machine, in the order of their numbers; none is made to take pictures.

    Raises:
        UnavailableError: this system's cameras cannot be listed; the message says what would help.
    """
    if sys.platform.startswith("linux"):
        devices = [path for path in DEVICES.glob("video*") if path.name[5:].isdigit()]
        found = (_linux_camera(path) for path in sorted(devices, key=lambda path: int(path.name[5:])))
        return [camera for camera in found if camera is not None]
    try:
        import cv2
        from cv2_enumerate_cameras import enumerate_cameras

        backend = cv2.CAP_DSHOW if sys.platform == "win32" else cv2.CAP_AVFOUNDATION
        listed = sorted(enumerate_cameras(backend), key=lambda each: each.index)
    except Exception as error:  # the package is missing, or whatever the system's library raises
        raise UnavailableError(
            f"the cameras cannot be listed here ({type(error).__name__}: {error}); "
            "pip install cv2-enumerate-cameras, or try webcam:0, webcam:1, ..."
        ) from error
    return [CameraInfo(each.index, _clean(each.name), _logged_modes(each.name)) for each in listed]


def _logged_modes(name: str) -> tuple[Mode, ...]:
    """Sizes and rates of a camera on Windows or macOS, which FFmpeg writes to its log only."""
    import av

    level = av.logging.get_level()
    # macOS: a rate that no camera has is answered with those that it has.
    windows = sys.platform == "win32"
    address, system = (f"video={name}", "dshow") if windows else (f"{name}:none", "avfoundation")
    options = {"list_options": "true"} if windows else {"framerate": "1000"}
    with av.logging.Capture(local=False) as lines:
        av.logging.set_level(av.logging.INFO)
        try:
            av.open(address, format=system, options=options).close()
        except (av.FFmpegError, OSError, ValueError):  # how this always ends
            pass
        finally:
            av.logging.set_level(level)
    rates: dict[Size, float | None] = {}
    for *size, fps in _LOGGED_MODE.findall("".join(message for _, _, message in lines)):
        width, height = map(int, size)
        rates[width, height] = max(float(fps), rates.get((width, height)) or 0.0)
    return _largest_first(rates)


def _largest_first(rates: dict[Size, float | None]) -> tuple[Mode, ...]:
    return tuple(sorted(rates.items(), key=lambda mode: (-mode[0][0] * mode[0][1], mode[0])))


def _linux_camera(device: Path) -> CameraInfo | None:
    """The camera behind a V4L2 device; None for a device that gives no pictures."""
    index = int(device.name[5:])
    try:
        handle = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):  # unplugged just now
            return None
        return CameraInfo(index, "camera", problem=_why_not(device, error))
    try:
        return _ask_driver(index, handle)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):  # not a V4L2 device
            return None
        return CameraInfo(index, "camera", problem=_why_not(device, error))
    finally:
        os.close(handle)


def _why_not(device: Path, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission for {device}; add yourself to the group video and log in again"
    return f"{device} cannot be opened ({error.strerror}); close other programs that use it"


def _ask_driver(index: int, handle: int) -> CameraInfo | None:
    _, card, _, _, capabilities, of_device = _filled(handle, _QUERYCAP, _CAPABILITY, (b"", b"", b"", 0, 0, 0))
    able = of_device if capabilities & _DEVICE_CAPS else capabilities
    kind = 1 if able & _CAPTURE else 9 if able & _CAPTURE_MPLANE else None
    if kind is None:  # it carries a camera's metadata, or shows pictures
        return None
    rates: dict[Size, float | None] = {}
    for _, _, _, _, code in _each(handle, _ENUM_FMT, _FORMAT, (kind, 0, b"", 0)):
        for _, _, shape, *sides in _each(handle, _ENUM_FRAMESIZES, _SIZE, (code, *[0] * 7)):
            # A range is told by its largest size: least and most of the width, its step, those of the height.
            size = (sides[0], sides[1]) if shape == _DISCRETE else (sides[1], sides[4])
            fastest = max(_rates(handle, code, size), default=None)
            rates[size] = max((r for r in (rates.get(size), fastest) if r is not None), default=None)
            if shape != _DISCRETE:
                break
    return CameraInfo(index, _clean(card.split(b"\0")[0].decode("utf-8", "replace")), _largest_first(rates))


def _rates(handle: int, code: int, size: Size) -> Iterator[float]:
    """Rates in frames per second; of a range its highest, which is the first fraction of a second."""
    query = (code, *size, *[0] * 7)
    for _, _, _, _, shape, seconds, parts, *_ in _each(handle, _ENUM_FRAMEINTERVALS, _INTERVAL, query):
        if seconds and parts:
            yield parts / seconds
        if shape != _DISCRETE:
            return


def _each(
    handle: int, request: int, layout: struct.Struct, query: tuple[Any, ...]
) -> Iterator[tuple[Any, ...]]:
    """The entries of a list of the driver, numbered from 0, until it says that there is no more."""
    with suppress(OSError):
        for k in range(_MOST_MODES):
            yield _filled(handle, request, layout, (k, *query))


def _filled(handle: int, request: int, layout: struct.Struct, query: tuple[Any, ...]) -> tuple[Any, ...]:
    import fcntl

    buffer = bytearray(layout.pack(*query))
    fcntl.ioctl(handle, request, buffer)
    return layout.unpack(buffer)


def _clean(name: str) -> str:
    """A name without what a terminal would obey, in at most 60 letters."""
    return "".join(c if c.isprintable() else " " for c in name).strip()[:60] or "camera"
