"""Rows with a checksum: sealed when they are written, verified one by one when they are read.

A damaged row is named and left out; it hides no other one. What has no value (NULL) does not
count, so that a column that a later version adds leaves the checksums of older rows as they are.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from labkit.core.errors import LabError, first_line

Row = dict[str, Any]
Record = TypeVar("Record")
TABLES = ("runs", "comparisons", "predictions", "sweep_points")


@dataclass(frozen=True)
class Damage:
    """A stored row that cannot be trusted.

    Attributes:
        table, id: its place in the store.
        reason: what is wrong with it.
    """

    table: str
    id: int
    reason: str


def describe_damage(damaged: Iterable[Damage]) -> list[str]:
    """One sentence per table and reason: the rows' ids, and how to delete them."""
    lines = []
    by_kind = sorted(damaged, key=lambda each: (TABLES.index(each.table), each.reason, each.id))
    for (table, reason), rows in groupby(by_kind, key=lambda each: (each.table, each.reason)):
        option = "" if table == "runs" else f" --table {table}"
        shown = []
        for _, pairs in groupby(enumerate(each.id for each in rows), lambda pair: pair[1] - pair[0]):
            ids = [row_id for _, row_id in pairs]
            shown.append(str(ids[0]) if len(ids) == 1 else f"{ids[0]}-{ids[-1]}")
        lines.append(
            f"damaged, and left out, of the stored {table.replace('_', ' ')}: {', '.join(shown)} "
            f"({reason}); to delete: labkit results delete{option} {' '.join(shown)}"
        )
    return lines


def insert_row(db: sqlite3.Connection, table: str, row: Row) -> int:
    """Adds a row with its checksum to a table inside a transaction; returns its id."""
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join(f":{name}" for name in row)
    row_id = int(db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", row).lastrowid or 0)
    seal_row(db, table, row_id)
    return row_id


def seal_row(db: sqlite3.Connection, table: str, row_id: int) -> None:
    """Writes the checksum of a row as it now stands in the database."""
    row = db.execute(f"SELECT * FROM {table} WHERE rowid = ?", (row_id,)).fetchone()
    db.execute(f"UPDATE {table} SET checksum = ? WHERE rowid = ?", (checksum(dict(row)), row_id))


def seal_unsealed(db: sqlite3.Connection) -> None:
    """Gives every row that has no checksum one; a row that cannot be read stays without."""
    for table in TABLES:
        for row_id in row_ids(db, table):
            try:
                query = f"SELECT 1 FROM {table} WHERE rowid = ? AND checksum IS NULL"
                if db.execute(query, (row_id,)).fetchone():
                    seal_row(db, table, row_id)
            except (sqlite3.DatabaseError, UnicodeError):
                if not db.in_transaction:  # ended by SQLite itself: a full disk, not a damaged row
                    raise


def checksum(row: Row) -> str:
    """SHA-256 of all values of a row that has them, with names and kinds, but for its checksum."""
    sha = hashlib.sha256()
    for name in sorted(row):
        value = row[name]
        if name == "checksum" or value is None:
            continue
        content = value if isinstance(value, bytes) else str(value).encode()
        sha.update(f"{name} {type(value).__name__} {len(content)}:".encode() + content)
    return sha.hexdigest()


def read_rows(
    db: sqlite3.Connection, table: str, build: Callable[[Row], Record]
) -> Iterator[tuple[int, Record | Damage]]:
    """The record or the damage of every row of a table with its id, oldest first."""
    for row_id in row_ids(db, table):
        found = read_row(db, table, row_id, build)
        if found is not None:
            yield row_id, found


def read_row(
    db: sqlite3.Connection, table: str, row_id: int, build: Callable[[Row], Record]
) -> Record | Damage | None:
    """The record or the damage of one row; None if there is no such row."""
    try:
        query = f"SELECT * FROM {table} WHERE"
        found = db.execute(f"{query} rowid = ?", (row_id,)).fetchone()
        if found is None:  # beside a damaged id, rows are out of order: a scan finds them
            found = db.execute(f"{query} +rowid = ?", (row_id,)).fetchone()
        if found is None:
            return None
        row = dict(found)
        if row["checksum"] != checksum(row):
            return Damage(table, row_id, "its checksum is not that of its content")
        return build(row)
    except sqlite3.DatabaseError as error:
        if primary_code(error) != sqlite3.SQLITE_CORRUPT:
            raise
        return Damage(table, row_id, "SQLite cannot read it")
    except UnicodeError:
        return Damage(table, row_id, "its text is no UTF-8")
    except (LabError, ValueError, TypeError, LookupError) as error:
        return Damage(table, row_id, first_line(error))


def row_ids(db: sqlite3.Connection, table: str) -> list[int]:
    """Ids of a table's rows, oldest first; where that list is damaged, all that may be there."""
    try:
        return [row[0] for row in db.execute(f"SELECT rowid FROM {table} ORDER BY rowid").fetchall()]
    except sqlite3.DatabaseError as error:
        if primary_code(error) != sqlite3.SQLITE_CORRUPT:
            raise
    last = db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0] or 0
    return list(range(1, last + 1))


def primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's result code without its details; None for what the Python module itself refuses."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
