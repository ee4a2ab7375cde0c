"""Names of sources: keywords, files and addresses; hiding of credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unicodedata import normalize
from urllib.parse import urlsplit
from urllib.request import url2pathname

from labkit.core.errors import SourceError, UsageError
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
    '"webcam", "webcam:1", a video or image file, a folder of images, '
    'an http, https or rtsp address, "photos", "scenes" or "closeups"'
)

# FFmpeg's errors name whole addresses; ours say what there is to say.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
ANY_WEBCAM = -1
"""Index of "webcam" alone: the first camera that delivers a picture."""
_WEBCAM = re.compile(r"^(?:webcam(?:(?P<colon>:)(?P<number>.*))?|/dev/video(?P<device>\d{1,3}))$", re.DOTALL)
DRAWN = ("scenes", "closeups")
EMBEDDED = ("photos", *DRAWN, "browser")
HIDDEN = "***"
"""Shown in place of what may be a secret."""
_AROUND = " \t\r\n\f\v\"'<>\u00a0\u201c\u201d\u2018\u2019`"
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]")
_PARTS = re.compile(
    r"^[A-Za-z][A-Za-z0-9+.-]*://(?:(?P<user>[^/?#\s]*)@)?"
    r"(?P<place>(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)(?P<behind>(?:[/?#].*)?)$"
)
_LOGIN = re.compile(r"[^/\\@]+:[^\\].*@", re.DOTALL)
HOST = re.compile(
    r"^(www\.|localhost\b|\[[0-9A-Fa-f:.]+\]|\d{1,3}(\.\d{1,3}){3}(?![\w.])"
    r"|[A-Za-z0-9.-]+:\d{2,5}/|([A-Za-z0-9-]+\.)+((local|lan|home)(/|$)|[A-Za-z]{2,}(/|:\d{2,5}(/|$))))"
)
"""Beginnings of names that look like an address without its scheme."""
_ODD = re.compile(r"^(?://|webcam:|(?:https?|rtsps?)\W)|[?&=;%\\\uff1a\uff20]|@(?!\{)")
"""Signs that names of rungs, models and revisions do not have."""
_PLAIN = re.compile(r"[\w.,+-]*$")
_PLAIN_FILE = re.compile(r"[\w.,+() -]*$")
"""Names without any sign that takes an address apart."""
_SHOWN_SCHEMES = frozenset({*ADDRESS_SCHEMES, "rtsps", "rtmp", "rtp", "udp", "tcp", "srt", "ftp", "file"})
_PAGE_SUFFIXES = frozenset({".cgi", ".sdp", ".m3u8", ".asp", ".php", ".html", ".htm", ".jsp"})
_WORDS = """
live stream streams streaming video videos videostream cam cams camera cameras channel channels ch media
mpeg mpegts mjpeg mjpg jpg jpeg image images img snapshot snap shot still axis cgi bin onvif profile main
sub high low index play player feed view clip film films download api h v front back door
"""
SHOWN_WORDS = frozenset(_WORDS.split())
"""Words of a path that are shown; any other may be a key."""


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


def is_address(name: str, *, doubtful: bool = False) -> bool:
    """True for an address, also one without its scheme that has a user and a password.

    With `doubtful` also for what only looks like one, such as host:80/path, and holds something to hide.
    """
    bare = clean_spec(name)
    if scheme_of(bare) is not None:
        return True
    looks = _LOGIN.match(bare) or (doubtful and (HOST.match(bare) or _ODD.search(bare)))
    return bool(looks) and redact(bare) != bare


def clean_spec(spec: str) -> str:
    """The name of an address, a camera or an embedded source without a clipboard's blanks and quotes."""
    bare = spec.strip(_AROUND)
    return bare if scheme_of(bare) or bare in EMBEDDED or _WEBCAM.match(bare) else spec


def source_name(spec: str | os.PathLike[str]) -> str:
    """The name of a source as it is opened.

    Raises:
        UsageError: it is neither a text nor a path.
    """
    if not isinstance(spec, (str, bytes, os.PathLike)):
        example = f'"webcam:{spec}"' if isinstance(spec, int) else KNOWN_SOURCES
        raise UsageError(f"a source is named by a text or path, such as {example}; not by {spec!r}")
    name = clean_spec(os.fsdecode(spec))
    if scheme_of(name) == "file":
        parts = urlsplit(name)
        return url2pathname(parts.path) if parts.netloc in ("", "localhost") else name
    return name


def shown_path(path: Path) -> str:
    """A path as it may be shown: whole, unless it looks like an address."""
    name = str(path)
    return redact(name) if is_address(name, doubtful=True) else name


def redact(spec: str) -> str:
    """The part of a source's name that may be shown or stored.

    Of an address these are scheme, host and port, and such parts of the path as are known to be no
    secret (`SHOWN_WORDS`, short numbers, usual suffixes); of one that cannot be taken apart without
    doubt, its scheme. Names of cameras, files and folders that are there are returned as they are. Of
    one that is not there, the folders that are, and a plain name in them; what cannot be printed (line
    breaks, bytes that are no text) is escaped.
    """
    bare = clean_spec(spec)
    scheme = scheme_of(bare)
    if scheme is None:
        shown = _shown_name(bare)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    if scheme not in _SHOWN_SCHEMES:
        return f"{HIDDEN}://{HIDDEN}"
    parts = split_address(bare)
    if parts is None:
        return f"{scheme}://{HIDDEN}"
    user, place, path, query = parts
    shown_path = "/".join(_shown_segment(segment) for segment in path.split("/"))
    return f"{scheme}://{f'{HIDDEN}@' if user else ''}{place}{shown_path}{f'?{HIDDEN}' if query else ''}"


def split_address(address: str) -> tuple[str, str, str, str] | None:
    """User and password, host and port, path, query of an address; None if that is in doubt.

    It is if an `@` comes behind the host: then a `#`, `/` or `?` before it may belong to a password.
    """
    found = _PARTS.match(address)
    if found is None or "@" in found["behind"] or _BLANKS.search(address):
        return None
    path, _, query = found["behind"].partition("#")[0].partition("?")
    return found["user"] or "", found["place"], path, query or found["behind"].partition("#")[2]


def spellings(name: str) -> Iterator[Path]:
    """Paths that a name may stand for: itself first, then as shells and file managers write it."""
    if not name:
        return
    yield Path(name)
    bare = name.strip().strip("\"'")  # as a file manager copies it
    with suppress(ValueError):
        yield Path(os.path.expanduser(name))
        yield Path(os.path.expanduser(bare))
    # macOS writes letters and their accents apart, keyboards as one.
    for form in ("NFC", "NFD"):
        yield Path(normalize(form, bare))
        yield Path(bare).parent / normalize(form, Path(bare).name)


def _shown_name(name: str) -> str:
    """A name without scheme: what is neither a camera nor there, nor taken apart, is hidden."""
    camera = _WEBCAM.match(name)
    if camera and camera["colon"] and not re.fullmatch(r"[0-9]{0,3}", camera["number"]):
        return f"webcam:{HIDDEN}"
    if camera or name in EMBEDDED or any(map(os.path.lexists, spellings(name))):
        return name
    if HOST.match(name):
        return redact(f"http://{name}").removeprefix("http://")
    path = Path(name)
    there = next((parent for parent in path.parents if os.path.lexists(parent)), Path())
    *above, last = path.relative_to(there).parts or ("",)
    media = os.path.splitext(last)[1].lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    if not above and (media or path.name == name) and (_PLAIN_FILE if media else _PLAIN).match(last):
        return name
    return str(there.joinpath(*map(_shown_segment, (*above, last))))


def _shown_segment(segment: str) -> str:
    stem, dot, suffix = segment.rpartition(".")
    known = dot and f".{suffix.lower()}" in IMAGE_SUFFIXES | VIDEO_SUFFIXES | _PAGE_SUFFIXES
    name, tail = (stem, f".{suffix}") if known else (segment, "")
    words = [word for word in re.split(r"[-_]|(?<=[A-Za-z])(?=[0-9])", name) if word]
    harmless = all(word.lower() in SHOWN_WORDS or (word.isdigit() and len(word) <= 3) for word in words)
    return (name if harmless else HIDDEN) + tail


def webcam_index(spec: str) -> int | None:
    """N of "webcam:N" or "/dev/videoN" (ANY_WEBCAM for "webcam"), None where the spec is something else.

    Raises:
        UsageError: What follows "webcam:" is not a number.
    """
    found = _WEBCAM.match(spec)
    if found is None:
        return None
    number = found["device"] or found["number"] or ""
    if number.isascii() and number.isdigit() and int(number) < 1000:
        return int(number)
    if found["colon"]:
        raise UsageError(
            "a webcam is called webcam (the first that works), webcam:0, webcam:1, ...; "
            f"{redact(spec)!r} is not"
        )
    return ANY_WEBCAM


def check_not_empty(path: Path) -> None:
    """Check that a file holds something.

    Raises:
        SourceError: It has no bytes.
    """
    if path.stat().st_size == 0:
        raise SourceError(f"{redact(str(path))} is empty (0 bytes); copy or record it again")


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
