"""List of all pitfalls by group, and the function that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.core.errors import UsageError
from labkit.core.types import Size
from labkit.lessons.pitfalls import async_device, averages, busy_machine, overhead, workloads
from labkit.lessons.pitfalls.pitfall import Pitfall, PitfallResult, figure, ratio, size_of
from labkit.lessons.pitfalls.setup import Setup

if TYPE_CHECKING:
    import pandas as pd

GROUPS: dict[str, tuple[Pitfall, ...]] = {
    "arithmetic": (averages.averaged_rates, averages.best_of_n, averages.one_run),
    "timing": (
        averages.empty_first_loop,
        averages.left_out,
        busy_machine.no_warm_up,
        async_device.not_synchronised,
        async_device.synchronised_too_often,
        async_device.gpu_not_synchronised,
        async_device.gpu_synchronised_too_often,
        averages.coordinated_omission,
    ),
    "workload": (
        workloads.unlike_workloads,
        workloads.fed_zeros,
        workloads.hot_cache,
        workloads.page_faults,
        workloads.never_napping,
    ),
    "contention": (busy_machine.busy_neighbour, busy_machine.fighting_pools),
    "overhead": (
        overhead.timer_overhead,
        overhead.span_overhead,
        overhead.profiler_overhead,
        overhead.view_overhead,
    ),
}
PITFALLS = {pitfall.key: pitfall for group in GROUPS.values() for pitfall in group}


def named(name: str) -> tuple[Pitfall, ...]:
    """All pitfalls of the group of that name, or the one with that key.

    Raises:
        UsageError: there is none; the message lists all.
    """
    if name in GROUPS:
        return GROUPS[name]
    if name in PITFALLS:
        return (PITFALLS[name],)
    raise UsageError(
        f"there is no pitfall {name!r}; there are {', '.join(PITFALLS)}, and the groups {', '.join(GROUPS)}"
    )


def run_pitfalls(
    *names: str,
    source: str = "photos",
    size: Size = (640, 480),
    rounds: int = 7,
    per_round: int = 60,
    seed: int = 0,
    progress: Callable[[PitfallResult], object] = lambda result: None,
) -> list[PitfallResult]:
    """Run pitfalls on frames of a source.

    Args:
        names: of pitfalls or groups; none runs all.
        source, size, seed: of the frames; the same ones for every pitfall.
        rounds: number of times that each figure is taken; 5 or more give an interval.
        per_round: frames per figure.
        progress: called with each result as soon as it is there, such as `print` or IPython's `display`.

    Raises:
        UsageError: there is no pitfall of that name.
    """
    from labkit.bench.frames import collect

    chosen = [pitfall for name in names or GROUPS for pitfall in named(name)]
    setup = Setup(collect(source, size, 8, seed=seed).frames, rounds, per_round)
    results = []
    for pitfall in chosen:
        results.append(pitfall.run(setup))
        progress(results[-1])
    return results


def pitfall_table(results: Sequence[PitfallResult]) -> pd.DataFrame:
    """One row per pitfall: both figures, the error, and the interval of their ratio."""
    import pandas as pd

    rows = []
    for result in results:
        low, high = result.interval
        spread = f"{ratio(low)} to {ratio(high)}" if np.isfinite(high) else "too few rounds"
        figures = (
            figure(result.wrong),
            figure(result.right),
            result.pitfall.unit,
            size_of(result.ratio),
            spread,
        )
        missing = ("", "", "", "not measured here", "")
        rows.append((result.name, *(figures if result.skipped is None else missing)))
    columns = ["pitfall", "wrong", "right", "unit", "error", "wrong / right"]
    return pd.DataFrame(rows, columns=columns).set_index("pitfall")
