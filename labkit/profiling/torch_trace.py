"""torch.profiler as the watcher where nsys cannot be used: the same capture from its trace file."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labkit.core.errors import ResultsError
from labkit.core.read_json import parse_json, read_bytes
from labkit.profiling.capture import GpuWork, Range

MARK = "labkit.capture"
MOST_TRACE_BYTES = 2 * 2**30
"""Of a trace, compressed or not."""
_KINDS = {"kernel": "kernel", "gpu_memcpy": "copy", "gpu_memset": "fill"}
_CALLS = ("cuda_runtime", "cuda_driver")


@contextmanager
def torch_profiled(report: Path) -> Iterator[None]:
    """Watches the block with torch.profiler and writes `report` (a trace as .json.gz)."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    else:  # its messages are then only that it found no GPU, in every cell
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=activities) as watcher, record_function(MARK):
        yield
    watcher.export_chrome_trace(str(report))


def read_trace(path: Path) -> tuple[list[GpuWork], list[Range]]:
    """GPU work and the calls that wait for it, their times counted from labkit's mark.

    Args:
        path: trace as written by `torch_profiled`, .json or .json.gz.

    Raises:
        ResultsError: the file is no trace, or holds no mark.
    """
    events, began_us = trace_events(path)
    with _explained(path):
        calls = {_correlation(e): e for e in events if e.get("cat") in _CALLS}
        gpu = [_work(e, calls.get(_correlation(e)), began_us) for e in events if e.get("cat") in _KINDS]
        waits = [_wait(e, began_us) for e in calls.values() if _waits(e["name"])]
    return sorted(gpu, key=lambda w: w.start_ns), sorted(waits, key=lambda w: w.start_ns)


def trace_events(path: Path) -> tuple[list[dict[str, Any]], float]:
    """The stretches of a trace, and when labkit's mark began, in us of the trace's own clock.

    Raises:
        ResultsError: the file is no trace, or holds no mark.
    """
    with _explained(path):
        content = read_bytes(path, MOST_TRACE_BYTES)
        if path.suffix == ".gz":
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_TRACE_BYTES + 1)
        trace = parse_json(content, dict, most_bytes=MOST_TRACE_BYTES, constants=True)
        events = [e for e in trace["traceEvents"] if e.get("ph") == "X"]
        marks = [e["ts"] for e in events if e["name"] == MARK and e.get("cat") == "user_annotation"]
    if not marks:
        raise ResultsError(f"{path} holds no range named {MARK}; profile again")
    return events, marks[0]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what reading a file that is no trace raises into one sentence that names it."""
    try:
        yield
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        LookupError,
        OverflowError,
        TypeError,
        AttributeError,
    ) as error:
        raise ResultsError(f"{path} cannot be read as a trace of torch.profiler ({error})") from error


def _work(event: dict[str, Any], call: dict[str, Any] | None, began_us: float) -> GpuWork:
    start = _ns(event["ts"] - began_us)
    return GpuWork(
        _KINDS[event["cat"]],  # type: ignore[arg-type]
        event["name"],
        start,
        start + _ns(event["dur"]),
        int(event["args"].get("stream", 0)),
        _ns(call["ts"] - began_us) if call else None,
        int(call["tid"]) if call else None,
    )


def _wait(event: dict[str, Any], began_us: float) -> Range:
    start = _ns(event["ts"] - began_us)
    return Range(event["name"], start, start + _ns(event["dur"]), int(event["tid"]))


def _waits(name: str) -> bool:
    return "Synchronize" in name or name == "cudaMemcpy"


def _correlation(event: dict[str, Any]) -> int | None:
    return event.get("args", {}).get("correlation")


def _ns(time_us: float) -> int:
    return round(time_us * 1000)
