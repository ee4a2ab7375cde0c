"""Reads the SQLite file that `nsys export` writes.

Tables come and go with what was watched and with the version of nsys, so each is asked for.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from labkit.core.errors import ResultsError
from labkit.core.trace import DOMAIN
from labkit.profiling.capture import ANCHOR_DOMAIN, Capture, GpuWork, Range

PUSH_POP, START_END, DOMAIN_CREATE = 59, 60, 75  # NVTX event types in nsys exports of 2022 and later
_THREAD_BITS = 0xFFFFFF  # a globalTid is hardware, machine, process and thread in one number
_WORK_TABLES: dict[str, Literal["kernel", "copy", "fill"]] = {
    "CUPTI_ACTIVITY_KIND_KERNEL": "kernel",
    "CUPTI_ACTIVITY_KIND_MEMCPY": "copy",
    "CUPTI_ACTIVITY_KIND_MEMSET": "fill",
}
_GRAPH_TABLE = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"  # CUDA graphs that were traced as a whole
_META_TABLES = ("EXPORT_META_DATA", "META_DATA_EXPORT")  # its names, the older one first
GRAPHS_AS_A_WHOLE = (
    "CUDA graphs were traced as a whole, so each replay counts as one kernel; "
    "nsys profile --cuda-graph-trace=node shows the kernels inside"
)
_WAITING_CALLS = {
    "cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy",
    "cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize", "cuMemcpyDtoH", "cuMemcpyHtoD",
}  # fmt: skip


def read_export(path: Path) -> Capture:
    """Contents of an export; times count from the start of labkit's capture range.

    Without such a range they are counted from the first range of any kind.

    Raises:
        ResultsError: the file is no export of nsys.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return _read(_Export(db), path)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise ResultsError(
            f"{path} cannot be read as an export of nsys ({error}); write one with: "
            f"nsys export -t sqlite {path.with_suffix('.nsys-rep').name}"
        ) from error


class _Export:
    """An open export: which tables it has, its rows, and its strings."""

    def __init__(self, db: sqlite3.Connection) -> None:
        db.row_factory = sqlite3.Row
        self._db = db
        self.tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        self._strings = (
            dict(db.execute("SELECT id, value FROM StringIds")) if "StringIds" in self.tables else {}
        )

    def rows(self, table: str) -> Iterator[sqlite3.Row]:
        """All rows of a table; none where the export lacks it."""
        if table in self.tables:
            yield from self._db.execute(f"SELECT * FROM {table}")

    def string(self, key: int | None) -> str:
        """The text behind an id."""
        return str(self._strings.get(key, "?"))

    def version(self) -> str:
        """Of the nsys that wrote the export."""
        for row in chain.from_iterable(map(self.rows, _META_TABLES)):
            if row["name"] == "EXPORT_PRODUCT_VERSION":
                return str(row["value"])
        return "of unknown version"


def _read(export: _Export, path: Path) -> Capture:
    if not export.tables & {"StringIds", "NVTX_EVENTS", "ENUM_NSYS_EVENT_TYPE"}:
        raise ResultsError(f"{path} is a database, but not an export of nsys")
    anchors, ranges = _ranges(export)
    launches, waits = _calls(export)
    began = anchors[0].start_ns if anchors else min((r.start_ns for r in ranges), default=0)
    gpu = sorted(_gpu_work(export, launches), key=lambda w: w.start_ns)
    return Capture(
        profiler=f"nsys {export.version()}",
        ranges=tuple(sorted((_moved(r, began) for r in ranges), key=lambda r: (r.start_ns, -r.stop_ns))),
        gpu=tuple(_moved(w, began) for w in gpu),
        waits=tuple(_moved(w, began) for w in waits),
        file=path,
        notes=(GRAPHS_AS_A_WHOLE,) if any(export.rows(_GRAPH_TABLE)) else (),
        has_gpu=any(table.startswith("CUPTI_ACTIVITY_KIND_") for table in export.tables),
    )


def _ranges(export: _Export) -> tuple[list[Range], list[Range]]:
    """Labkit's capture ranges, and all others."""
    events = list(export.rows("NVTX_EVENTS"))
    domains = {_domain_key(e): _text(export, e) for e in events if e["eventType"] == DOMAIN_CREATE}
    anchors: list[Range] = []
    ranges: list[Range] = []
    for event in events:
        if event["eventType"] not in (PUSH_POP, START_END) or event["end"] is None:
            continue
        domain, name = domains.get(_domain_key(event), ""), _text(export, event)
        shown = name if domain in ("", DOMAIN) else f"{domain}:{name}"
        found = Range(shown, event["start"], event["end"], event["globalTid"] & _THREAD_BITS)
        (anchors if domain == ANCHOR_DOMAIN else ranges).append(found)
    return anchors, ranges


def _domain_key(event: sqlite3.Row) -> tuple[int, int]:
    """Each process numbers its own domains."""
    return event["globalTid"] & ~_THREAD_BITS, event["domainId"]


def _text(export: _Export, event: sqlite3.Row) -> str:
    return event["text"] if event["text"] is not None else export.string(_column(event, "textId"))


def _column(row: sqlite3.Row, name: str) -> Any:
    """A column that not every version writes; None where it is missing."""
    return row[name] if name in row.keys() else None  # noqa: SIM118 - a row's own `in` looks at values


def _calls(export: _Export) -> tuple[dict[tuple[int, int], tuple[int, int]], list[Range]]:
    """Launches by (process, correlation) as (when, thread), and the calls that wait."""
    launches, waits = {}, []
    for call in export.rows("CUPTI_ACTIVITY_KIND_RUNTIME"):
        thread = call["globalTid"] & _THREAD_BITS
        launches[call["globalTid"] & ~_THREAD_BITS, call["correlationId"]] = (call["start"], thread)
        name = re.sub(r"(_v\d+)?(_ptsz|_ptds)?(_v\d+)?$", "", export.string(call["nameId"]))
        if name in _WAITING_CALLS:
            waits.append(Range(name, call["start"], call["end"], thread))
    return launches, sorted(waits, key=lambda w: w.start_ns)


def _gpu_work(export: _Export, launches: dict[tuple[int, int], tuple[int, int]]) -> Iterator[GpuWork]:
    directions = {row["id"]: row["label"] for row in export.rows("ENUM_CUDA_MEMCPY_OPER")}
    processes = {process for process, _ in launches}
    only = next(iter(processes)) if len(processes) == 1 else -1  # -1: nobody knows whose it is
    for table, kind in (*_WORK_TABLES.items(), (_GRAPH_TABLE, "kernel")):
        for row in export.rows(table):
            of = _column(row, "globalPid")
            process = only if of is None else of & ~_THREAD_BITS
            launched = launches.get((process, row["correlationId"]), (None, None))
            graph = table == _GRAPH_TABLE
            whole = f"CUDA graph {row['graphId']}, as a whole" if graph else None
            name = whole or _work_name(export, directions, kind, row)
            yield GpuWork(kind, name, row["start"], row["end"], row["streamId"], *launched)


def _work_name(export: _Export, directions: dict[int, str], kind: str, row: Any) -> str:
    if kind == "kernel":
        short = _column(row, "shortName")
        return export.string(row["demangledName"] if short is None else short)
    if kind == "fill":
        return f"fill {row['bytes']} bytes"
    return f"{directions.get(row['copyKind'], 'copy')}, {row['bytes']} bytes"


def _moved(work: Any, began_ns: int) -> Any:
    """A range or GPU work with its times counted from another moment."""
    known = getattr(work, "launched_ns", None) is not None
    launched = {"launched_ns": work.launched_ns - began_ns} if known else {}
    return replace(work, start_ns=work.start_ns - began_ns, stop_ns=work.stop_ns - began_ns, **launched)
