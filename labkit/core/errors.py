"""Exceptions of labkit.

Each message says what was wrong, with the value, and what to do next; the command
line prints it as one line and exits with `exit_code`.
"""

from __future__ import annotations

EXIT_INTERRUPTED = 130
"""Exit code of a command that Ctrl-C has stopped, as in shells."""


class LabError(Exception):
    """Base of all errors that labkit raises on purpose; the message is written for the user."""

    exit_code = 1


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
