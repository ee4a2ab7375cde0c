"""Recorder of one stream: accounts for every frame and writes results to Parquet parts.

Runs in an actor on the caller's machine. Its state is on disk: each part holds the ledger up to its
last row, and a closed stream has `account.json`, so a restarted recorder continues there. Results not
yet written when a recorder dies count as failed, since their numbers are missing.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labkit.core.errors import LabError
from labkit.core.files import write_atomic
from labkit.core.read_json import read_json
from labkit.fleet.rows import preload_writer, read_metadata, write_rows
from labkit.fleet.streams import Checkpoint, Counts, EndOfStream, FrameResult, Ledger, Stream, StreamState

PERIOD_S = 60.0
WINDOW_S = 10.0
"""Span of the recent results that rates and ages are computed from."""
WINDOW_RESULTS = 4096
MAX_ROWS = 16384
"""Rows that wait for the disk; a recorder that has more blocks, and its stream drops frames."""
RETRY_S = 1.0
MIN_FOR_P90 = 64  # results

ACCOUNT = "account.json"
"""Written when a stream is closed: its ledger and how it ended."""

_PART = re.compile(r"part-(\d{6})\.parquet")


class Recorder:
    """Accounts for one stream's frames and writes its parts.

    Args:
        stream: of which only what has no credentials is kept.
        folder: of its parts; None keeps the account alone.
        period_s: time span of a part.
        facts: plain data on the run, kept in each part.
    """

    def __init__(
        self,
        stream: Stream,
        folder: str | None,
        period_s: float = PERIOD_S,
        facts: dict[str, Any] | None = None,
    ) -> None:
        if folder is not None:
            preload_writer()  # now rather than at the first part, when the networks need the cores
        self._position, self._shown = stream.position, stream.shown
        self._folder = None if folder is None else Path(folder)
        self._period_s = period_s
        self._facts = {"stream": stream.shown, "size": list(stream.size), "fit": stream.fit, **(facts or {})}
        self._ledger = Ledger()
        self._rows: list[FrameResult] = []  # of the part that is not written yet
        self._rows_begun_s = 0.0
        self._parts = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW_RESULTS)  # (time, age) in s
        self._sender: tuple[str, str] | None = None
        self._restarts = 0
        self._note = ""
        self._end: tuple[str, bool] | None = None
        self._ended_s: float | None = None
        if self._folder is not None:
            self._resume(self._folder)

    def checkpoint(self) -> Checkpoint:
        """The state from which an engine continues the stream."""
        return Checkpoint(self._ledger.last, self._ledger.began_unix_s, self._end is not None)

    def append(self, results: Sequence[FrameResult]) -> int:
        """Add results that are newer than the last one; returns their number, 0 once it is closed."""
        if self._end is not None:
            return 0
        while len(self._rows) >= MAX_ROWS and not self._write():
            time.sleep(RETRY_S)
        before = self._ledger.counts.processed
        for result in results:
            ledger = self._ledger.with_result(result)
            if ledger is not None:
                self._ledger = ledger
                self._keep(result)
        self._note = ""
        self._write_if_due()
        return self._ledger.counts.processed - before

    def note(self, text: str) -> None:
        """Set the stream's current problem, in words."""
        self._note = text

    def close(self, end: EndOfStream) -> None:
        """Close the account and write the last part; no effect the second time."""
        if self._end is not None:
            return
        self._ledger = self._ledger.with_end(end)
        self._end, self._ended_s = (end.why, end.failed), time.monotonic()
        if not self._write():
            self._discard_rows()
        if self._folder is not None:
            account = {"ended": self._end[0], "failed": self._end[1], "ledger": self._ledger.to_json()}
            with suppress(LabError):  # the disk may refuse this, too
                write_atomic(self._folder / ACCOUNT, json.dumps(account) + "\n")

    def state(self) -> StreamState:
        """The stream's current state; writes a part that is due."""
        self._write_if_due()
        why, failed = self._end or (None, False)
        fps, age_ms = self._recent_figures()
        return StreamState(
            self._position, self._shown, self._ledger.counts, fps, age_ms, self._parts, self._restarts,
            self._note, why, failed,
        )  # fmt: skip

    def _resume(self, folder: Path) -> None:
        numbers = [int(found[1]) for path in folder.glob("part-*") if (found := _PART.fullmatch(path.name))]
        for partial in folder.glob(".part-*"):  # of a recorder that died while writing
            partial.unlink(missing_ok=True)
        if numbers:
            self._parts = max(numbers) + 1
            known = read_metadata(self._part_path(max(numbers)))
            self._ledger = Ledger.from_json(known["ledger"])
            self._sender, self._restarts = tuple(known["sender"]), known["restarts"]
        if (folder / ACCOUNT).is_file():
            account = read_json(folder / ACCOUNT)
            self._ledger = Ledger.from_json(account["ledger"])
            self._end, self._ended_s = (account["ended"], account["failed"]), time.monotonic()

    def _keep(self, result: FrameResult) -> None:
        now_s = time.monotonic()
        self._recent.append((now_s, result.age_s))
        sender = (result.reader, result.engine)
        self._restarts += self._sender is not None and sender != self._sender
        self._sender = sender
        if self._folder is not None:
            self._rows_begun_s = self._rows_begun_s if self._rows else now_s
            self._rows.append(result)

    def _recent_figures(self) -> tuple[float | None, tuple[float | None, float | None]]:
        """FPS, and the p50 and p90 of the age in ms; of a stream that is over, the last ones."""
        now_s = self._ended_s or time.monotonic()
        recent = [(done_s, age_s) for done_s, age_s in self._recent if done_s > now_s - WINDOW_S]
        if not recent:
            return (0.0 if self._recent else None), (None, None)
        ages_ms = 1e3 * np.array([age_s for _, age_s in recent])
        p90 = float(np.percentile(ages_ms, 90)) if len(recent) >= MIN_FOR_P90 else None
        span_s = now_s - recent[0][0]
        fps = (len(recent) - 1) / span_s if len(recent) > 1 and span_s > 0 else None
        return fps, (float(np.median(ages_ms)), p90)

    def _write_if_due(self) -> None:
        if self._rows and time.monotonic() - self._rows_begun_s >= self._period_s:
            self._write()

    def _write(self) -> bool:
        """Write the rows as a part; False if the disk refuses, which keeps them for another try."""
        if not self._rows or self._folder is None:
            return True
        columns: dict[str, list[Any]] = {
            "frame": [row.index for row in self._rows],
            "time_s": [row.time_s for row in self._rows],
            "captured_utc": [row.captured_unix_s for row in self._rows],
            "age_ms": [1e3 * row.age_s for row in self._rows],
        }
        known = {"ledger": self._ledger.to_json(), "sender": self._sender, "restarts": self._restarts}
        facts = {**self._facts, "part": self._parts, **known}
        try:
            write_rows(self._part_path(self._parts), columns, [row.found for row in self._rows], facts)
        except LabError as error:
            self._note = str(error)
            self._rows_begun_s = time.monotonic()  # try again after a period
            return False
        self._parts += 1
        self._rows = []
        return True

    def _discard_rows(self) -> None:
        """Count rows that the disk did not take as failed, at the end of the stream."""
        offered, processed, dropped, failed = self._ledger.counts.row()
        lost = len(self._rows)
        self._ledger = replace(self._ledger, counts=Counts(offered, processed - lost, dropped, failed + lost))
        self._end = (f"its last {lost} results could not be written: {self._note}", True)
        self._rows = []

    def _part_path(self, part: int) -> Path:
        assert self._folder is not None
        return self._folder / f"part-{part:06d}.parquet"


def folder_name(stream: Stream) -> str:
    """The name of a stream's folder: its position, and its source as far as a file name can hold it."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", stream.shown).strip("-.")
    return f"{stream.position:03d}-{readable[-60:].strip('-.') or 'stream'}"
