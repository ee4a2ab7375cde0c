"""The store: one SQLite file that keeps every measurement it has reported as saved.

Write-ahead logging with full synchronisation: a row is on the disk before `add` returns,
whatever is killed afterwards; other processes may write at the same time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from labkit.core.errors import ResultsError, UsageError
from labkit.core.files import results_folder
from labkit.results import codec, database, schema
from labkit.results.checksums import (
    Damage,
    describe_damage,
    insert_row,
    read_row,
    read_rows,
    row_ids,
    seal_row,
)
from labkit.results.exports import export
from labkit.results.records import Comparison, Run

TOO_LARGE_AN_ID = 2**63  # for SQLite

Record = TypeVar("Record")
Result = TypeVar("Result", bound=Run | Comparison)


def default_path() -> Path:
    """The file `lab.sqlite` in the folder of results."""
    return results_folder() / "lab.sqlite"


@dataclass(frozen=True)
class Prediction:
    """A prediction that a learner made before a measurement.

    Attributes:
        options: the answers to choose from.
        result: what the measurement then said; None until it is known.
        id, created: given by the store; created is UTC in ISO format.
    """

    question: str
    options: tuple[Any, ...]
    answer: Any
    result: Any = None
    id: int | None = None
    created: str = ""


class Store:
    """Runs, comparisons and predictions in one file; safe to share between threads.

    A damaged row hides no other: lists leave it out, and `damaged` has it.

    Args:
        path: the SQLite file; default: in the folder of results.
        read_only: nothing is written, not even beside the file, which may be somebody else's, of
            an older version, or not there (a store without rows).

    Attributes:
        path: the SQLite file.
        warning: why this place is a doubtful one for a store (a network file system, where
            SQLite's write-ahead log may lose or damage rows); None on a local disk.

    Raises:
        ResultsError: the file cannot be read or written, is no results store, or is of a
            newer version; the message says what to do.
    """

    def __init__(self, path: Path | str | None = None, *, read_only: bool = False) -> None:
        self.path = default_path() if path is None else Path(path)
        self.warning = database.doubt(self.path)
        self._lock = threading.RLock()
        self._damaged: dict[tuple[str, int], Damage] = {}
        with self._explained():
            schema.refuse_foreign(self.path)
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = (database.open_copy if read_only else database.open_for_writing)(self.path)
            try:
                schema.bring_up_to_date(self._db, self.path)
                self._db.execute(f"PRAGMA query_only = {read_only:d}")
            except BaseException:
                self._db.close()
                raise

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Rows that were asked for so far and are damaged."""
        return tuple(self._damaged.values())

    def close(self) -> None:
        """Closes the file; the store cannot be used afterwards."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, result: Result) -> Result:
        """Saves a run or a comparison; returns it with its id and time of creation (kept if it had one)."""
        result = replace(result, created=result.created or utc_now())
        table = "runs" if isinstance(result, Run) else "comparisons"
        return replace(result, id=self._insert(table, codec.to_row(result)))

    def run(self, run_id: int) -> Run:
        """The run of that id."""
        return self._one("runs", run_id, codec.build_run)

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return self._all("runs", codec.build_run)

    def comparisons(self) -> list[Comparison]:
        """All comparisons, oldest first."""
        return self._all("comparisons", codec.build_comparison)

    def delete(self, ids: Container[int], table: str = "runs") -> int:
        """Deletes rows of a table by their ids, damaged ones too; returns how many there were."""
        with self.transaction() as db:
            there = [(row_id,) for row_id in row_ids(db, table) if row_id in ids]
            return db.executemany(f"DELETE FROM {table} WHERE rowid = ?", there).rowcount

    def export(self, folder: Path | str) -> list[Path]:
        """Writes all runs and comparisons into a folder; see `labkit.results.exports.export`."""
        return export(self.runs(), self.comparisons(), folder)

    def add_prediction(self, prediction: Prediction) -> Prediction:
        """Saves what was expected; returns it with its id and time of creation."""
        prediction = replace(prediction, created=prediction.created or utc_now())
        texts = {
            name: codec.dump_json(getattr(prediction, name), name) for name in ("options", "answer", "result")
        }
        row = {"created": prediction.created, "question": prediction.question, **texts}
        return replace(prediction, id=self._insert("predictions", row))

    def settle_prediction(self, prediction_id: int, result: Any) -> None:
        """Adds what the measurement said to a prediction."""
        text = codec.dump_json(result, "result")
        with self.transaction() as db:
            self._one("predictions", prediction_id, _prediction_from_row)
            db.execute("UPDATE predictions SET result = ? WHERE id = ?", (text, prediction_id))
            seal_row(db, "predictions", prediction_id)

    def predictions(self) -> list[Prediction]:
        """All predictions, oldest first."""
        return self._all("predictions", _prediction_from_row)

    def sweep_points(self, build: Callable[[codec.Row], Record]) -> list[Record]:
        """All settled points of all sweeps, oldest first; see `labkit.results.sweeps`."""
        return self._all("sweep_points", build)

    def _insert(self, table: str, row: codec.Row) -> int:
        with self.transaction() as db:
            return insert_row(db, table, row)

    def _one(self, table: str, row_id: int, build: Callable[[codec.Row], Record]) -> Record:
        with self._explained():
            found = read_row(self._db, table, row_id, build) if abs(row_id) < TOO_LARGE_AN_ID else None
        if found is None:
            raise UsageError(f"there is no row {row_id} among the {table} of {self.path}")
        if isinstance(found, Damage):
            raise ResultsError(f"{self.path}: {describe_damage([found])[0]}")
        return found

    def _all(self, table: str, build: Callable[[codec.Row], Record]) -> list[Record]:
        with self._explained():
            found = list(read_rows(self._db, table, build))
        self._damaged |= {(table, row_id): each for row_id, each in found if isinstance(each, Damage)}
        return [each for _, each in found if not isinstance(each, Damage)]

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The database for a group of statements that take effect together or not at all.

        A transaction within another is a part of it.
        """
        with self._explained():
            if self._db.in_transaction:
                yield self._db
                return
            database.begin(self._db, self.path)
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what SQLite and the system say into one sentence on what to do."""
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError, UnicodeError) as error:  # the last: a damaged name
                raise ResultsError(database.advice(self.path, error, self.warning)) from error


def _prediction_from_row(row: codec.Row) -> Prediction:
    facts = {name: codec.load_json(row[name]) for name in ("options", "answer", "result")}
    facts["options"] = tuple(facts["options"])
    return Prediction(id=row["id"], created=row["created"], question=row["question"], **facts)


def utc_now() -> str:
    """The time of creation that rows carry: UTC in ISO format, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
