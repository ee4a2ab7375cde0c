"""Fleet of cameras and recordings, processed together by the engines of a Ray cluster.

Starts the actors, records what engines send, and starts again or gives up those that are lost. What the
actors are and where they run is in `labkit.fleet.actors`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.core.errors import ResultsError, first_line
from labkit.core.files import write_atomic
from labkit.fleet.actors import start_engine, start_readers
from labkit.fleet.cluster import ray_errors
from labkit.fleet.cores import check_capacity, pluralize
from labkit.fleet.fleet_plan import Plan, Summary
from labkit.fleet.stream_reader import StreamHandle
from labkit.fleet.stream_recorder import Recorder, folder_name
from labkit.fleet.streams import EndOfRun, EndOfStream, StreamState
from labkit.sources.spec import redact

READY_S = 900.0
"""Longest wait for an engine to get ready (to convert a network the first time takes minutes) or to reply."""
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
        readers: of the streams, in their order.
        engines: actor handles; streams are assigned to them round-robin.
    """

    def __init__(self, plan: Plan, report: Callable[[str], None] = lambda line: None) -> None:
        self.plan = plan
        self.folder: Path | None = None
        self.facts: dict[str, Any] = {}
        self.readers: list[StreamHandle] = []
        self.engines: list[Any] = []
        self._report = report
        self._unsaved = ""  # why there is no folder
        self._streams = plan.streams()
        self._recorders: list[Recorder] = []
        self._awaited: dict[Any, tuple[int, float]] = {}  # futures of messages -> engine, deadline
        self._restarts = [plan.restarts] * plan.engines  # left
        self._actors: set[Any] = set()
        self._own_process: set[int] = set()  # streams whose readers share their process with no other
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

        while self._awaited:
            until_s = time.monotonic() + every_s
            while self._awaited and (left_s := until_s - time.monotonic()) > 0:
                for ref in ray.wait(list(self._awaited), num_returns=1, timeout=left_s)[0]:
                    self._read_messages(ref, self._awaited[ref][0])
                    del self._awaited[ref]  # only now: after an interruption it is read again
            if self._stopping:
                self._stop_readers()
            for ref, (number, deadline_s) in list(self._awaited.items()):
                if time.monotonic() > deadline_s:
                    del self._awaited[ref]
                    self._end_streams(number, f"its engine did not reply within {READY_S:g} s")
            self._ended_s = time.monotonic()
            yield self._states()

    def stop(self) -> None:
        """Ask every stream to end; `states` goes on until they have."""
        self._stopping = True
        self._stop_readers()

    def summary(self) -> Summary:
        """The frames processed so far, and the time they took."""
        seconds = self._ended_s - self._begun_s
        return Summary(tuple(self._states()), seconds, self.folder, self._unsaved)

    def _states(self) -> list[StreamState]:
        return [recorder.state() for recorder in self._recorders]

    def _start(self) -> None:
        import ray

        plan = self.plan
        check_capacity(plan.rung, plan.engines)
        self.engines = [start_engine(plan, self._actors.add) for _ in range(plan.engines)]
        self._report(f"preparing {plan.rung.name} on {pluralize(plan.engines, 'engine')}")
        with ray_errors(f"cannot prepare {plan.rung.name}"):
            self.facts = ray.get([engine.ready.remote() for engine in self.engines], timeout=READY_S)[0]
        if instead := self.facts.get("fallback"):
            self._report(f"{plan.rung.name}: {instead}")
        if plan.out is not None:
            try:
                self.folder = _make_run_folder(plan, plan.out, self.facts)
            except ResultsError as error:
                self._unsaved = str(error)
                self._report(f"detections cannot be saved, and frames are processed all the same: {error}")
        kept = ("model_set", "weights", "weights_sha256", "threshold", "objects")
        facts = {"rung": plan.rung.name, **{key: self.facts[key] for key in kept if key in self.facts}}
        for stream in self._streams:
            folder = None if self.folder is None else self.folder / folder_name(stream)
            self._recorders.append(Recorder(stream, folder, plan.period_s, facts))
        self.readers = start_readers(plan, self._streams, self._actors.add)
        sharing = Counter(reader.actor for reader in self.readers)
        self._own_process = {reader.position for reader in self.readers if sharing[reader.actor] == 1}
        starting = [actor.ready.remote() for actor in sharing]
        ray.wait(starting, num_returns=len(starting), timeout=OPEN_SOURCES_S)
        self._begun_s = time.monotonic()
        for number in range(plan.engines):
            self._run(number)

    def _stop_readers(self) -> None:
        """Stop all running streams; repeated, since a restarted reader knows of no earlier call."""
        for reader, recorder in zip(self.readers, self._recorders, strict=False):
            if recorder.end is None:
                reader.call("stop")

    def _positions(self, number: int) -> list[int]:
        """Positions of an engine's streams that are not over."""
        own = range(number, len(self._streams), self.plan.engines)
        return [i for i in own if self._recorders[i].end is None]

    def _run(self, number: int) -> None:
        """Start an engine on those of its streams that are not over."""
        ledgers = [(i, self._recorders[i].ledger) for i in self._positions(number)]
        streams = [(self.readers[i], ledger.last, ledger.began_unix_s) for i, ledger in ledgers]
        self.engines[number].run.remote(streams)
        self._await_messages(number)

    def _await_messages(self, number: int) -> None:
        call = self.engines[number].messages.options(concurrency_group="messages")
        self._awaited[call.remote()] = (number, time.monotonic() + READY_S)

    def _read_messages(self, ref: Any, number: int) -> None:
        """Record what an engine sent, and ask it for more unless its run is over."""
        import ray

        try:
            messages = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            self._end_streams(number, str(error.cause))
            return
        except ray.exceptions.RayError as error:
            self._replace_engine(number, first_line(error))
            return
        for message in messages:
            if isinstance(message, EndOfRun):
                if message.error:
                    self._end_streams(number, message.error)
                elif message.lost:
                    self._isolate_readers(message.lost)
                    self._run(number)
                return
            position, what = message
            if isinstance(what, EndOfStream):
                self._recorders[position].close(what)
            elif isinstance(what, str):
                self._recorders[position].note(what)
            else:
                self._recorders[position].append([what])
        self._await_messages(number)

    def _replace_engine(self, number: int, why: str) -> None:
        """Start another engine in place of one that died, unless that has happened too often."""
        import ray

        if not self._restarts[number]:
            self._end_streams(number, f"its engine died too often ({why})")
            return
        self._restarts[number] -= 1
        ray.kill(self.engines[number], no_restart=True)  # where it is only out of reach
        self.engines[number] = start_engine(self.plan, self._actors.add)
        self._run(number)

    def _isolate_readers(self, lost: Mapping[int, str]) -> None:
        """Restart lost readers in a process each, so that one that crashes it takes no other along.

        A stream whose reader had a process of its own already is over.
        """
        for i, why in lost.items():
            if i in self._own_process:
                self._recorders[i].close(EndOfStream(None, "", 0, why, failed=True))
                continue
            self._own_process.add(i)
            (self.readers[i],) = start_readers(self.plan, [self._streams[i]], self._actors.add)

    def _end_streams(self, number: int, why: str) -> None:
        import ray

        stops = {i: self.readers[i].call("stop") for i in self._positions(number)}
        until_s = time.monotonic() + LAST_REPLY_S
        for i, stop in stops.items():
            end = EndOfStream(None, "", 0, why, failed=True)
            with suppress(ray.exceptions.RayError):  # of a reader that is gone, too, results tell alone
                given = ray.get(stop, timeout=max(0.0, until_s - time.monotonic()))
                end = replace(given, why=why, failed=True)
            self._recorders[i].close(end)

    def _kill_actors(self) -> None:
        import ray

        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor, no_restart=True)


def _make_run_folder(plan: Plan, out: Path, facts: dict[str, Any]) -> Path:
    """Create this run's folder, named by the time, and describe the run in it."""
    folder = _new_folder(out.absolute(), datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
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
            raise ResultsError(
                f"cannot create {folder} ({error.strerror or error}); choose another folder"
            ) from error
