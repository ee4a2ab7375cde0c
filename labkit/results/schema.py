"""The tables of the store, by schema version, and the way from an older one to this.

A store says what it is by SQLite's `application_id` and which version by `user_version`. A
new version is one more entry of `MIGRATIONS`; entries that were released are never edited. A
column that is added may be NULL in older rows, whose checksums then stay as they are; an entry
that changes rows sets their checksum to NULL, and they get a new one.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from labkit.core.errors import ResultsError
from labkit.pipelines.former_names import with_current_names
from labkit.results.checksums import TABLES, seal_unsealed
from labkit.results.database import application_id, begin, read_untouched

APPLICATION_ID = 0x4C41424B  # "LABK"

MIGRATIONS = (
    (
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL, rung TEXT NOT NULL,
            stage INTEGER NOT NULL, scenario TEXT NOT NULL, quick INTEGER NOT NULL,
            offered INTEGER NOT NULL, dropped INTEGER NOT NULL, failed INTEGER NOT NULL,
            startup_s REAL NOT NULL, peak_bytes INTEGER NOT NULL, samples BLOB NOT NULL,
            settings TEXT NOT NULL, source TEXT NOT NULL, "limit" TEXT NOT NULL,
            fidelity TEXT NOT NULL, accuracy TEXT NOT NULL, disturbances TEXT NOT NULL,
            fingerprint TEXT NOT NULL)""",
        "CREATE INDEX runs_by_rung ON runs (rung, stage)",
        """CREATE TABLE comparisons (
            id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL, a TEXT NOT NULL,
            b TEXT NOT NULL, frames_per_turn INTEGER NOT NULL, agrees INTEGER NOT NULL,
            quick INTEGER NOT NULL, samples BLOB NOT NULL, settings TEXT NOT NULL,
            source TEXT NOT NULL, fidelity TEXT NOT NULL, fingerprint TEXT NOT NULL,
            disturbances TEXT NOT NULL)""",
    ),
    (
        """CREATE TABLE predictions (
            id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL, question TEXT NOT NULL,
            options TEXT NOT NULL, answer TEXT NOT NULL, result TEXT NOT NULL)""",
    ),
    (
        """CREATE TABLE sweep_points (
            sweep TEXT NOT NULL, point TEXT NOT NULL, about TEXT NOT NULL,
            run_id INTEGER REFERENCES runs (id), reason TEXT, created TEXT NOT NULL,
            PRIMARY KEY (sweep, point), CHECK ((run_id IS NULL) <> (reason IS NULL)))""",
        "CREATE INDEX sweep_points_by_run ON sweep_points (run_id)",
        """CREATE TRIGGER a_deleted_run_is_measured_again AFTER DELETE ON runs
            BEGIN DELETE FROM sweep_points WHERE run_id = OLD.id; END""",
    ),
    (
        """UPDATE runs SET rung = with_current_names(rung), settings = with_current_names(settings),
            fidelity = with_current_names(fidelity)""",
        """UPDATE comparisons SET a = with_current_names(a), b = with_current_names(b),
            settings = with_current_names(settings), fidelity = with_current_names(fidelity)""",
        "UPDATE predictions SET question = with_current_names(question)",
        "UPDATE sweep_points SET about = with_current_names(about)",
    ),
    (
        *(f"ALTER TABLE {table} ADD COLUMN checksum TEXT" for table in TABLES),
        "DROP INDEX runs_by_rung",  # rows are found by their content only once that is verified
    ),
)
VERSION = len(MIGRATIONS)


def bring_up_to_date(db: sqlite3.Connection, path: object) -> None:
    """Makes the tables of an empty database, or those that an older store lacks.

    Raises:
        ResultsError: the file is a database of something else, or of a newer labkit.
    """
    if _version(db, path) == VERSION:
        return
    db.create_function("with_current_names", 1, with_current_names, deterministic=True)
    begin(db, path)
    try:
        for statements in MIGRATIONS[_version(db, path) :]:  # read again: another may have been first
            for statement in statements:
                db.execute(statement)
        seal_unsealed(db)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def refuse_foreign(path: Path) -> None:
    """Looks into an existing file without touching it.

    Raises:
        ResultsError: it is a database of another program.
    """
    if application_id(path) not in (None, APPLICATION_ID):
        read_untouched(path, lambda db: _version(db, path))


def _version(db: sqlite3.Connection, path: object) -> int:
    # One statement, one state of the file: another process may make the store between two of them.
    version, application, occupied = db.execute(
        "SELECT user_version, application_id, EXISTS (SELECT 1 FROM sqlite_master) "
        "FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if application != APPLICATION_ID and (occupied or application or version):
        raise ResultsError(f"{path} is a database of another program; name another file for the results")
    if version > VERSION:
        raise ResultsError(
            f"{path} has schema version {version}, newer than the {VERSION} that this labkit knows; "
            "update labkit, or set LABKIT_HOME to another folder"
        )
    return version
