"""Overhead of measuring: timers, spans, a profiler and a live view, each off and on.

    python -m labkit.lessons.pitfalls.overhead results/reference/MACHINE

measures what the lab's own spans cost and writes `span_cost.json` there.
"""

from __future__ import annotations

import cProfile
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from labkit.bench.timing import Clock
from labkit.core.files import write_atomic
from labkit.core.shown import Sentence
from labkit.core.terminal import print_text
from labkit.core.trace import recording, span
from labkit.core.types import Detections, Frame
from labkit.lessons.pitfalls.pitfall import pitfall
from labkit.lessons.pitfalls.setup import Setup, jpeg

SPANS = ("preprocess", "infer", "decode", "crop", "name")
GOAL_US = 50.0
"""Upper limit for the spans of one frame, in microseconds."""

UNIT = "ms per frame"
ALONE = "none of it (its cost is measured alone, and added to the same frames)"
VIEW_FPS = 30.0

Pairs = Iterator[tuple[float, float]]


def span_cost_us(frames: int = 2000, *, recorded: bool = True, clock: Clock | None = None) -> float:
    """Microseconds per frame that its spans cost: a range for profilers, and two clock readings.

    Args:
        frames: number of frames with nothing in them but spans.
        recorded: with a recording open, as in a benchmark; else as in a live view.
        clock: default: the real one.
    """
    now = (clock or Clock()).now
    picture = np.zeros((8, 8, 3), np.uint8)
    stream = [Frame(picture, i, 0.0) for i in range(frames)]
    with recording() if recorded else nullcontext():
        for part in (stream[:50], stream):  # the first ones warm up
            began = now()
            for frame in part:
                for name in SPANS:
                    with span(name, frame):
                        pass
        return (now() - began) / frames * 1e6


@pitfall(
    name="overhead: spans and NVTX ranges",
    unit=UNIT,
    wrong_way=f"{len(SPANS)} spans per frame, each an NVTX range, a recording open",
    right_way=ALONE,
    explanation="A span costs some microseconds: nothing beside a network, much inside an inner loop. "
    f"The lab's goal is {GOAL_US:g} us a frame or less for all spans together.",
)
def span_overhead(setup: Setup) -> Pairs:
    """NVTX ranges and a recording in every frame."""
    yield from added(setup, lambda: span_cost_us(500, clock=setup.clock))


@pitfall(
    name="overhead: a timer around every small step",
    unit=UNIT,
    wrong_way="1000 steps timed in every frame",
    right_way=ALONE,
    explanation="Reading a clock takes well under a microsecond. A thousand readings a frame do add up, "
    "so time a step many times over, not every step of everything.",
)
def timer_overhead(setup: Setup) -> Pairs:
    """A clock read before and after every small step."""
    now = setup.clock.now

    def cost_us() -> float:
        kept, began = [], now()
        for _ in range(1000):
            start = now()
            kept.append(now() - start)
        return (now() - began) * 1e6

    yield from added(setup, cost_us)


def added(setup: Setup, cost_us: Callable[[], float]) -> Pairs:
    """Add a cost too small to be seen in a frame's time, measured alone, to that time in ms."""
    for _ in range(setup.rounds):
        frame_ms = setup.time_each(setup.stream(setup.per_round)).mean() * 1e3
        yield frame_ms + cost_us() / 1e3, frame_ms


@pitfall(
    name="overhead: a profiler left on",
    unit=UNIT,
    wrong_way="Python's own profiler on",
    right_way="the same frames with the profiler off",
    explanation="A profiler notes every call, so it slows what calls much more than what computes: it "
    "shifts the shares that it shows. Profile to find a cause; measure without it.",
)
def profiler_overhead(setup: Setup) -> Pairs:
    """Frames with a profiler on and off."""
    yield from off_and_on(setup, cProfile.Profile, _many_calls)


def _many_calls(frame: Frame) -> int:
    """Many small calls per frame, as decoding hundreds of boxes one by one."""
    return sum(_weight(int(value)) for value in frame.image[0, :, 0])


def _weight(value: int) -> int:
    return max(value, 1)


@contextmanager
def encoding_thread(setup: Setup) -> Iterator[None]:
    """Draw and encode frames on a thread, 30 a second as a live view does, until the block ends."""
    from labkit.core.annotate import draw_detections

    over, started = threading.Event(), threading.Event()

    def encode() -> None:
        while not over.is_set():
            for frame in setup.frames:
                jpeg(draw_detections(frame.image, Detections.empty(frame.size)))
                started.set()
                if over.wait(1 / VIEW_FPS):
                    return

    thread = threading.Thread(target=encode, name="labkit-pitfall-view", daemon=True)
    thread.start()
    try:
        started.wait(10)
        yield
    finally:
        over.set()
        thread.join()


@pitfall(
    name="overhead: a live view left on",
    unit=UNIT,
    wrong_way="a second thread draws and encodes frames for a notebook meanwhile",
    right_way="the same frames with no view",
    explanation="A view draws and compresses pictures on the cores that the pipeline wants. Close it "
    "before a benchmark; a view and a benchmark of the lab warn of each other.",
)
def view_overhead(
    setup: Setup, view: Callable[[Setup], AbstractContextManager[Any]] = encoding_thread
) -> Pairs:
    """Frames with a live view in the same process, and without."""
    yield from off_and_on(setup, lambda: view(setup), setup.task)


def off_and_on(
    setup: Setup, observer: Callable[[], AbstractContextManager[Any]], work: Callable[[Frame], Any]
) -> Pairs:
    """Time the same frames in ms with an observer and without."""
    frames = setup.stream(setup.per_round)

    def frame_ms() -> float:
        return setup.time_of(lambda: [work(frame) for frame in frames]) / len(frames) * 1e3

    for _ in range(setup.rounds):
        right = frame_ms()
        with observer():
            yield frame_ms(), right


@dataclass(frozen=True)
class SpanCost:
    """Microseconds per frame that its spans cost, once per round.

    Attributes:
        recorded_us: with a recording open, as in a benchmark.
        alone_us: without one, as in a live view.
    """

    recorded_us: tuple[float, ...]
    alone_us: tuple[float, ...]

    @property
    def sentence(self) -> Sentence:
        """Median cost either way, with the range over the rounds."""
        low, high = min(self.recorded_us), max(self.recorded_us)
        goal = "within" if median(self.recorded_us) <= GOAL_US else "above"
        return Sentence(
            f"The {len(SPANS)} spans of a frame cost {median(self.recorded_us):.1f} us of it while recorded "
            f"({low:.1f} to {high:.1f} over {len(self.recorded_us)} rounds) and {median(self.alone_us):.1f} "
            f"us otherwise, {goal} the goal of {GOAL_US:g} us."
        )


def span_cost(rounds: int = 9) -> SpanCost:
    """Measure the spans' cost with and without a recording, interleaved."""
    pairs = [(span_cost_us(500), span_cost_us(500, recorded=False)) for _ in range(rounds)]
    return SpanCost(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


if __name__ == "__main__":
    from labkit.core.machine import fingerprint

    cost = span_cost()
    record = {"sentence": cost.sentence, **asdict(cost), "fingerprint": fingerprint()}
    write_atomic(Path(sys.argv[1]) / "span_cost.json", json.dumps(record, indent=1, default=str))
    print_text(cost.sentence)
