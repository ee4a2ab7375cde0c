"""Atomic file writes, and the folders that labkit writes to."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import BinaryIO

from labkit.core.errors import ResultsError


def write_atomic(path: Path | str, content: bytes | str, *, private: bool = False) -> Path:
    """Write a file with this content, atomically as `open_atomic` does; returns its path.

    Raises:
        ResultsError: the file cannot be written; an existing one is unchanged.
    """
    path = Path(path)
    with open_atomic(path, private=private) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def open_atomic(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file whose content appears under its name only when the block ends well.

    Until then it is a temporary file in the same folder, so that no reader, crash or full disk
    leaves half of it. It is synced to the disk; missing parent folders are made. Who may read it is up to
    the umask, but for a private one, which only its owner can.

    Raises:
        ResultsError: the file cannot be written; an existing one is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name[:80]}.{secrets.token_hex(8)}"
        # Not tempfile.mkstemp, whose files only their owner can read: here the umask decides.
        descriptor = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0),
            0o600 if private else 0o666,
        )
    except OSError as error:
        raise ResultsError(_cannot_write(path, error)) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResultsError(_cannot_write(path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def results_folder() -> Path:
    """The folder of results: LABKIT_HOME, else the project's `results`, else ./results.

    The project is found from any folder inside it, such as `notebooks`. The folder need not exist.
    """
    home = os.environ.get("LABKIT_HOME")
    return Path(os.path.expanduser(home)) if home else _project_results() or Path("results")


def recorded_folder(part: str = "") -> Path:
    """The folder of what was recorded on other machines and ships with the project, or a part of it.

    It is found whatever LABKIT_HOME says; where there is none, it is a folder that does not exist.
    """
    beside_package = Path(__file__).parents[2] / "results"
    homes = [results_folder(), _project_results() or beside_package, beside_package]
    places = [home / "reference" / part for home in homes]
    return next((place for place in places if place.is_dir()), places[0])


def _project_results() -> Path | None:
    """The `results` of the project that the working folder lies in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "labkit").is_dir():
            return folder / "results"
    return None


def user_cache() -> Path:
    """The folder of files that can be made again, such as converted models. It need not exist.

    A user without a home has one that cannot be made, so that nothing is kept.
    """
    home = os.path.expanduser("~/.cache")
    nowhere = os.path.join(os.devnull, "cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or (nowhere if home.startswith("~") else home)) / "labkit"


def _cannot_write(path: Path, error: OSError) -> str:
    mend = "free some space there" if error.errno in (EDQUOT, EFBIG, ENOSPC) else "make its folder writable"
    return f"cannot write {path} ({error.strerror}); {mend} or choose another folder"


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder; there the rename alone must do
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
