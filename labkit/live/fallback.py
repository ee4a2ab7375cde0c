"""A view without the JavaScript: plain ipywidgets, a few pictures per second, no acknowledgements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets

from labkit.live.view import Send, View

_PAGE = "plain"


class PlainWidget(ipywidgets.VBox):
    """Shows a view by `ipywidgets.Image`.

    Nothing tells whether a page has shown a picture or is still there, so only a few go out per
    second, none counts as displayed, and a closed tab does not free the camera: Stop does.

    Attributes:
        view: what it shows.
    """

    def __init__(self, make_view: Callable[[Send], View]) -> None:
        """Makes the widget; `make_view` is given what shows a message."""
        self._image = ipywidgets.Image(format="jpeg", layout={"max_width": "100%"})
        self._status = ipywidgets.Label("starting")
        self._figures = ipywidgets.Label("")
        self._button = ipywidgets.Button(description="Stop")
        self._button.on_click(self._toggle)
        super().__init__([self._image, self._button, self._status, self._figures])
        self._unacknowledged: list[int] = []
        self._gone = False
        self.view = make_view(self.show)
        self._say({"type": "hello", "visible": True})

    def start(self) -> None:
        """Starts the view."""
        self.view.start()

    def stop(self) -> None:
        """Stops the view."""
        self.view.stop()

    def close(self) -> None:
        """Stops the view for good and takes the widget off the page."""
        if not self._gone:
            self._gone = True
            self.view.close()
            for part in (self._image, self._status, self._figures, self._button):
                part.close()
            super().close()

    def show(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        """Shows a message of the view."""
        if self._gone or not hasattr(self, "view"):
            return
        if message["type"] == "frame":
            self._image.value = buffers[0]
            self._unacknowledged.append(message["n"])
        elif message["type"] == "ping":
            # At the pace of pings: two pictures per ping are what a slow page can take.
            numbers, self._unacknowledged = self._unacknowledged, []
            self._say({"type": "pong", "n": message["n"], "after": message["after"], "clock_ms": 0})
            for number in numbers:
                self._say({"type": "ack", "n": number, "painted": False})
        elif message["type"] == "state":
            parts = [message[part] for part in ("source", "state", "fault", "message", "doing", "note")]
            self._status.value = " · ".join(part for part in [*parts, *message["weights"]] if part)
            self._button.description = "Stop" if message["running"] else "Start"
        elif message["type"] == "stats":
            fps = {name: _rate(value) for name, value in message["fps"].items()}
            rungs = ", ".join(f"{name} {_rate(of['fps'])}" for name, of in message["rungs"].items())
            self._figures.value = (
                f"frames per second: {fps['offered']} offered, {fps['captured']} captured, "
                f"{rungs or '–'} inferred; found: {' | '.join(message['found']) or 'nothing'}"
            )

    def _toggle(self, _: Any) -> None:
        self._say({"type": "stop" if self.view.running else "start"})

    def _say(self, message: dict[str, Any]) -> None:
        self.view.receive({**message, "page": _PAGE}, [])


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def place_for_fallback(widget: Any) -> Callable[[], None]:
    """Keeps a place in the cell's output; the function given back shows plain pictures there.

    It is called when no page answers: then the front end could not load the JavaScript.
    """
    from IPython.display import display

    place = display({"text/plain": ""}, raw=True, display_id=True)

    def fall_back() -> None:
        def adopt(show: Send) -> View:
            widget.fallback = show
            return widget.view

        plain = PlainWidget(adopt)
        if place is not None:
            place.update(plain)

    return fall_back
