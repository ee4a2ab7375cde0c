"""A stream's recorder: takes answers in order, accounts for every frame, writes parts to disk.

It runs in an actor beside whoever started the fleet. What it knows is on disk: each part holds the
account up to its last row, and a closed account has a file, so that a new start goes on there. Rows of
an open part that a dying recorder takes along count as failed, since their numbers are missing.
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
from labkit.fleet.rows import preload_writer, read_metadata, write_rows
from labkit.fleet.streams import Checkpoint, Counts, EndOfStream, FrameResult, Ledger, Stream, StreamState

PERIOD_S = 60.0
LATE_S = 10.0
"""Rates and ages are those of the last so many seconds."""
LATE_ROWS = 4096
MOST_ROWS = 16384
"""Rows that wait for the disk; a recorder that has more takes none, and its stream drops frames."""
RETRY_S = 1.0
FOR_P90 = 64  # ages that a 90th percentile needs

CLOSED = "account.json"
"""A stream's frames, each of them accounted for, and how it ended."""

_PART = re.compile(r"part-(\d{6})\.parquet")


class Recorder:
    """One stream's account and parts.

    Args:
        stream: which; only what may be shown of it is kept.
        folder: where its parts go; None keeps the account alone.
        period_s: a part holds the rows of so long.
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
            preload_writer()  # now, while nothing runs; the first part must not take it from the networks
        self._position, self._shown = stream.position, stream.shown
        self._folder = None if folder is None else Path(folder)
        self._period_s = period_s
        self._facts = {"stream": stream.shown, "size": list(stream.size), **(facts or {})}
        self._ledger = Ledger()
        self._open: list[FrameResult] = []
        self._opened_s = 0.0
        self._parts = 0
        self._late: deque[tuple[float, float]] = deque(maxlen=LATE_ROWS)  # (when, age) of answers
        self._sender: tuple[str, str] | None = None
        self._restarts = 0
        self._note = ""
        self._end: tuple[str, bool] | None = None
        self._ended_s: float | None = None
        if self._folder is not None:
            self._go_on_after(self._folder)

    def where(self) -> Checkpoint:
        """How far the account is."""
        return Checkpoint(self._ledger.last, self._ledger.began_unix_s, self._end is not None)

    def append(self, answers: Sequence[FrameResult]) -> int:
        """Takes answers that are newer than what is known; how many of these were. None once it is closed."""
        if self._end is not None:
            return 0
        while len(self._open) >= MOST_ROWS and not self._write():
            time.sleep(RETRY_S)
        known = self._ledger.counts.processed
        for answer in answers:
            ledger = self._ledger.answered(answer)
            if ledger is not None:
                self._ledger = ledger
                self._keep(answer)
        self._note = ""
        self._write_if_due()
        return self._ledger.counts.processed - known

    def note(self, text: str) -> None:
        """What is the matter with the stream, in words."""
        self._note = text

    def close(self, end: EndOfStream) -> None:
        """Closes the account; a second time changes nothing."""
        if self._end is not None:
            return
        self._ledger = self._ledger.ended(end)
        self._end, self._ended_s = (end.why, end.failed), time.monotonic()
        if not self._write():
            self._give_up_open_rows()
        if self._folder is not None:
            told = {"ended": self._end[0], "failed": self._end[1], "ledger": self._ledger.to_json()}
            with suppress(LabError):  # of a disk that refuses too
                write_atomic(self._folder / CLOSED, json.dumps(told) + "\n")

    def state(self) -> StreamState:
        """How the stream is doing."""
        self._write_if_due()
        why, failed = self._end or (None, False)
        fps, age_ms = self._lately()
        return StreamState(
            self._position, self._shown, self._ledger.counts, fps, age_ms, self._parts, self._restarts,
            self._note, why, failed,
        )  # fmt: skip

    def _go_on_after(self, folder: Path) -> None:
        numbers = [int(found[1]) for path in folder.glob("part-*") if (found := _PART.fullmatch(path.name))]
        for left in folder.glob(".part-*"):  # half a part, of a start that died
            left.unlink(missing_ok=True)
        if numbers:
            self._parts = max(numbers) + 1
            known = read_metadata(self._path(max(numbers)))
            self._ledger = Ledger.from_json(known["ledger"])
            self._sender, self._restarts = tuple(known["sender"]), known["restarts"]
        if (folder / CLOSED).is_file():
            told = json.loads((folder / CLOSED).read_text())
            self._ledger = Ledger.from_json(told["ledger"])
            self._end, self._ended_s = (told["ended"], told["failed"]), time.monotonic()

    def _keep(self, answer: FrameResult) -> None:
        now_s = time.monotonic()
        self._late.append((now_s, answer.age_s))
        sender = (answer.reader, answer.engine)
        self._restarts += self._sender is not None and sender != self._sender
        self._sender = sender
        if self._folder is not None:
            self._opened_s = self._opened_s if self._open else now_s
            self._open.append(answer)

    def _lately(self) -> tuple[float | None, tuple[float | None, float | None]]:
        now_s = self._ended_s or time.monotonic()  # of a stream that is over, the last figures stay
        since_s = now_s - LATE_S
        late = [(when_s, age_s) for when_s, age_s in self._late if when_s > since_s]
        if not late:
            return (0.0 if self._late else None), (None, None)
        ages_ms = 1e3 * np.array([age_s for _, age_s in late])
        p90 = float(np.percentile(ages_ms, 90)) if len(late) >= FOR_P90 else None
        over_s = now_s - late[0][0]
        fps = (len(late) - 1) / over_s if len(late) > 1 and over_s > 0 else None
        return fps, (float(np.median(ages_ms)), p90)

    def _write_if_due(self) -> None:
        if self._open and time.monotonic() - self._opened_s >= self._period_s:
            self._write()

    def _write(self) -> bool:
        """The open part, whole; False where the disk refuses, and the rows stay for another try."""
        if not self._open or self._folder is None:
            return True
        columns: dict[str, list[Any]] = {
            "frame": [answer.index for answer in self._open],
            "captured_utc": [answer.captured_unix_s for answer in self._open],
            "age_ms": [1e3 * answer.age_s for answer in self._open],
        }
        known = {"ledger": self._ledger.to_json(), "sender": self._sender, "restarts": self._restarts}
        facts = {**self._facts, "part": self._parts, **known}
        try:
            write_rows(self._path(self._parts), columns, [answer.found for answer in self._open], facts)
        except LabError as error:
            self._note = str(error)
            self._opened_s = time.monotonic()  # the next try is a period away
            return False
        self._parts += 1
        self._open = []
        return True

    def _give_up_open_rows(self) -> None:
        """At the end, answers that the disk did not take are answers that nobody has."""
        offered, processed, dropped, failed = self._ledger.counts.row()
        lost = len(self._open)
        self._ledger = replace(self._ledger, counts=Counts(offered, processed - lost, dropped, failed + lost))
        self._end = (f"its last {lost} answers could not be written: {self._note}", True)
        self._open = []

    def _path(self, part: int) -> Path:
        assert self._folder is not None
        return self._folder / f"part-{part:06d}.parquet"


def folder_name(stream: Stream) -> str:
    """A name for a stream's folder: its place among the streams, and what of its name a folder bears."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", stream.shown).strip("-.")
    return f"{stream.position:03d}-{readable[-60:].strip('-.') or 'stream'}"
