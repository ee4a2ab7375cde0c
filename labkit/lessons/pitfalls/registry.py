"""All exhibits, in the order of a walk through the museum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from labkit.core.errors import UsageError
from labkit.core.types import Size
from labkit.lessons.pitfalls import averages, busy_machine, devices, loads, observer, pacing
from labkit.lessons.pitfalls.pitfall import Stand
from labkit.lessons.pitfalls.result import Exhibit, figure, ratio, size_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Case:
    """One exhibit as it stands in the list: a short key, a room, and how to run it."""

    key: str
    room: str
    run: Callable[[Stand], Exhibit]


EXHIBITS = (
    Case("mean_of_rates", "arithmetic", averages.averaged_rates),
    Case("best_of_n", "arithmetic", averages.best_of_n),
    Case("one_run", "arithmetic", averages.one_run),
    Case("empty_first_loop", "what is timed", averages.empty_first_loop),
    Case("left_out", "what is timed", averages.left_out),
    Case("no_warm_up", "what is timed", busy_machine.no_warm_up),
    Case("not_synchronised", "what is timed", devices.not_synchronised),
    Case("waited_too_often", "what is timed", devices.waited_too_often),
    Case("gpu_not_synchronised", "what is timed", devices.gpu_not_synchronised),
    Case("gpu_waited_too_often", "what is timed", devices.gpu_waited_too_often),
    Case("coordinated_omission", "what is timed", pacing.coordinated_omission),
    Case("unlike_workloads", "what is fed", loads.unlike_workloads),
    Case("fed_zeros", "what is fed", loads.fed_zeros),
    Case("hot_cache", "what is fed", loads.hot_cache),
    Case("page_faults", "what is fed", loads.page_faults),
    Case("busy_neighbour", "who else is there", busy_machine.busy_neighbour),
    Case("fighting_pools", "who else is there", busy_machine.fighting_pools),
    Case("timers", "the observer", observer.timers_on),
    Case("spans", "the observer", observer.spans_on),
    Case("profiler", "the observer", observer.profiler_on),
    Case("view", "the observer", observer.view_on),
)


def case(key: str) -> Case:
    """The exhibit of that key.

    Raises:
        UsageError: there is none; the message lists all.
    """
    for each in EXHIBITS:
        if each.key == key:
            return each
    rooms = ", ".join(dict.fromkeys(repr(each.room) for each in EXHIBITS))
    keys = ", ".join(each.key for each in EXHIBITS)
    raise UsageError(f"there is no exhibit {key!r}; there are {keys}, and the rooms {rooms}")


def named(key: str) -> list[Case]:
    """The exhibit of that key, or all exhibits of the room of that name."""
    return [each for each in EXHIBITS if each.room == key] or [case(key)]


def visit(
    *keys: str,
    source: str = "photos",
    size: Size = (640, 480),
    rounds: int = 7,
    per_round: int = 60,
    seed: int = 0,
    progress: Callable[[str], None] = lambda key: None,
) -> list[Exhibit]:
    """Runs exhibits on frames of a source, all of them unless some are named.

    Args:
        keys: of exhibits or rooms, as in `EXHIBITS`.
        source, size, seed: of the frames; the same ones for every exhibit.
        rounds, per_round: how often each figure is taken, and over how many frames.
        progress: hears the key of each exhibit before it runs.
    """
    from labkit.bench.frames import collect

    chosen = [each for key in keys for each in named(key)] or list(EXHIBITS)
    stand = Stand(collect(source, size, 8, seed=seed).frames, rounds, per_round)
    here, shown = _this_machine(), []
    for each in chosen:
        progress(each.key)
        exhibit = each.run(stand)
        shown.append(exhibit if exhibit.recorded else replace(exhibit, machine=here))
    return shown


def _this_machine() -> str:
    from labkit.core.machine import fingerprint

    mark = fingerprint()
    gpu = (mark.get("gpu") or {}).get("name")
    return f"{mark.get('cpu', 'unknown processor')}, {mark.get('cores', '?')} cores" + (
        f", {gpu}" if gpu else ""
    )


def table(exhibits: Sequence[Exhibit]) -> pd.DataFrame:
    """One row per exhibit: both figures, the size of the error with its interval, and the reason."""
    import pandas as pd

    columns = ["exhibit", "wrong", "right", "unit", "error", "wrong / right"]
    return pd.DataFrame([_row(exhibit) for exhibit in exhibits], columns=columns).set_index("exhibit")


def _row(exhibit: Exhibit) -> dict[str, str]:
    if exhibit.skipped is not None:
        empty = dict.fromkeys(("wrong", "right", "unit", "wrong / right"), "")
        return {"exhibit": exhibit.name, **empty, "error": "not shown here"}
    low, high = exhibit.interval
    bounded = high != float("inf")
    return {
        "exhibit": exhibit.name + (" (recorded)" if exhibit.recorded else ""),
        "wrong": figure(exhibit.wrong),
        "right": figure(exhibit.right),
        "unit": exhibit.unit,
        "error": size_of(exhibit.ratio),
        "wrong / right": f"{ratio(low)} to {ratio(high)}" if bounded else "too few rounds",
    }
