"""Recorded video, from a file or an address: every frame, in order, with its own time.

PyAV reads it: it decodes what OpenCV's wheel lacks (AV1), says why a packet cannot be decoded, and
knows each frame's presentation time. A container's number of frames is an estimate; a recording
ends where the decoder ends.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import SourceError, UnavailableError
from labkit.core.terminal import printable
from labkit.sources.camera_open import connection_problem
from labkit.sources.convert import on_white
from labkit.sources.hdr_film import HLG, PQ, on_screen
from labkit.sources.source import RawFrame
from labkit.sources.spec import scheme_of

_MAX_PIXELS = 16384 * 16384
_KNOW_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Codecs whose usual decoder leaves transparency out, and the one that does not."""
_NO_FILMS = ("image2", "gif", "apng", "ico", "tty", "mjpeg", "hls", "dash", "concat", "sdp")
"""Formats of pictures, texts and lists that FFmpeg reads as films, beside those called after a "_pipe"."""
_UNSPECIFIED, _BT709, _BT601, _BT2020 = 2, 1, 5, 9
"""Matrix coefficients of ITU-T H.273."""
_MAX_GAPS = 100
"""Unreadable places in a row after which a file is read no further."""


class Video:
    """Reader of a recording, in the caller's thread, that drops nothing.

    Attributes:
        size: (width, height) px as shown: turned upright, with square pixels.
        length: number of frames: the container's estimate until the end was seen, then exact.
        damaged_packets: that could not be decoded and were skipped.
        damaged_frames: that hang on what is missing, and are shown as far as they can be decoded.
    """

    live = False
    dropped = 0

    def __init__(
        self, address: str, shown: str, *, loop: bool, open_timeout_s: float, read_timeout_s: float
    ) -> None:
        self._address = address if scheme_of(address) is not None else str(Path(address).absolute())
        self._shown = shown
        self._loop = loop
        self._timeouts_s = (open_timeout_s, read_timeout_s)
        self._closed = threading.Event()
        # Closing a container while another thread reads it crashes the process.
        self._in_use = threading.Lock()
        self.captured = 0
        self.damaged_packets = self.damaged_frames = 0
        self._seen_whole = False
        self._in_pass = 0  # frames since the start or the last start over
        self._began_s = 0.0  # of this pass, in the time of the whole
        self._last_s = 0.0
        self._open()
        self.length = None if loop else self._stated
        # A first frame that was really decoded: a header alone proves nothing.
        self._ahead = self._read()
        if self._ahead is None:
            self.close()
            raise SourceError(f"{shown} holds no frame that can be read; it is damaged, or not a video")
        self.size = (self._ahead[0].shape[1], self._ahead[0].shape[0])

    @property
    def note(self) -> str:
        """A sentence on what is damaged; empty where all was decoded."""
        said = []
        if n := self.damaged_packets:
            said.append(f"{n} damaged {'packet was' if n == 1 else 'packets were'} skipped")
        if n := self.damaged_frames:
            said.append(f"{n} {'frame was' if n == 1 else 'frames were'} decoded only in part")
        return f"{self._shown}: {' and '.join(said)}" if said else ""

    def take(self) -> RawFrame | None:
        """The next frame, None at the end.

        Raises:
            SourceError: The recording cannot be read on.
        """
        with self._in_use:
            try:
                if self._closed.is_set():
                    return None
                taken, self._ahead = self._ahead, None
                taken = taken or self._read()
                if taken is None:
                    if self.note and not self._seen_whole:
                        logging.getLogger("labkit").warning("%s", printable(self.note))
                    self._seen_whole = True
                    if not self._loop:
                        self.length = self.captured
                        return None
                    self._restart()
                    taken = self._read()
                    if taken is None:
                        raise SourceError(f"{self._shown} cannot be read from its start again; open it anew")
                self._in_pass += 1
                self.captured += 1
                if self.length is not None:
                    self.length = max(self.length, self.captured)
                image, time_s = taken
                return RawFrame(image, time.perf_counter(), time_s=time_s)
            finally:
                if self._closed.is_set():
                    self._container.close()

    def describe(self) -> dict[str, Any]:
        """Plain data: backend, size, the container's number of frames, what is damaged."""
        return {
            "backend": "PyAV",
            "stored_size": list(self.size),
            "stored_frames": self._stated,
            "damaged_packets": self.damaged_packets,
            "damaged_frames": self.damaged_frames,
            "loop": self._loop,
        }

    def close(self) -> None:
        """Releases the file now, or as soon as the read in progress is over."""
        self._closed.set()
        if self._in_use.acquire(timeout=0.2):
            try:
                self._container.close()
            finally:
                self._in_use.release()

    def _open(self) -> None:
        try:
            import av
            from av.video.reformatter import VideoReformatter
        except ImportError as error:
            raise UnavailableError(f"{self._shown} is read by the package av: pip install av") from error
        began_s = time.perf_counter()
        try:
            container = av.open(self._source(), timeout=self._timeouts_s, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
            why = self._why_not(error, time.perf_counter() - began_s)
            raise SourceError(f"{self._shown} {why}") from None  # its own text holds the whole address
        streams = _films(container)
        if not streams:
            container.close()
            raise SourceError(f"{self._shown}: no video stream found (is it audio only?); name a video")
        self._container, self._stream = container, max(streams, key=_rank)
        if self._stream.codec_context is None:
            container.close()
            raise SourceError(f"{self._shown} is in a format that PyAV cannot decode; convert it to MP4")
        self._decoder = self._stream.codec_context
        if self._stream.metadata.get("alpha_mode") == "1" and self._decoder.name in _KNOW_ALPHA:
            self._decoder = av.CodecContext.create(_KNOW_ALPHA[self._decoder.name], "r")
        self._decoder.thread_type = "AUTO"
        # HEVC would leave out every frame that hangs on a damaged one, up to the next key frame.
        self._decoder.options = {"max_pixels": str(_MAX_PIXELS), "flags": "+output_corrupt"}
        # One for all frames, without threads of its own: setting up costs more than converting.
        self._reformatter = VideoReformatter()
        self._frames = _deinterlaced(self._decode(), self._stream)
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self.fps = rate if 0 < rate < 1000 else None
        self._stated = self._stated_frames()
        self._first_s = _seconds(self._stream.start_time, self._stream)

    def _source(self) -> Any:
        try:
            self._address.encode()
        except UnicodeEncodeError:  # a file name that is no UTF-8
            return open(self._address, "rb")  # closed with the container
        return self._address

    def _why_not(self, error: Exception, spent_s: float) -> str:
        import av

        if scheme_of(self._address) is not None:
            words = error.strerror if isinstance(error, av.FFmpegError) else str(error)
            why = f"the host answers, but not with a video ({words}); check path, user and password"
            # FFmpeg that was interrupted in a wait finds fault with what had come until then.
            open_s, read_s = self._timeouts_s
            cut_off = isinstance(error, av.InvalidDataError | av.EOFError) and spent_s >= min(open_s, read_s)
            if cut_off or isinstance(error, av.ExitError):
                why = (
                    f"the host stalled, and its beginning did not come within {spent_s:.1f} s; try again, or "
                    f"raise --open-timeout ({open_s:g} s) or --read-timeout ({read_s:g} s)"
                )
            return f"cannot be opened: {connection_problem(self._address) or why}"
        if isinstance(error, OSError):
            return f"cannot be opened ({error.strerror}); check the file and its permissions"
        return (
            "is not a video that can be read here; "
            "play it elsewhere to see whether it is whole, or convert it to MP4"
        )

    def _stated_frames(self) -> int | None:
        stream, rate = self._stream, self.fps
        count = stream.frames
        if not count and rate:
            duration_s = _seconds(stream.duration, stream)
            if duration_s is None and self._container.duration is not None:
                duration_s = self._container.duration / 1e6
            count = round((duration_s or 0) * rate)
        return int(count) if 0 < count < 1e9 else None

    def _decode(self) -> Iterator[Any]:
        """Decoded frames; a packet that cannot be decoded is counted and skipped.

        So is what comes before the first key frame, of which no picture can be made.
        """
        import av

        begun = False
        for packet in self._packets():
            try:
                for frame in self._decoder.decode(packet if packet.size else None):
                    begun = begun or frame.key_frame or not frame.is_corrupt
                    if begun:
                        self.damaged_frames += frame.is_corrupt and not self._seen_whole
                        yield frame
            except av.FFmpegError:
                self.damaged_packets += not self._seen_whole

    def _packets(self) -> Iterator[Any]:
        import av

        gaps, cut_off = 0, None
        while gaps < _MAX_GAPS:
            try:
                for packet in self._container.demux(self._stream):
                    gaps = 0
                    if cut_off is not None and packet.size:  # not the last one, so not where the file ends
                        yield cut_off
                    elif cut_off is not None:  # its error would cost the frames that other threads decode
                        self.damaged_packets += not self._seen_whole
                    cut_off = packet if packet.size and packet.is_corrupt else None
                    if cut_off is None:
                        yield packet
                return
            except av.ExitError:
                raise SourceError(
                    f"{self._shown} has sent nothing for {self._timeouts_s[1]:g} s after {self._in_pass} "
                    "frames; check the connection, or raise the read time-out (--read-timeout)"
                ) from None
            except (av.InvalidDataError, av.EOFError):  # an unreadable place: what follows may be whole
                gaps += 1
                self.damaged_packets += gaps == 1 and not self._seen_whole
            except av.FFmpegError as error:
                raise SourceError(
                    f"{self._shown} cannot be read on after {self._in_pass} frames ({error.strerror}); "
                    "check the file or the connection"
                ) from None

    def _read(self) -> tuple[NDArray[np.uint8], float] | None:
        """(H, W, 3) RGB and its time in s, None at the end."""
        import av

        try:
            frame = next(self._frames, None)
            if frame is None:
                return None
            image = self._as_shown(frame)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise SourceError(
                f"{self._shown} cannot be read on after {self._in_pass} frames ({error}); convert it to MP4"
            ) from error
        at_s = _seconds(frame.pts, frame if frame.time_base else self._stream)
        if at_s is None:
            at_s = self._last_s + self._period_s() if self._in_pass else self._began_s
        else:
            self._first_s = at_s if self._first_s is None else self._first_s
            at_s += self._began_s - self._first_s
        # Time does not run backwards, whatever a damaged stamp says.
        self._last_s = max(at_s, self._last_s)
        return image, self._last_s

    def _as_shown(self, frame: Any) -> NDArray[np.uint8]:
        aspect = frame.sample_aspect_ratio if hasattr(frame, "sample_aspect_ratio") else None
        aspect = aspect or self._stream.sample_aspect_ratio
        width = frame.width
        if aspect and aspect != 1 and 0.1 < aspect < 10:  # pixels that are not square
            width = max(1, round(width * aspect))
        alpha = any(component.is_alpha for component in frame.format.components)
        kind = "rgba" if alpha else "rgb24"
        if frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb:
            frame.colorspace = _likely_matrix(frame)
        shown = self._reformatter.reformat(frame, width=width, format=kind, threads=1)
        image = np.asarray(shown.to_ndarray(), np.uint8)
        if frame.color_trc in (PQ, HLG) and not alpha:
            image = on_screen(image, frame.color_trc)
        return np.ascontiguousarray(_upright(on_white(image) if alpha else image, frame))

    def _period_s(self) -> float:
        return 1 / (self.fps or 30.0)

    def _restart(self) -> None:
        # Opening again is exact; seeking to frame 0 is not, for some containers.
        self._container.close()
        self._began_s = self._last_s = self._last_s + self._period_s()
        self._in_pass = 0
        self._open()


def is_film(path: Path) -> bool:
    """True if a file, whatever its name, holds moving pictures by its content."""
    try:
        import av
    except ImportError:  # nothing here could read it
        return False
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            name = container.format.name
            return bool(_films(container)) and name not in _NO_FILMS and not name.endswith("_pipe")
    except (av.FFmpegError, OSError, ValueError, OverflowError):
        return False


def _films(container: Any) -> list[Any]:
    """The video streams of a file; a cover picture beside music is one to FFmpeg."""
    return [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]


def _likely_matrix(frame: Any) -> int:
    """The colour matrix that players assume where a film states none, by its size or brightness curve."""
    if frame.color_trc in (PQ, HLG):
        return _BT2020
    return _BT709 if frame.width >= 1280 or frame.height > 576 else _BT601


def _rank(stream: Any) -> tuple[bool, int]:
    """Players show the stream that is marked as the default; where none is, the largest is taken."""
    decoder = stream.codec_context
    pixels = decoder.width * decoder.height if decoder is not None else 0
    return bool(stream.disposition & stream.disposition.default), pixels


def _upright(image: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """An image turned and mirrored as its film says (display matrix)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    right_x, right_y, _, down_x, down_y = struct.unpack_from("=5i", bytes(matrix))
    if (right_x, down_y) == (0, 0):
        image = image.transpose(1, 0, 2)
        right_x, down_y = down_x, right_y
    elif (right_y, down_x) != (0, 0):  # no quarter turn: players show it as it is stored
        return image
    return image[:: -1 if down_y < 0 else 1, :: -1 if right_x < 0 else 1]


def _deinterlaced(frames: Iterator[Any], stream: Any) -> Iterator[Any]:
    """Frames, of which those of two half pictures, taken one after the other, become one without combs."""
    graph, layout = None, None
    for frame in chain(frames, [None]):
        shape = frame and (frame.width, frame.height, frame.format.name)
        if graph is not None and shape != layout:  # what the filter still holds
            yield from _filtered(graph, None)
            graph = None
        if frame is None:
            return
        if graph is None and frame.interlaced_frame and min(frame.width, frame.height) >= 4:
            graph, layout = _deinterlacer(frame, stream), shape
        yield from [frame] if graph is None else _filtered(graph, frame)


def _deinterlacer(frame: Any, stream: Any) -> Any:
    import av

    graph = av.filter.Graph()
    begin = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base
    )
    graph.link_nodes(begin, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _filtered(graph: Any, frame: Any) -> Iterator[Any]:
    """The frames that a filter gives for a frame, or at the end for None."""
    import av

    graph.push(frame)
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield graph.vpull()


def _seconds(stamp: int | None, stream: Any) -> float | None:
    return None if stamp is None else float(stamp * stream.time_base)
