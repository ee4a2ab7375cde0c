"""A camera that misbehaves on demand: MJPEG over HTTP on localhost, for tests.

with FaultyCamera() as camera:
    source = open_source(camera.url)
    camera.stall()
    camera.resume()

Each picture carries its number, painted as black and white cells (`number_in` reads it back),
so that a test sees which pictures arrive, and whether they are stale.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

import numpy as np

BITS = 16
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=picture\r\n\r\n"
_BOUNDARY = b"--picture\r\n"


def picture(number: int, size: tuple[int, int]) -> bytes:
    """A JPEG of `size` whose 16 columns of cells spell `number` in binary, lowest bit first."""
    import cv2

    width, height = size
    column = np.arange(width) * BITS // width
    row = np.where((number >> column) & 1, 255, 0).astype(np.uint8)
    image = np.repeat(np.repeat(row[None, :, None], height, 0), 3, 2)
    return cv2.imencode(".jpg", image)[1].tobytes()


def number_in(image: np.ndarray) -> int:
    """The number painted in a picture of any size."""
    width = image.shape[1]
    centres = [(2 * k + 1) * width // (2 * BITS) for k in range(BITS)]
    return sum(1 << k for k, x in enumerate(centres) if image[image.shape[0] // 2, x].mean() > 127)


class FaultyCamera:
    """Serves pictures at `fps` to every client until told to misbehave.

    Attributes:
        mode: "stream", "stall" (nothing more is sent), "refuse" (connections are closed at once),
            "silent" (accepts, answers nothing), "drip" (its header comes byte by byte), "chunks"
            (so does the size of a chunk), "404", "lies" (about sizes), "corrupt" (every third picture
            is damaged), "truncated" (one picture and a half, then the end).
        size: of pictures from the next connection on.
        sent: number of the last picture that was made; pictures are made whether or not sent.
        clients: how many connections there have been.
    """

    def __init__(self, size: tuple[int, int] = (320, 240), fps: float = 50.0, mode: str = "stream") -> None:
        self.size, self.fps, self.mode = size, fps, mode
        self.clients = 0
        self.requests: list[bytes] = []
        self._start_s = time.perf_counter()
        self._changed = threading.Condition()
        self._closing = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="faulty-camera")]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.getsockname()[1]}/camera"

    @property
    def sent(self) -> int:
        return int((time.perf_counter() - self._start_s) * self.fps) % (1 << BITS)

    @property
    def serving(self) -> int:
        """How many threads of this process are the server's."""
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def descriptors(self) -> set[int]:
        """Which open files of this process are the server's."""
        return {self._server.fileno(), *(connection.fileno() for connection in list(self._connections))}

    def turn(self, mode: str) -> None:
        """Misbehaves (or not) in this way from now on; "refuse" also cuts the open connections."""
        with self._changed:
            self.mode = mode
            self._changed.notify_all()
        if mode == "refuse":
            self._cut()

    def _cut(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.clients += 1
            thread = threading.Thread(target=self._serve, args=(connection,), name="faulty-camera")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        self._connections.add(connection)
        try:
            with connection:
                if self.mode == "refuse":
                    return
                self.requests.append(connection.recv(4096))
                self._wait_while("silent")
                if self.mode == "chunks":
                    connection.sendall(HEAD.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"))
                if self.mode == "drip":
                    connection.sendall(HEAD[:-2] + b"X: ")
                while self.mode in ("drip", "chunks") and not self._closing:
                    connection.sendall(b"0")
                    time.sleep(0.05)  # what is simulated is a camera that never gets to the end of a line
                if self.mode == "404":
                    connection.sendall(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    return
                self._stream(connection)
        except OSError:
            pass  # the client went away
        finally:
            self._connections.discard(connection)

    def _stream(self, connection: socket.socket) -> None:
        connection.sendall(HEAD)
        size, count = self.size, 0
        while not self._closing and self.mode != "refuse":
            self._wait_while("stall")
            jpeg = picture(self.sent, size)
            if self.mode == "corrupt" and count % 3 == 2:
                jpeg = jpeg[:200] + bytes(60) + jpeg[260:-40]
            if self.mode == "lies":
                at = jpeg.index(b"\xff\xc0") + 5
                jpeg = jpeg[:at] + b"\xff\xff\xff\xff" + jpeg[at + 4 :]
            part = _BOUNDARY + b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            if self.mode == "truncated" and count == 1:
                connection.sendall(part + jpeg[: len(jpeg) // 2])
                return
            connection.sendall(part + jpeg + b"\r\n")
            count += 1
            with self._changed:
                self._changed.wait(1 / self.fps)

    def _wait_while(self, mode: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.mode != mode or self._closing)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._cut()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
