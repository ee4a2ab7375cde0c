"""Lesson 06: launches and waits of GPU rungs, time per operator, and Amdahl's law by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.core.errors import LabError, UsageError
from labkit.core.types import Size, Workload
from labkit.lessons.exercise import Mistake, call_for_number, find_mistake, seeded_check
from labkit.lessons.hints import hint
from labkit.profiling.operators import operators

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.result_set import ResultSet

__all__ = ["check_speed_up", "hint", "launch_counts", "operator_table"]

LAUNCH_COUNTS = Path(__file__).with_name("launch_counts.json")
"""Counted on the practice GPU, by `tests/count_launches.py`."""


def launch_counts(objects: int = 5) -> pd.DataFrame:
    """Launches, and waits of the host for the GPU, per frame and rung; needs no GPU.

    One rung per row, in the order of the ladder. `launches` are PyTorch's operations and the lab's
    own kernels; a CUDA graph is one. `waits` are all points at which the host stands still:
    `values` read from the GPU one at a time, whole `copies`, and waits `on purpose` for an event.

    Args:
        objects: boxes per frame, 5 or 15.

    Raises:
        UsageError: nothing is recorded for that number of boxes.
    """
    import pandas as pd

    recorded = json.loads(LAUNCH_COUNTS.read_text(encoding="utf-8"))["boxes"]
    if str(objects) not in recorded:
        raise UsageError(f"frames of {' or '.join(recorded)} boxes were counted, not of {objects}")
    rows = []
    for rung, counts in recorded[str(objects)].items():
        waits = {what: times for what, times in counts.items() if what != "launches"}
        copies = sum(times for what, times in waits.items() if what.startswith("a copy"))
        values = waits.get("a value", 0)
        rows.append(
            {
                "rung": rung,
                "launches": counts["launches"],
                "waits": sum(waits.values()),
                "values": values,
                "copies": copies,
                "on purpose": sum(waits.values()) - values - copies,
            }
        )
    return pd.DataFrame(rows).set_index("rung").round(1)


def operator_table(name: str, result: ResultSet, *, size: Size = (640, 480)) -> pd.DataFrame | str:
    """Time of an engine's detector by kind of operator; prints what keeps it from the peak.

    Args:
        name: of a rung that runs on OpenVINO.
        result: of a benchmark that has measured this machine's peaks; else they are measured now.
        size: (width, height) px of the frames.
    """
    import pandas as pd

    peaks = next((run.limit["peaks"] for run in result.runs if "peaks" in run.limit), None)
    try:
        found = operators(name, Workload(size=size), peaks)
    except LabError as error:
        return f"Not measured here: {error}."
    print(*found.sentences(), sep="\n")
    return pd.DataFrame(found.rows())


@seeded_check
def check_speed_up(speed_up: Callable[[float, float], Any], rng: np.random.Generator) -> str:
    """Check `speed_up(share, part_factor)`: Amdahl's law for one part of the time."""
    known = [(0.3, 4.0), (0.5, 2.0), (0.0, 5.0), (1.0, 3.0), (0.4, 0.5), (0.6, 1.0)]
    drawn = zip(rng.uniform(0, 1, 20).tolist(), rng.lognormal(1, 1.5, 20).tolist(), strict=True)
    for share, factor in [*known, *drawn]:
        right = 1 / (1 - share + share / factor)
        got = call_for_number(speed_up, share, factor)
        if abs(got - right) > 1e-6 * right:
            mistakes = {
                "that is the new time as a share of the old one; a gain is its inverse": 1 / right,
                "that adds the part's gain in proportion; times add up, gains do not": (
                    1 - share + share * factor
                ),
                "the part does not vanish, it becomes faster; that is the ceiling": 1 / max(1e-12, 1 - share),
                "only this part becomes faster, not the whole": factor,
            }
            reason = find_mistake(got, mistakes, right) or (
                "write down the old time as 1 and the new time as what stays plus what shrinks"
            )
            raise Mistake(
                f"for a share of {share:.3g} made {factor:.3g} times faster it gives {got:.4g}: {reason}"
            )
    return "that is Amdahl's law, also when a part becomes slower"
