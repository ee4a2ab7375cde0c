"""Recorder of one stream: accounts for every frame and writes results to Parquet parts.

What the disk refuses is counted as unsaved, and processed all the same.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from labkit.core.errors import ResultsError
from labkit.core.files import write_atomic
from labkit.fleet.rows import write_rows
from labkit.fleet.streams import EndOfStream, FrameResult, Ledger, Stream, StreamState

PERIOD_S = 60.0
WINDOW_S = 10.0
"""Span of the recent results that rates and ages are computed from."""
WINDOW_RESULTS = 4096
MAX_ROWS = 16384
"""Rows that wait for a disk that refuses them; of more, the oldest are given up."""
MIN_FOR_P90 = 64  # results

ACCOUNT = "account.json"
"""Written when a stream is closed: its counts and how it ended."""


class Recorder:
    """Accounts for one stream's frames and writes its parts.

    Args:
        stream: of which only what has no credentials is kept.
        folder: of its parts; None keeps the account alone.
        period_s: time span of a part.
        facts: plain data on the run, kept in each part.

    Attributes:
        ledger: the account so far.
        end: how the stream ended; None while it runs.
    """

    def __init__(
        self,
        stream: Stream,
        folder: Path | None,
        period_s: float = PERIOD_S,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.ledger = Ledger()
        self.end: EndOfStream | None = None
        self._position, self._shown = stream.position, stream.shown
        self._folder, self._period_s = folder, period_s
        self._facts = {"stream": stream.shown, "size": list(stream.size), "fit": stream.fit, **(facts or {})}
        self._rows: list[FrameResult] = []  # of the part that is not written yet
        self._rows_begun_s = 0.0
        self._parts = self._unsaved = self._restarts = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW_RESULTS)  # (time, age) in s
        self._sender: tuple[str, str] | None = None
        self._note = self._disk_note = ""
        self._ended_s: float | None = None

    def append(self, results: Sequence[FrameResult]) -> None:
        """Add results that are newer than the last one; no effect once it is closed."""
        if self.end is not None:
            return
        for result in results:
            ledger = self.ledger.with_result(result)
            if ledger is not None:
                self.ledger = ledger
                self._keep(result)
        self._note = ""
        self._write_if_due()

    def note(self, text: str) -> None:
        """Set the stream's current problem, in words."""
        self._note = text

    def close(self, end: EndOfStream) -> None:
        """Close the account and write the last part; no effect the second time."""
        if self.end is not None:
            return
        self.ledger = self.ledger.with_end(end)
        self.end, self._ended_s = end, time.monotonic()
        self._write()
        self._give_up(len(self._rows))
        if self._folder is not None:
            account = {"ended": end.why, "failed": end.failed, "counts": asdict(self.ledger.counts)}
            with suppress(ResultsError):  # the disk may refuse this, too
                write_atomic(self._folder / ACCOUNT, json.dumps(account) + "\n")

    def state(self) -> StreamState:
        """The stream's current state; writes a part that is due."""
        self._write_if_due()
        why, failed = (self.end.why, self.end.failed) if self.end is not None else (None, False)
        fps, age_ms = self._recent_figures()
        return StreamState(
            self._position, self._shown, self.ledger.counts, fps, age_ms, self._parts, self._restarts,
            self._unsaved, self._disk_note or self._note, why, failed,
        )  # fmt: skip

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

    def _write(self) -> None:
        """Write the rows as a part; where the disk refuses, they wait for another try."""
        if not self._rows or self._folder is None:
            return
        columns: dict[str, list[Any]] = {
            "frame": [row.index for row in self._rows],
            "time_s": [row.time_s for row in self._rows],
            "captured_utc": [row.captured_unix_s for row in self._rows],
            "age_ms": [1e3 * row.age_s for row in self._rows],
        }
        path = self._folder / f"part-{self._parts:06d}.parquet"
        try:
            write_rows(path, columns, [row.found for row in self._rows], {**self._facts, "part": self._parts})
        except ResultsError as error:
            self._disk_note = str(error)
            self._rows_begun_s = time.monotonic()  # try again after a period
            self._give_up(len(self._rows) - MAX_ROWS)
            return
        self._parts += 1
        self._rows = []
        self._disk_note = ""

    def _give_up(self, oldest: int) -> None:
        """Forget so many rows, which the disk did not take."""
        if oldest > 0:
            self._unsaved += oldest
            del self._rows[:oldest]


def folder_name(stream: Stream) -> str:
    """The name of a stream's folder: its position, and its source as far as a file name can hold it."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", stream.shown).strip("-.")
    return f"{stream.position:03d}-{readable[-60:].strip('-.') or 'stream'}"
