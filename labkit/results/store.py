"""The store: one SQLite file that keeps every measurement it has reported as saved.

Write-ahead logging with full synchronisation: a row is on the disk before `add_run` returns,
whatever is killed afterwards; other processes may write at the same time.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from labkit.core.errors import ResultsError, UsageError
from labkit.core.files import results_folder
from labkit.results import codec, schema
from labkit.results.exports import FORMATS, export
from labkit.results.records import Comparison, Run

BUSY_TIMEOUT_S = 30.0
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"}


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

    Attributes:
        path: the SQLite file.
        warning: why this place is a doubtful one for a store (a network file system, where
            SQLite's write-ahead log may lose or damage rows); None on a local disk.

    Raises:
        ResultsError: the file cannot be read or written, is no results store, or is of a
            newer version; the message says what to do.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = default_path() if path is None else Path(path)
        self.warning = _doubt(self.path)
        self._lock = threading.RLock()
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = _connect(self.path)
            try:
                schema.bring_up_to_date(self._db, self.path)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Closes the file; the store cannot be used afterwards."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_run(self, run: Run) -> Run:
        """Saves a run; returns it with its id and time of creation (kept if it had one)."""
        run = replace(run, created=run.created or utc_now())
        return replace(run, id=self._insert("runs", codec.run_to_row(run)))

    def add_comparison(self, comparison: Comparison) -> Comparison:
        """Saves a comparison; returns it with its id and time of creation (kept if it had one)."""
        comparison = replace(comparison, created=comparison.created or utc_now())
        return replace(comparison, id=self._insert("comparisons", codec.comparison_to_row(comparison)))

    def run(self, run_id: int) -> Run:
        """The run of that id."""
        return self._one("runs", run_id, codec.run_from_row)

    def comparison(self, comparison_id: int) -> Comparison:
        """The comparison of that id."""
        return self._one("comparisons", comparison_id, codec.comparison_from_row)

    def runs(
        self,
        *,
        rung: str | None = None,
        stage: int | None = None,
        scenario: str | None = None,
        quick: bool | None = None,
        newest: int | None = None,
    ) -> list[Run]:
        """All runs, oldest first, or those with the given values; `newest` keeps the last few."""
        rows = self._select("runs", newest, rung=rung, stage=stage, scenario=scenario, quick=quick)
        return [codec.run_from_row(row) for row in rows]

    def comparisons(
        self, *, a: str | None = None, b: str | None = None, newest: int | None = None
    ) -> list[Comparison]:
        """All comparisons, oldest first, or those of the given rungs."""
        return [codec.comparison_from_row(row) for row in self._select("comparisons", newest, a=a, b=b)]

    def delete(self, run_ids: Iterable[int]) -> int:
        """Deletes runs; returns how many there were."""
        return self._delete("runs", run_ids)

    def export(self, folder: Path | str, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Writes all runs and comparisons into a folder; see `labkit.results.exports.export`."""
        return export(self.runs(), self.comparisons(), folder, formats)

    def add_prediction(self, prediction: Prediction) -> Prediction:
        """Saves what was expected; returns it with its id and time of creation."""
        prediction = replace(prediction, created=prediction.created or utc_now())
        row = {
            "created": prediction.created,
            "question": prediction.question,
            **{
                name: codec.dump_json(getattr(prediction, name), name)
                for name in ("options", "answer", "result")
            },
        }
        return replace(prediction, id=self._insert("predictions", row))

    def settle_prediction(self, prediction_id: int, result: Any) -> None:
        """Adds what the measurement said to a prediction."""
        text = codec.dump_json(result, "result")
        with self.transaction() as db:
            done = db.execute(
                "UPDATE predictions SET result = ? WHERE id = ?", (text, prediction_id)
            ).rowcount
        if not done:
            raise UsageError(f"there is no prediction {prediction_id} in {self.path}")

    def predictions(self, *, question: str | None = None) -> list[Prediction]:
        """All predictions, oldest first, or those about one question."""
        found = []
        for row in self._select("predictions", None, question=question):
            facts = {name: codec.load_json(row[name]) for name in ("options", "answer", "result")}
            facts["options"] = tuple(facts["options"])
            found.append(Prediction(id=row["id"], created=row["created"], question=row["question"], **facts))
        return found

    def _insert(self, where: str, row: codec.Row) -> int:
        with self.transaction() as db:
            return insert(db, where, row)

    def _one(self, where: str, row_id: int, build: Any) -> Any:
        with self._explained():
            row = self._db.execute(f"SELECT * FROM {where} WHERE id = ?", (row_id,)).fetchone()
        if row is None:
            raise UsageError(f"there is no row {row_id} among the {where} of {self.path}")
        return build(row)

    def _select(self, where: str, newest: int | None, **equal: Any) -> list[codec.Row]:
        asked = {name: value for name, value in equal.items() if value is not None}
        condition = " AND ".join(f"{name} = :{name}" for name in asked) or "1"
        last = -1 if newest is None else int(newest)
        text = f"SELECT * FROM {where} WHERE {condition} ORDER BY id DESC LIMIT {last}"
        with self._explained():
            return [dict(row) for row in self._db.execute(text, asked).fetchall()[::-1]]

    def _delete(self, where: str, ids: Iterable[int]) -> int:
        with self.transaction() as db:
            return db.executemany(f"DELETE FROM {where} WHERE id = ?", [(int(i),) for i in ids]).rowcount

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The database for a group of statements that take effect together or not at all."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
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
            except (sqlite3.Error, OSError) as error:
                raise ResultsError(_advice(self.path, error, self.warning)) from error


def insert(db: sqlite3.Connection, where: str, row: codec.Row) -> int:
    """Adds a row to a table inside a transaction; returns its id."""
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join(f":{name}" for name in row)
    return int(db.execute(f"INSERT INTO {where} ({names}) VALUES ({marks})", row).lastrowid or 0)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    try:
        _write_ahead(db)
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def _write_ahead(db: sqlite3.Connection) -> None:
    # The busy timeout does not cover this switch: of several first writers all but one are refused.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _advice(path: Path, error: Exception, warning: str | None) -> str:
    said = str(error)
    elsewhere = "or set LABKIT_HOME to another folder"
    if path.is_dir():
        return f"{path} is a folder, not a results file; name a file in it, such as {path / 'lab.sqlite'}"
    if "not a database" in said or "malformed" in said:
        return (
            f"{path} is not a readable results store ({said}); move it away and restore a copy, {elsewhere}"
        )
    if "full" in said:
        return f"no space left for {path} ({said}); earlier rows are as they were; free space, {elsewhere}"
    if "locked" in said or "busy" in said:
        return (
            f"another process has held {path} for {BUSY_TIMEOUT_S:.0f} s; end it and try again, {elsewhere}"
        )
    if "readonly" in said or "unable to open" in said or isinstance(error, OSError):
        return f"cannot write {path} ({said}); make its folder writable, {elsewhere}"
    if "closed" in said:
        return f"the store {path} has been closed; open it again with Store({str(path)!r})"
    hint = f"; {warning}" if warning else ""
    return f"cannot use {path} ({said}); earlier rows are as they were; check the disk, {elsewhere}{hint}"


def _doubt(path: Path) -> str | None:
    kind = _file_system(path.absolute())
    if kind.removeprefix("fuse.") not in NETWORK_FILE_SYSTEMS | {"sshfs", "rclone"}:
        return None
    return f"{path} is on a network file system ({kind}), where the store may lose rows; use a local disk"


def _file_system(path: Path) -> str:
    """Kind of file system a path is on, as Linux names it; empty where that is unknown."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    holding = [m for m in mounts if path.is_relative_to(m[1].replace("\\040", " "))]
    return max(holding, key=lambda m: len(m[1]), default=["", "", ""])[2]


def utc_now() -> str:
    """The time of creation that rows carry: UTC in ISO format, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
