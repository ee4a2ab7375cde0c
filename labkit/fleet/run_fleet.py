"""Fleet of cameras and recordings, processed together by the engines of a Ray cluster.

Starts the actors, polls their state, and restarts or gives up those that are lost. What the actors are
and where they run is in `labkit.fleet.actors`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.core.errors import ResultsError, first_line
from labkit.core.files import write_atomic
from labkit.fleet.actors import start_engine, start_readers, start_recorders
from labkit.fleet.cluster import ray_errors
from labkit.fleet.cores import check_capacity, pluralize
from labkit.fleet.fleet_plan import Plan, Summary
from labkit.fleet.shared_actors import StreamHandle
from labkit.fleet.stream_recorder import folder_name
from labkit.fleet.streams import EndOfStream, Stream, StreamState
from labkit.sources.spec import redact

READY_S = 900.0  # converting a network the first time takes minutes
LAST_REPLY_S = 10.0
OPEN_SOURCES_S = 30.0
"""Longest wait for all sources to open, so that the streams begin together."""


class Fleet:
    """A running fleet; a context manager that stops all of its actors.

        with cluster() as ray, Fleet(plan) as fleet:
            for states in fleet.states(): ...
        fleet.summary()

    Attributes:
        folder: of this run's parts, or None.
        facts: plain data on the networks, as prepared.
        readers, recorders: of the streams, in their order.
        engines: actor handles; streams are assigned to them round-robin.
    """

    def __init__(self, plan: Plan, report: Callable[[str], None] = lambda line: None) -> None:
        self.plan = plan
        self.folder: Path | None = None
        self.facts: dict[str, Any] = {}
        self.readers: list[StreamHandle] = []
        self.recorders: list[StreamHandle] = []
        self.engines: list[Any] = []
        self._report = report
        self._streams = plan.streams()
        self._states = [StreamState(s.position, s.shown) for s in self._streams]
        self._requests: dict[Any, int] = {}  # futures of states -> stream
        self._runs: dict[Any, int] = {}  # futures of engines' runs -> engine
        self._actors: set[Any] = set()
        self._own_process: set[int] = set()  # streams whose readers share their process with no other
        self._given_up: set[int] = set()  # those of them whose readers died too often even so
        self._stopping = False
        self._begun_s = self._ended_s = time.monotonic()

    def __enter__(self) -> Fleet:
        try:
            self._start()
        except BaseException:
            self._kill_actors()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_actors()

    def states(self, every_s: float = 1.0) -> Iterator[list[StreamState]]:
        """Yield the state of all streams about every `every_s`, until all of them are over."""
        import ray

        while self._runs:
            done, _ = ray.wait(list(self._runs), num_returns=1, timeout=every_s)
            for run in done:
                self._engine_done(run, self._runs.pop(run))
            if self._stopping:
                self._stop_readers()
            self._ended_s = time.monotonic()
            if not self._runs:
                self._requests.clear()  # ask once more: an earlier request may predate the end
            self._poll(min(every_s, 0.5) if self._runs else LAST_REPLY_S)
            yield list(self._states)

    def stop(self) -> None:
        """Ask every stream to end; `states` goes on until they have."""
        self._stopping = True
        self._stop_readers()

    def summary(self) -> Summary:
        """The frames processed so far, and the time they took."""
        return Summary(tuple(self._states), self._ended_s - self._begun_s, self.folder)

    def _start(self) -> None:
        import ray

        check_capacity(self.plan.rung, self.plan.engines)
        self.engines = [start_engine(self.plan, self._actors.add) for _ in range(self.plan.engines)]
        self._report(f"preparing {self.plan.rung.name} on {pluralize(self.plan.engines, 'engine')}")
        self.facts = self._wait_for_engines()
        self.folder = _make_run_folder(self.plan, self.facts)
        public = [(replace(s, spec=s.shown), self._stream_folder(s)) for s in self._streams]
        self.recorders = start_recorders(self.plan, public, self._part_facts(), self._actors.add)
        self.readers = start_readers(self.plan, self._streams, self._actors.add)
        sharing = Counter(reader.actor for reader in self.readers)
        self._own_process = {reader.position for reader in self.readers if sharing[reader.actor] == 1}
        starting = [actor.ready.remote() for actor in sharing]
        ray.get([recorder.call("checkpoint") for recorder in self.recorders])
        ray.wait(starting, num_returns=len(starting), timeout=OPEN_SOURCES_S)
        self._begun_s = time.monotonic()
        for number in range(self.plan.engines):
            self._run(number)

    def _stop_readers(self) -> None:
        """Stop all running streams; repeated, since a restarted reader knows of no earlier call."""
        for reader, state in zip(self.readers, self._states, strict=False):
            if state.ended is None:
                reader.call("stop")

    def _positions(self, number: int) -> range:
        """Positions of the streams of an engine."""
        return range(number, len(self._streams), self.plan.engines)

    def _run(self, number: int) -> None:
        """Start an engine on those of its streams that are not over."""
        streams = [
            (self.readers[i], self.recorders[i])
            for i in self._positions(number)
            if i not in self._given_up and self._states[i].ended is None
        ]
        self._runs[self.engines[number].run.remote(streams)] = number

    def _stream_folder(self, stream: Stream) -> str | None:
        return None if self.folder is None else str(self.folder / folder_name(stream))

    def _part_facts(self) -> dict[str, Any]:
        kept = ("model_set", "weights", "weights_sha256", "threshold", "objects")
        return {"rung": self.plan.rung.name, **{key: self.facts[key] for key in kept if key in self.facts}}

    def _wait_for_engines(self) -> dict[str, Any]:
        import ray

        with ray_errors(f"cannot prepare {self.plan.rung.name}"):
            return ray.get([engine.ready.remote() for engine in self.engines], timeout=READY_S)[0]

    def _poll(self, timeout_s: float) -> None:
        """Update the states; a stream whose recorder is busy keeps its last one for now."""
        import ray

        waiting = set(self._requests.values())
        for i, recorder in enumerate(self.recorders):
            if i not in waiting and self._states[i].ended is None:
                self._requests[recorder.call("state")] = i
        if not self._requests:
            return
        done, _ = ray.wait(list(self._requests), num_returns=len(self._requests), timeout=timeout_s)
        for ref in done:
            i = self._requests.pop(ref)
            try:
                self._states[i] = ray.get(ref)
            except ray.exceptions.RayError as error:
                why = f"its recorder died too often ({first_line(error)})"
                self._states[i] = replace(self._states[i], ended=why, failed=True)

    def _engine_done(self, run: Any, number: int) -> None:
        """Start an engine again that lost readers; end the streams of one that failed."""
        import ray

        try:
            lost = ray.get(run)
            if lost:
                self._isolate_readers(lost)
                self._run(number)
        except ray.exceptions.RayTaskError as error:
            self._end_streams(number, str(error.cause))
        except ray.exceptions.RayError as error:
            self._end_streams(number, f"its engine died too often ({first_line(error)})")

    def _isolate_readers(self, lost: Mapping[int, str]) -> None:
        """Restart lost readers in a process each, so that one that crashes it takes no other along.

        A stream whose reader had a process of its own already is over.
        """
        for i, why in lost.items():
            if i in self._own_process:
                self._given_up.add(i)
                self.recorders[i].call("close", EndOfStream(None, "", 0, why, failed=True))
                continue
            self._own_process.add(i)
            (self.readers[i],) = start_readers(self.plan, [self._streams[i]], self._actors.add)

    def _end_streams(self, number: int, why: str) -> None:
        import ray

        for i in self._positions(number):
            end = EndOfStream(None, "", 0, why, failed=True)
            try:
                stopped = ray.get(self.readers[i].call("stop", why, True), timeout=LAST_REPLY_S)
                end = replace(stopped, why=why, failed=True)
            except ray.exceptions.RayError:
                pass  # the reader is gone too: only frames with results are known
            self.recorders[i].call("close", end)

    def _kill_actors(self) -> None:
        import ray

        if not ray.is_initialized():
            return
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        if self.folder is not None:
            for partial in self.folder.glob("*/.part-*"):  # of a recorder that was killed while writing
                partial.unlink(missing_ok=True)


def _make_run_folder(plan: Plan, facts: dict[str, Any]) -> Path | None:
    """Create this run's folder, named by the time, and describe the run in it; None keeps no parts."""
    if plan.out is None:
        return None
    folder = _new_folder(Path(plan.out).absolute(), datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    metadata = {
        "sources": [redact(spec) for spec in plan.sources],
        "rung": plan.rung.name,
        "preparation": plan.rung.prepare.describe(),
        "networks": facts,
        "fit": plan.workload.fit,
    }
    write_atomic(folder / "fleet.json", json.dumps(metadata, indent=2, default=str) + "\n")
    return folder


def _new_folder(root: Path, name: str) -> Path:
    """Create a folder of that name, or with the first free number appended."""
    number = 0
    while True:
        folder = root / (f"{name}-{number}" if number else name)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ResultsError(f"cannot create {folder}: {error.strerror or error}") from error
