"""Export folders of somebody else: each hostile one ends in one sentence that names its file."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from records_made_up import made_up_comparison, made_up_run

from labkit.core.errors import ResultsError
from labkit.results import parquet_tables
from labkit.results.exports import load_export, load_exports
from labkit.results.store import Store

Spoil = Callable[[Path], object]


def rehash(folder: Path) -> None:
    """What a forger does too: the hashes are those of the files."""
    path = folder / "fingerprint.json"
    facts = json.loads(path.read_text())
    facts["sha256"] = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.parquet")}
    path.write_text(json.dumps(facts))


def table(stem: str, change: Callable[[pa.Table], pa.Table], **options) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / f"{stem}.parquet"
        pq.write_table(change(pq.read_table(path)), path, **options)
        rehash(folder)

    return spoil


def column(stem: str, name: str, values: object, kind: pa.DataType | None = None) -> Spoil:
    """The table with other values in one column; a function is given the old ones."""

    def change(found: pa.Table) -> pa.Table:
        given = values(found[name].to_pylist()) if callable(values) else [values] * found.num_rows
        return found.set_column(found.column_names.index(name), name, pa.array(given, kind))

    return table(stem, change)


def fact(stem: str, name: str, value: object) -> Spoil:
    return column(stem, name, value if isinstance(value, str) else json.dumps(value))


def inside(name: str, **changed: object) -> Spoil:
    return column("runs", name, lambda old: [json.dumps(json.loads(text) | changed) for text in old])


def without(stem: str, name: str) -> Spoil:
    return table(stem, lambda found: found.drop_columns([name]))


def twice(stem: str, name: str) -> Spoil:
    return table(stem, lambda found: found.append_column(name, found[name]))


def file(name: str, content: bytes | None) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        if name != "fingerprint.json":
            rehash(folder)

    return spoil


def facts(**changed: object) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "fingerprint.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return spoil


def replaced(name: str, make: Callable[[Path], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).rename(folder.parent / "moved")
        make(folder / name)

    return spoil


def halved(folder: Path) -> None:
    path = folder / "samples.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rehash(folder)


def flipped(folder: Path) -> None:
    path = folder / "runs.parquet"
    content = bytearray(path.read_bytes())
    for place in range(40, len(content) - 40, 97):
        content[place] ^= 0x55
    path.write_bytes(content)
    rehash(folder)


def bomb(folder: Path) -> None:
    """One text of 4 MiB, named by every one of 90,000 rows: 360 GB, in a file that is small."""
    found = pq.read_table(folder / "runs.parquet").slice(0, 1)
    n = 90_000
    columns = {name: pa.chunked_array([found[name].combine_chunks().take(pa.array(np.zeros(n, int)))])
               for name in found.column_names if name not in ("settings", "id")}  # fmt: skip
    columns["id"] = pa.array(range(n))
    columns["settings"] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), ["x" * 2**22])
    pq.write_table(pa.table(columns), folder / "runs.parquet", compression="zstd")
    rehash(folder)


def zeros(folder: Path, row_group_size: int = 50, **options: int) -> None:
    """A column that its own metadata says to expand."""
    text = pa.array(["y" * 2**20 + str(k) for k in range(600)])
    found = pq.read_table(folder / "comparisons.parquet")
    rows = found.slice(0, 1).take(pa.array(np.zeros(600, int)))
    rows = rows.set_column(rows.column_names.index("a_s"), "a_s", text)
    pq.write_table(
        rows, folder / "comparisons.parquet", compression="zstd", use_dictionary=False,
        row_group_size=row_group_size, **options,
    )  # fmt: skip
    rehash(folder)


def understated(folder: Path) -> None:
    """The same in one page of 600 MB, of which the metadata says 128 MiB."""

    def varint(n: int) -> bytes:
        return bytes(((n >> k) & 0x7F) | (0x80 if n >> (k + 7) else 0) for k in range(0, n.bit_length(), 7))

    zeros(folder, 600, data_page_size=2**30)
    path = folder / "comparisons.parquet"
    about = pq.read_metadata(path)
    places = range(about.num_columns)
    size = next(c.total_uncompressed_size for c in map(about.row_group(0).column, places)
                if c.path_in_schema == "a_s")  # fmt: skip
    before, _, after = path.read_bytes().rpartition(varint(2 * size))
    path.write_bytes(before + varint(2 * 2**27) + after)
    assert any(about.total_uncompressed_size == 2**27
               for about in map(pq.read_metadata(path).row_group(0).column, places))  # fmt: skip
    rehash(folder)


def never_empty(folder: Path) -> None:
    """A column that is said to be never empty, against its own counts, at which pyarrow ended the process."""
    path = folder / "samples.parquet"
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    optional, required = b"\x25\x02", b"\x25\x00"  # of a column's description
    path.write_bytes(content[:footer] + content[footer:].replace(optional, required, 1))
    rehash(folder)


def many_rows(folder: Path) -> None:
    n = 1_000_000
    one = pq.read_table(folder / "runs.parquet").slice(0, 1).take(pa.array(np.zeros(n, int)))
    pq.write_table(one, folder / "runs.parquet")
    rehash(folder)


def samples(**columns: object) -> Spoil:
    def change(found: pa.Table) -> pa.Table:
        for name, value in columns.items():
            old = found[name].to_pylist()
            new = value(old) if callable(value) else [value, *old[1:]]
            found = found.set_column(found.column_names.index(name), name, pa.array(new))
        return found

    return table("samples", change)


DEEP = "[" * 100_000 + "]" * 100_000
LEVELS = "[" * 900 + "]" * 900
HOSTILE: dict[str, tuple[Spoil, str]] = {
    "stage is a text": (column("runs", "stage", "one"), "runs.parquet"),
    "stage is a fraction": (column("runs", "stage", 1.5), "runs.parquet"),
    "rung is a number": (column("runs", "rung", 7), "runs.parquet"),
    "rung is empty": (column("runs", "rung", ""), "runs.parquet"),
    "rung is bytes that are no text": (column("runs", "rung", b"\xff\xfe", pa.binary()), "runs.parquet"),
    "rung is null": (column("runs", "rung", None, pa.string()), "runs.parquet"),
    "rung is long": (column("runs", "rung", "r" * 10_000), "runs.parquet"),
    "scenario is unknown": (column("runs", "scenario", "upside down"), "runs.parquet"),
    "created is no time": (column("runs", "created", "yesterday"), "runs.parquet"),
    "quick is 7": (column("runs", "quick", 7), "runs.parquet"),
    "counts are negative": (column("runs", "dropped", -3), "runs.parquet"),
    "counts do not add up": (column("runs", "offered", 10**9), "runs.parquet"),
    "counts are lists": (column("runs", "failed", [0], pa.list_(pa.int64())), "runs.parquet"),
    "startup is NaN": (column("runs", "startup_s", lambda old: [float("nan")] * len(old)), "runs.parquet"),
    "startup is infinite": (column("runs", "startup_s", float("inf")), "runs.parquet"),
    "memory is beyond 64 bits": (column("runs", "peak_bytes", 2**64 - 1, pa.uint64()), "runs.parquet"),
    "ids are alike": (column("runs", "id", 1), "runs.parquet"),
    "ids are null": (column("runs", "id", None, pa.int64()), "runs.parquet"),
    "settings are a list": (fact("runs", "settings", [1, 2]), "runs.parquet"),
    "settings are no JSON": (fact("runs", "settings", "{"), "runs.parquet"),
    "settings are a structure": (
        column("runs", "settings", {"device": "cpu"}, pa.struct([("device", pa.string())])),
        "runs.parquet",
    ),
    "settings are nested deeply": (fact("runs", "settings", DEEP), "runs.parquet"),
    "settings are nested too deeply": (fact("runs", "settings", f'{{"a": {LEVELS}}}'), "runs.parquet"),
    "settings are huge": (fact("runs", "settings", json.dumps({"a": "x" * 5_000_000})), "runs.parquet"),
    "size is a text": (inside("settings", size="big"), "runs.parquet"),
    "size has three parts": (inside("settings", size=[1, 2, 3]), "runs.parquet"),
    "size has lists": (inside("settings", size=[[1], [2]]), "runs.parquet"),
    "objects is a text": (inside("settings", objects="many"), "runs.parquet"),
    "a number has 400 digits": (inside("limit", peak_gflops=10**400), "runs.parquet"),
    "a ceiling is a number": (inside("settings", ceiling=2.0), "runs.parquet"),
    "preparation is a text": (inside("settings", preparation="int8"), "runs.parquet"),
    "work is a text": (inside("limit", gflop_per_frame="ten"), "runs.parquet"),
    "peaks are texts": (inside("limit", peaks={"copy_gb_s": "fast"}), "runs.parquet"),
    "accuracy is a list": (inside("accuracy", map=[0.5]), "runs.parquet"),
    "an interval is short": (inside("accuracy", map=0.5, map_interval=[0.1]), "runs.parquet"),
    "machine is a list": (inside("fingerprint", gpu=["a"]), "runs.parquet"),
    "agreement lacks a part": (fact("runs", "fidelity", {"reference": "opencv"}), "runs.parquet"),
    "agreement is a text": (fact("runs", "fidelity", '"yes"'), "runs.parquet"),
    "disturbances are numbers": (fact("runs", "disturbances", [1, 2]), "runs.parquet"),
    "disturbances are a text": (fact("runs", "disturbances", '"noise"'), "runs.parquet"),
    "facts hold NaN": (fact("runs", "limit", '{"peak_gflops": NaN}'), "runs.parquet"),
    "a column is missing": (without("runs", "offered"), "runs.parquet"),
    "a column of facts is missing": (without("comparisons", "fidelity"), "comparisons.parquet"),
    "a column is there twice": (twice("runs", "rung"), "runs.parquet"),
    "a thousand columns too many": (
        table("runs", lambda t: pa.table([t[0]] * 2000, names=[f"c{k}" for k in range(2000)])),
        "runs.parquet",
    ),
    "a million runs": (many_rows, "runs.parquet"),
    "a small file of 360 GB": (bomb, "runs.parquet"),
    "a column of 600 MB": (zeros, "comparisons.parquet"),
    "a page of 600 MB that the metadata hides": (understated, "comparisons.parquet"),
    "a column that is never empty, and is": (never_empty, "samples.parquet"),
    "texts that repeat the one before": (
        table("runs", lambda t: t, use_dictionary=False, column_encoding={"settings": "DELTA_BYTE_ARRAY"}),
        "runs.parquet",
    ),
    "no time in a comparison": (fact("comparisons", "a_s", []), "comparisons.parquet"),
    "times of a comparison are texts": (fact("comparisons", "a_s", ["1"]), "comparisons.parquet"),
    "times of a comparison are lists": (fact("comparisons", "b_s", [[1.0]]), "comparisons.parquet"),
    "times of a comparison are negative": (fact("comparisons", "a_s", [-1.0] * 11), "comparisons.parquet"),
    "times of a comparison are null": (fact("comparisons", "a_s", "null"), "comparisons.parquet"),
    "times of a comparison are huge": (fact("comparisons", "a_s", [10**400] * 11), "comparisons.parquet"),
    "sides of a comparison differ": (fact("comparisons", "a_s", [1.0]), "comparisons.parquet"),
    "samples of no run": (samples(run_id=99), "samples.parquet"),
    "samples without a run": (samples(run_id=lambda old: [None, *old[1:]]), "samples.parquet"),
    "samples at a place twice": (samples(position=5), "samples.parquet"),
    "samples at a place below 0": (samples(position=-1), "samples.parquet"),
    "a sample is infinite": (samples(seconds=float("inf")), "runs.parquet"),
    "a sample is NaN": (samples(seconds=float("nan")), "runs.parquet"),
    "a sample is negative": (samples(seconds=-0.1), "runs.parquet"),
    "samples are texts": (samples(seconds=lambda old: [str(v) for v in old]), "samples.parquet"),
    "the series is a number": (samples(series=lambda old: [1] * len(old)), "samples.parquet"),
    "samples are lost": (table("samples", lambda t: t.slice(0, 5)), "runs.parquet"),
    "a file is half there": (halved, "samples.parquet"),
    "a file is damaged": (flipped, "runs.parquet"),
    "a file is empty": (file("runs.parquet", b""), "runs.parquet"),
    "a file is a picture": (file("runs.parquet", b"\x89PNG" * 100), "runs.parquet"),
    "a file is missing": (file("comparisons.parquet", None), "comparisons.parquet"),
    "fingerprint is missing": (file("fingerprint.json", None), "fingerprint.json"),
    "fingerprint is no UTF-8": (file("fingerprint.json", b'{"sha256": "\xff"}'), "fingerprint.json"),
    "fingerprint is UTF-16": (file("fingerprint.json", "{}".encode("utf-16")), "fingerprint.json"),
    "fingerprint is a list": (file("fingerprint.json", b"[]"), "fingerprint.json"),
    "fingerprint is deep": (file("fingerprint.json", DEEP.encode()), "fingerprint.json"),
    "fingerprint is huge": (file("fingerprint.json", b" " * 2**25), "fingerprint.json"),
    "hashes are a list": (facts(sha256=[]), "fingerprint.json"),
    "hashes are numbers": (facts(sha256={"runs.parquet": 1}), "runs.parquet"),
    "the machine is a text": (facts(fingerprint="mine"), "fingerprint.json"),
    "the machine's GPU is a number": (facts(fingerprint={"gpu": 1}), "fingerprint.json"),
    "version is from the future": (facts(version=10**30), "fingerprint.json"),
    "version is next year's": (facts(version=2), "fingerprint.json"),
    "version is a text": (facts(version="new"), "fingerprint.json"),
    "version is negative": (facts(version=-1), "fingerprint.json"),
    "a link out of the folder": (
        replaced("runs.parquet", lambda path: path.symlink_to(path.parent.parent / "moved")),
        "runs.parquet",
    ),
    "a link to itself": (replaced("runs.parquet", lambda path: path.symlink_to(path)), "runs.parquet"),
    "a link to nothing": (replaced("runs.parquet", lambda path: path.symlink_to("gone")), "runs.parquet"),
    "a pipe that never ends": (replaced("samples.parquet", os.mkfifo), "samples.parquet"),
    "a folder in place of a file": (replaced("samples.parquet", Path.mkdir), "samples.parquet"),
    "an endless device": (
        replaced("samples.parquet", lambda path: path.symlink_to("/dev/zero")),
        "samples.parquet",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    with Store(folder / "lab.sqlite") as lab:
        for seed in (0, 1):
            lab.add(made_up_run(n=30, seed=seed))
        lab.add(made_up_comparison())
        lab.add(made_up_comparison(b="other"))
        lab.export(folder / "out")
    return folder / "out"


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    for path in (*good.glob("*.parquet"), *good.glob("*.json")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


POOLS: list[pa.MemoryPool] = []


@pytest.mark.skipif(os.name != "posix", reason="pipes and links as Unix has them")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_one_sentence(copy: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, file_name = HOSTILE[name]
    spoil(copy)
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    POOLS.append(pool)  # what was allocated from it may be freed later than this test ends
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(ResultsError) as caught:
            load_exports(copy) if (copy / "runs.parquet").exists() else load_export(copy)
    finally:
        pa.set_memory_pool(before)
    sentence = str(caught.value)
    assert file_name in sentence and "\n" not in sentence and len(sentence) < 1000
    assert pool.max_memory() < 300e6


def test_limits_are_told(copy: Path) -> None:
    bomb(copy)
    with pytest.raises(ResultsError, match=r"runs\.parquet cannot be read: .* than the limit of 512 MiB"):
        load_export(copy)


def test_what_is_beside_the_columns_does_not_count(copy: Path, good: Path) -> None:
    """A later version may tell people more."""
    found = pq.read_table(copy / "runs.parquet").append_column("more", pa.array([[1]] * 2))
    pq.write_table(found, copy / "runs.parquet", row_group_size=1)
    rehash(copy)
    assert [run.latency_s.tolist() for run in load_export(copy).runs] == [
        run.latency_s.tolist() for run in load_export(good).runs
    ]


def test_a_limit_of_samples(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_tables, "MOST_SAMPLES", 100)
    with pytest.raises(ResultsError, match=r"samples\.parquet .* more than the limit of 100"):
        load_export(copy)


def test_places_that_are_no_folder(tmp_path: Path) -> None:
    for place in (tmp_path / "gone", tmp_path / ("n" * 300), Path(__file__)):
        with pytest.raises(ResultsError) as caught:
            load_exports(place)
        assert place.name in str(caught.value)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs sockets with a name")
def test_a_socket_in_place_of_a_file(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "samples.parquet").unlink()
    monkeypatch.chdir(copy)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("samples.parquet")
        with pytest.raises(ResultsError, match=r"samples\.parquet"):
            load_export(copy)


def test_headers_nested_without_end_are_one_sentence() -> None:
    lists = b"\x19" * 10_000  # each holds one list
    with pytest.raises(ValueError, match="nested too deeply"):
        parquet_tables._thrift_struct(b"\x19" + lists, 0)


def test_numbers_of_a_page_header_are_read_as_thrift_writes_them():
    longest = bytes([0x80] * 9 + [1])  # 64 bits, seven in a byte
    assert [parquet_tables._zigzag(bytes([n]), 0) for n in range(4)] == [(0, 1), (-1, 1), (1, 1), (-2, 1)]
    assert parquet_tables._varint(bytes([0xAC, 0x02]), 0) == (300, 2)
    assert parquet_tables._varint(longest, 0) == (2**63, 10)
    with pytest.raises(ValueError, match="too long"):
        parquet_tables._varint(b"\x80" + longest, 0)
