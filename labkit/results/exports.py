"""Exports of the store: CSV to look at, Parquet that reads back into the same records.

A folder holds `runs`, `samples` (every raw value, in long form) and `comparisons`, and a
`fingerprint.json` that is written last and names the Parquet files' hashes, so that a folder
of which one file is missing, old or changed is noticed.

Exports come from other people: `load_export` checks sizes, kinds and values before it uses them.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from labkit import __version__
from labkit.core.errors import LabError, ResultsError, UsageError, first_line
from labkit.core.files import write_atomic
from labkit.core.read_json import parse_json, read_bytes
from labkit.core.terminal import printable
from labkit.pipelines.former_names import with_current_names
from labkit.results import codec
from labkit.results.parquet_tables import COLUMNS_READ, MOST_FILE_BYTES, read_rows, read_samples
from labkit.results.record_checks import COUNT, OBJECT, check, check_facts, describe, is_real
from labkit.results.records import Comparison, Run, Samples
from labkit.results.table import COLUMNS, table

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "parquet")
MOST_FACTS_BYTES = 16 * 2**20
MOST_FOLDERS = 1000
Record = TypeVar("Record")
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""What a spreadsheet may take for a formula; some take the wide characters too, and skip blanks."""
STEMS = ("runs", "samples", "comparisons")
VERSION = 1
"""Of the form of an export; older labkits wrote none."""


@dataclass(frozen=True)
class Export:
    """Contents of an export folder.

    Attributes:
        fingerprint: machine and software of the newest measurement in it.
    """

    runs: tuple[Run, ...]
    comparisons: tuple[Comparison, ...]
    fingerprint: Mapping[str, Any]


def export(
    runs: Iterable[Run],
    comparisons: Iterable[Comparison],
    folder: Path | str,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Writes saved runs and comparisons into a folder, each file whole.

    Args:
        runs: as the store returns them, with an id each.
        comparisons: likewise.
        folder: made if need be; files of the same names are replaced.
        formats: "csv", "parquet" or both.

    Returns:
        The files written.
    """
    folder, runs, comparisons = Path(folder), list(runs), list(comparisons)
    records: list[Run | Comparison] = [*runs, *comparisons]
    unknown = set(formats) - set(FORMATS)
    if unknown or not formats:
        raise UsageError(f"an export is of the formats {FORMATS}, not {tuple(formats)}")
    if any(record.id is None for record in records):
        raise UsageError("only saved records can be exported; save them with add_run or add_comparison")
    frames = dict(
        zip(STEMS, (_runs_frame(runs), _samples_frame(runs), _pairs_frame(comparisons)), strict=True)
    )
    written, hashes = [], {}
    for stem, frame in frames.items():
        for kind in formats:
            content = _parquet(frame) if kind == "parquet" else _csv(frame)
            path = write_atomic(folder / f"{stem}.{kind}", content)
            written.append(path)
            if kind == "parquet":
                hashes[path.name] = hashlib.sha256(content).hexdigest()
    newest = max(records, key=lambda record: record.created, default=None)
    facts = {
        "labkit": __version__,
        "version": VERSION,
        "sha256": hashes,
        "fingerprint": dict(newest.fingerprint) if newest else {},
    }
    text = json.dumps(json.loads(codec.dump_json(facts)), indent=2, ensure_ascii=False)
    return [*written, write_atomic(folder / "fingerprint.json", text + "\n")]


def load_export(folder: Path | str) -> Export:
    """The records of an export, with the same samples, ids and facts.

    Raises:
        ResultsError: the folder holds no Parquet export, or one with a file that is missing, changed,
            too large, or holds something else; the message names the file.
    """
    folder = Path(folder)
    facts = _load_facts(folder)
    content = {stem: _load_bytes(folder, f"{stem}.parquet") for stem in STEMS}
    for stem, part in content.items():
        if hashlib.sha256(part).hexdigest() != facts["sha256"].get(f"{stem}.parquet"):
            raise ResultsError(f"{folder / stem}.parquet is not the file that was exported; export again")
    paths = {stem: folder / f"{stem}.parquet" for stem in STEMS}
    rows = {
        stem: read_rows(content[stem], paths[stem], COLUMNS_READ[stem]) for stem in ("runs", "comparisons")
    }
    series = read_samples(content["samples"], paths["samples"], known={row["id"] for row in rows["runs"]})
    return Export(
        tuple(
            _build(paths["runs"], row, partial(codec.build_run, row, series.get(row["id"], {})))
            for row in _current(rows["runs"])
        ),
        tuple(
            _build(paths["comparisons"], row, partial(_comparison, row))
            for row in _current(rows["comparisons"])
        ),
        facts["fingerprint"],
    )


def import_reference(folder: Path | str) -> list[Run]:
    """The runs of an export, or of all exports one level below; see `load_exports`."""
    return [run for each in load_exports(folder) for run in each.runs]


def load_exports(folder: Path | str) -> list[Export]:
    """The export in a folder, or all exports one level below (one folder per machine).

    Raises:
        ResultsError: there is no export in the folder, or a damaged one.
    """
    folder = Path(folder)
    try:
        places = [folder] if (folder / "runs.parquet").exists() else sorted(folder.glob("*/runs.parquet"))
    except OSError as error:
        raise ResultsError(f"{folder} cannot be read: {error.strerror}; name another folder") from error
    if not places:
        raise ResultsError(
            f"no export lies in {folder} or one folder below; name a folder that holds runs.parquet"
        )
    if len(places) > MOST_FOLDERS:
        raise ResultsError(
            f"{len(places)} exports lie in {folder}, more than the limit of {MOST_FOLDERS}; name some of them"
        )
    return [load_export(place if place.is_dir() else place.parent) for place in places]


def _load_facts(folder: Path) -> dict[str, Any]:
    path = folder / "fingerprint.json"
    content = _load_bytes(folder, path.name)
    try:
        facts = parse_json(content.decode("utf-8"), dict, most_bytes=MOST_FACTS_BYTES)
        version = facts.get("version", VERSION)
        check(facts, {"sha256": OBJECT, "fingerprint": OBJECT})
        check({"version": version}, {"version": COUNT})
        check_facts({"fingerprint": facts["fingerprint"]})
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: its text is no UTF-8 (byte {error.start}); export again") from error
    except (ValueError, ResultsError) as error:
        raise ResultsError(f"{path}: {first_line(error)}; export again") from error
    if version > VERSION:
        raise ResultsError(
            f"{path} is of version {describe(version)} of exports, newer than the {VERSION} that this labkit "
            "knows; update labkit"
        )
    return facts


def _load_bytes(folder: Path, name: str) -> bytes:
    """A file of the folder; a link that leads out of it is not followed."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError("it is a link to a file outside the folder")
        return read_bytes(path, MOST_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ResultsError(
            f"{folder} holds no complete Parquet export: {name} is missing; export again with the format "
            "'parquet'"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # the last: a link to itself
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise ResultsError(f"{path} cannot be read: {reason}; export again") from error


def _build(path: Path, row: Mapping[str, Any], build: Callable[[], Record]) -> Record:
    try:
        return build()
    except LabError as error:
        raise ResultsError(
            f"{path}: row with the id {row['id']}: {first_line(error)}; export again"
        ) from error


def _comparison(row: Mapping[str, Any]) -> Comparison:
    found = [name for name in codec.COMPARISON_SAMPLES if name in row]
    return codec.build_comparison(row, {name: _times(name, row[name]) for name in found})


def _times(name: str, text: str) -> Samples:
    values = codec.load_json(text)
    if not isinstance(values, list) or not all(map(is_real, values)):
        raise ResultsError(f"{name} is a list of numbers, not {describe(values)}")
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise ResultsError(f"{name} holds a number that is too large") from error


def _runs_frame(runs: Sequence[Run]) -> pd.DataFrame:
    import pandas as pd

    stored = pd.DataFrame(
        [{key: value for key, value in codec.run_to_row(run).items() if key != "samples"} for run in runs],
        columns=[*codec.RUN_PLAIN, *codec.facts_columns(codec.RUN_FACTS)],
    )
    told = table(runs)[[name for name in COLUMNS if name not in stored.columns]]
    return pd.concat([told, stored], axis=1)


def _samples_frame(runs: Sequence[Run]) -> pd.DataFrame:
    import pandas as pd

    parts = [(run.id, name, part) for run in runs for name, part in codec.run_series(run).items()]
    lengths = [len(part) for *_, part in parts]
    return pd.DataFrame(
        {
            "run_id": np.repeat([run_id for run_id, *_ in parts], lengths).astype(np.int64),
            "series": pd.Categorical(np.repeat(np.array([name for _, name, _ in parts], object), lengths)),
            "position": np.concatenate([np.arange(n) for n in lengths] or [np.empty(0, np.int64)]),
            "seconds": np.concatenate([part for *_, part in parts] or [np.empty(0)]),
        }
    )


def _pairs_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for comparison in comparisons:
        low, high = comparison.interval
        row = {key: value for key, value in codec.comparison_to_row(comparison).items() if key != "samples"}
        told = {"ratio": comparison.ratio, "ratio_lo": low, "ratio_hi": high, "verdict": comparison.verdict}
        times = {name: codec.dump_json(getattr(comparison, name)) for name in codec.COMPARISON_SAMPLES}
        rows.append({"id": comparison.id, **told, **row, **times})
    told_names = ("id", "ratio", "ratio_lo", "ratio_hi", "verdict")
    stored_names = (
        *codec.COMPARISON_PLAIN,
        *codec.facts_columns(codec.COMPARISON_FACTS),
        *codec.COMPARISON_SAMPLES,
    )
    return pd.DataFrame(rows, columns=[*told_names, *stored_names])


def _csv(frame: pd.DataFrame) -> bytes:
    """CSV in which no text begins as a formula does, or holds a control character.

    A spreadsheet would run the one, a terminal obey the other.
    """
    import pandas as pd

    def safe(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return printable(f"'{value}" if FORMULA.match(value) else value)

    shown = frame.copy()
    for name in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[name]):
            shown[name] = shown[name].astype(object).map(safe)
    return shown.to_csv(index=False).encode()


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, engine="pyarrow", compression="zstd")
    return buffer.getvalue()


def _current(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with today's names of rungs."""
    return [
        {key: with_current_names(value) if isinstance(value, str) else value for key, value in row.items()}
        for row in rows
    ]
