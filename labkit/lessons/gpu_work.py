"""What each GPU rung asks of the GPU for a frame: counts, which need no GPU to be known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

RECORDED = Path(__file__).with_name("gpu_work.json")
"""Counted on a pretended GPU, by `tests/pretended/counting.py`."""


def gpu_work(objects: int = 5) -> pd.DataFrame:
    """How often the host waits for the GPU, and how much it launches, per frame and rung.

    One rung per row, in the order of the ladder. `launches` are PyTorch's operations and the lab's
    own kernels; a CUDA graph is one. `waits` are all points at which the host stands still:
    `values` read from the GPU one at a time, whole `copies`, and waits `on purpose` for an event.

    Args:
        objects: boxes per frame, 5 or 15.

    Raises:
        UsageError: nothing is recorded for that number of boxes.
    """
    import pandas as pd

    recorded = json.loads(RECORDED.read_text())["boxes"]
    if str(objects) not in recorded:
        raise UsageError(f"counted were frames of {' or '.join(recorded)} boxes, not {objects}")
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
