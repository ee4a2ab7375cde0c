"""Records to rows and back, without loss.

Samples become one compressed blob of little-endian float64, bit for bit. Facts become JSON:
NaN and infinity, which JSON lacks, are tagged as {"$float": "nan"}; tuples come back as lists.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from labkit.core.errors import ResultsError, UsageError
from labkit.core.read_json import parse_json
from labkit.results import record_checks
from labkit.results.checksums import Row
from labkit.results.records import Agreement, Comparison, Run, Samples

MOST_SERIES_BYTES = 2**28
"""Of all series of one run; more than 30 million values."""

STORED_AS = {"agreement": "fidelity"}
"""Names of columns that records call otherwise; stores and exports of older versions have them."""

AGREEMENT_AS = {"share": "agreement"}
"""The same within the facts of an agreement."""

RUN_SAMPLES = ("latency_s", "done_s", "warmup_s")
RUN_SPANS = ("spans_s", "spans_gpu_s")
RUN_PLAIN = (
    "created", "rung", "stage", "scenario", "quick", "offered", "dropped", "failed", "startup_s",
    "peak_bytes",
)  # fmt: skip
RUN_FACTS = ("settings", "source", "limit", "agreement", "accuracy", "disturbances", "fingerprint")
COMPARISON_SAMPLES = ("a_s", "b_s", "process")
COMPARISON_PLAIN = ("created", "a", "b", "frames_per_turn", "agrees", "quick")
COMPARISON_FACTS = ("settings", "source", "agreement", "fingerprint", "disturbances")


def to_row(record: Run | Comparison) -> Row:
    """A run or comparison as one row: plain values, JSON texts, and its series as a blob."""
    plain, facts = (RUN_PLAIN, RUN_FACTS) if isinstance(record, Run) else (COMPARISON_PLAIN, COMPARISON_FACTS)
    values = {name: getattr(record, name) for name in facts}
    if record.agreement is not None:
        values["agreement"] = {AGREEMENT_AS.get(name, name): v for name, v in vars(record.agreement).items()}
    return {
        **{name: _plain(getattr(record, name)) for name in plain},
        **{STORED_AS.get(name, name): dump_json(value, name) for name, value in values.items()},
        "samples": pack(series_of(record)),
    }


def series_of(record: Run | Comparison) -> dict[str, Samples]:
    """All raw samples of a record by name; a run's spans are "spans_s/NAME" or "spans_gpu_s/NAME"."""
    if isinstance(record, Comparison):
        return {name: getattr(record, name) for name in COMPARISON_SAMPLES}
    series = {name: getattr(record, name) for name in RUN_SAMPLES}
    for kind in RUN_SPANS:
        series |= {f"{kind}/{span}": samples for span, samples in getattr(record, kind).items()}
    return series


def build_run(row: Mapping[str, Any], series: Mapping[str, Samples] | None = None) -> Run:
    """A run from plain values, JSON texts and named series, or those in the row's blob.

    Raises:
        LabError: a value is missing, or none that a run holds.
    """
    record_checks.check(row, record_checks.ID | record_checks.RUN)
    spans: dict[str, dict[str, Samples]] = {kind: {} for kind in RUN_SPANS}
    series = unpack(row["samples"]) if series is None else series
    for name, samples in series.items():
        record_checks.check_seconds(name, samples, gaps=name not in RUN_SAMPLES)
        kind, _, span = name.partition("/")
        if kind in spans:
            spans[kind][span] = samples
    values: Row = {name: row[name] for name in RUN_PLAIN} | {"quick": bool(row["quick"])}
    values |= {name: series.get(name, np.empty(0)) for name in RUN_SAMPLES}
    return Run(id=int(row["id"]), **(values | spans), **_facts(row, RUN_FACTS))


def build_comparison(row: Mapping[str, Any], series: Mapping[str, Samples] | None = None) -> Comparison:
    """A comparison likewise; the series "process" is missing in old ones.

    Raises:
        LabError: a value is missing, or none that a comparison holds.
    """
    record_checks.check(row, record_checks.ID | record_checks.COMPARISON)
    series = {"process": np.empty(0), **(unpack(row["samples"]) if series is None else series)}
    for name in COMPARISON_SAMPLES:
        record_checks.check_seconds(name, series[name])
    values: Row = {name: row[name] for name in COMPARISON_PLAIN}
    values |= {name: bool(row[name]) for name in ("agrees", "quick")}
    values |= {name: series[name] for name in COMPARISON_SAMPLES}
    return Comparison(id=int(row["id"]), **values, **_facts(row, COMPARISON_FACTS))


def pack(series: Mapping[str, Samples]) -> bytes:
    """Named float64 series as compressed bytes: a JSON list of names and lengths, then the numbers."""
    arrays = {name: np.ascontiguousarray(part, dtype="<f8") for name, part in series.items()}
    for name, part in arrays.items():
        if part.ndim != 1:
            raise UsageError(f"samples are series (n,); {name} has the shape {part.shape}")
    head = json.dumps([[name, len(part)] for name, part in arrays.items()]).encode()
    return zlib.compress(head + b"\n" + b"".join(part.tobytes() for part in arrays.values()))


def unpack(blob: bytes) -> dict[str, Samples]:
    """The series that `pack` packed, writable and bit for bit the same.

    Raises:
        ResultsError: the bytes are damaged.
    """
    try:
        inflating = zlib.decompressobj()
        head, _, body = inflating.decompress(blob, MOST_SERIES_BYTES).partition(b"\n")
        if not inflating.eof:
            raise ValueError("they are cut off, or expand to more than a run can hold")
        values = np.frombuffer(body, dtype="<f8").astype(np.float64)
        series, start = {}, 0
        for name, n in parse_json(head, list):
            series[str(name)] = values[start : start + n].copy()
            start += n
        if start != len(values):
            raise ValueError(f"{start} values announced, {len(values)} found")
    except (zlib.error, ValueError, TypeError) as error:
        raise ResultsError(
            f"the samples of a stored row are damaged ({error}); delete it or restore a copy of the store"
        ) from error
    return series


def dump_json(value: Any, what: str = "value") -> str:
    """JSON text of plain data; numpy numbers and arrays, paths, NaN and infinity included."""
    try:
        return json.dumps(_to_json(value), allow_nan=False, ensure_ascii=False)
    except TypeError as error:
        raise UsageError(
            f"{what} is stored as JSON and holds something that is no plain data: {error}"
        ) from error


def load_json(text: str) -> Any:
    """The value of which `dump_json` made the text.

    Raises:
        ResultsError: it is damaged, too long or too deep.
    """
    try:
        if not isinstance(text, str):
            raise ValueError(f"it is no text but {record_checks.describe(text)}")
        return parse_json(text, object_hook=_untag)
    except ValueError as error:
        raise ResultsError(f"damaged JSON: {error}") from error


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _to_json(value.tolist())
    if isinstance(value, np.generic):
        return _to_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, Mapping):
        return {readable(str(key)): _to_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_to_json(part) for part in value), key=str)
    return readable(str(value)) if isinstance(value, str | Path) else value


def readable(text: str) -> str:
    r"""The text in which bytes of a file name that are no UTF-8 are written as \xNN."""
    if text.isascii():
        return text
    with suppress(UnicodeEncodeError):
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.encode("utf-8", "backslashreplace").decode()  # surrogates that stand for no byte


def _untag(value: dict[str, Any]) -> Any:
    if value.keys() == {"$float"} and value["$float"] in ("nan", "inf", "-inf"):
        return float(value["$float"])
    return value


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, (bool, np.bool_)) else _to_json(value)


def facts_columns(names: tuple[str, ...]) -> list[str]:
    """Columns of these facts, as stores and exports name them."""
    return [STORED_AS.get(name, name) for name in names]


def _facts(row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    facts = {name: load_json(row[STORED_AS.get(name, name)]) for name in names}
    if isinstance(facts["agreement"], dict):
        today = {old: name for name, old in AGREEMENT_AS.items()}
        named = {today.get(name, name): value for name, value in facts["agreement"].items()}
        facts["agreement"] = {"steady": None, "extra": None, **named}
    record_checks.check_facts(facts)
    if facts["agreement"] is not None:
        facts["agreement"] = Agreement(**facts["agreement"])
    return {**facts, "disturbances": tuple(facts["disturbances"])}
