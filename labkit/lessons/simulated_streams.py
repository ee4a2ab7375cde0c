"""Simulated GPU with streams: the same result every time, on any machine.

It has the methods of a `StreamedNet`, so that the lab's own schedules run on it. Nothing is
computed; each step takes a given time and carries along which frame it worked on. So a
schedule that forgets to wait gets the wrong frame's answer here, always, where a real GPU
gives it once in a thousand frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labkit.core.trace import SpanRecord
from labkit.core.types import Frame
from labkit.pipelines.multi_stream import in_a_ring

STEPS_MS: Mapping[str, float] = {"upload": 0.3, "filter": 0.3, "infer": 1.2, "copy back": 0.1}
"""Duration of each step on its stream. Made up."""

LAUNCH_MS = 0.02
"""Time that the host needs to launch a step. Made up."""

NOTHING, TORN = -1, -2
"""Values read where nothing was written yet, and where it is being written at the time."""


@dataclass
class Step:
    """One step on a stream: its interval, the buffer it reads and the one it writes."""

    name: str
    index: int
    stream: str
    start_ms: float
    stop_ms: float
    reads: str
    writes: str


class SimulatedNet:
    """A `StreamedNet` in simulated time, and its streams.

    Args:
        depth: number of frames in flight.
        steps_ms: duration of steps; missing ones as in `STEPS_MS`.
        delays_ms: idle time before a step, by the step's name.
    """

    def __init__(
        self,
        depth: int = 2,
        steps_ms: Mapping[str, float] | None = None,
        delays_ms: Mapping[str, float] | None = None,
    ) -> None:
        self.depth = depth
        self.streams = self
        self.now_ms = 0.0
        self.steps: list[Step] = []
        self.waited_for: set[str] = set()
        self._times = {**STEPS_MS, **(steps_ms or {})}
        self._delays = dict(delays_ms or {})
        self._free: dict[str, float] = {}
        self._stream = "default"
        self._index = 0
        self._first: dict[str, int] = {}  # buffers that the host writes: what is in them
        self._arrived: dict[int, float] = {}

    # The streams, as in `Streams`.

    @contextmanager
    def on(self, stream: str) -> Iterator[None]:
        """See `Streams`."""
        before, self._stream = self._stream, stream
        try:
            yield
        finally:
            self._stream = before

    def after(self, later: str, earlier: str) -> None:
        """See `Streams`."""
        self.waited_for |= {later, earlier}
        self._free[later] = max(self._free.get(later, 0.0), self._free.get(earlier, 0.0))

    def keep(self, tensor: Any, stream: str) -> None:
        """Nothing is allocated here."""

    def mark(self, stream: str) -> float:
        """See `Streams`; a mark is a point in a stream's time, in ms."""
        self.waited_for.add(stream)
        return self._free.get(stream, 0.0)

    def wait(self, mark: float) -> None:
        """The host's clock moves on to the mark."""
        self.now_ms = max(self.now_ms, mark)

    def drain(self) -> None:
        """The host's clock moves on until all streams are empty."""
        self.now_ms = max([self.now_ms, *self._free.values()])

    # The network, as in `StreamedNet`.

    def upload(self, image: np.ndarray, slot: int) -> None:
        """Upload the frame's index, which its image carries."""
        high, low = image[0, 0, :2].tolist()  # see `numbered_frame`
        self._index = 256 * high + low
        self._first[f"picture {self._index}"] = self._index
        self._launch("upload", f"picture {self._index}", f"frame {slot}")

    def smooth(self, slot: int) -> None:
        """See `StreamedNet`."""
        self._launch("filter", f"frame {slot}", f"input {slot}")

    def infer(self, slot: int) -> None:
        """See `StreamedNet`."""
        self._launch("infer", f"input {slot}", f"packed {slot}")

    def copy_back(self, slot: int) -> None:
        """See `StreamedNet`."""
        self._launch("copy back", f"packed {slot}", f"answer {slot}")
        self._arrived[slot] = self._free[self._stream]

    def result(self, slot: int, size: Any = None) -> int:
        """Wait for the slot's answer: the index of the frame that it is about."""
        self.wait(self._arrived.get(slot, 0.0))
        return self._value(f"answer {slot}", self.now_ms, self.now_ms, len(self.steps))

    def _launch(self, name: str, reads: str, writes: str) -> None:
        self.now_ms += LAUNCH_MS
        ready = max(self._free.get(self._stream, 0.0), self.now_ms) + self._delays.get(name, 0.0)
        stop = ready + self._times[name]
        self.steps.append(Step(name, self._index, self._stream, ready, stop, reads, writes))
        self._free[self._stream] = stop

    def _value(self, buffer: str, start_ms: float, stop_ms: float, depth: int) -> int:
        """Value that a reader of `buffer` sees between two moments; `depth` bounds the search."""
        if buffer in self._first:
            return self._first[buffer]
        writers = [step for step in self.steps if step.writes == buffer]
        if any(step.start_ms < stop_ms and step.stop_ms > start_ms for step in writers):
            return TORN
        done = [step for step in writers if step.stop_ms <= start_ms]
        if not done or depth == 0:
            return NOTHING
        last = max(done, key=lambda step: step.stop_ms)
        return self._value(last.reads, last.start_ms, last.stop_ms, depth - 1)


Launch = Callable[[Frame, int, Any], None]


class Handed:
    """A `SimulatedNet` as a schedule gets it: it can ask for steps and waits, and change nothing else."""

    __slots__ = ("_ask",)

    def __init__(self, net: SimulatedNet) -> None:
        object.__setattr__(self, "_ask", lambda name: getattr(net, name))

    def __getattr__(self, name: str) -> Any:
        if name == "streams":
            return self
        if name.startswith("_") or name not in dir(SimulatedNet):
            raise AttributeError(f"a network of streams has no {name!r}")
        return self._ask(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name!r} of the network is not yours to change")


@dataclass(frozen=True)
class Simulation:
    """Answers and timeline of a simulated schedule.

    Attributes:
        answers: (frame, the frame that its answer is about) in the order of answers.
        spans: of the device's streams, in simulated time.
        rows: span name -> stream, for `plots.timeline`.
        total_ms: until the last answer.
        latency_ms: per frame, from its launch to its answer.
        streams: names of the streams that got a step.
        waited_for: names of the streams that a wait named.
    """

    answers: list[tuple[int, int]]
    spans: list[SpanRecord]
    rows: dict[str, str]
    total_ms: float
    latency_ms: list[float] = field(default_factory=list)
    streams: frozenset[str] = frozenset()
    waited_for: frozenset[str] = frozenset()

    @property
    def right(self) -> bool:
        """True if every frame got its own answer, in order."""
        return self.answers == [(i, i) for i in range(len(self.answers))]


def simulate(
    launch: Launch,
    n_frames: int = 6,
    *,
    depth: int = 2,
    steps_ms: Mapping[str, float] | None = None,
    delays_ms: Mapping[str, float] | None = None,
) -> Simulation:
    """Run the lab's ring of streams with another `launch(frame, slot, net)`.

    Args:
        launch: puts one frame's steps onto streams; see `labkit.pipelines.multi_stream.launch`.
        n_frames: number of frames.
        depth: number of frames in flight.
        steps_ms, delays_ms: see `SimulatedNet`.
    """
    net = SimulatedNet(depth, steps_ms, delays_ms)
    begun: dict[int, float] = {}

    def frames() -> Iterator[Frame]:
        for i in range(n_frames):
            begun[i] = net.now_ms
            yield numbered_frame(i)

    answers: list[tuple[int, int]] = []
    latency_ms = []
    handed = Handed(net)
    for frame, answer in in_a_ring(frames(), net, lambda frame, slot, _: launch(frame, slot, handed)):  # type: ignore[type-var]
        answers.append((frame.index, answer))  # type: ignore[arg-type]
        latency_ms.append(net.now_ms - begun[frame.index])
    return Simulation(
        answers,
        [SpanRecord(s.name, s.index, round(s.start_ms * 1e6), round(s.stop_ms * 1e6)) for s in net.steps],
        {step.name: f"stream {step.stream}" for step in net.steps},
        net.now_ms,
        latency_ms,
        frozenset(step.stream for step in net.steps),
        frozenset(net.waited_for),
    )


def numbered_frame(index: int) -> Frame:
    """A frame whose first pixel holds its index."""
    image = np.zeros((1, 1, 3), np.uint8)
    image[0, 0, :2] = divmod(index, 256)
    return Frame(image, index, float(index))


def one_stream(frame: Frame, slot: int, net: Any) -> None:
    """One stream for everything: right, and nothing overlaps but the host's own work."""
    with net.streams.on("only"):
        net.upload(frame.image, slot)
        net.smooth(slot)
        net.infer(slot)
        net.copy_back(slot)


def two_streams_no_wait(frame: Frame, slot: int, net: Any) -> None:
    """The origin's idea: preparation on one stream, inference on another; and no wait between them."""
    with net.streams.on("preprocess"):
        net.upload(frame.image, slot)
        net.smooth(slot)
    with net.streams.on("infer"):
        net.infer(slot)
        net.copy_back(slot)
