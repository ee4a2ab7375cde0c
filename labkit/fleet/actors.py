"""The actors of a fleet: how many there are, and where.

Engines are spread, one on each GPU or share of cores. Readers are spread too, several streams to a
process, but for a camera that is plugged in here. Recorders are beside the caller, whose disk the
parts are to reach. Ray starts an actor that dies again, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from labkit.core.errors import UnavailableError
from labkit.fleet.cluster import nodes
from labkit.fleet.cores import NICENESS
from labkit.fleet.fleet_plan import Plan
from labkit.fleet.shared_actors import ReaderHandle, Readers, RecorderHandle, Recorders
from labkit.fleet.streams import Stream
from labkit.sources.spec import webcam_index

MOST_READERS = 8
"""Streams whose readers share a process: to decode more than so many may take it more than a core."""
MOST_RECORDERS = 32

Keep = Callable[[Any], None]
"""Hears of every actor the moment it is started, so that none is left behind."""
T = TypeVar("T")


def check_capacity(plan: Plan) -> None:
    """An actor for which no machine has room would be waited for without end.

    Raises:
        UnavailableError: the cluster has too few cores or GPUs.
    """
    device = plan.rung.prepare.device
    there = int(sum(node.gpus if device == "cuda" else node.cpus for node in nodes()))
    if there < plan.engines:
        what = "GPU" if device == "cuda" else "core"
        raise UnavailableError(
            f"{count(plan.engines, 'engine')} of {plan.rung.name} want a {what} each, and the cluster "
            f"has {there}; use fewer --engines, or a rung for another device"
        )


def start_engine(plan: Plan, keep: Keep) -> Any:
    """An engine, on whichever machine has room."""
    import ray

    from labkit.fleet.inference_engine import Engine

    on_gpu = plan.rung.prepare.device == "cuda"
    options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
    actor = ray.remote(Engine).options(**options, **_comes_back(plan), scheduling_strategy="SPREAD")
    engine = actor.remote(plan.rung, plan.workload, plan.deadline_s, _threads(plan), plan.open_net)
    keep(engine)
    return engine


def start_readers(plan: Plan, streams: Sequence[Stream], keep: Keep) -> list[ReaderHandle]:
    """The readers of streams, in their order; started, and not waited for."""
    plugged_in = [stream for stream in streams if webcam_index(stream.spec) is not None]
    anywhere = [stream for stream in streams if webcam_index(stream.spec) is None]
    machines = sum(node.cpus >= 1 for node in nodes())
    started: dict[int, ReaderHandle] = {}
    for hands, where in (
        (round_robin(plugged_in, MOST_READERS), _here()),
        (round_robin(anywhere, MOST_READERS, machines), "SPREAD"),
    ):
        for few in hands:
            actor = _readers(plan, few, where)
            keep(actor)
            started |= {stream.position: ReaderHandle(actor, stream.position) for stream in few}
    return [started[stream.position] for stream in streams]


def start_recorders(
    plan: Plan, streams: Sequence[tuple[Stream, str | None]], facts: dict[str, Any], keep: Keep
) -> list[RecorderHandle]:
    """The recorders of streams, in their order.

    Args:
        plan: the fleet's.
        streams: each with the folder of its parts; None keeps none.
        facts: plain data on the run, kept in each part.
        keep: hears of each actor.
    """
    import ray

    started: dict[int, RecorderHandle] = {}
    for few in round_robin(streams, MOST_RECORDERS):
        groups = Recorders.groups([stream for stream, _ in few])
        actor: Any = ray.remote(concurrency_groups=groups)(Recorders).options(  # type: ignore[call-overload]
            num_cpus=0, scheduling_strategy=_here(), **_comes_back(plan)
        )
        handle = actor.remote(plan.recorder, few, plan.period_s, facts, NICENESS)
        keep(handle)
        started |= {stream.position: RecorderHandle(handle, stream.position) for stream, _ in few}
    return [started[stream.position] for stream, _ in streams]


def round_robin(things: Sequence[T], most: int, least_hands: int = 1) -> list[list[T]]:
    """Things dealt into hands of at most `most` each; as many hands as are wanted at least, none empty."""
    hands = max(-(-len(things) // most), min(least_hands, len(things)))
    return [list(things[i::hands]) for i in range(hands)]


def count(n: int, what: str) -> str:
    """Such as "1 engine" or "2 engines"."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _readers(plan: Plan, streams: Sequence[Stream], where: Any) -> Any:
    import ray

    actor = ray.remote(Readers).options(
        num_cpus=0,  # a core that they reserved and an engine had taken would be waited for without end
        max_concurrency=2 * len(streams) + 2,  # one that waits for a frame, one that stops it; whole actor
        scheduling_strategy=where,
        **_comes_back(plan),
    )
    return actor.remote(streams, NICENESS)


def _here() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _threads(plan: Plan) -> int:
    """Each engine's share of its machine's cores."""
    machines = [node for node in nodes() if node.cpus >= 1]
    per_machine = -(-plan.engines // max(1, len(machines)))
    return max(1, int(min((node.cpus for node in machines), default=1)) // per_machine)


def _comes_back(plan: Plan) -> dict[str, int]:
    return {"max_restarts": plan.restarts, "max_task_retries": -1 if plan.restarts else 0}
