"""Profiling: what a capture holds, whoever watched; reads by line; the magic; a real nsys if there is one."""

import gzip
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from labkit.cli.main import main
from labkit.core.child import end_marked, lives
from labkit.core.errors import ResultsError, SourceError, UnavailableError, UsageError
from labkit.core.gpu import reported_waits
from labkit.core.trace import span
from labkit.core.types import Workload
from labkit.profiling import kernel, nsys, profiler
from labkit.profiling.capture import Capture, GpuWork, Range, Read
from labkit.profiling.cell import parse
from labkit.profiling.export import read_export
from labkit.profiling.nsys import Nsys, invisible, lost, numbers
from labkit.profiling.perfetto import perfetto_trace
from labkit.profiling.profile import Profile
from labkit.profiling.profile_timeline import timeline, tracks_of
from labkit.profiling.range_table import range_table, read_table, short_path, side_by_side
from labkit.profiling.reads import Reads, noting_reads
from labkit.profiling.torch_trace import read_trace
from labkit.profiling.variant import ProfileTarget, profile_rung

from conftest import make_frame  # isort: skip

HERE = Path(__file__)
RECORDED = HERE.parent / "data" / "nsys_2022_4_2.sql"
TINY = Workload(weights="random", size=(160, 128), objects=2)

found_nsys = nsys.find()
needs_nsys = pytest.mark.skipif(
    profiler.why_not_nsys() is not None, reason=f"a real nsys is needed: {profiler.why_not_nsys()}"
)


def database(path, script):
    with sqlite3.connect(path) as db:
        db.executescript(script)
    return path


@pytest.fixture
def recorded(tmp_path):
    """An export of nsys 2022.4.2: three frames and two ranges of another domain, on a machine with no GPU."""
    return database(tmp_path / "recorded.sqlite", RECORDED.read_text())


# The tables that nsys writes where it saw a GPU, after its schema reference, with two threads of one process.
PROCESS, THREAD, OTHER = 0x0100_0001_0000_0000, 0x11, 0x12
GPU_TABLES = f"""
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INT, end INT, globalTid INT, correlationId INT, nameId INT);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, deviceId INT, streamId INT, correlationId INT,
    globalPid INT, demangledName INT, shortName INT);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INT, end INT, deviceId INT, streamId INT, correlationId INT,
    globalPid INT, bytes INT, copyKind INT);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INT, end INT, deviceId INT, streamId INT, correlationId INT,
    globalPid INT, value INT, bytes INT);
CREATE TABLE ENUM_CUDA_MEMCPY_OPER (id INT, name TEXT, label TEXT);
INSERT INTO ENUM_CUDA_MEMCPY_OPER VALUES (1, 'HTOD', 'Host-to-Device'), (2, 'DTOH', 'Device-to-Host');
CREATE TABLE StringIds (id INT, value TEXT);
INSERT INTO StringIds VALUES (1, 'infer'), (2, 'cudaLaunchKernel_v7000'), (3, 'cudaStreamSynchronize_v3020'),
    (4, 'cudaMemcpyAsync_v3020'), (5, 'gemm'), (6, 'capture'), (7, 'aside'), (8, 'cudaEventRecord_v3020');
CREATE TABLE NVTX_EVENTS (start INT, end INT, eventType INT, text TEXT, globalTid INT, textId INT,
    domainId INT);
INSERT INTO NVTX_EVENTS VALUES
    (0, NULL, 75, 'labkit', {PROCESS | THREAD}, NULL, 1),
    (0, NULL, 75, 'labkit.profile', {PROCESS | THREAD}, NULL, 2),
    (1000, 9000000, 59, NULL, {PROCESS | THREAD}, 6, 2),
    (1001000, 3001000, 59, NULL, {PROCESS | THREAD}, 1, 1),
    (1001000, 3001000, 59, 'aside', {PROCESS | OTHER}, NULL, 1);
INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES
    (1101000, 1151000, {PROCESS | THREAD}, 10, 4),   -- upload, asked for in "infer"
    (1201000, 1251000, {PROCESS | THREAD}, 11, 2),   -- launch, in "infer"
    (1301000, 2801000, {PROCESS | THREAD}, 12, 3),   -- wait, in "infer"
    (1401000, 1451000, {PROCESS | OTHER}, 13, 2),    -- launch, in "aside"
    (1501000, 1501500, {PROCESS | THREAD}, 14, 8),   -- waits for nothing
    (4001000, 4051000, {PROCESS | THREAD}, 15, 2);   -- launch after both
INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (1201000, 1701000, 0, 13, 10, {PROCESS}, 921600, 1);
INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES
    (1801000, 2801000, 0, 7, 11, {PROCESS}, 5, 5),
    (5001000, 5251000, 0, 7, 13, {PROCESS}, 5, 5),   -- runs after the range that asked for it
    (6001000, 6002000, 0, 7, 15, {PROCESS}, 5, 5);
INSERT INTO CUPTI_ACTIVITY_KIND_MEMSET VALUES (7001000, 7001500, 0, 7, 99, {PROCESS}, 0, 64);
"""


@pytest.fixture
def gpu_export(tmp_path):
    return database(tmp_path / "gpu.sqlite", GPU_TABLES)


def test_a_recorded_export_gives_the_ranges_that_were_sent(recorded):
    capture = read_export(recorded)
    assert capture.profiler == "nsys 2022.4.2.1"
    assert capture.counts() == {
        "preprocess": 3, "infer": 3, "layer": 6, "user:mine": 1, "user:across": 1,
    }  # fmt: skip
    assert not capture.has_gpu
    assert capture.n_frames == 3
    first = capture.ranges[0]
    assert (first.name, first.start_ns, first.stop_ns) == ("preprocess", 107840, 351340)
    assert [r.start_ns for r in capture.ranges] == sorted(r.start_ns for r in capture.ranges)


def test_the_table_of_a_recorded_export_agrees_with_sqlite(recorded):
    table = range_table(read_export(recorded)).set_index("range")
    with sqlite3.connect(recorded) as db:
        rows = db.execute(
            "SELECT value, count(*), sum(end - start) / 1e6 FROM NVTX_EVENTS JOIN StringIds ON textId = id "
            "WHERE eventType = 59 AND domainId = 1 GROUP BY value"
        ).fetchall()
    assert len(rows) == 3
    for name, count, total_ms in rows:
        assert table.loc[name, "count"] == count
        assert table.loc[name, "CPU total ms"] == pytest.approx(total_ms)
    assert table["CPU p90 ms"].isna().all(), "six ranges are too few for a p90"
    assert table["GPU total ms"].isna().all()


def test_gpu_work_belongs_to_the_range_and_thread_that_asked_for_it(gpu_export):
    capture = read_export(gpu_export)
    assert [(w.kind, w.stream) for w in capture.gpu] == [
        ("copy", 13), ("kernel", 7), ("kernel", 7), ("kernel", 7), ("fill", 7),
    ]  # fmt: skip
    assert capture.gpu[0].name == "Host-to-Device, 921600 bytes"
    assert capture.gpu[-1].launched_ns is None
    assert [(w.name, w.duration_ns) for w in capture.waits] == [("cudaStreamSynchronize", 1_500_000)]
    table = range_table(capture).set_index("range")
    assert table.loc["infer", "GPU total ms"] == pytest.approx(1.5)  # upload 0.5, kernel 1.0
    assert table.loc["aside", "GPU total ms"] == pytest.approx(0.25)
    assert table.loc["infer", "waiting ms"] == pytest.approx(1.5)
    assert table.loc["aside", "waiting ms"] == 0
    assert capture.ranges[0].start_ns == 1_000_000, "times count from the capture range"


GRAPH_LAUNCH = f"""
INSERT INTO StringIds VALUES (20, 'cudaGraphLaunch_v10000'), (21, 'void gemm<float>(float*)');
INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME (start, end, globalTid, correlationId, nameId)
    VALUES (1601000, 1651000, {PROCESS | THREAD}, 20, 20);
"""
AS_A_WHOLE = """
CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INT, end INT, deviceId INT, contextId INT, {more}
    streamId INT, correlationId INT, graphId INT, graphExecId INT{last});
INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start, end, streamId, correlationId, graphId{pid})
    VALUES (2801000, 3801000, 7, 20, 3{process});
"""
SCHEMAS = {
    "2022": AS_A_WHOLE.format(more="", last=", globalPid INT", pid=", globalPid", process=f", {PROCESS}")
    + "CREATE TABLE EXPORT_META_DATA (name TEXT, value TEXT);"
    "INSERT INTO EXPORT_META_DATA VALUES ('EXPORT_PRODUCT_VERSION', '2022.4.2.1');",
    "2023, nodes": f"""
        ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL ADD COLUMN graphNodeId INT;
        ALTER TABLE NVTX_EVENTS ADD COLUMN jsonTextId INT;
        INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL (start, end, streamId, correlationId, globalPid, demangledName,
            shortName, graphNodeId) VALUES
            (2801000, 3301000, 7, 20, {PROCESS}, 21, 5, 1), (3301000, 3801000, 7, 20, {PROCESS}, 21, 5, 2);
        CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT);
        INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_PRODUCT_VERSION', '2023.4.4.54');""",
    "2026": AS_A_WHOLE.format(more="greenContextId INT,", last=", originalGraphId INT", pid="", process="")
    + "ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL DROP COLUMN shortName;"
    "ALTER TABLE NVTX_EVENTS DROP COLUMN textId;"
    "DELETE FROM NVTX_EVENTS WHERE text IS NULL;"
    "CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT);"
    "INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_PRODUCT_VERSION', '2026.1.1.10');",
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_cuda_graphs_are_seen_in_exports_of_each_schema(tmp_path, schema):
    capture = read_export(database(tmp_path / "graph.sqlite", GPU_TABLES + GRAPH_LAUNCH + SCHEMAS[schema]))
    assert capture.profiler.startswith(f"nsys {schema[:4]}.")
    began = capture.gpu[0].launched_ns - 1_101_000  # of the upload, which is asked for at 1,101,000
    graph = [work for work in capture.gpu if work.launched_ns == 1_601_000 + began]
    if "nodes" in schema:
        assert [work.duration_ns for work in graph] == [500_000, 500_000]
        assert capture.notes == ()
    else:
        assert [(work.name, work.duration_ns) for work in graph] == [("CUDA graph 3, as a whole", 1_000_000)]
        assert "--cuda-graph-trace=node" in capture.notes[0]
    assert sum(work.name == "gemm" for work in capture.gpu) == (5 if "nodes" in schema else 3)
    assert all(work.thread == THREAD for work in graph)


def test_nsys_is_asked_for_the_kernels_of_graphs_and_for_nothing_that_windows_lacks(monkeypatch):
    line = Nsys(Path("/usr/bin/nsys"), (2024, 1)).profile(Path("out"), ["python", "x.py"])
    assert line[:2] == ["/usr/bin/nsys", "profile"] and line[-2:] == ["python", "x.py"]
    assert "capture@labkit.profile" in line and "--cuda-graph-trace=node" in line
    assert "--cuda-graph-trace=node" in Nsys(Path("nsys"), (2022, 4)).launch("s", ["python"])
    assert "--cuda-graph-trace=node" not in Nsys(Path("nsys"), (2021, 3)).profile(Path("out"), ["python"])
    assert ("osrt" in nsys.TRACES) == (sys.platform != "win32")
    monkeypatch.setattr(sys, "platform", "win32")
    assert "--engine nsys" in profiler.why_not_nsys()


def test_other_files_are_refused_with_what_to_do(tmp_path):
    text = tmp_path / "text.sqlite"
    text.write_text("no database")
    with pytest.raises(ResultsError, match="nsys export"):
        read_export(text)
    with pytest.raises(ResultsError, match="not an export"):
        read_export(database(tmp_path / "other.sqlite", "CREATE TABLE t (x INT)"))
    with pytest.raises(ResultsError, match=r"absent\.sqlite"):
        read_export(tmp_path / "absent.sqlite")


def test_domains_of_two_processes_are_told_apart(tmp_path, recorded):
    with sqlite3.connect(recorded) as db:
        (mine,) = db.execute("SELECT max(globalTid) FROM NVTX_EVENTS").fetchone()
        other = mine + (1 << 24)
        row = (
            "INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid, domainId) VALUES (?,?,?,?,?,?)"
        )
        db.execute(row, (0, None, 75, "stranger", other, 1))
        db.execute(row, (7_000_000, 7_000_500, 59, "theirs", other, 1))
    db.close()
    counts = read_export(recorded).counts()
    assert counts["stranger:theirs"] == 1
    assert counts["preprocess"] == 3


def traced(tmp_path, events):
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({"traceEvents": events}))
    return file


def event(category, name, ts, dur, tid=5, **args):
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "ts": ts,
        "dur": dur,
        "pid": 1,
        "tid": tid,
        "args": args,
    }


def test_a_torch_trace_with_gpu_work_is_read(tmp_path):
    events = [
        {"ph": "M", "name": "process_name", "args": {}},
        event("user_annotation", "labkit.capture", 1000.0, 900.0),
        event("gpu_user_annotation", "labkit.capture", 1200.0, 100.0),
        event("cuda_runtime", "cudaLaunchKernel", 1010.5, 4, correlation=7),
        event("kernel", "gemm", 1050, 20.25, tid=13, stream=13, correlation=7),
        event("cuda_runtime", "cudaMemcpyAsync", 1100, 3, correlation=8),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 1105, 9, tid=14, stream=14, correlation=8),
        event("cuda_runtime", "cudaStreamSynchronize", 1120, 30, correlation=9),
    ]
    gpu, waits = read_trace(traced(tmp_path, events))
    assert gpu == [
        GpuWork("kernel", "gemm", 50_000, 70_250, 13, 10_500, 5),
        GpuWork("copy", "Memcpy HtoD (Pinned -> Device)", 105_000, 114_000, 14, 100_000, 5),
    ]
    assert waits == [Range("cudaStreamSynchronize", 120_000, 150_000, 5)]


def test_a_trace_without_the_mark_is_refused(tmp_path):
    with pytest.raises(ResultsError, match="no range named"):
        read_trace(traced(tmp_path, []))
    broken = tmp_path / "broken.json.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(ResultsError, match="cannot be read"):
        read_trace(broken)


def test_clocks_are_compared_by_all_ranges_so_that_one_late_reading_moves_none():
    own = [Range("detect", 10, 20), Range("decode", 30, 40), Range("detect", 110, 120)]
    theirs = [Range("else", 0, 900), *(replace(r, start_ns=r.start_ns + 5) for r in own)]
    assert profiler.clock_difference(own, theirs) == 5
    assert profiler.clock_difference(own, [*theirs[:-1], replace(theirs[-1], start_ns=5000)]) == 5
    assert profiler.clock_difference([], theirs) == 0


def test_reads_are_noted_with_their_lines():
    x = torch.arange(4.0)
    with noting_reads() as reads:
        for i in range(3):
            x[i].item()
        x.tolist()
        int(x[0]), float(x[1]), bool(x[2])
        f"{x[0]:.1f}"  # torch's own code reads; the line that asked for it is this one
        x.cpu().numpy()
    here = [r for r in reads.noted if r.path == str(HERE)]
    assert len(here) == len(reads.noted)
    assert Counter(r.what for r in here) == {
        "item": 4,
        "tolist": 1,
        "int": 1,
        "float": 1,
        "bool": 1,
        "cpu": 1,
    }
    lines = Counter(r.line for r in here if r.what == "item")
    assert sorted(lines.values()) == [1, 3]
    source = HERE.read_text().splitlines()
    assert "x[i].item()" in source[lines.most_common()[0][0] - 1]


def test_reads_of_other_threads_are_noted_too():
    with noting_reads() as reads:
        other = threading.Thread(target=lambda: torch.ones(1).item())
        other.start()
        other.join()
        torch.ones(1).item()
    assert len({r.thread for r in reads.noted}) == 2


def test_tensors_are_as_they_were_afterwards():
    before = {name: getattr(torch.Tensor, name) for name in ("item", "tolist", "cpu", "__int__", "__bool__")}
    own = set(vars(torch.Tensor))
    with pytest.raises(ZeroDivisionError), noting_reads():
        _ = 1 / 0
    assert {name: getattr(torch.Tensor, name) for name in before} == before
    assert set(vars(torch.Tensor)) == own


def test_cuda_warnings_of_a_wait_become_reads_and_others_stay():
    reads = Reads()
    with warnings.catch_warnings(record=True) as others, reported_waits(lambda: reads.add("waits", "cuda")):
        warnings.simplefilter("always")
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert [(r.what, r.device, r.path) for r in reads.noted] == [("waits", "cuda", str(HERE))] * 3
    assert [str(other.message) for other in others] == ["something else"]


def made_up(**changes):
    """Two frames: preprocess, infer with a layer inside, three reads in each infer."""
    ranges, reads = [], []
    for frame in range(2):
        at = frame * 10_000_000
        ranges += [
            Range("preprocess", at, at + 1_000_000), Range("infer", at + 1_000_000, at + 9_000_000),
            Range("layer", at + 2_000_000, at + 4_000_000),
        ]  # fmt: skip
        reads += [
            Read(at + 5_000_000 + i, "item", "/x/labkit/pipelines/baseline.py", 50, "cpu") for i in range(3)
        ]
    return replace(Capture("a profiler", tuple(ranges), reads=tuple(reads)), **changes)


def shown(trace):
    events = json.loads(gzip.decompress(trace.data))["traceEvents"]
    return [(e["name"], e["ts"], e["dur"], e.get("args")) for e in events if e["ph"] == "X"]


def test_perfetto_gets_ranges_reads_and_operators_on_one_clock(tmp_path):
    events = [
        event("user_annotation", "labkit.capture", 1000.0, 20_000.0),
        event("cpu_op", "aten::conv2d", 2500.0, 40.0),
        event("python_function", "main", 2500.0, 40.0),
    ]
    found = shown(perfetto_trace(made_up(file=traced(tmp_path, events))))
    assert ("preprocess", 0.0, 1000.0, None) in found
    assert ("aten::conv2d", 1500.0, 40.0, None) in found  # inside the range "infer", as it was
    assert [name for name, *_ in found].count("item") == 6
    where = {"where": "labkit/pipelines/baseline.py:50"}
    assert next(args for name, _, _, args in found if name == "item") == where
    assert not [name for name, *_ in found if name == "main"]
    assert len(shown(perfetto_trace(made_up(file=tmp_path / "gone.json.gz")))) == 12


DOM = """
const listeners = new Set(), sent = [];
const page = { closed: false, postMessage: (data, to) => {
  sent.push([data, to]);
  if (data !== "PING") return;
  for (const source of [{}, page])  // a stranger answers first
    for (const origin of ["https://elsewhere.example", "https://ui.perfetto.dev"])
      [...listeners].forEach((hear) => hear({ source, origin, data: "PONG" }));
} };
globalThis.window = {
  open: (url) => (sent.push(["open", url]), page),
  addEventListener: (kind, hear) => listeners.add(hear),
  removeEventListener: (kind, hear) => listeners.delete(hear),
};
const button = {}, status = {}, link = { href: HREF };
const parts = { button, a: link, "[role=status]": status };
globalThis.document = { getElementById: (id) => ({ querySelector: (what) => parts[what] }) };
SCRIPT
button.onclick();
setTimeout(() => {
  const [data, to] = sent.at(-1), bytes = Buffer.from(data.perfetto.buffer).toString("base64");
  console.log(JSON.stringify({ opened: sent[0], to, bytes, n: sent.length, words: status.textContent }));
}, 250);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the button's script")
def test_the_button_hands_the_trace_to_perfetto_once_it_answers(tmp_path):
    trace = perfetto_trace(made_up())
    page = trace._repr_html_()
    script, href = re.search(r"<script>(.*)</script>", page, re.S)[1], re.search(r'href="([^"]+)"', page)[1]
    program = DOM.replace("SCRIPT", script).replace("HREF", json.dumps(href))
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60, check=True)
    told = json.loads(done.stdout)
    assert told["opened"] == ["open", "https://ui.perfetto.dev"]
    assert told["to"] == "https://ui.perfetto.dev" and told["n"] == 3  # opened, asked once, handed over
    assert f"base64,{told['bytes']}" in href
    assert told["words"] == "The trace is open in Perfetto."
    assert trace.save(tmp_path / "trace.json.gz").read_bytes() == trace.data


def test_frames_and_reads_are_counted():
    capture = made_up()
    assert capture.n_frames == 2
    assert capture.first_frames(1) == (0, 10_000_000)
    assert capture.first_frames(5) == (0, 19_000_000)
    table = range_table(capture).set_index("range")
    assert table["reads"].to_dict() == {"preprocess": 0, "infer": 6, "layer": 0}
    assert table.loc["infer", "share"] == pytest.approx(16 / 19)
    reads = read_table(capture)
    assert reads.iloc[0].to_dict() == {
        "where": "labkit/pipelines/baseline.py:50", "line": "", "how": "item", "in range": "infer",
        "device": "cpu", "reads": 6, "per frame": 3.0,
    }  # fmt: skip


def test_a_p90_stands_where_there_are_ranges_enough():
    ranges = tuple(Range("a", i * 1000, i * 1000 + 10 * i) for i in range(100))
    row = range_table(Capture("p", ranges)).iloc[0]
    assert row["CPU p90 ms"] == pytest.approx(np.percentile(10 * np.arange(100), 90) / 1e6)


def test_two_profiles_beside_one_another():
    table = side_by_side(made_up(), made_up(reads=()), ("origin", "mended"))
    assert table.loc["infer", ("origin", "reads")] == 3
    assert table.loc["infer", ("mended", "reads")] == 0
    assert table.loc["layer", ("mended", "CPU ms")] == pytest.approx(2)
    fewer = side_by_side(made_up(), made_up(ranges=(Range("preprocess", 0, 7_000_000),)))
    assert fewer.loc["infer", ("after", "count")] == 0


def test_source_files_have_short_names():
    assert short_path("/a/labkit/labkit/models/decode.py") == "labkit/models/decode.py"
    assert short_path("/tmp/ipykernel_77/123.py") == "this notebook"
    assert short_path("/usr/lib/thing.py") == "thing.py"


def test_rows_of_the_timeline_hold_what_happened_and_never_overlap():
    capture = made_up()
    tracks = tracks_of(capture, *capture.first_frames(1))
    assert [track.label for track in tracks] == ["host", "host, within or beside 1", "host reads (3)"]
    assert [name for _, _, name in tracks[0].bars] == ["preprocess", "infer"]
    assert [name for _, _, name in tracks[1].bars] == ["layer"]
    for track in tracks:
        assert all(a[1] <= b[0] for a, b in zip(track.bars, track.bars[1:], strict=False))


def test_the_timeline_shows_streams_and_says_in_words_what_it_shows(gpu_export):
    chart = timeline(read_export(gpu_export), frames=1)
    for words in ("stream 7 kernels", "stream 13 copies", "copy to GPU 1 times, 0.5 ms", "host waits"):
        assert words in chart.alt_text, words
    assert chart.png(60).startswith(b"\x89PNG")
    labels = [text.get_text() for text in chart.axes[0].get_yticklabels()]
    assert "stream 7 kernels" in labels


def test_a_timeline_of_one_range_or_of_nothing():
    assert "Inside the first infer" in timeline(made_up(), around="infer").title
    with pytest.raises(UsageError, match="preprocess, infer, layer"):
        timeline(made_up(), around="nosuch")
    with pytest.raises(UsageError, match="no range"):
        timeline(Capture("p", ()))
    with pytest.raises(UsageError, match="not 0"):
        timeline(made_up(), frames=0)


def test_versions_that_lose_ranges_are_recognised():
    assert numbers("0.2.11") == (0, 2, 11)
    assert invisible((2022, 4, 2), "0.2.11") is None
    assert "loses every range" in invisible((2022, 4, 2), "0.2.12")
    assert "loses every range" in invisible((2023, 4, 4), "0.2.17")
    assert invisible((2024, 1, 1), "0.2.17") is None


def test_ranges_missing_from_a_report_are_told():
    sent = Counter({"infer": 3, "decode": 3})
    assert lost(sent, Counter({"infer": 3, "decode": 3, "user:x": 1}), (2022, 4)) is None
    words = lost(sent, Counter({"infer": 1}), (2022, 4))
    assert "decode 0 of 3" in words and "infer 1 of 3" in words and "fewer frames" in words


def test_where_the_report_lost_ranges_the_noted_ones_stand_in(recorded, tmp_path):
    stem = recorded.with_suffix("")
    noted = profiler.Marked(ranges=tuple(Range("preprocess", i, i + 1) for i in range(5)))
    capture = profiler.nsys_capture(Nsys(Path("nsys"), (2022, 4, 2)), stem, noted)
    assert capture.counts() == {"preprocess": 5}
    assert "preprocess 3 of 5" in capture.notes[0]
    with pytest.raises(UnavailableError, match="wrote no report"):
        profiler.nsys_capture(Nsys(Path("nsys"), (2022, 4, 2)), tmp_path / "absent", noted)


def stand_in(folder, body):
    """A program called nsys that says its version and then does something else."""
    path = folder / "nsys"
    version = '[ "$1" = --version ] && echo "NVIDIA Nsight Systems version 2022.4.2.1-ab" && exit'
    path.write_text(f"#!/bin/sh\n{version}\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_an_nsys_that_fails_is_one_sentence(tmp_path, monkeypatch):
    stand_in(tmp_path, 'echo "no importer" >&2; exit 3')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert nsys.find().version == (2022, 4, 2, 1)
    job = ProfileTarget("resnet_opencv_cpu", TINY, "scenes", 1)
    with pytest.raises(UnavailableError, match=r"nsys profile failed \(3\): no importer"):
        profile_rung(job, "nsys")
    seen = profile_rung(job, "auto")
    assert seen.profiler.startswith("torch") and "nsys profile failed (3)" in seen.notes[0]
    with pytest.raises(UnavailableError, match="may hold a password; --engine torch"):
        profile_rung(replace(job, source="rtsp://joe:s3cret@camera/1"), "nsys")
    stand_in(tmp_path, 'echo "labkit: there is no webcam 7" >&2; exit 3')
    with pytest.raises(SourceError, match=r"^there is no webcam 7$"):
        profile_rung(ProfileTarget("combined_cpu", TINY, "webcam:7", 1), "nsys")


def test_the_line_of_the_magic():
    assert parse("") == (None, "auto")
    assert parse("before --engine torch") == ("before", "torch")
    assert parse("--engine nsys") == (None, "nsys")
    for wrong in ("two names", "--engine", "1st", "--frames 3"):
        with pytest.raises(UsageError):
            parse(wrong)


@pytest.fixture
def shell():
    from IPython.core.interactiveshell import InteractiveShell

    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_the_magic_runs_the_cell_once_and_keeps_the_profile(shell):
    shell.run_line_magic("load_ext", "labkit.profiling")
    shell.user_ns.update(span=span, frames=[make_frame(i) for i in range(3)], torch=torch)
    cell = textwrap.dedent(
        """
        seen = []
        for frame in frames:
            with span("infer", frame):
                seen.append(int(torch.tensor(frame.index)))
        made = len(seen)
        """
    )
    profile = shell.run_cell_magic("profile", "mine --engine torch", cell)
    assert shell.user_ns["seen"] == [0, 1, 2], "run once, in the user's own names"
    assert shell.user_ns["mine"] is profile
    assert profile.capture.counts() == {"infer": 3}
    assert profile.capture.file.is_file()
    reads = profile.reads()
    assert reads["reads"].tolist() == [3]
    assert reads["line"][0] == "seen.append(int(torch.tensor(frame.index)))"
    assert reads["in range"][0] == "infer"
    page = profile._repr_html_()
    assert "<img" in page and "alt=" in page and str(profile.capture.file) in page
    assert "infer" in repr(profile)


def test_a_cell_that_fails_fails_and_leaves_nothing_watched(shell):
    shell.run_line_magic("load_ext", "labkit.profiling")
    with pytest.raises(ZeroDivisionError):
        shell.run_cell_magic("profile", "--engine torch", "1 / 0")
    assert "item" not in vars(torch.Tensor)
    again = shell.run_cell_magic("profile", "--engine torch", "x = 1")
    assert "No range of labkit was entered" in repr(again)


def test_nsys_cannot_watch_a_process_that_it_did_not_start(monkeypatch):
    monkeypatch.delenv("NSYS_PROFILING_SESSION_ID", raising=False)
    with pytest.raises(UnavailableError), profiler.watching("cell", "nsys"):
        pass
    with pytest.raises(UsageError, match="not 'perf'"), profiler.watching("cell", "perf"):
        pass


def test_a_profile_without_a_gpu_says_so():
    words = " ".join(Profile(made_up()).words())
    assert "6 times, 3 per frame" in words and "Without a GPU nothing waits" in words
    assert "wait for it" in " ".join(Profile(made_up(has_gpu=True)).words())


OF_TWO_FRAMES = {"preprocess": 2, "detect": 2, "decode": 2, "crop": 4, "classify": 4, "name": 2}


def test_a_rung_under_torch_profiler_shows_the_origins_reads():
    capture = profile_rung(ProfileTarget("baseline_combined_cpu", TINY, "scenes", 2), "torch")
    assert capture.counts() == OF_TWO_FRAMES
    decode = range_table(capture).set_index("range").loc["decode"]
    assert decode["reads"] == 2 * (100 + 2 * 6), "a score of each query; corners, score, label of two objects"
    lines = read_table(capture)
    assert (lines["where"].str.startswith("labkit/pipelines/baseline.py")).sum() >= 3
    mended = profile_rung(ProfileTarget("combined_cpu", TINY, "scenes", 2), "torch")
    assert range_table(mended).set_index("range").loc["decode", "reads"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="has no sessions of processes")
def test_what_nsys_started_ends_with_it_under_another_parent_too():
    detached = "import subprocess as s; print(s.Popen(['sleep', '9'], process_group=0, stdout=s.DEVNULL).pid)"
    marked = {**os.environ, nsys._MARK: "this one"}
    with subprocess.Popen(
        [sys.executable, "-c", detached], env=marked, stdout=subprocess.PIPE, text=True
    ) as launcher:
        left = int(launcher.stdout.readline())
    assert launcher.returncode == 0 and lives(left)
    nsys._end(launcher.pid, "another one")
    assert lives(left)
    nsys._end(launcher.pid, "this one")
    assert not lives(left)


@needs_nsys
@pytest.mark.extended
def test_a_real_nsys_holds_the_ranges_that_labkit_sent():
    capture = profile_rung(ProfileTarget("combined_cpu", TINY, "scenes", 2), "nsys")
    assert capture.profiler.startswith("nsys ")
    assert capture.counts() == OF_TWO_FRAMES
    assert capture.notes == ()
    assert capture.file.suffix == ".nsys-rep" and capture.file.is_file()
    assert range_table(capture).set_index("range").loc["decode", "reads"] == 2, "one clock for both"
    assert "capture@labkit.profile" in capture.command
    assert not list(capture.file.parent.glob("*.json"))


CELLS = (
    "%load_ext labkit.profiling\n"
    "import numpy as np, torch\n"
    "from labkit.core.trace import span\n"
    "from labkit.core.types import Frame\n"
    "frames = [Frame(np.zeros((4, 4, 3), np.uint8), i, 0.0) for i in range(3)]\n"
    "def work(frame):\n"
    "    with span('infer', frame):\n"
    "        torch.ones(1).item()\n"
    "work(frames[0])",
    "%%profile mine\nfor frame in frames:\n    work(frame)",
    "work(frames[0])\n"
    "seen = mine.capture\n"
    "print(seen.profiler, dict(seen.counts()), len(seen.reads), mine.table()['reads'][0])",
)


@needs_nsys
def test_one_cell_of_a_kernel_under_a_real_nsys(tmp_path, monkeypatch):
    import asyncio

    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    kernel.install(tmp_path / "jupyter" / "kernels")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    for _ in range(3):  # JupyterLab too starts a kernel again whose nsys never met its agent
        client = NotebookClient(notebook, timeout=200, kernel_name=kernel.NAME)
        with suppress(DeadKernelError, RuntimeError):
            asyncio.run(client.async_execute(cwd=str(tmp_path)))
            break
    said = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    assert said.startswith("nsys 20"), said
    assert "{'infer': 3} 3 3" in said, "the cell's ranges and reads, and those of no other cell"


def test_the_kernel_is_described_for_this_python(tmp_path, monkeypatch):
    place = kernel.install(tmp_path)
    spec = json.loads((place / "kernel.json").read_text())
    assert spec["argv"][0] == sys.executable and "{connection_file}" in spec["argv"]
    monkeypatch.setattr(nsys, "find", lambda: Nsys(Path("/x/nsys"), (2024, 1)))
    line = kernel.command(["-f", "file.json"])
    assert line[:2] == ["/x/nsys", "launch"]
    inner = [sys.executable, "-m", "labkit.profiling.kernel", "--within", str(os.getpid()), "-f", "file.json"]
    assert line[-7:] == inner
    monkeypatch.setattr(nsys, "find", lambda: None)
    with pytest.raises(UnavailableError, match="Python 3"):
        kernel.command([])


@pytest.mark.skipif(sys.platform == "win32", reason="has no sh")
def test_what_nsys_started_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(nsys, "_LONGEST_S", 0.3)
    note = tmp_path / "started"
    with pytest.raises(UnavailableError, match="nsys -c did not end within"):
        nsys.run(["sh", "-c", f"sleep 60 & echo $! >{note}; wait"])
    assert not lives(int(note.read_text()))


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_what_nsys_started_has_ended_once_it_was_told_to():
    # A process that ends loses its variables at once, and lives on until its memory is given back.
    held = (
        "import os; os.fork() and os.wait(); b = b'1' * (500 << 20); print(os.getpid(), flush=True); input()"
    )
    marked = {**os.environ, nsys._MARK: "this one"}
    with subprocess.Popen(
        [sys.executable, "-c", held], env=marked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        started = int(running.stdout.readline())
        nsys._end(running.pid, "this one")
        assert not lives(started) and not lives(running.pid)


@pytest.mark.skipif(sys.platform == "win32", reason="has no sh")
def test_an_nsys_that_never_met_its_agent_is_started_again(tmp_path):
    left, fault = tmp_path / "left", f"echo '[tag] = {nsys._NEVER_MET}.' >&2; exit 1"
    agent = f"sleep 60 >/dev/null 2>&1 & echo $! >>{left}"
    assert nsys.run(["sh", "-c", f"[ -e {left} ] && echo done && exit; {agent}; {fault}"]) == "done\n"
    assert not lives(int(left.read_text()))
    with pytest.raises(UnavailableError, match=nsys._NEVER_MET):
        nsys.run(["sh", "-c", f"{agent}; {fault}"])
    started = left.read_text().split()
    assert len(started) == 1 + 3 and not any(lives(int(each)) for each in started)


@pytest.mark.parametrize("looks", [0, 2])
def test_a_process_about_to_run_another_program_is_ended_too(looks, monkeypatch):
    """Between fork and exec the system tells no variables of it."""
    marked = subprocess.Popen(["sleep", "60"], env={"LABKIT_TEST_MARK": "this"})
    other = subprocess.Popen(["sleep", "60"], env={"LABKIT_TEST_MARK": "that"})
    told, left = psutil.Process.environ, [looks]

    def environ(process):
        if process.pid == marked.pid and left[0]:
            left[0] -= 1
            return {}
        return told(process)

    monkeypatch.setattr(psutil.Process, "environ", environ)
    try:
        end_marked("LABKIT_TEST_MARK", "this", 10.0)
        assert marked.poll() == -signal.SIGKILL and other.poll() is None
    finally:
        for each in (marked, other):
            each.kill()
            each.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_sessions_of_killed_kernels_are_ended_and_no_others(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    listed = f"ID TIME STATE LAUNCH NAME\n1 00:01 Launched 1 labkit-{gone.pid}\n"
    listed += f"2 00:01 Launched 1 labkit-{os.getpid()}\n3 00:01 Launched 1 mine-{gone.pid}\n"
    said = tmp_path / "said"
    said.write_text(listed)
    program = stand_in(tmp_path, f'[ "$1" = sessions ] && cat {said} || echo "$@" >>{tmp_path}/done')
    assert kernel.end_abandoned(Nsys(program, (2024,))) == [f"labkit-{gone.pid}"]
    assert (tmp_path / "done").read_text() == f"shutdown --session=labkit-{gone.pid} --kill=none\n"


def test_a_kernel_ends_when_its_nsys_is_killed(tmp_path):
    waiting = "from pathlib import Path; import time; Path('up').touch(); time.sleep(100)"
    (tmp_path / "ipykernel_launcher.py").write_text(waiting)
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    command = [sys.executable, "-m", "labkit.profiling.kernel", "--within", str(owner.pid)]
    inner = subprocess.Popen(command, cwd=tmp_path)
    try:
        while not (tmp_path / "up").exists():
            assert inner.poll() is None
        owner.kill()
        owner.wait()
        assert inner.wait(timeout=60) != 0
    finally:
        inner.kill()


def labkit(*arguments):
    command = [sys.executable, "-c", "from labkit.cli.main import main; raise SystemExit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["profile"], 2, "name a rung"),
        (["profile", "nosuch"], 2, "no rung named 'nosuch'"),
        (["profile", "combined_cpu", "--engine", "perf"], 2, "not 'perf'"),
        (["profile", "combined_cpu", "--frames", "0"], 2, "not 0"),
    ],
)
def test_mistakes_on_the_command_line(arguments, code, words, capsys):
    assert main(arguments) == code
    assert words in capsys.readouterr().err


@pytest.mark.extended
def test_profile_on_the_command_line():
    done = labkit(
        "profile", "baseline_combined_cpu", "--frames", "1", "--size", "160x128", "--source", "scenes",
        "--weights", "random", "--objects", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in ("decode", "100 per frame", "labkit/pipelines/baseline.py", "Report: ", "timeline: "):
        assert words in done.stdout, words
    if profiler.why_not_nsys() is None:
        assert "nsys profile" in done.stdout and "python" in done.stdout
    else:
        assert "torch.profiler watched" in done.stdout
    picture = done.stdout.split("timeline: ")[1].strip()
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_a_profile_whose_folder_cannot_be_made_is_kept_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(profiler.tempfile, "tempdir", str(tmp_path))
    stem = profiler.report_stem("a_rung")
    assert stem.parent.parent == tmp_path and stem.parent.is_dir() and stem.name.startswith("a_rung-")
