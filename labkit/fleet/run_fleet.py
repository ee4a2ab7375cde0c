"""A fleet: many cameras and recordings, watched by the engines of a cluster at the same time.

Here its actors are set to work and looked after; what they are and where they run stands in
`labkit.fleet.actors`.
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

from labkit.core.errors import LabError, ResultsError, first_line
from labkit.core.files import write_atomic
from labkit.fleet.actors import check_capacity, count, start_engine, start_readers, start_recorders
from labkit.fleet.fleet_plan import Plan, Summary
from labkit.fleet.shared_actors import ReaderHandle, RecorderHandle
from labkit.fleet.stream_recorder import folder_name
from labkit.fleet.streams import EndOfStream, Stream, StreamState
from labkit.sources.spec import redact

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
        readers, recorders: of the streams, in their order.
        engines: the actors; the streams are dealt out to them in turn.
    """

    def __init__(self, plan: Plan, report: Callable[[str], None] = lambda line: None) -> None:
        self.plan = plan
        self.folder: Path | None = None
        self.facts: dict[str, Any] = {}
        self.readers: list[ReaderHandle] = []
        self.recorders: list[RecorderHandle] = []
        self.engines: list[Any] = []
        self._report = report
        self._streams = plan.streams()
        self._states = [StreamState(s.position, s.shown) for s in self._streams]
        self._asked: dict[Any, int] = {}  # states that were asked for: whose
        self._runs: dict[Any, int] = {}  # what engines are doing: which engine
        self._actors: set[Any] = set()
        self._alone: set[int] = set()  # streams whose readers have a process of their own
        self._over: set[int] = set()  # and those of them that even then died too often
        self._stopping = False
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
            done, _ = ray.wait(list(self._runs), num_returns=1, timeout=every_s)
            for run in done:
                self._finished(run, self._runs.pop(run))
            if self._stopping:
                self._stop_those_that_go_on()
            self._ended_s = time.monotonic()
            if not self._runs:
                self._asked.clear()  # the last word is asked for now: an earlier question knows of no end
            self._poll(min(every_s, 0.5) if self._runs else LAST_WORDS_S)
            yield list(self._states)

    def stop(self) -> None:
        """Asks every stream to end; `states` goes on until they have."""
        self._stopping = True
        self._stop_those_that_go_on()

    def _stop_those_that_go_on(self) -> None:
        """Again and again, since a reader that was started anew knows of no earlier word."""
        for reader, state in zip(self.readers, self._states, strict=False):
            if state.ended is None:
                reader.stop()

    def summary(self) -> Summary:
        """What was done so far."""
        return Summary(tuple(self._states), self._ended_s - self._begun_s, self.folder)

    def _start(self) -> None:
        import ray

        check_capacity(self.plan)
        self.engines = [start_engine(self.plan, self._actors.add) for _ in range(self.plan.engines)]
        self._report(f"preparing {self.plan.rung.name} on {count(self.plan.engines, 'engine')}")
        self.facts = self._when_ready()
        self.folder = _make_run_folder(self.plan, self.facts)
        public = [(replace(s, spec=s.shown), self._folder_of(s)) for s in self._streams]
        self.recorders = start_recorders(self.plan, public, self._kept_facts(), self._actors.add)
        self.readers = start_readers(self.plan, self._streams, self._actors.add)
        sharing = Counter(reader.actor for reader in self.readers)
        self._alone = {reader.position for reader in self.readers if sharing[reader.actor] == 1}
        starting = [actor.ready.remote() for actor in sharing]
        ray.get([recorder.where() for recorder in self.recorders])
        ray.wait(starting, num_returns=len(starting), timeout=TOGETHER_S)
        self._begun_s = time.monotonic()
        for number in range(self.plan.engines):
            self._run(number)

    def _of_engine(self, number: int) -> range:
        """Positions of the streams that an engine has."""
        return range(number, len(self._streams), self.plan.engines)

    def _run(self, number: int) -> None:
        """Sets an engine to work on those of its streams that are not over."""
        lines = [
            (self.readers[i], self.recorders[i])
            for i in self._of_engine(number)
            if i not in self._over and self._states[i].ended is None
        ]
        self._runs[self.engines[number].run.remote(lines)] = number

    def _folder_of(self, stream: Stream) -> str | None:
        return None if self.folder is None else str(self.folder / folder_name(stream))

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
            if i not in waiting and self._states[i].ended is None:  # what is over stays as it was told
                self._asked[recorder.state()] = i
        if not self._asked:
            return
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
            lost = ray.get(run)
            if lost:
                self._read_alone(lost)
                self._run(number)
        except ray.exceptions.RayTaskError as error:
            self._give_up(number, str(error.cause))
        except ray.exceptions.RayError as error:
            self._give_up(number, f"its engine died too often ({first_line(error)})")

    def _read_alone(self, lost: Mapping[int, str]) -> None:
        """Streams whose readers died too often get a process each; one that had it already is over.

        Whichever of them takes a process down with it then does so to no other.
        """
        for i, why in lost.items():
            if i in self._alone:
                self._over.add(i)
                self.recorders[i].close(EndOfStream(None, "", 0, why, failed=True))
                continue
            self._alone.add(i)
            (self.readers[i],) = start_readers(self.plan, [self._streams[i]], self._actors.add)

    def _give_up(self, number: int, why: str) -> None:
        import ray

        for i in self._of_engine(number):
            end = EndOfStream(None, "", 0, why, failed=True)
            try:
                told = ray.get(self.readers[i].stop(why, True), timeout=LAST_WORDS_S)
                end = replace(told, why=why, failed=True)
            except ray.exceptions.RayError:
                pass  # it is gone too: nobody knows of more frames than were answered
            self.recorders[i].close(end)

    def _end(self) -> None:
        import ray

        if not ray.is_initialized():
            return
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        if self.folder is not None:
            for half in self.folder.glob("*/.part-*"):  # of a recorder that was not let finish
                half.unlink(missing_ok=True)


def _new_folder(root: Path, name: str) -> Path:
    """A folder of that name, or of the first with a number after it that nobody else has."""
    number = 0
    while True:
        folder = root / (f"{name}-{number}" if number else name)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ResultsError(f"{folder} cannot be made: {error.strerror or error}") from error


def _make_run_folder(plan: Plan, facts: dict[str, Any]) -> Path | None:
    """A new folder for this run: an earlier one's parts are left alone."""
    if plan.out is None:
        return None
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    root = Path(plan.out).absolute()
    folder = _new_folder(root, name)
    told = {
        "sources": [redact(spec) for spec in plan.sources],
        "rung": plan.rung.name,
        "preparation": plan.rung.prepare.describe(),
        "networks": facts,
    }
    write_atomic(folder / "fleet.json", json.dumps(told, indent=2, default=str) + "\n")
    return folder
