"""Names of sources: keywords, files and addresses; hiding of credentials."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from labkit.core.errors import UsageError
from labkit.core.types import Size

IMAGE_SUFFIXES = frozenset(
    {
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".tif", ".tiff", ".webp",
        ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".hdr", ".tga", ".jp2", ".j2k", ".avif", ".heic",
        ".heif", ".hif",
    }
)  # fmt: skip
RECORDED_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv"}
)
VIDEO_SUFFIXES = RECORDED_SUFFIXES | {
    ".ts", ".mts", ".m2ts", ".vob", ".mxf", ".asf", ".f4v", ".y4m", ".mjpeg", ".mjpg", ".h264", ".hevc"
}  # fmt: skip
"""Of films in files; at an address some of these are live."""
ADDRESS_SCHEMES = ("http", "https", "rtsp")
KNOWN_SOURCES = (
    '"webcam:0", a video or image file, a folder of images, '
    'an http, https or rtsp address, "photos" or "scenes"'
)

_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_DEVICE = re.compile(r"^/dev/video(\d{1,3})$")
_HIDDEN = "***"


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Key to sort by: frame2 before frame10, whatever the case of letters."""
    parts = re.split(r"([0-9]+)", str(path))
    keys: list[tuple[int, int | str]] = [
        (0, int(part)) if i % 2 else (1, part.lower()) for i, part in enumerate(parts)
    ]
    return [*keys, (1, str(path))]


def scheme_of(spec: str) -> str | None:
    """The scheme of an address in lower case ("http", "rtsp", ...), None for anything else."""
    found = _ADDRESS.match(spec)
    return found.group(1).lower() if found else None


def redact(url: str) -> str:
    """Hide the secrets of an address: user and password, values in the query, fragment.

    Anything that is not an address is returned as it is.
    """
    if scheme_of(url) is None:
        return url
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        query = urlencode(
            [(key, _HIDDEN) for key, _ in parse_qsl(parts.query, keep_blank_values=True)], safe="*"
        )
    except ValueError:
        # An address too odd to take apart is too odd to show.
        return f"{scheme_of(url)}://{_HIDDEN}"
    netloc = f"{_HIDDEN}@{host}" if "@" in parts.netloc else host
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def webcam_index(spec: str) -> int | None:
    """N of "webcam:N" or "/dev/videoN" (0 for "webcam"), None where the spec is something else.

    Raises:
        UsageError: What follows "webcam:" is not a number.
    """
    device = _DEVICE.match(spec)
    if device:
        return int(device.group(1))
    name, colon, number = spec.partition(":")
    if name != "webcam":
        return None
    if not colon:
        return 0
    if not (number.isascii() and number.isdigit() and int(number) < 1000):
        raise UsageError(f"a webcam is called webcam:0, webcam:1, ...; {spec!r} is not")
    return int(number)


def check_size(size: Size | None) -> Size | None:
    """Validate a size and return it as a pair of ints.

    Raises:
        UsageError: It is not (width, height) from 1 to 16384 px, nor None.
    """
    if size is None:
        return None
    try:
        width, height = size
        whole = int(width) == width and int(height) == height
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or not (1 <= width <= 16384 and 1 <= height <= 16384):
        raise UsageError(f"size is (width, height), each from 1 to 16384 px, not {size!r}")
    return int(width), int(height)
