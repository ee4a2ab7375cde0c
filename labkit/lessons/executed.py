"""What running notebooks leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Executed:
    """One notebook after it ran.

    Attributes:
        path: of the notebook.
        notebook: its cells with their outputs, as nbformat has them.
        seconds: how long it took.
        trouble: what went wrong, in a sentence; None if every cell finished.
    """

    path: Path
    notebook: Any
    seconds: float
    trouble: str | None


@dataclass(frozen=True)
class Gallery:
    """The pages that were written.

    Attributes:
        index: the page to open.
        executed: the notebooks, in order.
    """

    index: Path
    executed: tuple[Executed, ...]
