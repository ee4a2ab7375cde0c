"""Folders of temporary files, which are removed even if the process that made them was killed.

    with scratch_folder("gallery") as folder:
        ...

The name says which process a folder is of (labkit-gallery-4711-x2k9wq0b). What a killed process left
behind is removed when the next folder is made.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = re.compile(r"labkit-[a-z]+-(\d+)-\w+")


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A new folder that only this user can read, until the block ends."""
    folder = new_scratch_folder(kind)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def kept_scratch_folder(kind: str) -> Path:
    """A new folder that only this user can read, until the process ends."""
    folder = new_scratch_folder(kind)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def new_scratch_folder(kind: str, root: Path | None = None) -> Path:
    """A new folder that only this user can read; who makes it removes it.

    Args:
        kind: a word of small letters, for the name.
        root: where it lies; by default in the system's folder of temporary files.

    Raises:
        OSError: it cannot be made.
    """
    root = root or Path(tempfile.gettempdir())
    _remove_left_behind(root)
    return Path(tempfile.mkdtemp(prefix=f"labkit-{kind}-{os.getpid()}-", dir=root))


def _remove_left_behind(root: Path) -> None:
    import psutil

    for folder in root.glob("labkit-*"):
        named = _NAME.fullmatch(folder.name)
        if named is not None and not psutil.pid_exists(int(named[1])):
            shutil.rmtree(folder, ignore_errors=True)
