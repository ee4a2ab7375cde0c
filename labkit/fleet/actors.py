"""Placement of a fleet's actors on the machines of a cluster.

Engines are spread, one per GPU or share of cores. Readers are spread too, several streams to a
process, except for a camera plugged into this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from labkit.fleet.cluster import nodes
from labkit.fleet.cores import NICENESS, threads_per_engine
from labkit.fleet.fleet_plan import Plan
from labkit.fleet.stream_reader import Readers, StreamHandle
from labkit.fleet.streams import Stream
from labkit.sources.spec import webcam_index

MAX_READERS = 8
"""Readers per process: to decode more streams than this may take a process more than a core."""

OnStart = Callable[[Any], None]
"""Called with every actor as soon as it is started, so that none is left behind."""
T = TypeVar("T")


def start_engine(plan: Plan, on_start: OnStart) -> Any:
    """Start an engine on a machine that has room."""
    import ray

    from labkit.fleet.inference_engine import Engine

    on_gpu = plan.rung.prepare.device == "cuda"
    options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
    actor: Any = ray.remote(concurrency_groups={"messages": 1})(Engine)  # type: ignore[call-overload]
    threads = threads_per_engine(plan.engines)
    engine = actor.options(**options, scheduling_strategy="SPREAD").remote(
        plan.rung, plan.workload, plan.deadline_s, threads, plan.open_net
    )
    on_start(engine)
    return engine


def start_readers(plan: Plan, streams: Sequence[Stream], on_start: OnStart) -> list[StreamHandle]:
    """Start the readers of streams, without waiting for them; returns them in the streams' order.

    Ray restarts a process of readers that dies a bounded number of times.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    plugged_in = [stream for stream in streams if webcam_index(stream.spec) is not None]
    anywhere = [stream for stream in streams if webcam_index(stream.spec) is None]
    machines = sum(node.cpus >= 1 for node in nodes())
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    groups: list[tuple[list[Stream], Any]] = [(group, here) for group in round_robin(plugged_in, MAX_READERS)]
    groups += [(group, "SPREAD") for group in round_robin(anywhere, MAX_READERS, machines)]
    handles: dict[int, StreamHandle] = {}
    for group, where in groups:
        actor = ray.remote(Readers).options(
            num_cpus=0,  # a core that an engine has already reserved would be awaited without end
            max_concurrency=2 * len(group) + 2,  # per stream: one waiting `take`, one `stop`
            scheduling_strategy=where,
            max_restarts=plan.restarts,
            max_task_retries=-1 if plan.restarts else 0,
        )
        readers = actor.remote(group, NICENESS)
        on_start(readers)
        handles |= {stream.position: StreamHandle(readers, stream.position) for stream in group}
    return [handles[stream.position] for stream in streams]


def round_robin(items: Sequence[T], max_size: int, min_groups: int = 1) -> list[list[T]]:
    """Distribute items over non-empty groups of at most `max_size`, at least `min_groups` if they suffice."""
    groups = max(-(-len(items) // max_size), min(min_groups, len(items)))
    return [list(items[i::groups]) for i in range(groups)]
