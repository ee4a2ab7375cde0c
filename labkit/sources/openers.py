"""`open_source`: opens any kind of source by its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from labkit.core.errors import SourceError, UsageError
from labkit.core.types import FITS, Fit, Frame, Size, check_timeout, is_number, is_positive, is_whole
from labkit.sources.camera_open import RecordingError
from labkit.sources.source import FrameReader, Picture, Source
from labkit.sources.spec import (
    ADDRESS_SCHEMES,
    DRAWN,
    EMBEDDED,
    HIDDEN,
    HOST,
    KNOWN_SOURCES,
    RECORDED_SUFFIXES,
    check_not_empty,
    check_size,
    redact,
    scheme_of,
    source_name,
    spellings,
    split_address,
    webcam_index,
)

DEFAULT_SIZE: Size = (640, 480)
NOMINAL_FPS = 30.0
"""Rate of the embedded sources unless another is given."""


def open_source(
    spec: str | os.PathLike[str],
    size: Size | None = DEFAULT_SIZE,
    *,
    fit: Fit = "letterbox",
    seed: int = 0,
    noise: float = 0.0,
    fps: float | None = None,
    loop: bool = False,
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 2.0,
    limit: int | None = None,
) -> Source:
    """Open a stream of frames.

    Args:
        spec: "webcam" (the first that gives a picture), "webcam:1", a video or image file, a folder
            of images, an http, https or rtsp address, "photos" (a pan over photographs), "scenes"
            (drawn, with ground truth) or "closeups" (the same with one object that fills the frame).
            For a file of such a name write "./photos".
        size: (width, height) px of the frames. None keeps what the source has; a camera or film keeps
            its first size, what is embedded has 640x480.
        fit: how an image of another shape is brought to `size`: "letterbox" (whole, with bars beside
            it), "crop" (its centre), "stretch" (whole, squeezed), "none" (not: as size=None).
            `Frame.placed` takes boxes back to the pixels of the original.
        seed, noise: of what is drawn.
        fps: what a webcam is asked for; elsewhere the nominal rate that is reported, if the
            source states none. Recordings are not paced by it; their frames have `time_s`.
        loop: start over at the end of a recording.
        open_timeout_s: longest wait for a camera or address to open.
        read_timeout_s: longest wait for a frame; a live source without a frame for so long, or
            for 2 s, is reported as lost.
        limit: end after so many frames.

    Raises:
        UsageError: An argument is outside its range.
        SourceError: The source is not there, or cannot be read.

    Example:
        >>> import labkit
        >>> with labkit.open_source("scenes", size=(320, 240)) as source:
        ...     frame = next(source)
        >>> frame.image.shape
        (240, 320, 3)
    """
    name = source_name(spec)
    if fit not in FITS:
        raise UsageError(f"fit is {', '.join(FITS)}, not {fit!r}")
    size = check_size(size) if fit != "none" else None
    _check(noise=noise, fps=fps, limit=limit, open_timeout_s=open_timeout_s, read_timeout_s=read_timeout_s)
    if noise and name not in DRAWN:
        raise UsageError(f"noise is for {' and '.join(DRAWN)} only, not for {redact(name)}")
    if name == "browser":
        raise SourceError(
            "the browser's camera is available only in the live view of a notebook; "
            'choose it there, or use "webcam" for a camera of the machine that runs Python'
        )
    if name in EMBEDDED:
        size = size or DEFAULT_SIZE
        return Source(_embedded(name, size, seed, noise), name, size, fps=fps or NOMINAL_FPS, limit=limit)
    reader, native = _open_reader(
        name, size, fps, loop, {"open_timeout_s": open_timeout_s, "read_timeout_s": read_timeout_s}
    )
    shown = getattr(reader, "shown", redact(name))  # which camera it is
    return Source(reader, shown, size or native, fit=fit, fps=fps, limit=limit)


def absolute_spec(spec: str | os.PathLike[str]) -> str:
    """The name of a source that means the same in every folder: of a file or folder its absolute path."""
    name = source_name(spec)
    if scheme_of(name) is not None or webcam_index(name) is not None or name in EMBEDDED:
        return name
    path = next(filter(os.path.exists, spellings(name)), None)
    if path is None and redact(name) != name:  # as a path it would not look like an address any more
        return name
    return str((path or Path(name)).absolute())


def first_frame(spec: str | os.PathLike[str], size: Size | None = DEFAULT_SIZE, *, seed: int = 0) -> Frame:
    """The first frame of a source, see `open_source`.

    Raises:
        SourceError: there is none.
    """
    with open_source(spec, size, seed=seed, limit=1) as source:
        for frame in source:
            return frame
    raise SourceError(f"{redact(os.fspath(spec))} has no frame")


def _open_reader(
    name: str, size: Size | None, fps: float | None, loop: bool, timeouts_s: dict[str, float]
) -> tuple[FrameReader, Size | None]:
    """The reader of a source, and the size of its frames if they have one in common."""
    index, scheme = webcam_index(name), scheme_of(name)
    if scheme is not None and scheme not in ADDRESS_SCHEMES:
        raise UsageError(f"{redact(name)}: addresses start with http, https or rtsp")
    if scheme is not None and split_address(name) is None:
        raise UsageError(
            f"{redact(name)} cannot be taken apart without doubt; in user, password, path and query "
            "write # as %23, / as %2F, ? as %3F, @ as %40, : as %3A, and a blank as %20"
        )
    from labkit.sources import camera, pictures, video

    if index is not None or (scheme is not None and not _is_recording(name)):
        try:
            live = camera.open_camera(name, size, fps, **timeouts_s)
        except RecordingError:
            pass  # nothing in the address says so, but it has an end: it is read as a file
        else:
            return live, live.size
    elif scheme is None:
        path = _existing(name)
        if path.is_dir():
            paths, skipped = pictures.images_in(path)
            read = partial(_pictures_in, timeouts_s=timeouts_s)
            return pictures.Images(paths, len(paths), loop=loop, skipped=skipped, read=read), None
        check_not_empty(path)
        # What is in a file counts, not its name; a name speaks for what nobody can read.
        named, count = path.suffix.lower() in pictures.PICTURE_SUFFIXES, pictures.count_pictures(path)
        if count or (named and not video.is_film(path)):
            return pictures.Images([path], count or 1, loop=loop), None
        name = str(path)
    recording = video.Video(name, redact(name), loop=loop, **timeouts_s)
    return recording, recording.size


def _pictures_in(path: Path, timeouts_s: dict[str, float]) -> Iterator[Picture]:
    """The pictures of a file in a folder; the frames of a film that only has a picture's name."""
    from labkit.sources import pictures, video

    try:
        yield from pictures.read_pictures(path)
    except SourceError:
        if not video.is_film(path):
            raise
        film = video.Video(str(path), redact(str(path)), loop=False, **timeouts_s)
        with closing(film):
            while (taken := film.take()) is not None:
                yield taken.image, 1 / (film.fps or NOMINAL_FPS)


def _embedded(name: str, size: Size, seed: int, noise: float) -> FrameReader:
    from labkit.sources import stills

    if name == "photos":
        return stills.Photos(size)
    return stills.Scenes(size, seed=seed, noise=noise, closeup=name == "closeups")


def _is_recording(address: str) -> bool:
    path = address.partition("?")[0].partition("#")[0]
    return Path(path).suffix.lower() in RECORDED_SUFFIXES


def _existing(name: str) -> Path:
    """The file or folder of a name, as it was probably meant.

    Raises:
        SourceError: There is none.
    """
    path = next(filter(os.path.exists, spellings(name)), None)
    if path is None:
        raise SourceError(_why_not_there(name))
    if not (path.is_dir() or path.is_file()):
        raise SourceError(f"{redact(name)} is neither a file nor a folder; a source is {KNOWN_SOURCES}")
    return path


def _why_not_there(name: str) -> str:
    shown = redact(name)
    shown = shown if len(shown) <= 200 else f"{shown[:100]}...{shown[-60:]}"
    hint = f" ({HIDDEN} stands for what may be a password)" if HIDDEN in shown else ""
    if os.path.islink(name):
        return f"{shown} is a link that leads nowhere; name the file itself"
    if name.isascii() and name.isdigit() and len(name) < 4:
        return f'there is no file or folder {shown!r}; the camera of that number is "webcam:{name}"'
    if HOST.match(name):
        return f'there is no file or folder {shown!r}{hint}; an address begins with "http://" or "rtsp://"'
    return f"there is no file or folder {shown!r}{hint}; a source is {KNOWN_SOURCES}"


def _check(
    *, noise: float, fps: float | None, limit: int | None, open_timeout_s: float, read_timeout_s: float
) -> None:
    if not is_number(noise, 0):
        raise UsageError(f"noise is 0 or more, not {noise!r}")
    if fps is not None and not is_positive(fps, 1000):
        raise UsageError(f"fps is above 0 and at most 1000, not {fps!r}")
    if limit is not None and not is_whole(limit, 0):
        raise UsageError(f"limit is a number of frames, 0 or more, not {limit!r}")
    check_timeout("open_timeout_s", open_timeout_s)
    check_timeout("read_timeout_s", read_timeout_s)
