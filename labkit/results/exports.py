"""Exports of the store: CSV to look at, Parquet that reads back into the same records.

A folder holds `runs`, `samples` (every raw value, in long form) and `comparisons`, and a
`fingerprint.json` that is written last and names the Parquet files' hashes, so that a folder
of which one file is missing, old or changed is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit import __version__
from labkit.core.errors import ResultsError, UsageError
from labkit.core.files import write_atomic
from labkit.pipelines.former_names import with_current_names
from labkit.results import codec
from labkit.results.records import Comparison, Run, Samples
from labkit.results.table import COLUMNS, table

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "parquet")
FORMULA = re.compile(r"[=+\-@\t\r]")
STEMS = ("runs", "samples", "comparisons")


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
        "sha256": hashes,
        "fingerprint": dict(newest.fingerprint) if newest else {},
    }
    text = json.dumps(json.loads(codec.dump_json(facts)), indent=2, ensure_ascii=False)
    return [*written, write_atomic(folder / "fingerprint.json", text + "\n")]


def load_export(folder: Path | str) -> Export:
    """The records of an export, with the same samples, ids and facts.

    Raises:
        ResultsError: the folder holds no Parquet export, or one with a file missing or changed.
    """
    folder = Path(folder)
    try:
        facts = codec.load_json((folder / "fingerprint.json").read_text(encoding="utf-8"))
        content = {stem: (folder / f"{stem}.parquet").read_bytes() for stem in STEMS}
        for stem, part in content.items():
            if hashlib.sha256(part).hexdigest() != facts["sha256"].get(f"{stem}.parquet"):
                raise ResultsError(f"{folder / stem}.parquet is not the file that was exported; export again")
    except (OSError, KeyError, AttributeError, TypeError) as error:
        raise ResultsError(
            f"{folder} holds no complete Parquet export ({error!r}); export again with the format 'parquet'"
        ) from error
    frames = {stem: _read_parquet(part, folder / stem) for stem, part in content.items()}
    series = _series_by_run(frames["samples"])
    return Export(
        tuple(codec.build_run(row, series.get(row["id"], {})) for row in _rows(frames["runs"])),
        tuple(codec.build_comparison(row, _pair(row)) for row in _rows(frames["comparisons"])),
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
    places = [folder] if (folder / "runs.parquet").exists() else sorted(folder.glob("*/runs.parquet"))
    if not places:
        raise ResultsError(
            f"no export lies in {folder} or one folder below; name a folder that holds runs.parquet"
        )
    return [load_export(place if place.is_dir() else place.parent) for place in places]


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


def _pair(row: Mapping[str, Any]) -> dict[str, Samples]:
    return {name: np.array(codec.load_json(row[name]), np.float64) for name in codec.COMPARISON_SAMPLES}


def _series_by_run(samples: pd.DataFrame) -> dict[int, dict[str, Samples]]:
    found: dict[int, dict[str, Samples]] = {}
    ordered = samples.sort_values("position", kind="stable")
    groups: Any = ordered.groupby(["run_id", "series"], observed=True, sort=False)
    for (run_id, name), part in groups:
        found.setdefault(run_id, {})[str(name)] = part["seconds"].to_numpy(np.float64).copy()
    return found


def _csv(frame: pd.DataFrame) -> bytes:
    """CSV in which no text begins as a formula does: a spreadsheet would run it."""
    import pandas as pd

    shown = frame.copy()
    for name in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[name]):
            shown[name] = shown[name].map(lambda v: f"'{v}" if isinstance(v, str) and FORMULA.match(v) else v)
    return shown.to_csv(index=False).encode()


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, engine="pyarrow", compression="zstd")
    return buffer.getvalue()


def _read_parquet(content: bytes, stem: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(io.BytesIO(content), engine="pyarrow")
    except pa.ArrowException as error:
        raise ResultsError(f"{stem}.parquet cannot be read ({error}); export again") from error


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(key): with_current_names(value) if isinstance(value, str) else value
            for key, value in row.items()
        }
        for row in frame.to_dict("records")
    ]
