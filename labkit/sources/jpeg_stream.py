"""JPEG pictures over HTTP, as cameras send them: multipart in any dialect, bare, or one per request.

Pictures are found by JPEG's own markers, so that boundaries and lengths, which cameras write in many
wrong ways, do not matter.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import SourceError
from labkit.sources.pictures import as_shown, hush_pillow
from labkit.sources.spec import redact, split_address

_CHUNK = 1 << 16
_MOST_BYTES = 64 * 2**20
_SNAPSHOT_PERIOD_S = 0.1
_BUSY = (429, 500, 502, 503, 504)
_START = b"\xff\xd8\xff"
_MOST_PIXELS = 512
"""Of a JPEG in a byte: a bit for a block of 8x8. Filling what a lying header tells takes up to a minute."""


class NoJpegStreamError(Exception):
    """The answer is something else than JPEG pictures, which another reader may know."""


class JpegStream:
    """Capture of the pictures at an http or https address; each wait has one deadline.

    Args:
        address: with user and password, if the camera wants them (Basic or Digest).
        open_timeout_s: longest wait for the answer's header, all of it.
        read_timeout_s: longest wait for a picture, all of it.

    Raises:
        SourceError: it does not answer, or refuses.
        OSError: there is no connection to it.
        NoJpegStreamError: it sends something else.
    """

    def __init__(self, address: str, open_timeout_s: float, read_timeout_s: float) -> None:
        self._shown = redact(address)
        self._open_s, self._read_s = open_timeout_s, read_timeout_s
        self._sockets: list[socket.socket] = []
        self._buffer = bytearray()
        self._picture = b""
        self._requested_s = 0.0
        self._stated_length = self._over = False
        user, place, path, query = split_address(address) or ("", "", "", "")
        scheme = address.partition("://")[0].lower()
        self._url = f"{scheme}://{place}{path or '/'}{f'?{query}' if query else ''}"
        self._user = user
        self._opener = self._make_opener(user)
        self._response = self._request()
        # What a camera writes may hold anything, codes that a terminal obeys included.
        kind = re.sub(r"[^a-z0-9.+/-].*", "", self._response.headers.get_content_type(), flags=re.DOTALL)
        stated = self._response.headers.get("Content-Type") is not None
        if self._stated_length and (not stated or kind == "application/octet-stream"):
            kind = "image/jpeg" if self._response.peek(3)[:3] == _START else kind
        self._snapshot = kind.startswith("image/")
        jpeg = kind.startswith("multipart/") or kind in ("image/jpeg", "image/jpg") or "jpeg" in kind
        self._whole = self._snapshot and not jpeg  # PNG, WebP, ...: a picture ends where its answer does
        if not jpeg and not self._whole and stated:
            self.release()
            if kind.startswith(("text/", "application/json", "application/xml")):
                raise SourceError(f"{self._shown} sends {kind}, not a video; check the path, or log in first")
            raise NoJpegStreamError(f"it sends {kind}, not a video; check the path")

    def grab(self) -> bool:
        """Wait for the next picture; False at the end of the stream.

        Raises:
            SourceError: none came within the deadline.
        """
        until_s = time.perf_counter() + self._read_s
        while True:
            taken = self._take()
            if taken is not None:
                self._picture = taken
                if self._snapshot and self._stated_length:
                    self._end_response()
                return True
            if self._response is None:
                if not self._snapshot or self._over:
                    return False
                self._request_again(until_s)
            if len(self._buffer) > _MOST_BYTES:
                raise SourceError(f"{self._shown} sends no JPEG pictures; check the path")
            self._buffer += self._receive(until_s)

    def _take(self) -> bytes | None:
        if not self._whole:
            return take_jpeg(self._buffer)
        if self._response is not None or not self._buffer:
            return None
        picture = bytes(self._buffer)
        self._buffer.clear()
        return picture

    def _request_again(self, until_s: float) -> None:
        """Ask for the next snapshot; a camera that says that it is busy is asked again until the deadline."""
        while True:
            time.sleep(max(0.0, self._requested_s + _SNAPSHOT_PERIOD_S - time.perf_counter()))
            try:
                self._response = self._request()
            except SourceError as error:
                code = getattr(error.__cause__, "code", None)
                if code not in _BUSY or self._over or time.perf_counter() > until_s:
                    raise
            else:
                return

    def retrieve(self) -> tuple[bool, NDArray[Any]]:
        """Decode the picture: True and (H, W, 3) BGR; False for a damaged one."""
        from PIL import Image

        hush_pillow()
        try:
            with Image.open(io.BytesIO(self._picture)) as opened:
                room = _MOST_PIXELS * len(self._picture)
                if opened.format == "JPEG" and opened.width * opened.height > room:
                    raise ValueError("its header lies")
                return True, as_shown(opened)[:, :, ::-1]
        except Exception:  # whatever a decoder raises about a damaged picture
            return False, np.empty((0, 0, 3), np.uint8)

    def interrupt(self) -> None:
        """End the stream, and a wait for it in another thread."""
        self._over = True
        self._cut()

    def _cut(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close the connection."""
        self.interrupt()
        self._end_response()

    def _receive(self, until_s: float) -> bytes:
        assert self._response is not None
        left_s = until_s - time.perf_counter()
        try:
            if left_s <= 0:
                raise TimeoutError
            for one in self._sockets[-1:]:
                one.settimeout(left_s)
            if self._response.chunked:  # the sizes between the chunks may come a byte at a time
                with self._cut_after(left_s) as too_late:
                    data = self._response.read1(_CHUNK)
                if too_late.is_set():
                    raise TimeoutError
            else:
                data = self._response.read1(_CHUNK)
        except TimeoutError as error:
            raise SourceError(
                f"{self._shown} has sent no picture for {self._read_s:g} s; restart the camera, "
                "or raise the read time-out (--read-timeout)"
            ) from error
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            data = b""
        if not data:
            self._end_response()
        return data

    def _end_response(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    @contextmanager
    def _cut_after(self, seconds: float) -> Iterator[threading.Event]:
        """End a wait for the camera after so long, and say so; a socket's time-out is for each byte."""
        too_late = threading.Event()

        def cut() -> None:
            too_late.set()
            self._cut()

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield too_late
        finally:
            timer.cancel()

    def _request(self) -> Any:
        self._sockets.clear()
        self._requested_s = time.perf_counter()
        with self._cut_after(self._open_s) as too_late:
            try:
                response = self._opener.open(self._url, timeout=self._open_s)
                if too_late.is_set():  # it was cut off within its header, which counts as its end
                    response.close()
                    raise TimeoutError
            except urllib.error.HTTPError as error:
                error.close()
                said = _refusal(error, bool(self._user))
                raise SourceError(f"{self._shown} cannot be opened: {said}") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if too_late.is_set() or isinstance(getattr(error, "reason", error), TimeoutError):
                    raise SourceError(
                        f"{self._shown} has not answered within {self._open_s:g} s; it sends nothing, or a "
                        "part of a header; restart the camera, or raise the open time-out (--open-timeout)"
                    ) from error
                if isinstance(error, OSError):
                    raise
                why = f"it does not answer as HTTP wants ({type(error).__name__}); check address and port"
                raise NoJpegStreamError(why) from error
        # Cameras state lengths that are too short; the picture itself says where it ends.
        self._stated_length = response.length is not None
        response.length = None
        return response

    def _make_opener(self, user: str) -> urllib.request.OpenerDirector:
        plain: Any = urllib.request.HTTPHandler()
        secure: Any = urllib.request.HTTPSHandler()
        plain.http_open = partial(plain.do_open, self._noting(http.client.HTTPConnection))
        secure.https_open = partial(secure.do_open, self._noting(http.client.HTTPSConnection))
        handlers = [plain, secure]
        if user:
            name, _, password = user.partition(":")
            known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            known.add_password(None, self._url, unquote(name), unquote(password))
            handlers.append(urllib.request.HTTPBasicAuthHandler(known))
            handlers.append(urllib.request.HTTPDigestAuthHandler(known))
        return urllib.request.build_opener(*handlers)

    def _noting(self, kind: type[http.client.HTTPConnection]) -> type[http.client.HTTPConnection]:
        """A kind of connection whose socket is noted, so that another thread can end a wait for it."""
        sockets = self._sockets

        class Noting(kind):  # type: ignore[misc, valid-type]
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return Noting


def take_jpeg(buffer: bytearray) -> bytes | None:
    """Remove the first whole JPEG picture, and what is before it; None if there is none yet."""
    start = buffer.find(_START)
    if start < 0:
        del buffer[: max(0, len(buffer) - 2)]
        return None
    end = _jpeg_end(buffer, start)
    if end is None:
        return None
    picture = bytes(buffer[start:end])
    del buffer[:end]
    return picture


def _jpeg_end(data: bytearray, start: int) -> int | None:
    """Position behind the picture that begins at `start`; a damaged one ends where the next begins."""
    at = start + 2
    while at + 4 <= len(data) or data[at : at + 2] == b"\xff\xd9":
        if data[at] != 0xFF:  # damaged
            following = data.find(_START, at)
            return None if following < 0 else following
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2
        if marker == 0xD8:  # the next picture has begun: this one was cut off
            return at
        if marker == 0xFF:
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == 0xDA:
                at = _entropy_end(data, at)
    return None


def _entropy_end(data: bytearray, at: int) -> int:
    """Position of the next marker behind entropy-coded data; the end of the data if there is none yet."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return len(data)
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2


def _refusal(error: urllib.error.HTTPError, had_user: bool) -> str:
    # HTTP's own words: a camera's may repeat the address.
    answer = f"{error.code} {http.client.responses.get(error.code, '')}".strip()
    if error.code in (401, 403) and had_user:
        return f"it does not accept this user and password ({answer}); check both, write odd signs as %XX"
    if error.code in (401, 403):
        return f"it wants a user and password ({answer}); write http://user:password@host/path"
    if error.code in _BUSY:
        return f"it is busy ({answer}); close other programs that read it, or try again later"
    return f"it answers {answer}; check the path"
