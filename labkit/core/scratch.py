"""Folders of temporary files, which are removed even if the process that made them was killed.

    with scratch_folder("gallery") as folder:
        ...

The name says which process a folder is of (labkit-gallery-4711-x2k9wq0b), which holds a lock on it, as
containers that share a folder of temporary files number their processes each for itself. What a killed
process left behind is removed when the next folder is made.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from labkit.core.child import lives

if sys.platform != "win32":
    import fcntl

_NAME = re.compile(r"labkit-[a-z]+-(\d+)-\w+")


@contextmanager
def scratch_folder(kind: str, root: Path | None = None) -> Iterator[Path]:
    """A new folder that only this user can read, until the block ends.

    Args:
        kind: a word of small letters, for the name.
        root: where it lies; by default in the system's folder of temporary files.

    Raises:
        OSError: it cannot be made.
    """
    root = root or Path(tempfile.gettempdir())
    _remove_left_behind(root)
    folder = Path(tempfile.mkdtemp(prefix=f"labkit-{kind}-{os.getpid()}-", dir=root))
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def kept_scratch_folder(kind: str) -> Path:
    """A new folder that only this user can read, until the process ends."""
    kept = ExitStack()
    atexit.register(kept.close)
    return kept.enter_context(scratch_folder(kind))


def _remove_left_behind(root: Path) -> None:
    for folder in root.glob("labkit-*"):
        named = _NAME.fullmatch(folder.name)
        if named is None or lives(int(named[1])):
            continue
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A lock on a folder until it is closed or the process ends; None if another process has it."""
    if sys.platform == "win32":
        return os.open(os.devnull, os.O_RDONLY)
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
