"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from labkit.core.errors import ResultsError


def write_atomic(path: Path | str, content: bytes | str) -> Path:
    """Writes a file so that a reader, a kill or a full disk never meets half of it.

    The content goes to a temporary file in the same folder, to the disk, and only then takes
    the name; the folder is made if need be.

    Raises:
        ResultsError: the file cannot be written; one of that name is as it was.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name[:80]}.{secrets.token_hex(8)}"
        # Not by mkstemp, whose files only their owner reads: here the user's own mask decides.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise ResultsError(_cannot_write(path, error)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResultsError(_cannot_write(path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def user_cache() -> Path:
    """The folder of what can be made again; not made by asking."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labkit"


def _cannot_write(path: Path, error: OSError) -> str:
    return f"cannot write {path} ({error.strerror}); free some space there or choose another folder"


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder; there the rename stands alone
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
