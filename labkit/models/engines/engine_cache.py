"""Disk cache of converted models, with atomic writes."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from labkit.core.files import user_cache
from labkit.core.scratch import kept_scratch_folder

UNFINISHED = ".making-"
LEFT_BEHIND_S = 24 * 3600.0


def cache_folder() -> Path:
    """The user's cache for converted models; safe to delete at any time."""
    return user_cache() / "engines"


def cached_file(key: str, name: str, write: Callable[[Path], None]) -> Path:
    """The file `name` under `key`, made by `write(path)` where it is not there yet.

    Everything that `write` leaves beside the path it was given is kept with it. The folder
    appears under its final name only when it is complete, so a crash leaves nothing half
    made and two processes at once are harmless. Where the cache cannot be written, the file lasts
    as long as this process.
    """
    name_of_folder = f"{key[:60]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    folder = cache_folder() / name_of_folder
    if os.path.isfile(folder / name):  # False too for a cache that only another user may look into
        return folder / name
    try:
        scratch = _new_folder(folder.parent)
    except OSError:
        folder = _own_folder() / name_of_folder
        scratch = _new_folder(folder.parent)
    try:
        write(scratch / name)
        try:
            scratch.rename(folder)
        except OSError:
            if not (folder / name).is_file():  # otherwise another process was quicker
                folder.rename(folder.with_name(f"{scratch.name}-damaged"))
                scratch.rename(folder)
    finally:
        shutil.rmtree(folder.with_name(f"{scratch.name}-damaged"), ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / name


def _new_folder(parent: Path) -> Path:
    """A new folder that the umask decides on; those of `tempfile` are for one user alone.

    What a killed process left half made is removed a day later.
    """
    for left in parent.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_BEHIND_S:
                shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{UNFINISHED}{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    return folder


@cache
def _own_folder() -> Path:
    return kept_scratch_folder("engines")
