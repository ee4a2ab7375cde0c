"""Picture files as frames: any depth and mode, upright, several pictures per file."""

from __future__ import annotations

import ctypes
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import SourceError
from labkit.core.terminal import printable
from labkit.sources.convert import on_white, to_rgb
from labkit.sources.source import Picture, RawFrame
from labkit.sources.spec import IMAGE_SUFFIXES, VIDEO_SUFFIXES, check_not_empty, natural_order, redact
from labkit.sources.stills import LosslessReader

_READ_ELSEWHERE = {
    ".jxl": "the package pillow-jxl-plugin",
    ".svg": "a browser",
    ".exr": "the package OpenEXR",
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "the package rawpy"),
}
PICTURE_SUFFIXES = IMAGE_SUFFIXES | _READ_ELSEWHERE.keys()
"""Of pictures, those included that are refused with the name of what reads them."""

_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OPENCV_MARKS = (*_TIFF_MARKS, b"#?", b"PF\n")  # HDR, PFM: deep colour, which Pillow lacks
_WHITES = (1.0, 255.0, 65535.0)
_BLOCK = 1 << 20  # values that are scaled at a time
_MOST_VALUES = 1 << 28  # of a page of a TIFF
_HEIF_MARKS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"))
_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF: marks a page that is a smaller copy of another
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO, _PLANES, _APART = 258, 262, 0, 284, 2


class Images(LosslessReader):
    """Picture files in the order given; a file that holds several pictures gives several frames.

    Args:
        paths: of the files.
        length: number of pictures, as far as it is known.
        loop: start over after the last.
        skipped: number of files beside them that are no pictures.
        read: yields the pictures of a file; `read_pictures` by default.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        length: int,
        *,
        loop: bool,
        skipped: int = 0,
        read: Callable[[Path], Iterator[Picture]] | None = None,
    ) -> None:
        super().__init__(None if loop else length)
        hush_pillow()  # before `take` listens: what it adds there would hide the first file's damage
        self._paths, self._loop, self._skipped, self._read = paths, loop, skipped, read or read_pictures
        self._next = 0  # file
        self._pictures: Iterator[Picture] | None = None
        self._clock_s = 0.0  # of animations
        self._damaged: dict[Path, str] = {}

    @property
    def note(self) -> str:
        """A sentence on the files of which only a part could be read; empty if all were whole."""
        if not self._damaged:
            return ""
        path, why = next(iter(self._damaged.items()))
        more = f"; so are {len(self._damaged) - 1} more" if len(self._damaged) > 1 else ""
        return f"{redact(str(path))} is damaged and shown as far as it can be read ({why}){more}"

    def take(self) -> RawFrame | None:
        """The next picture, None after the last.

        Raises:
            SourceError: a file cannot be read; the next call goes on behind it.
        """
        while True:
            if self._pictures is None:
                if self._next == len(self._paths):
                    if not self._loop:
                        self.length = self.captured
                        return None
                    self._next = 0
                self._pictures = self._read(self._paths[self._next])
                self._next += 1
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                picture = next(self._pictures, None)
            self._note_damage(self._paths[self._next - 1], caught)
            if picture is not None:
                return self._frame(*picture)
            self._pictures = None

    def describe(self) -> dict[str, Any]:
        """Plain data: numbers of files, read and passed over."""
        files = {"files": len(self._paths), "files_skipped": self._skipped}
        return {"backend": "Pillow", **files, "loop": self._loop}

    def _note_damage(self, path: Path, caught: Sequence[warnings.WarningMessage]) -> None:
        said = [str(each.message) for each in caught if each.category is UserWarning]
        if said and path not in self._damaged:
            self._damaged[path] = printable(" ".join(said[0].split()))
            if len(self._damaged) == 1:
                logging.getLogger("labkit").warning("%s", self.note)

    def _frame(self, image: NDArray[np.uint8], duration_s: float | None) -> RawFrame:
        self.captured += 1
        if self.length is not None:  # several pictures in a file of a folder come to light as it is read
            self.length = max(self.length, self.captured + len(self._paths) - self._next)
        begins_s = self._clock_s
        self._clock_s += duration_s or 0
        return RawFrame(image, time.perf_counter(), time_s=None if duration_s is None else begins_s)


def images_in(folder: Path) -> tuple[list[Path], int]:
    """The picture files of a folder in natural order, and the number of other files.

    They are those with a picture's name; where there is none, what holds pictures whatever its name.
    Hidden files are neither: `._IMG_0.jpg` beside a picture is macOS's note on it.

    Raises:
        SourceError: There is none.
    """
    try:
        with os.scandir(folder) as entries:  # it tells files from folders without asking for each
            files = [Path(each.path) for each in entries if each.name[0] != "." and _is_file(each)]
    except OSError as error:
        raise SourceError(
            f"cannot list the folder {redact(str(folder))}: {error.strerror}; check its permissions"
        ) from error
    named = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    images = named or [path for path in files if count_pictures(path)]
    if images:
        return sorted(images, key=natural_order), len(files) - len(images)
    films = sorted((path for path in files if path.suffix.lower() in VIDEO_SUFFIXES), key=natural_order)
    if films:
        raise SourceError(
            f"the folder {redact(str(folder))} holds films ({len(films)}) and no images; name one, such as "
            f"{redact(str(films[0]))}, or give the folder to labkit batch"
        )
    kinds = " ".join(sorted(IMAGE_SUFFIXES))
    raise SourceError(
        f"the folder {redact(str(folder))} holds no images ({kinds}); give another one, or a video file"
    )


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def count_pictures(path: Path) -> int:
    """Number of pictures in a file, whatever its name; 0 if it holds none, or films."""
    from PIL import Image

    _register_heif()
    suffix = path.suffix.lower()
    try:
        with Image.open(path) as opened:
            # TGA has no mark of its own; Pillow takes some films for it, and decodes no MPEG at all.
            film = opened.format in ("MPEG", "TGA") and suffix != ".tga"
            film = film or (opened.format == "JPEG" and suffix in (".mjpeg", ".mjpg"))
            return 0 if film else _count_pages(opened)
    except Exception:  # whatever a decoder raises: it is none, or damaged
        head = _head(path)
        return int(head.startswith(_OPENCV_MARKS) or head[4:].startswith(_HEIF_MARKS))


def read_pictures(path: Path) -> Iterator[Picture]:
    """Read the pictures of a file, upright as its EXIF data says, as a viewer shows them.

    Transparent parts become white. Integers of 32 bits and floats are scaled so that the smallest
    of 1, 255 and 65535 that holds all values is white, else from the lowest value to the highest.
    Damage behind the first picture ends them, with a warning.

    Yields:
        (H, W, 3) uint8 RGB, and seconds that an animation shows it (None for others).

    Raises:
        SourceError: It cannot be read; the message names the file.
    """
    from PIL import Image

    check_not_empty(path)
    _register_heif()
    n_read = 0
    try:
        with Image.open(path) as opened:
            if opened.format == "TIFF" and path.suffix.lower() in _READ_ELSEWHERE:
                raise ValueError("its TIFF part is a preview")
            for _ in _pages(opened):
                yield as_shown(opened), _duration_s(opened)
                n_read += 1
    except Exception as error:  # whatever a decoder raises about a damaged file
        if n_read:
            warnings.warn(f"behind picture {n_read}: {_words(error)}", stacklevel=1)
            return
        deep = _read_deep(path)
        if not deep:
            raise SourceError(_why_not(path, error)) from error
        for image in deep:
            yield image, None


def _pages(opened: Any) -> Iterator[int]:
    """Turns to each picture that a viewer shows, and yields its number."""
    # The still of an animated PNG is for those that know no animations.
    for page in count(1 if opened.info.get("default_image") else 0):
        try:
            opened.seek(page)
        except EOFError:
            return
        # A smaller copy; the first page of a TIFF is shown whatever it is.
        if page and opened.format == "TIFF" and int(opened.tag_v2.get(_SUBFILE_TYPE, 0)) & _REDUCED:
            continue
        yield page
        if opened.format == "MPO":  # a phone's JPEG: its depth or brightness maps follow the photograph
            return


def _count_pages(opened: Any) -> int:
    """Number of pictures, as far as it can be told; one where a file is damaged behind its first."""
    if opened.format in ("MPO", "TIFF"):
        return sum(1 for _ in _pages(opened))
    with suppress(Exception):  # whatever a decoder raises
        return int(getattr(opened, "n_frames", 1)) - bool(opened.info.get("default_image"))
    return 1


def as_shown(opened: Any) -> NDArray[np.uint8]:
    """A picture that Pillow has opened as (H, W, 3) uint8 RGB, upright, what is transparent in white."""
    from PIL import ImageOps

    try:
        image = ImageOps.exif_transpose(opened)
    except Exception:  # damaged EXIF data: the picture itself may be whole
        image = opened.copy()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image)
        shown = to_rgb(values.astype(np.uint16) if image.mode[1:] else _scaled(values), "rgb")
        return ~shown if _tag(opened, _PHOTOMETRIC) == _WHITE_IS_ZERO else shown
    if _tag(opened, _PLANES) == _APART and max(_tag(opened, _BITS) or (8,)) > 8:
        raise ValueError("its planes of more than 8 bits are apart")  # which Pillow mistakes for 8 bits
    image = _in_srgb(image)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _tag(opened: Any, number: int) -> Any:
    """A tag of a TIFF; None for other pictures, and where it is not there."""
    return opened.tag_v2.get(number) if opened.format == "TIFF" else None


def _in_srgb(image: Any) -> Any:
    """A picture whose embedded profile says what its colours mean, as a screen shows them."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    transform = _to_srgb(profile, image.mode)
    return image if transform is None else transform.apply(image)


@lru_cache(maxsize=4)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """Pillow's transform from a profile to sRGB; None for sRGB itself, and for what is no such profile."""
    from PIL import ImageCms

    try:
        given = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(given):
            return None
        shown = mode.replace("CMYK", "RGB")
        return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, shown)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _scaled(values: NDArray[Any]) -> NDArray[np.uint8]:
    finite = np.isfinite(values)
    low = float(values.min(where=finite, initial=values.flat[finite.argmax()]))
    high = float(values.max(where=finite, initial=values.flat[finite.argmax()]))
    white = next((white for white in _WHITES if low >= 0 and high <= white), None)
    black, white = (0.0, white) if white is not None else (low, high)
    shown = np.empty(values.shape, np.uint8)
    n_blocks = max(1, values.size // _BLOCK)  # a large picture's copies fill the memory
    for block, place in zip(np.array_split(values, n_blocks), np.array_split(shown, n_blocks), strict=True):
        share = (block.astype(np.float64) - black) / ((white - black) or 1)
        # Infinity is shown as the lightest or darkest, no number at all as black.
        place[:] = np.rint(255 * np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1))
    return shown


def _read_deep(path: Path) -> list[NDArray[np.uint8]]:
    """Pictures that Pillow lacks, colour of 16 bits or more among them; none if nothing here reads them."""
    head = _head(path)
    if path.suffix.lower() in _READ_ELSEWHERE or not head.startswith(_OPENCV_MARKS):
        return []
    try:
        return _read_tiff(path) if head.startswith(_TIFF_MARKS) else _read_by_opencv(path)
    except Exception:  # whatever a decoder raises about a damaged file
        return []


class _EndAtDamage(logging.Handler):
    """Ends a reader that would go on for minutes behind an error that it logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise what was logged."""
        raise RuntimeError(record.getMessage())


def _read_tiff(path: Path) -> list[NDArray[np.uint8]]:
    """Pages of a TIFF by tifffile; by OpenCV where tifffile cannot decompress them."""
    import tifffile

    log, guard = logging.getLogger("tifffile"), _EndAtDamage(logging.ERROR)
    log.addHandler(guard)
    try:
        with tifffile.TiffFile(path) as opened:
            all_pages: Any = opened.pages
            pages = [page for page in all_pages if not page.is_reduced]
            try:
                return [_tiff_page(page) for page in pages]
            except (KeyError, ValueError):
                if any(page.planarconfig == _APART and page.samplesperpixel > 1 for page in pages):
                    raise  # OpenCV makes noise of planes that are apart
        return _read_by_opencv(path)
    finally:
        log.removeHandler(guard)


def _tiff_page(page: Any) -> NDArray[np.uint8]:
    if page.size > _MOST_VALUES or page.axes not in ("YX", "YXS", "SYX"):
        raise RuntimeError("its header lies, or it is no picture")
    values = page.asarray()
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values.reshape(*values.shape[:2], -1)
    shown = to_rgb(_as_uint(values[:, :, : 3 if values.shape[2] > 2 else 1]), "rgb")
    return ~shown if page.photometric == _WHITE_IS_ZERO else shown


def _read_by_opencv(path: Path) -> list[NDArray[np.uint8]]:
    import cv2

    said = cv2.utils.logging  # what is wrong is told in one sentence, not in OpenCV's lines as well
    level = said.getLogLevel()
    said.setLogLevel(said.LOG_LEVEL_SILENT)
    try:
        _, images = cv2.imdecodemulti(np.fromfile(path, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    finally:
        said.setLogLevel(level)
    return [to_rgb(_as_uint(image)) for image in images]


def _as_uint(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype in (np.uint8, np.uint16) else _scaled(values)


def _why_not(path: Path, error: Exception) -> str:
    shown, head = redact(str(path)), _head(path)
    elsewhere = _READ_ELSEWHERE.get(path.suffix.lower())
    if elsewhere is not None:
        return f"{shown} is in a format that {elsewhere} reads; save it as PNG first"
    if not _register_heif() and head[4:].startswith(_HEIF_MARKS):
        return f"{shown} is a HEIC picture, which the package pillow-heif reads: pip install pillow-heif"
    what = "replace the file or take it out of the folder"
    if head.startswith(_TIFF_MARKS):
        what = "if it is whole, the packages tifffile and imagecodecs read it: save it as PNG"
    return f"cannot read the image {shown}: {_words(error)}; {what}"


def _words(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # which names the file once more
        return "what is in it is damaged, or of no known kind"
    return " ".join(str(error).split()) or type(error).__name__


def _duration_s(opened: Any) -> float | None:
    """Seconds that an animation shows its present picture; viewers take 0.1 where it says less than 0.02."""
    if not getattr(opened, "is_animated", False) or "duration" not in opened.info:
        return None
    seconds = float(opened.info["duration"]) / 1000
    return seconds if seconds >= 0.02 else 0.1


def _head(path: Path) -> bytes:
    """The first bytes of a file, which tell a format; none if it cannot be read."""
    try:
        with path.open("rb") as opened:
            return opened.read(12)
    except OSError:
        return b""


def _register_heif() -> bool:
    """Let Pillow read HEIC, the whole picture and not one of its tiles; False without pillow-heif."""
    hush_pillow()
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@cache
def hush_pillow() -> None:
    """Keep what Pillow and its TIFF library write about damaged files out of the terminal."""
    from PIL import Image

    for name in ("PIL", "tifffile"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=r"PIL\.")  # told by who reads a file
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    with suppress(AttributeError, OSError):  # Windows' wheels do not show their TIFF library
        library = ctypes.CDLL(Image.core.__file__)
        for handler in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
