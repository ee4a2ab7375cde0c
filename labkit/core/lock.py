"""Advisory lock on the machine: a live view and a benchmark must not disturb one another unseen.

    with machine_lock("a live view"):
        ...
    other = lock_holder()        # "a live view (process 4711)", or None

Each holder has a small file in the user's cache folder; files of ended processes are ignored.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit.core.errors import ResultsError
from labkit.core.files import user_cache, write_atomic
from labkit.core.read_json import read_json


def lock_holder(besides: Path | None = None) -> str | None:
    """The purpose and process that hold the machine, as text; None if it is free.

    Args:
        besides: the caller's own lock file, as `machine_lock` gave it.
    """
    for path in sorted(_folder().glob("*.json")):
        if path == besides:
            continue
        purpose = _holder_in(path)
        if purpose is not None:
            return purpose
    return None


@contextmanager
def machine_lock(purpose: str) -> Iterator[Path | None]:
    """Announce `purpose` ("a live view") to every process of this user until the block ends.

    Where the cache folder cannot be written, nothing is announced, and the block runs all the same.
    """
    path = _announce(purpose)
    try:
        yield path
    finally:
        if path is not None:
            with suppress(OSError):
                path.unlink()


def _folder() -> Path:
    return user_cache() / "busy"


def _announce(purpose: str) -> Path | None:
    import psutil

    content = {"purpose": purpose, "pid": os.getpid(), "began_s": psutil.Process().create_time()}
    path = _folder() / f"{os.getpid()}-{uuid.uuid4().hex}.json"
    try:
        return write_atomic(path, json.dumps(content))
    except ResultsError:
        return None


def _holder_in(path: Path) -> str | None:
    import psutil

    try:
        content = read_json(path, most_bytes=10_000)
        purpose, pid, began_s = str(content["purpose"]), int(content["pid"]), float(content["began_s"])
    except (ResultsError, ValueError, KeyError, TypeError, OverflowError):
        return None  # gone meanwhile, or not one of ours
    try:
        # A process id is given out again; the time at which its process began tells them apart.
        if abs(psutil.Process(pid).create_time() - began_s) < 1.0:
            return f"{purpose} (process {pid})"
    except psutil.NoSuchProcess:
        pass
    except psutil.Error:
        return f"{purpose} (process {pid})"
    with suppress(OSError):  # the folder may be another user's by now; a file that stays does no harm
        path.unlink()
    return None
