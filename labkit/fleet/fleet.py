"""A fleet: many cameras and recordings, watched by the engines of a cluster at the same time.

Here the actors are started, placed and looked after. A stream's reader runs wherever there is a
core, an engine on each GPU or share of cores, a stream's recorder beside the caller, whose disk
the parts are to reach. Ray starts an actor that dies again, a bounded number of times.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.errors import LabError, UnavailableError, first_line
from labkit.files import write_whole
from labkit.fleet.cluster import nodes
from labkit.fleet.cores import ASIDE
from labkit.fleet.plan import Plan, Summary
from labkit.fleet.reader import Reader
from labkit.fleet.recorder import folder_name
from labkit.fleet.streams import End, Stream, StreamState
from labkit.sources import redact
from labkit.sources.spec import webcam_index

READER_CPUS = 0.1
READY_S = 900.0  # converting a network the first time takes minutes
LAST_WORDS_S = 10.0
TOGETHER_S = 30.0  # so long streams wait for one another before they begin


class Fleet:
    """A running fleet; a context manager that leaves no actor behind.

        with cluster() as ray, Fleet(plan) as fleet:
            for states in fleet.states(): ...
        fleet.summary()

    Attributes:
        folder: where this run's parts go, or None.
        facts: plain data on the networks, as used.
        readers, recorders, engines: the actors, in the order of streams.
    """

    def __init__(self, plan: Plan, report: Callable[[str], None] = lambda line: None) -> None:
        self.plan = plan
        self.folder: Path | None = None
        self.facts: dict[str, Any] = {}
        self.readers: list[Any] = []
        self.recorders: list[Any] = []
        self.engines: list[Any] = []
        self._report = report
        self._streams = plan.streams()
        self._states = [StreamState(s.position, s.shown) for s in self._streams]
        self._asked: dict[Any, int] = {}  # states that were asked for: whose
        self._runs: dict[Any, int] = {}  # what engines are doing: which engine
        self._begun_s = self._ended_s = time.monotonic()

    def __enter__(self) -> Fleet:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def states(self, every_s: float = 1.0) -> Iterator[list[StreamState]]:
        """How the streams are doing, again and again until all of them are over."""
        import ray

        while self._runs:
            done, _ = ray.wait(list(self._runs), num_returns=len(self._runs), timeout=every_s)
            for run in done:
                self._finished(run, self._runs.pop(run))
            self._ended_s = time.monotonic()
            if not self._runs:
                self._asked.clear()  # the last word is asked for now: an earlier question knows of no end
            self._poll(min(every_s, 0.5) if self._runs else LAST_WORDS_S)
            yield list(self._states)

    def stop(self) -> None:
        """Asks every stream to end; `states` goes on until they have."""
        for reader in self.readers:
            reader.stop.remote("it was stopped")

    def summary(self) -> Summary:
        """What was done so far."""
        return Summary(tuple(self._states), self._ended_s - self._begun_s, self.folder)

    def _start(self) -> None:
        import ray

        self._check_room()
        self.engines = [self._engine() for _ in range(self.plan.engines)]
        self._report(f"preparing {self.plan.rung.name} on {_count(self.plan.engines, 'engine')}")
        self.facts = self._when_ready()
        self.folder = _run_folder(self.plan, self.facts)
        self.recorders = [self._recorder(stream) for stream in self._streams]
        self.readers = [self._reader(stream) for stream in self._streams]
        ray.get([recorder.where.remote() for recorder in self.recorders])
        starting = [reader.ready.remote() for reader in self.readers]
        ray.wait(starting, num_returns=len(starting), timeout=TOGETHER_S)
        self._begun_s = time.monotonic()
        for number, engine in enumerate(self.engines):
            actors = [(self.readers[i], self.recorders[i]) for i in self._of_engine(number)]
            self._runs[engine.run.remote(actors)] = number

    def _of_engine(self, number: int) -> range:
        """Positions of the streams that an engine has."""
        return range(number, len(self._streams), self.plan.engines)

    def _check_room(self) -> None:
        """An actor for which no machine has room would be waited for without end."""
        wanted, device = self.plan.engines, self.plan.rung.prepare.device
        there = int(sum(node.gpus if device == "cuda" else node.cpus for node in nodes()))
        if there < wanted:
            what = "GPU" if device == "cuda" else "core"
            raise UnavailableError(
                f"{_count(wanted, 'engine')} of {self.plan.rung.name} want a {what} each, and the cluster "
                f"has {there}; use fewer --engines, or a rung for another device"
            )

    def _engine(self) -> Any:
        import ray

        from labkit.fleet.engine import Engine  # which imports Ray, whose settings have to stand before

        on_gpu = self.plan.rung.prepare.device == "cuda"
        options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
        actor = ray.remote(Engine).options(
            **options,
            **self._comes_back(),
            scheduling_strategy="SPREAD",
        )
        plan = self.plan
        return actor.remote(plan.rung, plan.workload, plan.deadline_s, self._threads(), plan.open_net)

    def _threads(self) -> int:
        """Each engine's share of its machine's cores."""
        machines = [node for node in nodes() if node.cpus >= 1]
        per_machine = -(-self.plan.engines // max(1, len(machines)))
        return max(1, int(min((node.cpus for node in machines), default=1)) // per_machine)

    def _reader(self, stream: Stream) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cores = sum(node.cpus for node in nodes())
        share = min(READER_CPUS, round(0.4 * cores / len(self._streams), 4))
        where: Any = "SPREAD"
        if webcam_index(stream.spec) is not None:  # it is plugged in here
            where = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Reader).options(
            num_cpus=share, max_concurrency=4, scheduling_strategy=where, **self._comes_back()
        )
        return actor.remote(stream, ASIDE)

    def _recorder(self, stream: Stream) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        folder = None if self.folder is None else str(self.folder / folder_name(stream))
        actor: Any = ray.remote(self.plan.recorder).options(
            num_cpus=0, scheduling_strategy=here, **self._comes_back()
        )
        public = replace(stream, spec=stream.shown)
        return actor.remote(public, folder, self.plan.period_s, self._kept_facts(), ASIDE)

    def _comes_back(self) -> dict[str, int]:
        return {"max_restarts": self.plan.restarts, "max_task_retries": -1 if self.plan.restarts else 0}

    def _kept_facts(self) -> dict[str, Any]:
        kept = ("model_set", "weights", "weights_sha256", "threshold", "objects")
        return {"rung": self.plan.rung.name, **{key: self.facts[key] for key in kept if key in self.facts}}

    def _when_ready(self) -> dict[str, Any]:
        import ray

        try:
            return ray.get([engine.ready.remote() for engine in self.engines], timeout=READY_S)[0]
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, LabError):
                raise error.cause from None
            raise LabError(f"{self.plan.rung.name} cannot be prepared: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise LabError(f"{self.plan.rung.name} cannot be prepared: {first_line(error)}") from error

    def _poll(self, patience_s: float) -> None:
        """Asks recorders how they are; one that is busy keeps its last state for now."""
        import ray

        waiting = set(self._asked.values())
        for i, recorder in enumerate(self.recorders):
            if i not in waiting:
                self._asked[recorder.state.remote()] = i
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=patience_s)
        for ref in done:
            i = self._asked.pop(ref)
            try:
                self._states[i] = ray.get(ref)
            except ray.exceptions.RayError as error:
                why = f"its recorder died too often ({first_line(error)})"
                self._states[i] = replace(self._states[i], ended=why, failed=True)

    def _finished(self, run: Any, number: int) -> None:
        """An engine is done; where it is so for good by a fault, its streams end with the reason."""
        import ray

        try:
            ray.get(run)
        except ray.exceptions.RayTaskError as error:
            self._give_up(number, str(error.cause))
        except ray.exceptions.RayError as error:
            self._give_up(number, f"its engine died too often ({first_line(error)})")

    def _give_up(self, number: int, why: str) -> None:
        import ray

        for i in self._of_engine(number):
            end = End(None, "", 0, why, failed=True)
            try:
                told = ray.get(self.readers[i].stop.remote(why, True), timeout=LAST_WORDS_S)
                end = replace(told, why=why, failed=True)
            except ray.exceptions.RayError:
                pass  # it is gone too: nobody knows of more frames than were answered
            self.recorders[i].close.remote(end)

    def _end(self) -> None:
        import ray

        if not ray.is_initialized():
            return
        for actor in (*self.engines, *self.readers, *self.recorders):
            ray.kill(actor, no_restart=True)


def _run_folder(plan: Plan, facts: dict[str, Any]) -> Path | None:
    """A new folder for this run: an earlier one's parts are left alone."""
    if plan.out is None:
        return None
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    root = Path(plan.out).absolute()
    folder = next(root / f"{name}{end}" for end in ("", *(f"-{n}" for n in range(1, 1000)))
                  if not (root / f"{name}{end}").exists())  # fmt: skip
    told = {
        "sources": [redact(spec) for spec in plan.sources],
        "rung": plan.rung.name,
        "preparation": plan.rung.prepare.describe(),
        "networks": facts,
    }
    write_whole(folder / "fleet.json", json.dumps(told, indent=2, default=str) + "\n")
    return folder


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
