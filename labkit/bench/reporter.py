"""Who hears what a long piece of work is at (layer 0)."""

from __future__ import annotations

from labkit.results.comparison import Comparison
from labkit.results.run_record import Run


class Reporter:
    """Hears what a benchmark does; this one is silent. Screens override what they show."""

    def step(self, text: str) -> None:
        """A new step begins."""

    def progress(self, share: float) -> None:
        """The step is finished to this share, from 0 to 1."""

    def note(self, text: str) -> None:
        """One line that the user should see."""

    def finished(self, result: Run | Comparison) -> None:
        """A result is there, and stored if there is a store."""
