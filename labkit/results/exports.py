"""Exports of the store: CSV to look at, Parquet that reads back into the same records.

A folder holds `runs`, `samples` (every raw value, in long form) and `comparisons`, and a
`fingerprint.json` that is written last and names the Parquet files' hashes, so that a folder
of which one file is missing, old or changed is noticed.

Exports come from other people: `load_export` checks sizes, kinds and values before it uses them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from labkit.results.ceilings import with_ceilings
from labkit.results.checksums import Row
from labkit.results.parquet_tables import COLUMNS_READ, MOST_FILE_BYTES, read_rows, read_samples
from labkit.results.record_checks import COUNT, OBJECT, check, check_facts, describe, is_real
from labkit.results.records import Comparison, Run, Samples
from labkit.results.table import COLUMNS, table

if TYPE_CHECKING:
    import pandas as pd

MOST_FACTS_BYTES = 16 * 2**20
MOST_FOLDERS = 1000
Record = TypeVar("Record")
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""Beginnings that spreadsheets take for a formula; some take the wide characters too, and skip blanks."""
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


def export(runs: Iterable[Run], comparisons: Iterable[Comparison], folder: Path | str) -> list[Path]:
    """Writes saved runs and comparisons into a folder as CSV and Parquet, each file whole.

    Args:
        runs: as the store returns them, with an id each.
        comparisons: likewise.
        folder: made if need be; files of the same names are replaced.

    Returns:
        The files written.
    """
    folder, runs, comparisons = Path(folder), list(runs), list(comparisons)
    records: list[Run | Comparison] = [*runs, *comparisons]
    if any(record.id is None for record in records):
        raise UsageError("only saved records can be exported; save them with Store.add")
    written, hashes = [], {}
    frames = (_runs_frame(runs), _samples_frame(runs), _pairs_frame(comparisons))
    for stem, frame in zip(STEMS, frames, strict=True):
        content = frame.to_parquet(index=False, engine="pyarrow", compression="zstd")
        hashes[f"{stem}.parquet"] = hashlib.sha256(content).hexdigest()
        written.append(write_atomic(folder / f"{stem}.csv", _csv(frame)))
        written.append(write_atomic(folder / f"{stem}.parquet", content))
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
    paths = {stem: folder / f"{stem}.parquet" for stem in STEMS}
    content = {stem: _load_bytes(folder, path.name) for stem, path in paths.items()}
    for stem, path in paths.items():
        if hashlib.sha256(content[stem]).hexdigest() != facts["sha256"].get(path.name):
            raise ResultsError(f"{path} is not the file that was exported; export again")
    runs, comparisons = (
        [_current(row) for row in read_rows(content[stem], paths[stem], COLUMNS_READ[stem])]
        for stem in ("runs", "comparisons")
    )
    series = read_samples(content["samples"], paths["samples"], known={row["id"] for row in runs})
    built = [_build(paths["runs"], row, codec.build_run, series.get(row["id"], {})) for row in runs]
    pairs = [_build(paths["comparisons"], row, _comparison) for row in comparisons]
    return Export(tuple(built), tuple(with_ceilings(pairs, built)), facts["fingerprint"])


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
            f"{folder} holds no complete Parquet export: {name} is missing; export again"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # the last: a link to itself
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise ResultsError(f"{path} cannot be read: {reason}; export again") from error


def _build(path: Path, row: Row, build: Callable[..., Record], *series: Mapping[str, Samples]) -> Record:
    try:
        return build(row, *series)
    except LabError as error:
        raise ResultsError(
            f"{path}: row with the id {row['id']}: {first_line(error)}; export again"
        ) from error


def _comparison(row: Row) -> Comparison:
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


def _current(row: Row) -> Row:
    """The row with today's names of rungs."""
    return {key: with_current_names(value) if isinstance(value, str) else value for key, value in row.items()}


def _stored(record: Run | Comparison) -> Row:
    """The row that the store keeps, without the blob of samples."""
    return {name: value for name, value in codec.to_row(record).items() if name != "samples"}


def _runs_frame(runs: Sequence[Run]) -> pd.DataFrame:
    import pandas as pd

    columns = [*codec.RUN_PLAIN, *codec.facts_columns(codec.RUN_FACTS)]
    stored = pd.DataFrame(map(_stored, runs), columns=columns)
    return pd.concat([table(runs)[[name for name in COLUMNS if name not in columns]], stored], axis=1)


def _samples_frame(runs: Sequence[Run]) -> pd.DataFrame:
    import pandas as pd

    parts = [(run.id, name, part) for run in runs for name, part in codec.series_of(run).items()]
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

    columns = [
        "id", "ratio", "ratio_lo", "ratio_hi", "verdict", *codec.COMPARISON_PLAIN,
        *codec.facts_columns(codec.COMPARISON_FACTS), *codec.COMPARISON_SAMPLES,
    ]  # fmt: skip
    rows = [
        {
            **{name: getattr(each, name) for name in ("id", "ratio", "verdict")},
            **dict(zip(("ratio_lo", "ratio_hi"), each.interval, strict=True)),
            **_stored(each),
            **{name: codec.dump_json(part) for name, part in codec.series_of(each).items()},
        }
        for each in comparisons
    ]
    return pd.DataFrame(rows, columns=columns)


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
