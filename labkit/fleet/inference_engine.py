"""Inference on the newest frames of several streams, in groups, as an actor.

One engine runs per GPU or share of cores. It has no queue of frames: what it requested from readers are
Ray's futures. Its messages wait to be fetched; while too many do, it requests no frames.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from labkit.core.errors import LabError, first_line
from labkit.core.types import Frame, Rung, Workload
from labkit.fleet.cores import set_threads
from labkit.fleet.fleet_plan import OpenNetworks
from labkit.fleet.stream_reader import StreamHandle
from labkit.fleet.streams import CapturedFrame, EndOfRun, EndOfStream, FrameResult, NoFrame

MAX_IN_FLIGHT = 2
"""Frames of a stream that may be under way when another one is requested."""
MAX_FAILURES = 3
"""Failures of the rung in a row after which the engine gives up."""
MAX_MESSAGES = 4096
REPLY_S = 0.01
"""A reader that has a frame replies within this."""
PREFETCH_S = 0.05
"""Frames are requested so long before the networks are free, which hides their transfer."""
BATCH_S = 0.1
"""Results of this long travel together, since each message costs CPU time."""
IDLE_S = 0.5
PATIENCE_S = 1.0
"""Longest wait for a message until the reply is empty."""
PASS_S = 300.0
"""Longest time without a result while frames are in the networks."""
DRAIN_S = 3.0
"""Longest wait for requested frames once a reader is lost; those that come later have failed."""

Message = tuple[int, FrameResult | EndOfStream | str] | EndOfRun
"""The position of a stream with a result, its end, or its current problem; or the end of a run."""


def open_networks(rung: Rung, workload: Workload) -> tuple[Any, dict[str, Any]]:
    """Prepare a rung's networks as the benchmark does; returns them and their settings."""
    from labkit.models.cuda_errors import explain_cuda_errors
    from labkit.models.prepare import prepare

    with explain_cuda_errors(rung.name):
        prepared = prepare(rung.prepare, workload)
    return prepared.net, prepared.settings


@dataclass(eq=False)
class _Stream:
    """A stream as its engine sees it.

    Attributes:
        reader: of the stream.
        after: index of the last frame that was taken.
        began_unix_s: when the stream began; None if not known yet.
        requested: sequence number of the last frame request; the smallest has waited longest.
        in_flight: frames taken whose results are not there yet.
        end: how the stream ended; None while it runs.
        closed: True once its end is among the messages.
    """

    reader: StreamHandle
    after: int
    began_unix_s: float | None
    requested: int = 0
    in_flight: int = 0
    end: EndOfStream | None = None
    closed: bool = False


class Engine:
    """Runs a rung on the frames of several streams.

    Start it with a concurrency group "messages" of one thread.

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
        self._streams: list[_Stream] = []
        self._lost: dict[int, str] = {}  # position of each stream that lost its reader -> why
        self._lost_s = 0.0  # time of the first loss
        self._changed = threading.Condition()  # a schedule may read its frames in a thread of its own
        self._messages: list[Message] = []
        self._requests: dict[Any, _Stream] = {}  # futures of frames, the oldest first
        self._in_flight: dict[int, tuple[_Stream, CapturedFrame]] = {}  # by index in the schedule
        self._progress_s = 0.0  # when frames went into the networks, or a result came out
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

    def run(self, streams: Sequence[tuple[StreamHandle, int, float | None]]) -> None:
        """Process frames until every stream is over, the rung fails, or readers are lost for good.

        Args:
            streams: of each the reader, the index of the last frame that is accounted for (-1 for none),
                and when it began, if that is known.
        """
        try:
            self.ready()  # in an engine that takes the place of another
            self._streams = [_Stream(*stream) for stream in streams]
            self._requests, self._lost = {}, {}  # frames of an earlier run's requests count as failed
            self._process()
        except Exception as error:  # whatever a network raises
            what = f"{self._rung.name} failed: {type(error).__name__}: {error}"
            self._post(EndOfRun({}, str(error) if isinstance(error, LabError) else what))
        else:
            self._post(EndOfRun(self._lost))

    def messages(self) -> list[Message]:
        """News, once there are some; empty after a while without.

        Raises:
            LabError: the networks hang.
        """
        with self._changed:
            if self._in_flight and time.perf_counter() > self._progress_s + PASS_S:
                raise LabError(f"{self._rung.name} gave no result for {PASS_S:g} s")
            if not self._changed.wait_for(lambda: self._messages, PATIENCE_S):
                return []
        time.sleep(BATCH_S)
        with self._changed:
            new, self._messages = self._messages, []
            self._changed.notify_all()
        return new

    def _post(self, message: Message) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def _process(self) -> None:
        failures = 0
        while any(not stream.closed for stream in self._streams) and not self._lost:
            before = self._n_frames
            try:
                for frame, found in self._rung.run(self._frames(), self._net):  # type: ignore[arg-type]
                    self._add_result(frame.index, found)
                    failures = 0
            except Exception:  # the next frames may succeed
                failures += 1
                if failures >= MAX_FAILURES or self._n_frames == before:
                    raise
            self._drop_in_flight()
            self._close_ended()

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
                    for stream, captured in taken:
                        yield self._start_frame(stream, captured)
                    if self._in_groups:
                        yield None
                self._pass_s = time.perf_counter() - begun_s
            self._close_ended()

    def _goes_on(self) -> bool:
        """Once a reader is lost, only frames that were requested before are awaited, for a while."""
        if self._lost:
            return bool(self._requests) and time.perf_counter() < self._lost_s + DRAIN_S
        return any(stream.end is None for stream in self._streams)

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
            timer.join()  # no request is made elsewhere from here on; to make one takes no time

    def _start_frame(self, stream: _Stream, captured: CapturedFrame) -> Frame:
        with self._changed:
            stream.in_flight += 1
            index = self._n_frames
            self._in_flight[index] = (stream, captured)
            self._n_frames += 1
            self._progress_s = time.perf_counter()
        # A copy: Ray's shared memory is read-only, and is to be freed soon.
        return Frame(np.array(captured.image), index, time.perf_counter())

    def _gather(self) -> list[tuple[_Stream, CapturedFrame]]:
        """The next frames, at most a group; empty if none came in time."""
        begun_s = time.perf_counter()
        self._request(self._group - len(self._requests))
        ready = self._wait(REPLY_S)
        if len(ready) < self._group:  # there is time: any stream may fill the group
            self._request(len(self._streams))
            ready = self._wait(max(0.0, begun_s + self._deadline_s - time.perf_counter()))
        if not ready:
            if self._requests:
                ray.wait(list(self._requests), num_returns=1, timeout=IDLE_S)
            else:
                with self._changed:  # until results are out of the schedule, or messages fetched
                    self._changed.wait(BATCH_S)
            return []
        replies = [(stream := self._requests.pop(ref), self._read_reply(ref, stream)) for ref in ready]
        return [(stream, captured) for stream, captured in replies if captured is not None]

    def _wait(self, timeout_s: float) -> list[Any]:
        """Futures of up to a group of replies, the oldest requests first."""
        if not self._requests:
            return []
        n = min(self._group, len(self._requests))
        return ray.wait(list(self._requests), num_returns=n, timeout=timeout_s)[0]

    def _request(self, most: int) -> None:
        """Request a frame from up to `most` idle readers, the longest idle first."""
        if self._lost or len(self._messages) >= MAX_MESSAGES:
            return
        pending = set(map(id, self._requests.values()))
        idle = [s for s in self._streams
                if s.end is None and id(s) not in pending and s.in_flight <= MAX_IN_FLIGHT]  # fmt: skip
        for stream in sorted(idle, key=lambda stream: stream.requested)[: max(0, most)]:
            self._n_requested += 1
            stream.requested = self._n_requested
            self._requests[stream.reader.call("take", stream.after, stream.began_unix_s)] = stream

    def _read_reply(self, ref: Any, stream: _Stream) -> CapturedFrame | None:
        """The frame of a reader's reply, if it holds one."""
        try:
            reply = ray.get(ref)
        except (ray.exceptions.ObjectLostError, ray.exceptions.ActorUnavailableError):
            return None  # the frame was lost with its machine; the next one is requested
        except ray.exceptions.RayTaskError as error:
            stream.end = EndOfStream(None, "", 0, _loss(error), failed=True)
            return None
        except ray.exceptions.RayError as error:  # it died, or was killed for its memory, too often
            self._lost_s = self._lost_s if self._lost else time.perf_counter()
            self._lost[stream.reader.position] = _loss(error)
            return None
        if isinstance(reply, CapturedFrame):
            stream.after, stream.began_unix_s = reply.index, reply.began_unix_s
            return reply
        if isinstance(reply, NoFrame) and reply.note:
            self._post((stream.reader.position, reply.note))
        if isinstance(reply, EndOfStream):
            stream.end = reply
        return None

    def _add_result(self, index: int, found: Any) -> None:
        with self._changed:
            stream, captured = self._in_flight.pop(index)
            stream.in_flight -= 1
            self._progress_s = time.perf_counter()
        age_s = time.time() - captured.captured_unix_s
        self._post((stream.reader.position, FrameResult.of(captured, age_s, self._id, found)))

    def _drop_in_flight(self) -> None:
        """Frames without a result after the schedule ended have failed; it shows in the numbers."""
        with self._changed:
            for stream, _ in self._in_flight.values():
                stream.in_flight -= 1
            self._in_flight.clear()

    def _close_ended(self) -> None:
        """Tell of streams that are over, once all of their results are out."""
        with self._changed:
            for stream in self._streams:
                if stream.end is not None and not stream.in_flight and not stream.closed:
                    stream.closed = True
                    self._post((stream.reader.position, stream.end))


def _loss(error: Exception) -> str:
    return f"its reader died too often or is broken ({first_line(error)})"
