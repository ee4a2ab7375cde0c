"""Results of a fleet while all of its streams run, without its start and its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import LabError
from labkit.core.scratch import scratch_folder
from labkit.fleet.fleet_plan import Plan, Summary
from labkit.fleet.run_fleet import Fleet
from labkit.fleet.streams import StreamState

MIN_FOR_P90 = 64  # results
SAME_GROUP_S = 0.01  # the results of a group come within this
MIN_SPAN_S = 0.1

OnStates = Callable[[Fleet, Sequence[StreamState]], None]


@dataclass(frozen=True, eq=False)
class FleetResults:
    """Times of a fleet's results, sorted.

    Attributes:
        done_s: (N,) time of each result, in s since 1970.
        age_s: (N,) age of its frame at that time.
        stream: (N,) position of its stream.
    """

    done_s: NDArray[np.float64]
    age_s: NDArray[np.float64]
    stream: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.done_s)

    @property
    def fps(self) -> float:
        """Results per second, see `rate`."""
        return rate(self.done_s)

    def age_ms(self, q: float) -> float | None:
        """A percentile of the ages in ms; None if there are too few results for one that high."""
        if q > 50 and len(self) < MIN_FOR_P90:
            return None
        return 1e3 * float(np.percentile(self.age_s, q))

    def steady(self, settle_s: float) -> FleetResults:
        """Results from `settle_s` after the last stream's first result to the first stream's last one.

        Raises:
            LabError: there is no such time, or fewer than two results in it.
        """
        streams = [self.done_s[self.stream == one] for one in np.unique(self.stream)]
        begun_s = max((one[0] for one in streams), default=np.inf) + settle_s
        ended_s = min((one[-1] for one in streams), default=-np.inf)
        which = (self.done_s >= begun_s) & (self.done_s <= ended_s)
        if which.sum() < 2:
            raise LabError(
                f"{len(streams)} streams did not run together for much more than {settle_s:g} s; "
                "let them run for longer"
            )
        return FleetResults(self.done_s[which], self.age_s[which], self.stream[which])


def rate(done_s: NDArray[np.float64]) -> float:
    """Results per second, from group to group: a group's results come at once.

    Raises:
        LabError: there are too few results.
    """
    new_group = np.flatnonzero(np.diff(done_s) > SAME_GROUP_S)
    if len(new_group) < 2:
        if len(done_s) < 2 or done_s[-1] - done_s[0] < MIN_SPAN_S:
            raise LabError(f"{len(done_s)} results are too few for a rate; measure for longer")
        return (len(done_s) - 1) / float(done_s[-1] - done_s[0])
    first, last = new_group[0], new_group[-1]
    return float(last - first) / float(done_s[last] - done_s[first])


def run_to_end(
    plan: Plan, on_states: OnStates = lambda fleet, states: None, every_s: float = 1.0
) -> tuple[Summary, FleetResults]:
    """Run a fleet to its end; returns its summary and all of its results. Nothing stays on disk.

    Args:
        plan: settings of the fleet; its folder is replaced by a temporary one.
        on_states: called about every `every_s` with the fleet and the states of its streams.
        every_s: interval of the states.

    Raises:
        LabError: there were fewer than two results; the message says how the streams ended.
    """
    with scratch_folder("fleet") as out:
        with Fleet(replace(plan, out=out)) as fleet:
            for states in fleet.states(every_s):
                on_states(fleet, states)
            summary = fleet.summary()
        assert summary.folder is not None
        results = _read_results(summary.folder)
    if len(results) < 2:
        why = "; ".join(dict.fromkeys(str(state.ended) for state in summary.streams))
        raise LabError(f"too few results ({len(results)}): {why}")
    return summary, results


def _read_results(folder: Path) -> FleetResults:
    import pyarrow.parquet as pq

    done_s, age_s, stream = [], [], []
    for path in folder.rglob("*.parquet"):
        part = pq.read_table(path, columns=["captured_utc", "age_ms"])
        captured_s = part["captured_utc"].to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
        age_s.append(part["age_ms"].to_numpy() / 1e3)
        done_s.append(captured_s + age_s[-1])
        stream.append(np.full(len(captured_s), int(path.parent.name.partition("-")[0])))
    if not stream:
        return FleetResults(np.empty(0), np.empty(0), np.empty(0, np.int64))
    done = np.concatenate(done_s)
    order = np.argsort(done, kind="stable")
    return FleetResults(done[order], np.concatenate(age_s)[order], np.concatenate(stream)[order])
