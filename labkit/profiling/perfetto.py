"""A capture as a trace that ui.perfetto.dev shows, and the button that hands it over.

The trace is Chrome's JSON, gzipped: labkit's ranges and reads, the GPU's streams, and what torch.profiler
noted of its operators. It goes from the notebook's own page to Perfetto's by `postMessage`; no server
sees it.
"""

from __future__ import annotations

import base64
import gzip
import json
import uuid
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from labkit.core.errors import ResultsError
from labkit.core.files import write_atomic
from labkit.profiling.capture import Capture
from labkit.profiling.range_table import short_path
from labkit.profiling.torch_trace import trace_events

LONGEST = 20_000
"""Operators kept, the longest ones: a page carries the trace in its text."""
_HOST, _READS, _OPERATORS, _GPU = 1, 2, 3, 4


@dataclass(frozen=True)
class PerfettoTrace:
    """A trace with a button that opens it in Perfetto, and a link to download it.

    Attributes:
        name: of the file.
        data: Chrome's trace format as gzipped JSON.
    """

    name: str
    data: bytes

    def save(self, path: Path | str) -> Path:
        """Writes the trace to a file, which ui.perfetto.dev and chrome://tracing open."""
        return write_atomic(Path(path), self.data)

    def __repr__(self) -> str:
        return f"{self.name}: {len(self.data) / 1e3:.0f} kB; save(PATH) writes it for ui.perfetto.dev"

    def _repr_html_(self) -> str:
        page = Path(__file__).with_name("perfetto.html").read_text(encoding="utf-8")
        parts = {"ID": f"perfetto-{uuid.uuid4().hex}", "NAME": escape(self.name, quote=True),
                 "DATA": base64.b64encode(self.data).decode()}  # fmt: skip
        for name, text in parts.items():
            page = page.replace(f"@{name}@", text)
        return page


def perfetto_trace(capture: Capture) -> PerfettoTrace:
    """The capture for Perfetto, with torch's operators where torch.profiler recorded them."""
    events = [*_names(), *_ranges(capture), *_reads(capture), *_gpu(capture), *_operators(capture)]
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
    return PerfettoTrace("labkit-trace.json.gz", gzip.compress(text.encode(), mtime=0))


def _names() -> list[dict[str, Any]]:
    names = {_HOST: "ranges", _READS: "reads", _OPERATORS: "torch's operators", _GPU: "GPU"}
    return [{"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
            for pid, name in names.items()] + [
        {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}} for pid in names
    ]  # fmt: skip


def _stretch(name: str, pid: int, tid: int, start_ns: float, stop_ns: float) -> dict[str, Any]:
    times = {"ts": start_ns / 1e3, "dur": max(stop_ns - start_ns, 1) / 1e3}
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, **times}


def _ranges(capture: Capture) -> list[dict[str, Any]]:
    return [_stretch(r.name, _HOST, r.thread or 0, r.start_ns, r.stop_ns) for r in capture.ranges]


def _reads(capture: Capture) -> list[dict[str, Any]]:
    return [
        {**_stretch(r.what, _READS, 0, r.at_ns, r.at_ns), "args": {"where": f"{short_path(r.path)}:{r.line}"}}
        for r in capture.reads
    ]


def _gpu(capture: Capture) -> list[dict[str, Any]]:
    return [_stretch(w.name, _GPU, w.stream, w.start_ns, w.stop_ns) for w in capture.gpu]


def _operators(capture: Capture) -> list[dict[str, Any]]:
    """Torch's own events; none where another profiler watched, or its file is gone."""
    if capture.file is None or not capture.file.name.endswith((".json", ".json.gz")):
        return []
    try:
        events, began_us = trace_events(capture.file)
    except ResultsError:
        return []
    own = [e for e in events if e.get("cat") == "cpu_op"]
    longest = sorted(own, key=lambda e: -e.get("dur", 0))[:LONGEST]
    threads = {tid: n for n, tid in enumerate(dict.fromkeys(e["tid"] for e in own))}
    start = [(e, (e["ts"] - began_us) * 1e3) for e in longest]
    return [
        _stretch(e["name"], _OPERATORS, threads[e["tid"]], at_ns, at_ns + e.get("dur", 0) * 1e3)
        for e, at_ns in start
    ]
