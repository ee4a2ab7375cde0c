"""The view as a page of its own, for a quick look without a notebook: `labkit live`.

A small web server on this machine's own address, with a token that only the printed address
holds. The page runs the same JavaScript as the notebook does, over a WebSocket.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tornado.web
import tornado.websocket

from labkit.core.errors import UsageError
from labkit.core.read_json import parse_json
from labkit.live.settings import LiveSettings
from labkit.live.start import make_view, replace_current
from labkit.live.view import MOST_BUFFER_BYTES, View

_HERE = Path(__file__).parent
MOST_MESSAGE_BYTES = 1_000_000  # of one message of the page, without its buffer
MOST_BYTES = MOST_BUFFER_BYTES + MOST_MESSAGE_BYTES


class Hub:
    """Carries a view's messages to the open sockets and back."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sockets: set[Socket] = set()
        self.view: View | None = None
        self._loop = loop

    def send(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        """Sends to all pages; called from any thread."""
        head = json.dumps(message).encode()
        data = len(head).to_bytes(4, "big") + head + b"".join(buffers)
        with suppress(RuntimeError):  # the server has ended meanwhile: nobody listens any more
            self._loop.call_soon_threadsafe(self._write, data)

    def _write(self, data: bytes) -> None:
        for socket in list(self.sockets):
            try:
                written = socket.write_message(data, binary=True)
            except tornado.websocket.WebSocketClosedError:
                self.sockets.discard(socket)
            else:
                written.add_done_callback(_forgive)


def _forgive(written: asyncio.Future[None]) -> None:
    """A page may close while it is written to; nobody is to be told."""
    if not written.cancelled():
        written.exception()


class Socket(tornado.websocket.WebSocketHandler):
    """One page's connection."""

    def initialize(self, hub: Hub, token: str) -> None:
        """Tornado's own constructor."""
        self.hub, self.token = hub, token

    def check_origin(self, origin: str) -> bool:
        """Only the page of this very server may connect."""
        return urlsplit(origin).netloc == self.request.host

    def prepare(self) -> None:
        """Refuses who does not know the token."""
        _require(self, self.token)

    def open(self, *_: str) -> None:
        """Joins the others."""
        self.hub.sockets.add(self)

    async def on_message(self, data: str | bytes) -> None:
        """Hands a message to the view: 4 bytes of length, JSON, then at most one buffer."""
        if not isinstance(data, bytes) or len(data) < 4 or self.hub.view is None:
            return
        size = int.from_bytes(data[:4], "big")
        try:
            message = parse_json(data[4 : 4 + size], dict, most_bytes=MOST_MESSAGE_BYTES)
        except ValueError:
            return
        rest = data[4 + size :]
        # Starting and stopping may take a moment, and the loop has pictures to send.
        await asyncio.get_running_loop().run_in_executor(
            None, self.hub.view.receive, message, [rest] if rest else []
        )

    def on_close(self) -> None:
        """Leaves the others; the view notices by the silence."""
        self.hub.sockets.discard(self)


class Text(tornado.web.RequestHandler):
    """A text of the page, for those who know the token."""

    def initialize(self, text: str, kind: str, token: str) -> None:
        """Tornado's own constructor."""
        self.text, self.kind, self.token = text, kind, token

    def get(self) -> None:
        """Gives the text."""
        _require(self, self.token)
        self.set_header("Content-Type", f"{self.kind}; charset=utf-8")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header(
            "Content-Security-Policy",
            "default-src 'self' blob:; img-src data:; style-src 'self' 'unsafe-inline'",
        )
        self.finish(self.text)


def serve(
    source: str,
    settings: LiveSettings,
    *,
    port: int = 0,
    ready: Callable[[str], None] = print,
    saved: Callable[[str], None] = print,
    opening: Mapping[str, Any] | None = None,
) -> None:
    """Shows a source on a page of this machine until interrupted.

    Args:
        source: as for `live`.
        settings: the settings to begin with.
        port: of the server; 0 takes a free one.
        ready: called with the page's address, which holds the token.
        saved: called at the end with what became of a recording that was under way.
        opening: further arguments of `open_source`: fit, open_timeout_s, read_timeout_s.

    Raises:
        UsageError: the port cannot be had.
    """
    with suppress(KeyboardInterrupt):  # that is how a person ends it
        asyncio.run(_serve(source, settings, port, ready, opening, saved=saved))


async def _serve(
    source: str,
    settings: LiveSettings,
    port: int,
    ready: Callable[[str], None],
    opening: Mapping[str, Any] | None = None,
    stop: asyncio.Event | None = None,
    saved: Callable[[str], None] = print,
) -> None:
    if not 0 <= port <= 65535:
        raise UsageError(f"a port is a number from 0 (any that is free) to 65535, not {port}")
    token = secrets.token_urlsafe(24)
    hub = Hub(asyncio.get_running_loop())
    hub.view = make_view(source, settings, hub.send, opening=opening)
    try:
        server = _application(hub, token).listen(port, "127.0.0.1")
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be had ({error}); choose another, or 0 for a free one"
        ) from error
    replace_current(hub.view.close)
    hub.view.start()
    try:
        number = next(iter(server._sockets.values())).getsockname()[1]
        ready(f"http://localhost:{number}/?token={token}")
        await (stop or asyncio.Event()).wait()
    finally:
        server.stop()
        replace_current(None)
        if hub.view.note:
            saved(hub.view.note)


def _application(hub: Hub, token: str) -> tornado.web.Application:
    pages: list[Any] = [("/socket", Socket, {"hub": hub, "token": token})]
    for path, name, kind in (
        ("/", "page.html", "text/html"),
        ("/live.js", "live.js", "text/javascript"),
        ("/page.js", "page.js", "text/javascript"),
        ("/live.css", "live.css", "text/css"),
    ):
        text = (_HERE / name).read_text(encoding="utf-8").replace("TOKEN", token)
        pages.append((path, Text, {"text": text, "kind": kind, "token": token}))
    return tornado.web.Application(pages, websocket_max_message_size=MOST_BYTES)


def _require(handler: tornado.web.RequestHandler, token: str) -> None:
    if not hmac.compare_digest(handler.get_query_argument("token", ""), token):
        raise tornado.web.HTTPError(403)
