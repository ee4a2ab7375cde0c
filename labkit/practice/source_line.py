"""Source lines of a learner's own code, in files and in notebook cells."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import labkit
from labkit.core.errors import cell_name

_LIBRARIES = tuple(
    {
        str(Path(folder).resolve()) + os.sep
        for folder in (
            *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
            os.path.dirname(labkit.__file__),
        )
    }
)


@dataclass(frozen=True, order=True)
class SourceLine:
    """One line of source code.

    Attributes:
        file: its file, as Python names it; a notebook cell has a file name of its own.
        number: of the line, from 1; 0 where the line is unknown.
    """

    file: str = ""
    number: int = 0

    @property
    def text(self) -> str:
        """The line itself, without its indentation; "" where the source is not known."""
        return linecache.getline(self.file, self.number).strip()

    @property
    def where(self) -> str:
        """The cell or file name, and the line number: "In[5] line 3", "loops.py line 12"."""
        if not self.number:
            return "an unknown line"
        return f"{cell_name(self.file) or os.path.basename(self.file)} line {self.number}"

    def __str__(self) -> str:
        return f"{self.where} ({self.text})" if self.text else self.where


def learner_frame() -> FrameType | None:
    """The innermost frame of code that is in no library: not torch, not labkit, not Python's own."""
    return next(_learner_frames(), None)


def learner_line() -> SourceLine:
    """The line of the learner's code that is running now."""
    frame = learner_frame()
    return SourceLine() if frame is None else SourceLine(frame.f_code.co_filename, frame.f_lineno)


def learner_variables() -> Iterator[tuple[str, Any]]:
    """Names and values that the learner's code can see now, the innermost function's first."""
    for frame in _learner_frames():
        yield from list(frame.f_locals.items())
        yield from list(frame.f_globals.items())


def _learner_frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not _in_library(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


@cache
def _in_library(file: str) -> bool:
    if file.startswith("<"):
        return not file.startswith(("<ipython-input", "<stdin>", "<string>"))
    path = os.path.realpath(file)
    return path.startswith(_LIBRARIES)
