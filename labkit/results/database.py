"""The store's SQLite file: opened for writing or only for reading, with errors that say what to do.

For writing: write-ahead logging with full synchronisation, so that a committed row is on the disk.
For reading: a copy in memory, so that a file of somebody else, in a folder that cannot be written,
or of an older version is read without a change to it.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from errno import EDQUOT, EINVAL, ENOSPC
from pathlib import Path
from typing import NamedTuple, TypeVar

from labkit.core.errors import ResultsError
from labkit.core.scratch import scratch_folder
from labkit.core.terminal import printable
from labkit.results.checksums import primary_code

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0  # of each wait for a lock, which others hold for milliseconds
TELL_AFTER_S = 1.0
HEADER_BYTES = 100  # of SQLite's file format; its magic text first, the application id at its end
MAGIC, APPLICATION_ID_AT = b"SQLite format 3\0", 68
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"}


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The database in a file, which is made if it is not there."""
    db = _prepared(
        sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    )
    try:
        with _told_waiting(path):
            _write_ahead(db)
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def begin(db: sqlite3.Connection, path: object) -> None:
    """Begin to write; a wait for another process that does is told while it lasts."""
    with _told_waiting(path):
        db.execute("BEGIN IMMEDIATE")


def open_copy(path: Path) -> sqlite3.Connection:
    """Copy in memory of a database file as it is now; nothing is written beside it, not even by SQLite."""
    copy = _prepared(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
    try:
        if path.exists():
            _copy_into(copy, path)
    except BaseException:
        copy.close()
        raise
    return copy


def application_id(path: Path) -> int | None:
    """The application id in a file's header; None where there is no whole header of SQLite's."""
    if path.exists() and not path.is_file():  # who opens a pipe waits for its writer, for ever
        raise OSError(EINVAL, "not a file", str(path))
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except FileNotFoundError:
        return None
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        return None
    return int.from_bytes(header[APPLICATION_ID_AT : APPLICATION_ID_AT + 4], "big")


def read_untouched(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """Result of `read` on an existing file, to which nothing is changed.

    Without a log beside it, the file is read without locks, for which SQLite would make files; if
    it changes meanwhile, it is read again with them. With a log SQLite needs its index of the log,
    which it may make.
    """
    before = _state(path)
    if not before.has_log:
        with closing(_read_only(path, "immutable=1")) as db:
            try:
                result = read(db)
            except (sqlite3.Error, ResultsError):
                if _state(path) == before:
                    raise
            else:
                if _state(path) == before:
                    return result
    with closing(_read_only(path, "mode=ro")) as db:
        return read(db)


def _copy_into(copy: sqlite3.Connection, path: Path) -> None:
    try:
        read_untouched(path, lambda source: source.backup(copy))
    except sqlite3.OperationalError as error:
        if primary_code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        # The log of a writer that was killed, in a folder where SQLite may not make its index of it.
        with scratch_folder("copy") as folder:
            own = folder / "copy.sqlite"
            before = None
            while before != (before := _state(path)):  # a writer may begin between the two files
                for file, to in ((path, own), (_log_of(path), _log_of(own))):
                    shutil.copyfile(file, to)
            with closing(sqlite3.connect(own)) as source:
                source.backup(copy)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


class _State(NamedTuple):
    has_log: bool
    modified_ns: int
    size: int


def _state(path: Path) -> _State:
    try:
        has_log = _log_of(path).stat().st_size > 0
    except FileNotFoundError:
        has_log = False
    file = path.stat()
    return _State(has_log, file.st_mtime_ns, file.st_size)


def _read_only(path: Path, option: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{option}", timeout=BUSY_TIMEOUT_S, uri=True)


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    db.row_factory = sqlite3.Row
    # Else a damaged text would be quoted in an error that hides which row it is in.
    db.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    return db


def _write_ahead(db: sqlite3.Connection) -> None:
    # The busy timeout does not cover this switch: of several first writers all but one are refused.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def _told_waiting(path: object) -> Iterator[None]:
    words = f"waiting for {path}, which another process writes to; for {BUSY_TIMEOUT_S:.0f} s at most"
    tell = threading.Timer(TELL_AFTER_S, logging.getLogger("labkit").warning, ("%s", printable(words)))
    tell.daemon = True
    tell.start()
    try:
        yield
    finally:
        tell.cancel()


def advice(path: Path, error: Exception, warning: str | None) -> str:
    """One sentence on what SQLite or the system refused, and what to do about it."""
    elsewhere = "or set LABKIT_HOME to another folder"
    if path.is_dir():
        return f"{path} is a folder, not a results file; name a file in it, such as {path / 'lab.sqlite'}"
    if path.exists() and not path.is_file():
        return f"{path} is a pipe, socket or device, not a results file; move it away, {elsewhere}"
    if isinstance(error, sqlite3.ProgrammingError) and primary_code(error) is None:
        return f"the store {path} has been closed; open it again with Store({str(path)!r})"
    code = primary_code(error) if isinstance(error, sqlite3.Error) else None
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT) or isinstance(error, UnicodeError):
        return (
            f"{path} is not a readable results store ({error}); move it away and restore a copy, {elsewhere}"
        )
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in (ENOSPC, EDQUOT):
        return f"no space left for {path} ({error}); earlier rows are as they were; free space, {elsewhere}"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return (
            f"another process has held {path} for {BUSY_TIMEOUT_S:.0f} s; end it and try again, {elsewhere}"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or isinstance(error, OSError):
        return f"cannot write {path} ({error}); make its folder writable, {elsewhere}"
    hint = f"; {warning}" if warning else ""
    return f"cannot use {path} ({error}); earlier rows are as they were; check the disk, {elsewhere}{hint}"


def doubt(path: Path) -> str | None:
    """Why a file's place is a doubtful one for a store; None on a local disk."""
    kind = file_system(path.absolute())
    if kind.removeprefix("fuse.") not in NETWORK_FILE_SYSTEMS | {"sshfs", "rclone"}:
        return None
    return f"{path} is on a network file system ({kind}), where the store may lose rows; use a local disk"


def file_system(path: Path) -> str:
    """Kind of file system a path is on, as Linux names it; empty where that is unknown."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    holding = [m for m in mounts if path.is_relative_to(m[1].replace("\\040", " "))]
    return max(holding, key=lambda m: len(m[1]), default=["", "", ""])[2]
