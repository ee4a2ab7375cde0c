"""Exceptions of labkit.

Each message says what was wrong, with the value, and what to do next; the command
line prints it as one line and exits with `exit_code`.
"""

from __future__ import annotations

import linecache
import sys

from labkit.core.terminal import printable

EXIT_INTERRUPTED = 130
"""Exit code of a command that Ctrl-C has stopped, as in shells."""

EXIT_SLOWER = 8
"""Exit code of a trend whose newest commit is slower than the last known good."""

EXIT_CANNOT_TELL = 9
"""Exit code of a trend that does not tell whether the newest commit is slower."""

EXIT_TERMINATED = 143
"""Exit code of a command that a termination signal has stopped, as in shells."""


class LabError(Exception):
    """Base of all errors that labkit raises on purpose; the message is written for the user."""

    exit_code = 1

    def __str__(self) -> str:
        """The sentence; what is foreign in it steers no terminal."""
        return printable(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """The sentence, as a notebook shows it. The lab's own source lines would tell a learner nothing."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(LabError):
    """An argument is outside what the function or command accepts."""

    exit_code = 2


class SourceError(LabError):
    """A source cannot be opened, or stopped delivering frames."""

    exit_code = 3


class SourceLost(SourceError):
    """A live source delivered nothing within its deadline; reading again may succeed."""


class FrameError(LabError):
    """An image has a shape, type or layout that labkit cannot read as RGB."""

    exit_code = 3


class LoopError(LabError):
    """A user's own loop failed: the traceback of the loop's own lines, and none of the lab's.

    Args:
        what: name of the loop, and what it did.
        places: (file, line number, function) of each call, outermost first, in the user's code and below.
        cause: type and message of the exception.
    """

    def __init__(self, what: str, places: tuple[tuple[str, int, str], ...], cause: str) -> None:
        super().__init__(what, places, cause)
        self.what, self.places, self.cause = what, places, cause

    def __str__(self) -> str:
        return printable("\n".join([self.what, *(self._place(*place) for place in self.places), self.cause]))

    @staticmethod
    def _place(file: str, line: int, function: str) -> str:
        source = linecache.getline(file, line).strip()
        cell = cell_name(file)
        shown = f"File {file}" if cell is None else f"Cell {cell}"
        return f"  {shown}, line {line}, in {function}" + (f"\n    {source}" if source else "")


def cell_name(file: str) -> str | None:
    """Name of the notebook cell that a file name stands for, "In[3]"; None for any other file."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    named = None if shell is None else shell.compile.format_code_name(file)
    return None if named is None else named[1].removeprefix("Cell ")


class WeightsError(LabError):
    """Weights are missing, damaged, or do not fit the model."""

    exit_code = 4


class UnavailableError(LabError):
    """A rung needs something that this machine lacks (a GPU, an engine, a package)."""

    exit_code = 5


class WorkerError(LabError):
    """The process that measures a rung died, hung, or reported a failure."""

    exit_code = 6


class ResultsError(LabError):
    """The results store cannot be read or written."""

    exit_code = 7


def first_line(error: BaseException) -> str:
    """First line of an error's message; its type where the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
