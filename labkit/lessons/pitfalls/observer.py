"""The observer's own cost: timers, spans, a profiler and a view, each off and on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np

from labkit.bench.load import Clock
from labkit.core.trace import recording, span
from labkit.core.types import Detections, Frame
from labkit.lessons.pitfalls.pitfall import Stand, jpeg
from labkit.lessons.pitfalls.result import Exhibit

SPANS = ("preprocess", "infer", "decode", "crop", "name")
GOAL_US = 50.0
"""What the spans of one frame may cost, in microseconds."""

UNIT = "ms per frame"
VIEW_FPS = 30.0


def span_cost_us(
    frames: int = 2000, *, spans: tuple[str, ...] = SPANS, recorded: bool = True, clock: Clock | None = None
) -> float:
    """Microseconds per frame that published spans cost: a range for profilers, and two clock readings.

    Args:
        frames: how many frames with nothing in them but spans.
        spans: of each frame.
        recorded: with a recording open, as in a benchmark; else as in a live view.
    """
    clock = clock or Clock()
    picture = np.zeros((8, 8, 3), np.uint8)
    stream = [Frame(picture, i, 0.0) for i in range(frames)]
    if not recorded:
        return _time_spans(stream, spans, clock) / frames * 1e6
    with recording():
        _time_spans(stream[:50], spans, clock)
        return _time_spans(stream, spans, clock) / frames * 1e6


def _time_spans(stream: list[Frame], spans: tuple[str, ...], clock: Clock) -> float:
    began = clock.now()
    for frame in stream:
        for name in spans:
            with span(name, frame):
                pass
    return clock.now() - began


def spans_on(stand: Stand) -> Exhibit:
    """NVTX ranges and a recording in every frame."""
    return _added(
        stand,
        "spans and NVTX ranges",
        lambda: span_cost_us(500, clock=stand.clock),
        wrong_way=f"{len(SPANS)} spans per frame, each an NVTX range, a recording open",
        explanation="A span costs some microseconds: nothing beside a network, much inside an inner loop. "
        f"The lab's goal is {GOAL_US:g} us a frame or less for all spans together.",
    )


def timers_on(stand: Stand, timers: int = 1000) -> Exhibit:
    """A clock read around every small step."""
    return _added(
        stand,
        "a timer around every small step",
        lambda: _timer_us(stand, timers),
        wrong_way=f"{timers} steps timed in every frame",
        explanation="Reading a clock takes well under a microsecond. A thousand readings a frame do add up, "
        "so time a step many times over, not every step of everything.",
    )


def _timer_us(stand: Stand, timers: int) -> float:
    now, kept = stand.clock.now, []
    began = now()
    for _ in range(timers):
        start = now()
        kept.append(now() - start)
    return (now() - began) * 1e6


def _added(stand: Stand, name: str, cost_us: Callable[[], float], **words: Any) -> Exhibit:
    """An observer too light to be seen in a frame's time: its cost is taken alone, and added."""
    right = [stand.time_each(stand.stream(stand.per_round)).mean() * 1e3 for _ in range(stand.rounds)]
    wrong = [value + cost_us() / 1e3 for value in right]
    return Exhibit(
        name=f"the observer's cost: {name}",
        unit=UNIT,
        right_way="none of it (its cost is measured alone, and added to the same frames)",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
        **words,
    )


def profiler_on(stand: Stand, profiler: Callable[[], AbstractContextManager[Any]] | None = None) -> Exhibit:
    """A profiler that was left on."""
    return _beside(
        stand,
        "a profiler left on",
        profiler or python_profiler,
        wrong_way="Python's own profiler on",
        right_way="the same frames with the profiler off",
        explanation="A profiler notes every call, so it slows what calls much more than what computes: it "
        "shifts the shares that it shows. Profile to find a cause; measure without it.",
        work=_calls_much,
    )


def view_on(stand: Stand, view: Callable[[Stand], AbstractContextManager[Any]] | None = None) -> Exhibit:
    """A live view in the same process."""
    return _beside(
        stand,
        "a live view left on",
        partial(view or painting, stand),
        wrong_way="a second thread draws and encodes frames for a notebook meanwhile",
        right_way="the same frames with no view",
        explanation="A view draws and compresses pictures on the cores that the pipeline wants. Close it "
        "before a benchmark; a view and a benchmark of the lab tell each other of their presence.",
        work=lambda frame: stand.task(frame),
    )


def _beside(
    stand: Stand,
    name: str,
    observer: Callable[[], AbstractContextManager[Any]],
    work: Callable[[Frame], Any],
    **words: Any,
) -> Exhibit:
    frames = stand.stream(stand.per_round)
    wrong, right = [], []
    for _ in range(stand.rounds):
        right.append(stand.time_of(lambda: [work(f) for f in frames]) / len(frames) * 1e3)
        with observer():
            wrong.append(stand.time_of(lambda: [work(f) for f in frames]) / len(frames) * 1e3)
    return Exhibit(
        name=f"the observer's cost: {name}",
        unit=UNIT,
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
        **words,
    )


def _calls_much(frame: Frame) -> int:
    """Many small calls per frame, as decoding hundreds of boxes one by one."""
    return sum(_weight(int(value)) for value in frame.image[0, :, 0])


def _weight(value: int) -> int:
    return max(value, 1)


@contextmanager
def python_profiler() -> Iterator[None]:
    """Python's deterministic profiler, on until the block ends."""
    import cProfile

    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()


@contextmanager
def painting(stand: Stand) -> Iterator[None]:
    """A thread that paints as a live view does, 30 pictures a second, until the block ends."""
    from labkit.core.annotate import draw_detections

    over, painted = threading.Event(), threading.Event()

    def paint() -> None:
        while not over.is_set():
            for frame in stand.frames:
                jpeg(draw_detections(frame.image, Detections.empty(frame.size)))
                painted.set()
                if over.wait(1 / VIEW_FPS):
                    return

    thread = threading.Thread(target=paint, name="labkit-exhibit-view", daemon=True)
    thread.start()
    try:
        painted.wait(10)
        yield
    finally:
        over.set()
        thread.join()
