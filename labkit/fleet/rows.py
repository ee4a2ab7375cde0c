"""Detections as Parquet files: one row per frame, its boxes in list columns."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.core.errors import ResultsError
from labkit.core.files import write_atomic
from labkit.core.read_json import parse_json
from labkit.core.types import Detections

METADATA_KEY = b"labkit"
CORNERS = ("x_min", "y_min", "x_max", "y_max")
BOX_COLUMNS = ("name", "score", *CORNERS, "fine_name", "fine_score")
"""Columns with one entry per box: names as strings, scores and corners (px of the original) as float32."""


def write_rows(
    path: Path,
    columns: Mapping[str, Sequence[Any]],
    found: Sequence[Detections],
    facts: Mapping[str, Any],
) -> Path:
    """Write the detections of frames atomically, replacing a file of that name.

    Args:
        path: of the file.
        columns: values per frame; a name that ends in "_utc" holds seconds since 1970.
        found: the detections of each frame.
        facts: plain data about all frames, stored in the file's metadata.

    Raises:
        ResultsError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays: dict[str, Any] = {name: _column(name, values) for name, values in columns.items()}
    arrays["boxes"] = pa.array([len(each) for each in found], pa.int32())
    for name in BOX_COLUMNS:
        kind = pa.string() if name.endswith("name") else pa.float32()
        arrays[name] = pa.array([_entries(each, name) for each in found], pa.list_(kind))
    table = pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(dict(facts)).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return write_atomic(path, buffer.getvalue())


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the facts that `write_rows` stored with a file, and its number of rows as "rows".

    Raises:
        ResultsError: the file cannot be read, or another program wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:  # Arrow's own paths are UTF-8
            metadata = pq.read_metadata(file)
        return {**parse_json(metadata.metadata[METADATA_KEY], dict), "rows": metadata.num_rows}
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            f"{path} is not a file that labkit wrote ({error}); move it out of the folder"
        ) from error


def _column(name: str, values: Sequence[Any]) -> Any:
    import pyarrow as pa

    if name.endswith("_utc"):
        return pa.array([round(1e6 * seconds) for seconds in values], pa.timestamp("us", tz="UTC"))
    if name.endswith("_ms"):
        return pa.array(values, pa.float32())
    if name == "time_s":  # of a camera's frames there is none
        return pa.array(values, pa.float64())
    return pa.array(values)


def _entries(found: Detections, name: str) -> Any:
    """A box column's entries for one frame; None without fine names."""
    if name in CORNERS:
        return found.xyxy[:, CORNERS.index(name)]
    value = getattr(found, name)
    return list(value) if isinstance(value, tuple) else value
