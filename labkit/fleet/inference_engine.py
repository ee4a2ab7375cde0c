"""An engine: takes the newest frames of its streams, works on several at once, hands out answers.

It runs as an actor, one per GPU or share of cores. It has no queue of its own: what it asked of
readers and what recorders have not yet confirmed are Ray's futures. A stream whose recorder is
behind is asked for nothing, so that its frames are dropped and no other stream's.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray

from labkit.core.errors import LabError
from labkit.core.types import Detections, Frame, Rung, Workload
from labkit.fleet.cores import set_threads
from labkit.fleet.fleet_plan import OpenNetworks
from labkit.fleet.request_queue import RequestQueue, end_without, gone
from labkit.fleet.shared_actors import ReaderHandle, RecorderHandle
from labkit.fleet.streams import CapturedFrame, EndOfStream, FrameResult, NoFrame

MOST_UNCONFIRMED = 2
"""Parcels of a stream's answers that its recorder may still have to confirm when a frame is taken."""
MOST_FAILURES = 3
REPLY_S = 0.01  # a frame that is there is handed out within this
LEAD_S = 0.05
"""Frames are asked for so long before the networks are free: on their way they cost no time."""
PARCEL_S = 0.1  # answers travel together that came within this; each message costs a core its time
IDLE_S = 0.5

CLOSE_S = 10.0
DRAIN_S = 3.0
"""Longest wait for frames that are on their way when a reader is lost; those that are late have failed."""


def open_networks(rung: Rung, workload: Workload) -> tuple[Any, dict[str, Any]]:
    """The networks of a rung, as the benchmark prepares them, and its settings."""
    from labkit.models.cuda_errors import faults_explained
    from labkit.models.prepare import prepare

    with faults_explained(rung.name):
        prepared = prepare(rung.prepare, workload)
    return prepared.net, prepared.settings


class Engine:
    """A rung over the frames of several streams.

    Args:
        rung: whose schedule and preparation. One with the option "frames" works on so many at once.
        workload: model set, size, number of boxes, threshold.
        deadline_s: longest wait of a frame for others to make up a group.
        threads: of the networks; None leaves it to them.
        open_net: makes the networks ready.
    """

    def __init__(
        self,
        rung: Rung,
        workload: Workload,
        deadline_s: float,
        threads: int | None = None,
        open_net: OpenNetworks | None = None,
    ) -> None:
        self._rung, self._workload = rung, workload
        self._threads, self._open_net = threads, open_net or open_networks
        self._group = rung.prepare.group
        self._in_groups = "frames" in rung.prepare.options
        self._deadline_s = deadline_s
        self._id = uuid.uuid4().hex[:12]
        self._net: Any = None
        self._facts: dict[str, Any] | None = None
        self._lines: list[RequestQueue] = []
        self._lost: dict[int, str] = {}  # streams without a reader, and why
        self._lost_s = 0.0  # since when
        self._guard = threading.Lock()  # a schedule may feed itself in a thread of its own
        self._takes: dict[Any, RequestQueue] = {}  # asked for and not yet looked at, the oldest first
        self._given: dict[
            int, tuple[RequestQueue, CapturedFrame]
        ] = {}  # what the schedule holds, by its frame's index
        self._asked = self._fed = 0
        self._pass_s = 0.0  # how long the networks had the last group

    def ready(self) -> dict[str, Any]:
        """Returns once the networks are ready: plain data on what they are.

        Raises:
            LabError: they cannot be had on this machine.
        """
        if self._facts is None:
            if self._threads is not None:
                set_threads(self._threads)
            self._net, facts = self._open_net(self._rung, self._workload)
            self._warm_up()
            self._facts = facts
        return self._facts

    def process(self) -> tuple[int, str]:
        """Process id, and the id of the node that it runs on."""
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def run(self, streams: Sequence[tuple[ReaderHandle, RecorderHandle]]) -> dict[int, str]:
        """Works until every stream is over, or readers are lost that Ray does not start again.

        Args:
            streams: the reader and the recorder of each.

        Returns:
            Positions of the streams whose readers are lost, and why; their accounts are open.

        Raises:
            LabError: the schedule failed several times in a row.
        """
        self.ready()  # here again where Ray has started the engine anew
        unconfirmed = {line.recorder: line.unconfirmed for line in self._lines}
        self._lines = [
            RequestQueue(reader, recorder, recorder.where(), unconfirmed=unconfirmed.get(recorder, []))
            for reader, recorder in streams
        ]
        self._takes, self._lost = {}, {}  # what an earlier run asked for has failed, as its numbers tell
        failures = 0
        while any(not line.closed for line in self._lines) and not self._lost:
            before = self._fed
            try:
                for frame, found in self._rung.run(self._feed(), self._net):  # type: ignore[arg-type]
                    self._answer(frame.index, found)
                    failures = 0
            except Exception as error:  # whatever a network raises: its frames have failed, others may not
                failures += 1
                if failures >= MOST_FAILURES or self._fed == before:
                    self._send_parcels(least_s=0.0)
                    raise LabError(f"{self._rung.name} failed: {type(error).__name__}: {error}") from error
            self._forget_held()
            self._send_parcels()
            self._close_ended()
        self._send_parcels(least_s=0.0)
        self._close_ended()
        if self._lost:  # the others are not to wait for it, nor for a recorder that is behind
            return self._lost
        pending = [ack for line in self._lines for ack in line.unconfirmed]
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=CLOSE_S)
        return {}

    def _warm_up(self) -> None:
        """The first frames of any size of group are slow; they are not a camera's."""
        width, height = self._workload.size
        for n in range(1, self._group + 1):
            blank = [Frame(np.zeros((height, width, 3), np.uint8), i, 0.0) for i in range(n)]
            for _ in self._rung.run(blank, self._net):
                pass

    def _feed(self) -> Iterator[Frame | None]:
        """Frames for the schedule; None where a group is to be worked off as it is."""
        while self._goes_on():
            taken = self._gather()
            if taken:
                begun_s = time.perf_counter()
                with self._asking_ahead():
                    for line, take in taken:
                        yield self._frame(line, take)
                    if self._in_groups:
                        yield None
                self._pass_s = time.perf_counter() - begun_s
            self._send_parcels()
            self._close_ended()

    def _goes_on(self) -> bool:
        """Once a reader is lost no more is asked for, and what was asked for is waited for, for a while."""
        if self._lost:
            return bool(self._takes) and time.perf_counter() < self._lost_s + DRAIN_S
        return any(line.end is None for line in self._lines)

    @contextmanager
    def _asking_ahead(self) -> Iterator[None]:
        """Asks for the next frames shortly before the networks are free: in time, and still fresh."""
        wait_s = self._pass_s - LEAD_S
        if wait_s <= 0:
            self._ask(self._group)
            yield
            return
        timer = threading.Timer(wait_s, self._ask, [self._group])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # from here on nobody else asks

    def _frame(self, line: RequestQueue, take: CapturedFrame) -> Frame:
        with self._guard:
            line.in_hand += 1
            self._given[self._fed] = (line, take)
            self._fed += 1
        # A copy: memory shared with other processes is not to be written, and is to be freed soon.
        return Frame(np.array(take.image), self._fed - 1, time.perf_counter())

    def _gather(self) -> list[tuple[RequestQueue, CapturedFrame]]:
        """The next frames, at most a group; empty where there are none for now."""
        begun_s = time.perf_counter()
        self._ask(self._group - len(self._takes))
        ready = self._wait(REPLY_S)
        if len(ready) < self._group:  # there is time: whoever has a frame may send it
            self._ask(len(self._lines))
            ready = self._wait(max(0.0, begun_s + self._deadline_s - time.perf_counter()))
        if not ready:
            waiting = [*self._takes, *(ref for line in self._lines for ref in line.awaited())]
            if waiting:
                ray.wait(waiting, num_returns=1, timeout=IDLE_S)
            return []
        taken = []
        for ref in ready:
            line = self._takes.pop(ref)
            take = self._reply(ref, line)
            if take is not None:
                taken.append((line, take))
        return taken

    def _wait(self, timeout_s: float) -> list[Any]:
        """Up to a group of replies of readers, the oldest asked first."""
        if not self._takes:
            return []
        n = min(self._group, len(self._takes))
        return ray.wait(list(self._takes), num_returns=n, timeout=timeout_s)[0]

    def _ask(self, most: int) -> None:
        """Asks up to `most` readers for a frame, those first that were asked longest ago."""
        asked = set(map(id, self._takes.values()))
        idle = [line for line in self._lines if id(line) not in asked and self._may_ask(line)]
        for line in sorted(idle, key=lambda line: line.asked)[: max(0, most)]:
            self._asked += 1
            line.asked = self._asked
            self._takes[line.reader.take(line.after, line.began_unix_s)] = line

    def _may_ask(self, line: RequestQueue) -> bool:
        if line.closed or line.end is not None or self._lost:
            return False
        with self._guard:
            line.hear_recorder()
            return line.goes_on and len(line.unconfirmed) + line.in_hand <= MOST_UNCONFIRMED

    def _reply(self, ref: Any, line: RequestQueue) -> CapturedFrame | None:
        """The frame of a reader's reply, if it is one."""
        try:
            reply = ray.get(ref)
        except (ray.exceptions.ObjectLostError, ray.exceptions.ActorUnavailableError):
            return None  # a frame went down with its machine; the next one is asked for
        except ray.exceptions.RayTaskError as error:
            line.end = end_without("reader", error)
            return None
        except ray.exceptions.RayError as error:  # it died, or was killed for its memory, too often
            self._lost_s = self._lost_s if self._lost else time.perf_counter()
            self._lost[line.reader.position] = gone("reader", error)
            return None
        if isinstance(reply, CapturedFrame):
            line.after, line.began_unix_s = reply.index, reply.began_unix_s
            return reply
        if isinstance(reply, NoFrame) and reply.note:
            line.recorder.note(reply.note)
        if isinstance(reply, EndOfStream):
            line.end = reply
        return None

    def _answer(self, index: int, found: Detections) -> None:
        with self._guard:
            line, take = self._given.pop(index)
            line.in_hand -= 1
            line.parcel_s = line.parcel_s if line.parcel else time.perf_counter()
            line.parcel.append(FrameResult(
                take.index, take.reader, take.number, take.began_unix_s, take.captured_unix_s,
                time.time() - take.captured_unix_s, self._id, found,
            ))  # fmt: skip

    def _send_parcels(self, least_s: float = PARCEL_S) -> None:
        """Answers that have waited for so long go to the recorders, and of an ended stream all."""
        now_s = time.perf_counter()
        with self._guard:
            for line in self._lines:
                if line.parcel and (line.end is not None or now_s - line.parcel_s >= least_s):
                    line.unconfirmed.append(line.recorder.append(line.parcel))
                    line.parcel = []

    def _forget_held(self) -> None:
        """Frames that a schedule took and did not answer have failed; their numbers tell the recorder."""
        with self._guard:
            for line, _ in self._given.values():
                line.in_hand -= 1
            self._given.clear()

    def _close_ended(self) -> None:
        with self._guard:
            for line in self._lines:
                if line.end is not None and not line.in_hand and not line.parcel and not line.closed:
                    line.closed = True
                    line.unconfirmed.append(line.recorder.close(line.end))
