"""Messages that a page may send to a view; each is checked before it is acted on.

| type       | holds                                                          | buffer |
|------------|----------------------------------------------------------------|--------|
| `hello`    | visible: the page is there and wants to know how things are     |        |
| `bye`      | the page goes away                                             |        |
| `seen`     | visible: whether the page shows pictures                       |        |
| `pong`     | n and after of the ping, clock_ms: the page's clock            |        |
| `ack`      | n of the frame, painted, age_ms where the page knows it        |        |
| `start`, `stop`, `snapshot`, `step` |                                         |        |
| `pause`    | on                                                             |        |
| `source`   | spec: of the source to show, as `open_source` takes it         |        |
| `set`      | settings: settings by name                                        |        |
| `record`   | on                                                             |        |
| `picture`  | n, captured_ms, offered: one picture of the page's camera      | a JPEG |
| `trouble`  | name: why the page's camera gives none                         |        |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labkit.core.errors import UsageError
from labkit.core.read_json import describe_bytes
from labkit.live.browser_camera import describe_camera_error
from labkit.live.encode import annotate_shot
from labkit.live.recorder import save_picture

MOST_BUFFER_BYTES = 16_000_000
MOST_LEVELS, MOST_VALUES, MOST_TEXT = 6, 5000, 4096
View = Any  # of labkit.live.view, which imports this module
Message = Mapping[str, Any]


def handle_message(view: View, message: Any, buffers: Sequence[Any]) -> str | None:
    """Does what a page asks.

    Returns:
        The page; None if it says or said goodbye.

    Raises:
        LabError: the message makes no sense, or what it asks cannot be done.
    """
    _check(message, buffers)
    kind, page = message.get("type"), message["page"][:64]
    if view.connection.flooded(page):
        return page
    if kind == "bye":
        view.connection.left(page)
        return None
    action = _ACTIONS.get(kind) if isinstance(kind, str) else None
    if action is None:
        raise UsageError(f"the live view knows no message {str(kind)[:40]!r}")
    if kind == "hello":
        view.connection.came(page)
    elif view.connection.has_left(page):
        return None
    view.connection.heard(page)
    action(view, page, message, buffers)
    return page


def _check(message: Any, buffers: Sequence[Any]) -> None:
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


def _hello(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    view.connection.heard(page, visible=bool(message.get("visible", True)))
    view.send_state()


def _seen(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    view.connection.heard(page, visible=bool(message.get("visible")))
    _wake(view)


def _pong(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    view.connection.heard(page, received=int(_number(message, "after")))
    view.pong(page, int(_number(message, "n")), _number(message, "clock_ms") / 1e3)


def _ack(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    age_s = view.connection.acknowledge(page, int(_number(message, "n")))
    if age_s is not None and message.get("painted"):
        # With a page's own camera, capture and painting are both on that page's clock.
        if message.get("age_ms") is not None and page == view.connection.first_page:
            age_s = _number(message, "age_ms") / 1e3
        view.player.rates.painted(age_s)
    _wake(view)


def _start(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    view.start()


def _stop(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    view.stop()  # and it stays stopped, whoever comes


def _pause(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    view.player.pause(bool(message.get("on")))
    view.send_state()


def _step(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    view.player.step()
    view.send_state()


def _source(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    spec = message.get("spec")
    if not isinstance(spec, str) or not 0 < len(spec.strip()) <= 4096:
        raise UsageError("a source is a name of up to 4096 letters, such as webcam:0, photos or clip.mp4")
    view.show_source(spec.strip())
    view.send_state()


def _set(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    wanted = message.get("settings")
    if not isinstance(wanted, Mapping):
        raise UsageError("settings are an object of names and values")
    if view.player.settings.reshapes(wanted):
        view.record(False)  # a recording has one size
    view.player.change(wanted)
    view.send_state()


def _snapshot(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    shot = view.player.latest_shot()
    if shot is None:
        raise UsageError("there is no picture to keep yet; start the view first")
    view.note = f"kept as {save_picture(annotate_shot(shot, view.player.settings), view.folder)}"
    view.send_state()


def _record(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    if message.get("on") and not view.running:
        raise UsageError("there is nothing to record yet; start the view first")
    view.record(bool(message.get("on")))
    view.send_state()


def _picture(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    view.send({"type": "taken", "page": page, "n": _number(message, "n")})
    if buffers and page == view.connection.first_page:
        view.picture(bytes(buffers[0]), _number(message, "captured_ms"), int(_number(message, "offered")))


def _trouble(view: View, page: str, message: Message, buffers: Sequence[Any]) -> None:
    if view.camera is not None and page == view.connection.first_page:
        view.camera.fail(describe_camera_error(str(message.get("name", ""))))


def _wake(view: View) -> None:
    with view.player.news:
        view.player.news.notify_all()


def _number(message: Message, name: str) -> float:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} in a message of a page is a number, not {str(value)[:40]}")
    return value


_ACTIONS: dict[str, Callable[[Any, str, Message, Sequence[Any]], None]] = {
    "hello": _hello, "seen": _seen, "pong": _pong, "ack": _ack,
    "start": _start, "stop": _stop, "set": _set, "snapshot": _snapshot, "record": _record,
    "pause": _pause, "step": _step, "source": _source, "picture": _picture, "trouble": _trouble,
}  # fmt: skip
