"""Tables of a capture: one row per range, one row per line that reads."""

from __future__ import annotations

import linecache
from bisect import bisect_right
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labkit.core.stats import percentile
from labkit.profiling.capture import Capture, Range, Read, innermost, inside

if TYPE_CHECKING:
    import pandas as pd

RANGE_COLUMNS = (
    "range", "count", "CPU total ms", "CPU median ms", "CPU p90 ms", "share", "GPU total ms", "waiting ms",
    "reads",
)  # fmt: skip
READ_COLUMNS = ("where", "line", "how", "in range", "device", "reads", "per frame")


def range_table(capture: Capture) -> pd.DataFrame:
    """One row per range name, in order of first appearance.

    CPU times are wall times on the host; a p90 stands there only where there are ranges enough
    for it. GPU time is that of the kernels, copies and fills asked for within the range, also
    where the GPU did them later; nested ranges each count what is inside them. `waiting` is the
    host's time in CUDA calls that wait for the GPU. Both are empty without a GPU. `share` is
    relative to the time from the first range's start to the last one's end.
    """
    import pandas as pd

    groups: dict[str, list[Range]] = defaultdict(list)
    for each in capture.ranges:
        groups[each.name].append(each)
    start, stop = capture.first_frames(capture.n_frames)
    rows = [_range_row(name, group, capture, max(stop - start, 1)) for name, group in groups.items()]
    table = pd.DataFrame(rows, columns=list(RANGE_COLUMNS))
    figures = [column for column in RANGE_COLUMNS if column.endswith("ms")]
    return table.astype(dict.fromkeys(figures, float))  # None becomes NaN, which shows as empty


def _range_row(name: str, group: list[Range], capture: Capture, whole_ns: int) -> tuple[object, ...]:
    durations_ms = np.array([r.duration_ns for r in group]) / 1e6
    within = _Within(group)
    gpu_ms = waiting_ms = None
    if capture.has_gpu:
        gpu_ms = sum(w.duration_ns for w in capture.gpu if within(w.launched_ns, w.thread)) / 1e6
        waiting_ms = sum(w.duration_ns for w in capture.waits if within(w.start_ns, w.thread)) / 1e6
    reads = sum(within(r.at_ns, r.thread) for r in capture.reads)
    total = float(durations_ms.sum())
    return (
        name, len(group), total, percentile(durations_ms, 50), percentile(durations_ms, 90),
        total * 1e6 / whole_ns, gpu_ms, waiting_ms, reads,
    )  # fmt: skip


class _Within:
    """True if something happened inside one of many ranges of one name, found by bisection."""

    def __init__(self, group: list[Range]) -> None:
        self._by_thread: dict[int | None, tuple[list[int], list[Range]]] = {}
        for thread in {r.thread for r in group}:
            mine = sorted((r for r in group if r.thread == thread), key=lambda r: r.start_ns)
            self._by_thread[thread] = ([r.start_ns for r in mine], mine)

    def __call__(self, at_ns: int | None, thread: int | None) -> bool:
        if at_ns is None:
            return False
        for starts, ranges in self._by_thread.values():
            place = bisect_right(starts, at_ns) - 1
            if place >= 0 and inside(ranges[place], at_ns, thread):
                return True
        return False


def read_table(capture: Capture) -> pd.DataFrame:
    """One row per source line that reads tensors, most reads first."""
    import pandas as pd

    lines: Counter[tuple[str, int, str, str]] = Counter()
    first: dict[tuple[str, int, str, str], Read] = {}
    for read in capture.reads:
        key = (read.path, read.line, read.what, read.device)
        lines[key] += 1
        first.setdefault(key, read)
    frames = capture.n_frames or None
    rows = [
        (
            f"{short_path(path)}:{line}",
            linecache.getline(path, line).strip(),
            what,
            innermost(capture.ranges, first[path, line, what, device].at_ns, None),
            device,
            count,
            count / frames if frames else None,
        )
        for (path, line, what, device), count in lines.most_common()
    ]
    return pd.DataFrame(rows, columns=list(READ_COLUMNS))


def short_path(path: str) -> str:
    """A source file as a reader knows it: the cell, a module of labkit, or the file's name."""
    parts = Path(path).parts
    if any(part.startswith("ipykernel_") for part in parts) or path.startswith("<ipython"):
        return "this notebook"
    if "labkit" in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("labkit") :])
    return parts[-1] if parts else path


def side_by_side(
    before: Capture, after: Capture, names: tuple[str, str] = ("before", "after")
) -> pd.DataFrame:
    """Per frame: how often each range came, its CPU time and its reads, in two captures.

    The CPU time is the median of the range times how often it came, so that one disturbed frame
    decides nothing. Times taken under a profiler hold its own cost too: they say where time
    went, not how much faster something is. For that, measure the two.
    """
    import pandas as pd

    sides = [_per_frame(capture) for capture in (before, after)]
    return pd.concat(sides, axis=1, keys=list(names)).fillna(0)


def _per_frame(capture: Capture) -> pd.DataFrame:
    import pandas as pd

    table, frames = range_table(capture).set_index("range"), max(capture.n_frames, 1)
    count = table["count"] / frames
    return pd.DataFrame(
        {"count": count, "CPU ms": count * table["CPU median ms"], "reads": table["reads"] / frames}
    )
