"""The view as a Jupyter widget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.live.placed import Placed
from labkit.live.view import Send, View

_HERE = Path(__file__).parent


class LiveWidget(Placed):
    """Carries a view's messages to and from the pages that show it.

    Frames go as messages, not as traits: traits are stored in the notebook, messages are not.

    Attributes:
        view: the view that it shows.
        fallback: gets the same messages, where no page could load the JavaScript.
    """

    _esm = (_HERE / "live.js").read_text(encoding="utf-8")
    _css = (_HERE / "live.css").read_text(encoding="utf-8")

    def __init__(
        self, make_view: Callable[[Send], View], note_message: Callable[[], None] = lambda: None
    ) -> None:
        """Makes the widget and its view.

        Args:
            make_view: is given what sends a message to the pages.
            note_message: called for each message of a page, in the thread that brings it.
        """
        super().__init__()
        # Pages choose where their messages go: to a thread of their own, which hears them while a cell
        # runs. ipykernel 7.4 sends them after the last request instead, to a busy cell or a closed page.
        self.comm._reply_subshell_for = None
        self._gone = False
        self._note_message = note_message
        self.fallback: Send | None = None
        self.view = make_view(self._send_to_pages)
        self.on_msg(self._receive)

    @property
    def sentence(self) -> str:
        """Sentence for whoever opens the notebook later."""
        return f"A live view of {self.view.player.source_name} was shown here; run this cell to see it again."

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
            super()._receive(_, message, buffers)
        else:
            self.view.receive(message, buffers)
