"""Figures that a notebook shows with their words, without pyplot's state."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that is shown as an image wherever it is a cell's last value.

    Attributes:
        alt_text: what it shows, for those who cannot see it.
    """

    alt_text: str = ""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        FigureCanvasAgg(self)

    def _repr_html_(self) -> str:
        """An image with its alt text; a bare Figure is shown as its class name and size only."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        picture = base64.b64encode(buffer.getvalue()).decode()
        alt = escape(self.alt_text)
        return f'<img src="data:image/png;base64,{picture}" alt="{alt}" style="max-width: 100%">'
