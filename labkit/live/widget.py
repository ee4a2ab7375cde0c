"""The view as a Jupyter widget."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from labkit.live.view import Send, View

_HERE = Path(__file__).parent


class LiveWidget(anywidget.AnyWidget):
    """Carries a view's messages to and from the pages that show it.

    Frames go as messages, not as traits: traits are stored in the notebook, messages are not.

    Attributes:
        view: the view that it shows.
        fallback: gets the same messages, where no page could load the JavaScript.
    """

    _esm = (_HERE / "live.js").read_text(encoding="utf-8")
    _css = (_HERE / "live.css").read_text(encoding="utf-8")
    view_id = traitlets.Unicode().tag(sync=True)

    def __init__(
        self, make_view: Callable[[Send], View], note_message: Callable[[], None] = lambda: None
    ) -> None:
        """Makes the widget and its view.

        Args:
            make_view: is given what sends a message to the pages.
            note_message: called for each message of a page, in the thread that brings it.
        """
        super().__init__(view_id=uuid.uuid4().hex)
        self._gone = False
        self._handles: list[Any] = []  # of the outputs that show this widget as a widget
        self._note_message = note_message
        self.fallback: Send | None = None
        self.view = make_view(self._send_to_pages)
        self.on_msg(self._receive)

    def _ipython_display_(self) -> None:
        """Shows the view in a cell's output, which a sentence can replace later on."""
        from IPython.display import display

        data, _ = super()._repr_mimebundle_() or ({}, {})
        bundle = {**data, "text/plain": self._sentence(), "text/html": self._place()}
        handle = display(bundle, raw=True, display_id=True)
        if handle is not None:
            self._handles.append(handle)

    def _sentence(self) -> str:
        source = self.view.player.source_name
        return f"A live view of {source} was shown here; run this cell to see it again."

    def _place(self) -> str:
        return f'<div data-labkit-view="{self.view_id}"><p>{escape(self._sentence())}</p></div>'

    def _leave_places(self) -> None:
        """Puts a place for the view, with a sentence in it, where notebooks save what was displayed.

        A saved notebook has no widgets, and says so wherever one was; of a place the sentence stays.
        """
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.update({"text/html": self._place(), "text/plain": self._sentence()}, raw=True)

    def stop(self) -> None:
        """Stops the view; Start on the page or `start` begins again."""
        self.view.stop()

    def start(self) -> None:
        """Starts the view again after a stop."""
        self.view.start()

    def close(self) -> None:
        """Stops the view for good and takes it off every page."""
        if not self._gone:
            self.view.close()
            self._gone = True
            layout = self.layout  # a widget too, which closing this one leaves behind
            super().close()
            layout.close()

    def _send_to_pages(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        if not self._gone:
            self.send(message, buffers)
        if self.fallback is not None:
            self.fallback(message, buffers)

    def _receive(self, _: Any, message: Any, buffers: Any) -> None:
        self._note_message()
        if isinstance(message, dict) and message.get("type") == "place":
            self._leave_places()
            return
        self.view.receive(message, buffers)
