"""Widgets that leave a sentence in a saved notebook, which holds no widgets."""

from __future__ import annotations

import uuid
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

_HERE = Path(__file__).parent


class Placed(anywidget.AnyWidget):
    """A widget in whose place a saved notebook has a sentence.

    Where JupyterLab shows it as a widget, the page asks for a place (the message `place`); the
    output is then replaced by the sentence, and the page shows the widget in its place for as
    long as the kernel is there.

    Attributes:
        sentence: what is said to who opens the notebook later.
    """

    view_id = traitlets.Unicode().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(view_id=uuid.uuid4().hex, **traits)
        self._handles: list[Any] = []  # of the outputs that show it as a widget

    @property
    def sentence(self) -> str:
        """The sentence, of plain text."""
        raise NotImplementedError

    def _ipython_display_(self) -> None:
        """Shows the widget in a cell's output, which a sentence can replace later on."""
        from IPython.display import display

        data, _ = super()._repr_mimebundle_() or ({}, {})
        handle = display({**data, **self._place()}, raw=True, display_id=True)
        if handle is not None:
            self._handles.append(handle)

    def _place(self) -> dict[str, str]:
        html = f'<div data-labkit-view="{self.view_id}"><p>{escape(self.sentence)}</p></div>'
        return {"text/html": html, "text/plain": self.sentence}

    def _receive(self, _: Any, message: Any, buffers: Any) -> None:
        del buffers
        if isinstance(message, dict) and message.get("type") == "place":
            handles, self._handles = self._handles, []
            for handle in handles:
                handle.update(self._place(), raw=True)


class PlacedForm(Placed):
    """An ordinary widget, such as a form, in a place of its own."""

    _esm = (_HERE / "placed.js").read_text(encoding="utf-8")
    child = traitlets.Instance(ipywidgets.Widget).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, child: ipywidgets.Widget, sentence: str) -> None:
        super().__init__(child=child)
        self._said = sentence
        self.on_msg(self._receive)

    @property
    def sentence(self) -> str:
        """The sentence, of plain text."""
        return self._said

    @property
    def children(self) -> tuple[ipywidgets.Widget, ...]:
        """The widgets inside of the child."""
        return tuple(self.child.children)
