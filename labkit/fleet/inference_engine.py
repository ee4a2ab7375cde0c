"""Inference on the newest frames of several streams, in groups, as an actor.

One engine runs per GPU or share of cores. It has no queue of frames: what it requested from readers
and what recorders have not yet confirmed are Ray's futures. A stream whose recorder is behind gets no
requests, so only its own frames are dropped.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray

from labkit.core.errors import LabError
from labkit.core.types import Frame, Rung, Workload
from labkit.fleet.cores import set_threads
from labkit.fleet.fleet_plan import OpenNetworks
from labkit.fleet.request_queue import RequestQueue, describe_failure, failed_end
from labkit.fleet.shared_actors import StreamHandle
from labkit.fleet.streams import CapturedFrame, EndOfStream, FrameResult, NoFrame

MAX_UNCONFIRMED = 2
"""Batches and frames of a stream that may be under way when another frame is requested."""
MAX_FAILURES = 3
"""Failures of the rung in a row after which the engine gives up."""
REPLY_S = 0.01
"""A reader that has a frame replies within this."""
PREFETCH_S = 0.05
"""Frames are requested so long before the networks are free, which hides their transfer."""
BATCH_S = 0.1
"""Results of this long travel together, since each message costs CPU time."""
IDLE_S = 0.5
CLOSE_S = 10.0
DRAIN_S = 3.0
"""Longest wait for requested frames once a reader is lost; those that come later have failed."""


def open_networks(rung: Rung, workload: Workload) -> tuple[Any, dict[str, Any]]:
    """Prepare a rung's networks as the benchmark does; returns them and their settings."""
    from labkit.models.cuda_errors import explain_cuda_errors
    from labkit.models.prepare import prepare

    with explain_cuda_errors(rung.name):
        prepared = prepare(rung.prepare, workload)
    return prepared.net, prepared.settings


class Engine:
    """Runs a rung on the frames of several streams.

    Args:
        rung: schedule and preparation. One with the option "frames" processes so many at once.
        workload: model set, size, number of boxes, threshold.
        deadline_s: longest wait of a frame for others to fill a group.
        threads: of the networks; None keeps their default.
        open_net: prepares the networks.
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
        self._queues: list[RequestQueue] = []
        self._lost: dict[int, str] = {}  # position of each stream that lost its reader -> why
        self._lost_s = 0.0  # time of the first loss
        self._lock = threading.Lock()  # a schedule may read its frames in a thread of its own
        self._requests: dict[Any, RequestQueue] = {}  # futures of frames, the oldest first
        self._in_flight: dict[int, tuple[RequestQueue, CapturedFrame]] = {}  # by index in the schedule
        self._n_requested = self._n_frames = 0
        self._pass_s = 0.0  # duration of the last group's pass through the networks

    def ready(self) -> dict[str, Any]:
        """Prepare the networks and warm them up, the first time; returns plain data on them.

        Raises:
            LabError: they cannot be prepared on this machine.
        """
        if self._facts is None:
            if self._threads is not None:
                set_threads(self._threads)
            self._net, facts = self._open_net(self._rung, self._workload)
            self._warm_up()
            self._facts = facts
        return self._facts

    def run(self, streams: Sequence[tuple[StreamHandle, StreamHandle]]) -> dict[int, str]:
        """Process frames until every stream is over, or readers are lost that Ray does not restart.

        Args:
            streams: the reader and the recorder of each.

        Returns:
            Position of each stream whose reader is lost -> why; their accounts are still open.

        Raises:
            LabError: the rung failed several times in a row.
        """
        self.ready()  # again, where Ray has restarted the engine
        unconfirmed = {queue.recorder: queue.unconfirmed for queue in self._queues}
        self._queues = [
            RequestQueue(
                reader, recorder, recorder.call("checkpoint"), unconfirmed=unconfirmed.get(recorder, [])
            )
            for reader, recorder in streams
        ]
        self._requests, self._lost = {}, {}  # frames of an earlier run's requests count as failed
        failures = 0
        while any(not queue.closed for queue in self._queues) and not self._lost:
            before = self._n_frames
            try:
                for frame, found in self._rung.run(self._frames(), self._net):  # type: ignore[arg-type]
                    self._add_result(frame.index, found)
                    failures = 0
            except Exception as error:  # whatever a network raises: the next frames may succeed
                failures += 1
                if failures >= MAX_FAILURES or self._n_frames == before:
                    self._send_batches(min_age_s=0.0)
                    raise LabError(f"{self._rung.name} failed: {type(error).__name__}: {error}") from error
            self._drop_in_flight()
            self._send_and_close()
        self._send_and_close(min_age_s=0.0)
        if self._lost:  # the other streams are to go on at once, even if a recorder is behind
            return self._lost
        pending = [ref for queue in self._queues for ref in queue.unconfirmed]
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=CLOSE_S)
        return {}

    def _warm_up(self) -> None:
        """Run blank groups of every size, whose first pass is slow."""
        width, height = self._workload.size
        for n in range(1, self._group + 1):
            blank = [Frame(np.zeros((height, width, 3), np.uint8), i, 0.0) for i in range(n)]
            for _ in self._rung.run(blank, self._net):
                pass

    def _frames(self) -> Iterator[Frame | None]:
        """Frames for the schedule; None where a group is to be processed although it is not full."""
        while self._goes_on():
            taken = self._gather()
            if taken:
                begun_s = time.perf_counter()
                with self._prefetching():
                    for queue, captured in taken:
                        yield self._start_frame(queue, captured)
                    if self._in_groups:
                        yield None
                self._pass_s = time.perf_counter() - begun_s
            self._send_and_close()

    def _goes_on(self) -> bool:
        """Once a reader is lost, only frames that were requested before are awaited, for a while."""
        if self._lost:
            return bool(self._requests) and time.perf_counter() < self._lost_s + DRAIN_S
        return any(queue.end is None for queue in self._queues)

    @contextmanager
    def _prefetching(self) -> Iterator[None]:
        """Request the next frames shortly before the networks are free: in time, and still fresh."""
        wait_s = self._pass_s - PREFETCH_S
        if wait_s <= 0:
            self._request(self._group)
            yield
            return
        timer = threading.Timer(wait_s, self._request, [self._group])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # no request is made elsewhere from here on

    def _start_frame(self, queue: RequestQueue, captured: CapturedFrame) -> Frame:
        with self._lock:
            queue.in_flight += 1
            index = self._n_frames
            self._in_flight[index] = (queue, captured)
            self._n_frames += 1
        # A copy: Ray's shared memory is read-only, and is to be freed soon.
        return Frame(np.array(captured.image), index, time.perf_counter())

    def _gather(self) -> list[tuple[RequestQueue, CapturedFrame]]:
        """The next frames, at most a group; empty if none came in time."""
        begun_s = time.perf_counter()
        self._request(self._group - len(self._requests))
        ready = self._wait(REPLY_S)
        if len(ready) < self._group:  # there is time: any stream may fill the group
            self._request(len(self._queues))
            ready = self._wait(max(0.0, begun_s + self._deadline_s - time.perf_counter()))
        if not ready:
            awaited = [*self._requests, *(ref for queue in self._queues for ref in queue.awaited)]
            if awaited:
                ray.wait(awaited, num_returns=1, timeout=IDLE_S)
            return []
        replies = [(queue := self._requests.pop(ref), self._read_reply(ref, queue)) for ref in ready]
        return [(queue, captured) for queue, captured in replies if captured is not None]

    def _wait(self, timeout_s: float) -> list[Any]:
        """Futures of up to a group of replies, the oldest requests first."""
        if not self._requests:
            return []
        n = min(self._group, len(self._requests))
        return ray.wait(list(self._requests), num_returns=n, timeout=timeout_s)[0]

    def _request(self, most: int) -> None:
        """Request a frame from up to `most` idle readers, the longest idle first."""
        if self._lost:
            return
        pending = set(map(id, self._requests.values()))
        idle = [q for q in self._queues if id(q) not in pending and self._may_request(q)]
        for queue in sorted(idle, key=lambda queue: queue.requested)[: max(0, most)]:
            self._n_requested += 1
            queue.requested = self._n_requested
            self._requests[queue.reader.call("take", queue.after, queue.began_unix_s)] = queue

    def _may_request(self, queue: RequestQueue) -> bool:
        with self._lock:
            return queue.may_request(MAX_UNCONFIRMED)

    def _read_reply(self, ref: Any, queue: RequestQueue) -> CapturedFrame | None:
        """The frame of a reader's reply, if it holds one."""
        try:
            reply = ray.get(ref)
        except (ray.exceptions.ObjectLostError, ray.exceptions.ActorUnavailableError):
            return None  # the frame was lost with its machine; the next one is requested
        except ray.exceptions.RayTaskError as error:
            queue.end = failed_end("reader", error)
            return None
        except ray.exceptions.RayError as error:  # it died, or was killed for its memory, too often
            self._lost_s = self._lost_s if self._lost else time.perf_counter()
            self._lost[queue.reader.position] = describe_failure("reader", error)
            return None
        if isinstance(reply, CapturedFrame):
            queue.after, queue.began_unix_s = reply.index, reply.began_unix_s
            return reply
        if isinstance(reply, NoFrame) and reply.note:
            queue.recorder.call("note", reply.note)
        if isinstance(reply, EndOfStream):
            queue.end = reply
        return None

    def _add_result(self, index: int, found: Any) -> None:
        with self._lock:
            queue, captured = self._in_flight.pop(index)
            age_s = time.time() - captured.captured_unix_s
            queue.add(FrameResult.of(captured, age_s, self._id, found))

    def _drop_in_flight(self) -> None:
        """Frames without a result after the schedule ended have failed; recorders see it by the numbers."""
        with self._lock:
            for queue, _ in self._in_flight.values():
                queue.in_flight -= 1
            self._in_flight.clear()

    def _send_batches(self, min_age_s: float = BATCH_S) -> None:
        with self._lock:
            for queue in self._queues:
                queue.send_batch(min_age_s)

    def _send_and_close(self, min_age_s: float = BATCH_S) -> None:
        self._send_batches(min_age_s)
        with self._lock:
            for queue in self._queues:
                queue.close_if_ended()
