"""Report of a GPU's work: waits of the host, launches, copies and races, each by source line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Generic, TypeVar

from labkit.practice.source_line import SourceLine

Row = tuple[Any, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Wait:
    """One stop of the host until the GPU was done.

    Attributes:
        what: it waited for: "a value", "a copy to the host", "a copy from the host", "an event",
            "a stream" or "everything".
        line: of the learner's code.
    """

    what: str
    line: SourceLine


@dataclass(frozen=True)
class Copy:
    """One copy between host and GPU.

    Attributes:
        to: "GPU" or "host".
        nbytes: how much.
        memory: the host's side, "page-locked" or "pageable".
        waited: the host stood still until it was over.
        line: of the learner's code.
    """

    to: str
    nbytes: int
    memory: str
    waited: bool
    line: SourceLine


@dataclass(frozen=True)
class RaceFound:
    """One race, in words.

    Attributes:
        sentence: what happened to which tensor, at which two lines.
        remedy: what would order the two.
        lines: of the learner's code, the earlier use first.
    """

    sentence: str
    remedy: str
    lines: tuple[SourceLine, SourceLine]

    def __str__(self) -> str:
        return f"{self.sentence}. {self.remedy}"


class Log(list[T], Generic[T]):
    """Records in order; shown as a table with one row per source line."""

    title = ""
    head: tuple[str, ...] = ()

    def rows(self) -> list[Row]:
        """The table's rows, the most frequent first."""
        raise NotImplementedError

    def __str__(self) -> str:
        return _text(self.title, self.head, self.rows())

    def _repr_html_(self) -> str:
        return _html(self.title, self.head, self.rows())


class Waits(Log[Wait]):
    """All stops of the host, in order."""

    title, head = "waits of the host", ("times", "for", "where", "source")

    def by_what(self) -> Counter[str]:
        """Number of waits of the host by what it waited for: {"a value": 100, "a copy to the host": 1}."""
        return Counter(wait.what for wait in self)

    def by_line(self) -> Counter[SourceLine]:
        """Number of waits of the host at each line, the most frequent first."""
        return _most_first(wait.line for wait in self)

    def rows(self) -> list[Row]:
        """(times, for what, where, source)."""
        counts = _most_first((wait.what, wait.line) for wait in self)
        return [(n, what, line.where, line.text) for (what, line), n in counts.items()]


class Copies(Log[Copy]):
    """All copies between host and GPU, in order."""

    title, head = "copies", ("times", "to", "bytes", "host memory", "the host waits", "where", "source")

    def rows(self) -> list[Row]:
        """(times, to, bytes of all, host memory, whether the host waited, where, source)."""
        counts = _most_first((copy.to, copy.memory, copy.waited, copy.line) for copy in self)
        nbytes: Counter[Any] = Counter()
        for copy in self:
            nbytes[copy.to, copy.memory, copy.waited, copy.line] += copy.nbytes
        return [
            (n, to, f"{nbytes[to, memory, waited, line]:,}", memory, "yes" if waited else "no", line.where,
             line.text)
            for (to, memory, waited, line), n in counts.items()
        ]  # fmt: skip


class Races(Log[RaceFound]):
    """All races found, in order."""

    title, head = "races", ("times", "what", "mended by")

    def rows(self) -> list[Row]:
        """(times, sentence, remedy)."""
        return [(n, race.sentence, race.remedy) for race, n in _most_first(self).items()]


class GpuReport:
    """Work that a GPU was asked for since it was switched on, or since `reset()`.

    Attributes:
        name: of the GPU.
        real: whether there is such a device.
        waits: of the host for the GPU.
        launches: operations, kernels and graphs that were put onto a stream; None on a real GPU,
            where they are not counted.
        kernels: the same, with a graph's one by one.
        copies: between host and GPU.
        races: what streams, or a stream and the host, do to the same memory in no certain order.
    """

    name = ""
    real = False

    def __init__(self) -> None:
        self.waits, self.copies, self.races = Waits(), Copies(), Races()
        self.launches: Any = 0
        self.kernels: Any = 0
        self.launch_lines: Counter[SourceLine] = Counter()

    def reset(self) -> None:
        """Counts from zero again."""
        self.waits.clear()
        self.copies.clear()
        self.races.clear()
        self.launch_lines.clear()
        self.launches = self.kernels = None if self.real else 0

    def notes(self) -> list[str]:
        """Sentences about what the report can and cannot tell."""
        return []

    def __str__(self) -> str:
        return "\n\n".join([self._headline(), *map(str, self._tables()), *self.notes()])

    def _repr_html_(self) -> str:
        tables = "".join(table._repr_html_() for table in self._tables())
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes())
        return f"<p><b>{escape(self._headline())}</b></p>{tables}{notes}"

    def _tables(self) -> Iterable[Log[Any]]:
        return [log for log in (self.races, self.waits, self.copies) if log]

    def _headline(self) -> str:
        counts = [
            _number(len(self.waits), "wait of the host", "waits of the host"),
            _number(len(self.copies), "copy", "copies"),
            _number(len(self.races), "race", "races"),
        ]
        if self.launches is not None:
            counts.insert(0, _number(self.launches, "launch", "launches"))
        return f"{self.name}: {', '.join(counts)}"


def _number(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _most_first(things: Iterable[Any]) -> Counter[Any]:
    return Counter(dict(Counter(things).most_common()))


def _text(title: str, head: Sequence[str], rows: Sequence[Row]) -> str:
    cells = [tuple(head), *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return "\n".join([title, *lines]) if rows else f"{title}: none"


def _html(title: str, head: Sequence[str], rows: Sequence[Row]) -> str:
    if not rows:
        return f"<p>{escape(title)}: none</p>"
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr>{''.join(_cell(*cell) for cell in zip(head, row, strict=True))}</tr>" for row in rows
    )
    return (
        f"<table><caption style='text-align:left'>{escape(title)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(name: str, value: Any) -> str:
    text = escape(str(value))
    return f"<td style='text-align:left'>{f'<code>{text}</code>' if name == 'source' else text}</td>"
