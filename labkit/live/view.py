"""The view: shows a player on pages and does what they ask, over whatever carries messages.

A message is a dict with a "type", plus binary buffers. `send` is called with those for the pages:

| type    | holds                                                      | buffer       |
|---------|------------------------------------------------------------|--------------|
| `state` | settings, choices, what runs, what went wrong              |              |
| `frame` | number, time of capture on the page's clock if it has one  | a JPEG       |
| `stats` | rates, ages, drops, milliseconds per span, names found     |              |
| `ping`  | number, number of the last frame                           |              |
| `taken` | number of a picture of the page's camera that has arrived  |              |

`receive` takes those of the pages, which also say which `page` it is. Each is checked before it is
acted on:

| type       | holds                                                          | buffer |
|------------|----------------------------------------------------------------|--------|
| `hello`    | visible: the page is there and wants to know how things are    |        |
| `bye`      | the page goes away                                             |        |
| `seen`     | visible: whether the page shows pictures                       |        |
| `pong`     | n and after of the ping, clock_ms: the page's clock, visible   |        |
| `ack`      | n of the frame, painted, age_ms where the page knows it        |        |
| `start`, `stop`, `snapshot`, `step` |                                       |        |
| `pause`, `record` | on                                                      |        |
| `source`   | spec: of the source to show, as `open_source` takes it         |        |
| `set`      | settings: settings by name                                     |        |
| `picture`  | n, captured_ms, offered: one picture of the page's camera      | a JPEG |
| `trouble`  | name: why the page's camera gives none                         |        |
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.core.annotate import label_colour
from labkit.core.errors import LabError, UsageError
from labkit.core.read_json import describe_bytes
from labkit.live.browser_camera import BrowserCamera, PageClock, describe_camera_error
from labkit.live.connection import Connection
from labkit.live.encode import Recorder, annotate_shot, describe_detections, jpeg, live_folder, save_picture
from labkit.live.player import Open, Player
from labkit.live.settings import choices, known_sources
from labkit.sources.spec import redact

Shown = tuple[int, int]
"""Index of the frame on the pages, and the player's revision when it was drawn."""
Send = Callable[[dict[str, Any], list[bytes]], None]

DISPLAY_FPS = 30.0
MOST_NOTE = 1000
TICK_S = 0.25  # pings, and a look at who is still there; every second time, the figures
NOBODY_S = 8.0
"""So long a view waits for its first page: a notebook in a browser takes a while to show it."""
MOST_BUFFER_BYTES = 16_000_000
MOST_LEVELS, MOST_VALUES, MOST_TEXT = 6, 5000, 4096


class View:
    """One live view. Its thread lives while the player runs.

    Attributes:
        player: what is shown.
        connection: the pages.
        camera: where pictures of the page's camera go.
        note: the last thing that was done or refused, in words.
        on_nobody: called once if no page ever comes; else, or if none comes even then, it stops.
    """

    def __init__(
        self,
        player: Player,
        send: Send,
        *,
        open_named: Callable[[str], Open] | None = None,
        reachable: Callable[[], bool] = lambda: True,
        folder: Path | None = None,
    ) -> None:
        """Makes a view that is not started yet.

        Args:
            player: what to show and to steer.
            send: carries a message to all pages; called from several threads.
            open_named: the opener of the source of a name; without it the source stays as it is.
            reachable: whether messages of the pages can arrive now; a busy kernel may be deaf.
            folder: where pictures and recordings go.
        """
        self.player = player
        self.connection = Connection()
        self.clock = PageClock()
        self._clock_page: str | None = None  # whose clock that is
        self.folder = folder or live_folder()
        self.camera: BrowserCamera | None = None
        self.note = ""
        self.on_nobody: Callable[[], None] | None = None
        self._send = send
        self._hears = reachable
        self._open_named = open_named
        self._recorder: Recorder | None = None
        self._away = self._closed = False
        self._ticks = 0
        self._pings: dict[int, float] = {}
        self._page_ms: OrderedDict[float, float] = OrderedDict()
        self._stopping = threading.Event()
        self._turn = threading.RLock()
        self._thread: threading.Thread | None = None
        self._last_state: dict[str, Any] = {}

    @property
    def running(self) -> bool:
        """True if it is started."""
        return self._thread is not None and not self._stopping.is_set()

    def start(self) -> None:
        """Starts the player and the display; returns at once."""
        with self._turn:
            if self._closed or self.running:
                return
            self._away = False
            self._stopping = threading.Event()
            self.player.start()
            self.note = self.player.disturbs
            self._thread = threading.Thread(
                target=self._display, args=(self._stopping,), name="labkit live display", daemon=True
            )
            self._thread.start()
        self.send_state()

    def stop(self, note: str = "") -> None:
        """Stops everything within 250 ms; what is inside native code ends by itself after that."""
        with self._turn:
            self._stopping.set()
            self.note = note
            self.player.stop()
            thread, self._thread = self._thread, None
        self.record(False)
        if thread is not None and thread is not threading.current_thread():
            thread.join(0.1)
        self.send_state()

    def close(self) -> None:
        """Stops for good, and forgets: the notebook's history may keep a closed view for ever."""
        with self._turn:
            self._closed = True
        self.stop()
        self.player.forget()

    def show_source(self, name: str) -> None:
        """Shows another source, and starts if need be.

        Raises:
            UsageError: this view shows one source only.
        """
        if self._open_named is None:
            raise UsageError("this view shows one source only")
        self.record(False)  # a recording is of one source
        with self._turn:
            self.camera, self.note = None, ""
            self.player.switch(self._open_named(name), redact(name))
            if not self._closed:
                self.start()

    def record(self, on: bool) -> None:
        """Begins or ends a recording of what is shown; a disk that hangs holds up nobody else.

        Raises:
            ResultsError: the file cannot be written.
        """
        if on and self._recorder is None:
            size, rungs = self.player.settings.size, self.player.settings.rungs
            self._recorder = Recorder(self.folder, (size[0] * len(rungs), size[1]))
        elif not on:
            with self._turn:
                recorder, self._recorder = self._recorder, None
            if recorder is not None:
                self.note = recorder.close()

    def receive(self, message: Any, buffers: Sequence[Any] = ()) -> None:
        """Does what a page's message says; what makes no sense is answered, never raised."""
        try:
            _check_message(message, buffers)
            kind, page = message.get("type"), message["page"][:64]
            if self.connection.listens_to(page, hello=kind == "hello"):
                self._handle_message(page, kind, message, buffers)
        except LabError as error:
            if self.note != (note := str(error)[:MOST_NOTE]):  # told once, however often it is said
                self.note = note
                self.send_state()
            return
        # Messages overlap: what counts is who is there now, not who sent this one.
        if self.connection.pages == 0:
            self._leave()
        elif self._away:  # one that was silent is back
            self.start()

    def send_state(self) -> None:
        """Tells the pages how things are."""
        self._last_state = self._state()
        self._send(self._last_state, [])

    def _handle_message(
        self, page: str, kind: Any, message: Mapping[str, Any], buffers: Sequence[Any]
    ) -> None:
        if kind == "bye":
            self.connection.left(page)
            return
        self.connection.heard(page)
        match kind:
            case "hello":
                self.connection.heard(page, visible=bool(message.get("visible", True)))
            case "seen":
                self.connection.heard(page, visible=bool(message.get("visible")))
                self._wake()
            case "pong":
                visible = message.get("visible")
                visible = visible if isinstance(visible, bool) else None
                self.connection.heard(page, visible=visible, received=int(_number(message, "after")))
                self._wake()
                self._pong(page, int(_number(message, "n")), _number(message, "clock_ms") / 1e3)
            case "ack":
                age_s = self.connection.acknowledge(page, int(_number(message, "n")))
                if age_s is not None and message.get("painted"):
                    # With a page's own camera, capture and painting are both on that page's clock.
                    if message.get("age_ms") is not None and page == self.connection.first_page:
                        age_s = _number(message, "age_ms") / 1e3
                    self.player.rates.painted(age_s)
                self._wake()
            case "start":
                self.start()
            case "stop":
                self.stop()  # and it stays stopped, whoever comes
            case "pause":
                self.player.pause(bool(message.get("on")))
            case "step":
                self.player.step()
            case "source":
                spec = message.get("spec")
                if not isinstance(spec, str) or not spec.strip():
                    raise UsageError("a source is a name such as webcam:0, photos or clip.mp4")
                self.show_source(spec.strip())
            case "set":
                wanted = message.get("settings")
                if not isinstance(wanted, Mapping):
                    raise UsageError("settings are an object of names and values")
                if {"size", "second"} & set(wanted):
                    self.record(False)  # a recording has one size
                self.player.change(wanted)
            case "snapshot":
                shot = self.player.latest_shot()
                if shot is None:
                    raise UsageError("there is no picture to keep yet; start the view first")
                self.note = f"kept as {save_picture(annotate_shot(shot, self.player.settings), self.folder)}"
            case "record":
                if message.get("on") and not self.running:
                    raise UsageError("there is nothing to record yet; start the view first")
                self.record(bool(message.get("on")))
            case "picture":
                self._send({"type": "taken", "page": page, "n": _number(message, "n")}, [])
                camera = self.camera
                if buffers and camera is not None and page == self.connection.first_page:
                    captured_s = self._capture_time(_number(message, "captured_ms"))
                    camera.deliver(bytes(buffers[0]), captured_s, int(_number(message, "offered")))
            case "trouble":
                if self.camera is not None and page == self.connection.first_page:
                    self.camera.fail(describe_camera_error(str(message.get("name", ""))))
            case _:
                raise UsageError(f"the live view knows no message {str(kind)[:40]!r}")
        if kind not in ("seen", "pong", "ack", "start", "stop", "picture", "trouble"):
            self.send_state()

    def _wake(self) -> None:
        with self.player.news:
            self.player.news.notify_all()

    def _pong(self, page: str, number: int, page_s: float) -> None:
        """Notes the answer to ping `number`, stamped with the page's own time."""
        asked_s = self._pings.get(number)
        if asked_s is None or page != self.connection.first_page:
            return
        if page != self._clock_page:  # every page counts its time from when it was loaded
            self.clock, self._clock_page = PageClock(), page
        self.clock.answered(asked_s, page_s, time.perf_counter())

    def _capture_time(self, captured_ms: float) -> float:
        """The time on this process's clock, in s, of a picture captured at `captured_ms` on the page's."""
        captured_s = self.clock.here(captured_ms / 1e3, time.perf_counter())
        self._page_ms[captured_s] = captured_ms
        while len(self._page_ms) > 64:
            self._page_ms.popitem(last=False)
        return captured_s

    def _state(self) -> dict[str, Any]:
        return {
            "type": "state",
            **self.player.status(),
            "running": self.running,
            "closed": self._closed,
            "away": self._away,
            "settings": self.player.settings.describe() | {"model_set": self.player.asked.model_set},
            "choices": choices(self.player.settings),
            "source": self.player.source_name,
            "sources": known_sources() if self._open_named is not None else [],
            "paused": self.player.paused,
            "classes": [
                [name, "#{:02x}{:02x}{:02x}".format(*label_colour(label))]
                for name, label in sorted(self.player.classes.items())
            ],
            "note": self.note,
            "recording": self._recorder is not None,
            # One page's camera is used, even where several pages show the view.
            "camera": self.connection.first_page if self.player.source_name == "browser" else None,
        }

    # From here on everything runs in the view's thread.

    def _display(self, stopping: threading.Event) -> None:
        try:
            self._show_until(stopping)
        except Exception as error:  # a still picture that looks alive would be worse than none
            self.stop(f"stopped: a picture cannot be shown ({type(error).__name__}: {error})")

    def _show_until(self, stopping: threading.Event) -> None:
        shown, period_s = (-1, -1), 1 / DISPLAY_FPS
        due_s = tick_s = self._ticked_s = self._waiting_since_s = time.perf_counter()
        while not stopping.is_set():
            now_s = time.perf_counter()
            if now_s >= tick_s:
                self._tick(now_s)
                tick_s = now_s + TICK_S
            elif now_s < due_s:
                stopping.wait(min(due_s, tick_s) - now_s)
            elif self._wait_for_frame(shown, tick_s - now_s, stopping):
                shown = self._show(shown)
                # A frame that came a little late may be followed a little early.
                due_s = max(due_s + period_s, time.perf_counter() - period_s)

    def _wait_for_frame(self, shown: Shown, timeout_s: float, stopping: threading.Event) -> bool:
        index, revision = shown

        def wanted() -> bool:
            taker = self._recorder is not None or self.connection.ready()
            # The picture of a paused view is painted anew when its boxes come, or settings change.
            stale = self.player.paused and self.player.revision != revision
            return stopping.is_set() or (taker and (stale or self.player.has_newer(index)))

        with self.player.news:
            return self.player.news.wait_for(wanted, timeout_s) and not stopping.is_set()

    def _show(self, shown: Shown) -> Shown:
        revision = self.player.revision
        shot = self.player.latest_shot(-1 if self.player.paused else shown[0])
        if shot is None:
            return shown[0], revision
        image = annotate_shot(shot, self.player.settings)
        recorder = self._recorder
        if recorder is not None:
            recorder.add(image)
        if self.connection.ready():
            data = jpeg(image)
            number = self.connection.depart(shot.frame.t_s)
            message = {"type": "frame", "n": number, "captured_ms": self._page_ms.get(shot.frame.t_s)}
            self._send(message, [data])
        return shot.frame.index, revision

    def _tick(self, now_s: float) -> None:
        late = now_s - self._ticked_s > 3 * TICK_S  # this process itself was held up, by an import perhaps
        self._ticked_s = now_s
        if late or not self._hears():
            self.connection.excuse_silence()
            self._waiting_since_s = now_s
        self.connection.forget_silent()
        patience_s = 0.0 if self.connection.ever_heard else NOBODY_S
        if self.connection.pages == 0 and now_s - self._waiting_since_s >= patience_s:
            last_resort, self.on_nobody = self.on_nobody, None
            if last_resort is None or self.connection.ever_heard:
                self._leave()
                return
            self._waiting_since_s = now_s
            last_resort()
        self._ping(now_s)
        self._ticks += 1
        if self._ticks % 2:
            return
        self._send(self._stats(), [])
        if self._state() != self._last_state:
            self.send_state()

    def _ping(self, now_s: float) -> None:
        number = max(self._pings, default=0) + 1
        self._pings[number] = now_s
        self._pings.pop(number - 8, None)
        self._send({"type": "ping", "n": number, "after": self.connection.sent}, [])

    def _stats(self) -> dict[str, Any]:
        shot = self.player.latest_shot()
        return {
            "type": "stats",
            **self.player.summary(),
            "bars": self.player.rates.bars(),
            "timed_out": self.connection.timed_out,
            "found": [] if shot is None else describe_detections(shot, self.player.settings),
        }

    def _leave(self) -> None:
        """Frees the camera because nobody looks any more; a page that comes back starts it again."""
        with self._turn:
            if self.running:
                self._away = True
                self.stop("stopped because no page shows this view; it starts again when one does")


def _check_message(message: Any, buffers: Sequence[Any]) -> None:
    """Refuses what is no small object of plain values, whatever it asks for."""
    if not isinstance(message, Mapping) or not isinstance(message.get("page"), str):
        raise UsageError("a message of a page is an object with its page and type")
    if len(buffers) > 1 or any(memoryview(part).nbytes > MOST_BUFFER_BYTES for part in buffers):
        raise UsageError(f"a message of a page has one buffer of up to {describe_bytes(MOST_BUFFER_BYTES)}")
    level, count = [message], 0
    for _ in range(MOST_LEVELS):
        below: list[Any] = []
        for value in level:
            below += [*value, *value.values()] if isinstance(value, Mapping) else value
        count += len(below)
        if count > MOST_VALUES:
            raise UsageError(f"a message of a page has up to {MOST_VALUES} values")
        level = [value for value in below if not _is_plain(value)]
        if not level:
            return
        if not all(isinstance(value, Mapping | list | tuple) for value in level):
            raise UsageError("a message of a page holds texts, finite numbers, lists and objects")
    raise UsageError(f"a message of a page is nested up to {MOST_LEVELS} levels")


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MOST_TEXT
    return value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 1e300)


def _number(message: Mapping[str, Any], name: str) -> float:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} in a message of a page is a number, not {str(value)[:40]}")
    return value
