"""The Parquet tables of an export, read within limits.

A small file may stand for gigabytes: numbers of rows are read from its metadata and sizes from the header
of each page first, then its columns in small batches, texts as the dictionaries that they are stored as,
with a limit on the sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.core.errors import ResultsError, first_line
from labkit.core.read_json import describe_bytes
from labkit.results import codec
from labkit.results.record_checks import describe
from labkit.results.records import Samples

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MOST_FILE_BYTES = 256 * 2**20
MOST_BYTES = 512 * 2**20
"""Of a table in memory."""
MOST_ROWS = 100_000
MOST_SAMPLES = 20_000_000
MOST_TEXT_BYTES = 4 * 2**20
"""Of one cell: facts as JSON, or the times of a comparison's rounds."""
MOST_COLUMNS = 1000
MOST_FOOTER_BYTES = 16 * 2**20
MOST_LEVELS = 16
"""Of a header's structures and lists."""
MOST_PAGES = 100_000
"""Of one column in a group of rows; pages have about a megabyte each."""

COLUMNS_READ: Mapping[str, Mapping[str, str]] = {
    "runs": {
        **dict.fromkeys(("id", "stage", "quick", "offered", "dropped", "failed"), "whole numbers"),
        "peak_bytes": "whole numbers",
        "startup_s": "numbers",
        **dict.fromkeys(("created", "rung", "scenario", *codec.facts_columns(codec.RUN_FACTS)), "texts"),
    },
    "comparisons": {
        **dict.fromkeys(("id", "frames_per_turn", "agrees", "quick"), "whole numbers"),
        **dict.fromkeys(
            ("created", "a", "b", *codec.facts_columns(codec.COMPARISON_FACTS), *codec.COMPARISON_SAMPLES),
            "texts",
        ),
    },
    "samples": {
        "run_id": "whole numbers", "series": "texts", "position": "whole numbers", "seconds": "numbers",
    },
}  # fmt: skip
"""Columns that are read back, with the kind of their values; the others are for people."""

ENCODINGS = {0, 2, 3, 8}
"""Of pages: plain, by a dictionary, in runs. Others, by which a text repeats the one before, are refused."""

ADDED_LATER = {"process"}
"""Columns that exports of older versions lack."""


def read_rows(content: bytes, path: Path, kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of a small table as plain values; ids are there once.

    Raises:
        ResultsError: the file is damaged, too large, or holds other columns.
    """
    with _explained(path):
        batches = _batches(content, kinds, MOST_ROWS, batch_rows=256)
        rows = [row for batch in batches for row in batch.to_pylist()]
        for row_id, times in Counter(row["id"] for row in rows).items():
            if row_id is None or times > 1:
                which = "empty" if row_id is None else f"{row_id} twice"
                raise ValueError(f"every row has an id of its own, and one is {which}")
        return rows


def read_samples(content: bytes, path: Path, known: Set[int]) -> dict[int, dict[str, Samples]]:
    """The series of each run by name, in order of their positions.

    Args:
        content: the file.
        path: of the file.
        known: ids of the runs.

    Raises:
        ResultsError: the file is damaged, too large, or holds samples of other runs.
    """
    import pyarrow as pa

    found: dict[int, dict[str, Samples]] = {}
    with _explained(path):
        batches = list(_batches(content, COLUMNS_READ["samples"], MOST_SAMPLES, batch_rows=65_536))
        if not batches:
            return found
        table = pa.Table.from_batches(batches).unify_dictionaries()
        for name in ("run_id", "series", "position"):
            if table.column(name).null_count:
                raise ValueError(f"{name} is empty in some rows")
        groups = table.to_pandas().groupby(["run_id", "series"], sort=False, observed=True)
        for (run_id, name), part in groups:
            if run_id not in known:
                raise ValueError(f"it holds samples of the run {run_id}, which runs.parquet lacks")
            part = part.sort_values("position")
            if not np.array_equal(part["position"], np.arange(len(part))):
                raise ValueError(
                    f"the positions of {describe(name)} of the run {run_id} are not 0 to {len(part) - 1}"
                )
            found.setdefault(int(run_id), {})[str(name)] = part["seconds"].to_numpy(np.float64, copy=True)
    return found


def _batches(
    content: bytes, kinds: Mapping[str, str], most_rows: int, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of the columns that are read, once they are known to be within the limits."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    looked_at = pq.ParquetFile(pa.BufferReader(content))
    absent = ADDED_LATER - set(looked_at.schema_arrow.names)
    kinds = {name: kind for name, kind in kinds.items() if name not in absent}
    _check_metadata(content, looked_at, kinds, most_rows)
    if not looked_at.metadata.num_rows:
        return
    texts = [name for name, kind in kinds.items() if kind == "texts"]
    file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
    rows = size = 0
    for batch in file.iter_batches(batch_rows, columns=list(kinds), use_threads=False):
        rows += batch.num_rows
        size += sum(_expanded_bytes(name, batch.column(name)) for name in kinds)
        if rows > most_rows:
            raise ValueError(f"it holds more rows than the limit of {most_rows}")
        if size > MOST_BYTES:
            raise ValueError(f"its columns need more memory than the limit of {describe_bytes(MOST_BYTES)}")
        yield batch


def _check_metadata(content: bytes, file: pq.ParquetFile, kinds: Mapping[str, str], most_rows: int) -> None:
    about, schema = file.metadata, file.schema_arrow
    if about.num_columns > MOST_COLUMNS:
        raise ValueError(f"it has {about.num_columns} columns, more than the limit of {MOST_COLUMNS}")
    if about.num_rows > most_rows:
        raise ValueError(f"it holds {about.num_rows} rows, more than the limit of {most_rows}")
    for name, kind in kinds.items():
        there = schema.get_all_field_indices(name)
        if len(there) != 1:
            raise ValueError(f"the column {name} is {'missing' if not there else 'there more than once'}")
        if about.num_rows and not _is_of(schema.field(there[0]).type, kind):  # without a row, of no kind
            shown = str(schema.field(there[0]).type)[:60]
            raise ValueError(f"the column {name} holds {kind}, not {shown}")
    size = sum(_pages_bytes(content, *chunk) for chunk in _column_chunks(content)) if about.num_rows else 0
    if size > MOST_BYTES:
        raise ValueError(
            f"its columns expand to {describe_bytes(size)}, more than the limit of "
            f"{describe_bytes(MOST_BYTES)}"
        )


def _column_chunks(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Each column in each group of rows: its name, and where its pages start and end.

    Read from the footer here, since what pyarrow shows of a column ends the process if it is damaged.
    """
    size = int.from_bytes(content[-8:-4], "little")
    if size > min(MOST_FOOTER_BYTES, len(content) - 8):
        raise ValueError(f"its footer has {describe_bytes(size)}")
    footer, _ = _thrift_struct(content, len(content) - 8 - size)
    for group in footer[4]:
        for chunk in group[1]:
            about = chunk[3]
            name, length, start = b".".join(about[3]).decode(), about[7], about[9]
            if 0 < about.get(11, 0) < start:  # the page of its dictionary
                start = about[11]
            if not 0 <= start <= start + length <= len(content):
                raise ValueError(f"the pages of the column {describe(name)} lie outside the file")
            yield name, start, start + length


def _pages_bytes(content: bytes, name: str, start: int, end: int) -> int:
    """Bytes that the pages of a column expand to, by their own headers: as much as a reader makes room for.

    Raises:
        ValueError: a header is damaged, or a page is encoded in a way by which a few bytes stand for many.
    """
    size = 0
    for _ in range(MOST_PAGES):
        if start >= end:
            return size
        header, start = _thrift_struct(content, start)
        expanded, stored = header.get(2), header.get(3)
        if not (isinstance(expanded, int) and isinstance(stored, int) and min(expanded, stored) >= 0):
            raise ValueError(f"a page of the column {describe(name)} has no size")
        for about, encoding in ((5, 2), (7, 2), (8, 4)):  # data, a dictionary, data in version 2
            page = header.get(about, {encoding: 0})
            if not isinstance(page, dict) or page.get(encoding) not in ENCODINGS:
                raise ValueError(f"a page of the column {describe(name)} has an unknown encoding")
        size += max(expanded, stored)
        start += stored
    raise ValueError(f"the column {describe(name)} has more than {MOST_PAGES} pages")


def _thrift_struct(content: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol by the numbers of its fields, and where it ends.

    pyarrow shows no page headers, and believes them. Source: the protocol's specification by Apache Thrift.
    """
    fields: dict[int, Any] = {}
    number = 0
    while (first := content[at]) != 0:
        at, kind = at + 1, first & 15
        if first >> 4:
            number += first >> 4
        else:
            number, at = _zigzag(content, at)
        if number in fields:
            raise ValueError("a header holds a field twice")
        fields[number], at = (kind == 1, at) if kind in (1, 2) else _thrift_value(content, at, kind, depth)
    return fields, at + 1


def _thrift_value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value that takes room of its own, and where it ends."""
    if depth > MOST_LEVELS:
        raise ValueError("a header is nested too deeply")
    if kind in (4, 5, 6):
        return _zigzag(content, at)
    if kind in (1, 2, 3):  # truths in a list, and numbers of 8 bits
        return content[at], at + 1
    if kind == 7:
        return None, at + 8
    if kind == 8:  # bytes, such as a page's smallest value
        length, at = _varint(content, at)
        return content[at : at + length], at + length
    if kind in (9, 10):
        count, inner, at = content[at] >> 4, content[at] & 15, at + 1
        if count == 15:
            count, at = _varint(content, at)
        values = []
        for _ in range(count):
            value, at = _thrift_value(content, at, inner, depth + 1)
            values.append(value)
        return values, at
    if kind == 12:
        return _thrift_struct(content, at, depth + 1)
    raise ValueError(f"a header holds a field of the unknown kind {kind}")


def _zigzag(content: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := content[at]) & 0x80:
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if shift > 63:
            raise ValueError("a number in a page header is too long")
    return value | byte << shift, at + 1


def _is_of(kind: pa.DataType, wanted: str) -> bool:
    from pyarrow import types

    if wanted == "texts":
        return str(kind.value_type if types.is_dictionary(kind) else kind) in ("string", "large_string")
    if wanted == "whole numbers":
        return types.is_integer(kind) or types.is_boolean(kind)
    return types.is_floating(kind) or types.is_integer(kind)


def _expanded_bytes(name: str, column: pa.Array) -> int:
    """Memory of a column's values, each text for itself."""
    from pyarrow import compute, types

    if not types.is_dictionary(column.type):
        return column.nbytes
    lengths = compute.binary_length(column.dictionary)
    longest = compute.max(lengths).as_py() or 0
    if longest > MOST_TEXT_BYTES:
        raise ValueError(
            f"a text in the column {name} has {describe_bytes(longest)}, more than the limit of "
            f"{describe_bytes(MOST_TEXT_BYTES)}"
        )
    return 8 * len(column) + (compute.sum(lengths.take(column.indices)).as_py() or 0)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what pyarrow and NumPy raise at such a file into one sentence that names it."""
    import pyarrow as pa

    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise ResultsError(f"{path} cannot be read: {first_line(error)[:300]}; export again") from error
