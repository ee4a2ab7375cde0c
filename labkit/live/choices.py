"""What a view's controls offer."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from labkit.live.settings import SIZES, Knobs


def choices(knobs: Knobs) -> dict[str, Any]:
    """Rungs, model sets and sizes to choose from, as plain data.

    The ladder takes seconds to import, so until the view's own thread has done it there is
    only what is set.
    """
    if "labkit.pipelines.ladder" in sys.modules and knobs.rung != "auto":
        rungs = _rungs()
    else:
        rungs = [{"name": knobs.rung, "about": "", "unavailable": None}]
    sizes = list(dict.fromkeys([*SIZES, knobs.size]))
    return {"rungs": rungs, "model_sets": ["full", "lab"], "sizes": [list(size) for size in sizes]}


@lru_cache(maxsize=1)
def _rungs() -> list[dict[str, Any]]:
    from labkit.core.requirements import missing
    from labkit.pipelines.ladder import LADDER

    return [{"name": r.name, "about": r.about, "unavailable": missing(r.needs)} for r in LADDER]
