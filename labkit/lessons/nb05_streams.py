"""Lesson 05: timelines of threads and streams, measured and simulated; exercises on streams."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from difflib import get_close_matches
from functools import partial
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.core.errors import UsageError
from labkit.core.shown import Sentence, shown_table
from labkit.core.terminal import print_text
from labkit.core.trace import hidden_share
from labkit.core.types import Rung, Size, Workload
from labkit.lessons.exercise import Mistake, Rng, answer_of, compare, exercise_check, solved
from labkit.lessons.hints import hint
from labkit.lessons.simulated_streams import (
    NOTHING,
    STEPS_MS,
    TORN,
    Launch,
    Simulation,
    one_stream,
    simulate,
    two_streams_no_wait,
)
from labkit.pipelines.multi_stream import launch

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from labkit.core.trace import SpanRecord
    from labkit.results.plots.style import Chart

__all__ = [
    "check_filter_beside", "check_keep_memory", "check_launch", "check_start_copy", "depths", "hint",
    "loop_timeline", "simulated", "solved", "timeline",
]  # fmt: skip


NETWORK_STEPS = ("detect", "decode", "crop", "classify", "name")
THREADS = {"filter": "preprocess thread", "preprocess": "preprocess thread"} | dict.fromkeys(
    NETWORK_STEPS, "engine"
)
STREAMS = {
    "upload": "upload stream", "preprocess": "upload stream", "filter": "filter stream",
    "infer": "infer stream", "copy back": "copy stream",
}  # fmt: skip
BASELINE_STREAMS = {"filter": "host and default stream", "preprocess": "first stream"} | dict.fromkeys(
    NETWORK_STEPS, "second stream"
)
SCHEDULES = {
    "one stream": one_stream, "two streams, no waiting": two_streams_no_wait,
    "four streams": launch,
}  # fmt: skip
PREPARATION = {"upload", "preprocess", "filter"}
NETWORKS = {"infer", "detect", "classify"}
HIDDEN_AT_LEAST = 0.5


def timeline(
    rung_name: str,
    *,
    source: str = "scenes",
    frames: int = 4,
    size: Size = (640, 480),
    objects: int = 5,
    seed: int = 0,
) -> Chart | Sentence:
    """Plot when each step of a rung ran, for a few frames in this process.

    Args:
        rung_name: which rung.
        source, size, objects, seed: of the frames.
        frames: number of frames to plot, after two that warm up.

    Returns:
        A chart; a sentence where the machine lacks what the rung needs.
    """
    from labkit.bench.session import Session
    from labkit.core.requirements import unmet_requirement
    from labkit.pipelines.ladder import rung

    row = rung(rung_name)
    if (reason := unmet_requirement(row.needs)) is not None:
        return Sentence(f"{rung_name} {reason}.")
    pictures = _pictures(source, size, frames, seed)
    session = Session(row, Workload(size=size, objects=objects, seed=seed), pictures)
    about = f"{session.prepared.settings['weights']} weights"
    spans = _spans(row.run(pictures, session.prepared.net))
    return _drawn(spans, stream_of_step(row), rung_name, about)


def loop_timeline(
    loop: Callable[[Any], Any],
    rows: Mapping[str, str],
    *,
    source: str = "scenes",
    frames: int = 4,
    size: Size = (640, 480),
    seed: int = 0,
) -> Chart:
    """Plot when each step of a loop of your own ran, for a few frames in this process.

    Args:
        loop: generator function of frames, with spans that name their frame: `span("filter", frame)`.
        rows: name of a span -> the thread or stream on which it runs.
        source, size, seed: of the frames.
        frames: number of frames to plot, after two that warm up.

    Raises:
        UsageError: no span of the loop is named in `rows`.
    """
    spans = _spans(loop(_pictures(source, size, frames, seed)))
    return _drawn(spans, rows, loop.__name__, "")


def _pictures(source: str, size: Size, frames: int, seed: int) -> Any:
    from labkit.bench.frames import collect

    return collect(source, size, frames + 2, seed=seed).frames


def _spans(answers: Iterator[Any]) -> list[SpanRecord]:
    """Spans of the frames that a loop answers, without those of the first two."""
    from labkit.core.trace import recording

    with recording() as record:
        kept = {frame.index for frame, _ in [*answers][2:]}
    return [span for span in record.spans() if span.index in kept]


def _drawn(spans: Sequence[SpanRecord], rows: Mapping[str, str], name: str, weights: str) -> Chart:
    from labkit.results.plots.timeline import timeline

    share = hidden_share(spans, PREPARATION, NETWORKS)
    hidden = "" if share is None else f"{share:.0%} of preparation beside a network"
    about = [part for part in (name, "measured in this process", weights, hidden) if part]
    return timeline(spans, rows, title=f"When each step ran: {name}", about=about)


def stream_of_step(row: Rung) -> dict[str, str]:
    """Step -> the thread or stream on which a rung runs it."""
    if row.run.__name__ == "baseline_streams":
        return BASELINE_STREAMS
    if row.prepare.device == "cuda":
        return STREAMS
    return THREADS if row.run.__name__ == "threaded" else dict.fromkeys(THREADS, "one thread")


def simulated(
    schedule: str = "four streams",
    *,
    late: str | None = None,
    late_ms: float = 3.0,
    frames: int = 4,
    depth: int = 2,
) -> Chart:
    """Plot a schedule on the simulated GPU, and print whose answer each frame got.

    Args:
        schedule: "one stream", "two streams, no waiting" or "four streams".
        late: "upload", "filter", "infer" or "copy back": the step that comes `late_ms` late.
        late_ms: by how much.
        frames, depth: number of frames, and of those in flight at once.

    Raises:
        UsageError: there is no such schedule or step.
    """
    from labkit.results.plots.timeline import timeline

    for what, name, known in (("schedule", schedule, SCHEDULES), ("step", late, STEPS_MS)):
        if name is not None and name not in known:
            raise UsageError(f"there is no {what} {name!r} to simulate; there are: {'; '.join(known)}")
    result = simulate(SCHEDULES[schedule], frames, depth=depth, delays_ms={late: late_ms} if late else None)
    words = {NOTHING: "memory that nothing was written to yet", TORN: "memory that was being written"}
    wrong = [
        f"Frame {frame} got an answer about {words.get(answer, f'frame {answer}')}."
        for frame, answer in result.answers
        if frame != answer
    ]
    print_text(*(wrong or [f"All {len(result.answers)} frames got their own answer."]), sep="\n")
    about = ["simulated", "made-up times", f"{depth} in flight"]
    about += [f"{late} {late_ms:g} ms late"] if late else []
    return timeline(result.spans, result.rows, title=f"Simulated: {schedule}", about=about)


def depths(depths: Sequence[int] = (1, 2, 3, 4), frames: int = 40) -> pd.DataFrame:
    """Throughput and latency of the lab's four streams on the simulated GPU, by frames in flight.

    Times are simulated, so they show what depends on what and say nothing about any machine.
    """
    rows = []
    for depth in depths:
        result = simulate(launch, frames, depth=depth)
        latency = sorted(result.latency_ms)[frames // 2]
        rows.append(
            {
                "frames in flight": depth,
                "frames per second": round(frames / result.total_ms * 1e3),
                "median latency (ms)": round(latency, 2),
                "upload and filter hidden": f"{_hidden(result):.0%}",
            }
        )
    return shown_table(rows)


def _hidden(result: Simulation) -> float:
    """Share of upload and filter that runs behind the network of another frame."""
    return hidden_share(result.spans, {"upload", "filter"}, {"infer"}) or 0.0


@exercise_check
def check_launch(launch: Launch, rng: Rng) -> str:
    """Check `launch(frame, slot, net)`: each step of a frame waits for the one before it, and for no more.

    It runs on a simulated GPU, as it is and with each step delayed in turn, with one to five
    frames in flight.
    """
    if not callable(launch):
        answer_of(launch)
    late_ms, few = round(float(rng.uniform(5, 9)), 1), int(rng.integers(8, 13))
    for depth, frames in ((2, few), (1, few), (3, 4 * few), (5, few)):
        for late in (None, *STEPS_MS):
            delays = {} if late is None else {late: late_ms}
            result = answer_of(partial(simulate, depth=depth, delays_ms=delays), launch, frames)
            _check_steps(result, frames)
            if not result.right:
                when = f"when {late} is {late_ms:g} ms late" if late else "even when nothing is late"
                raise Mistake(f"{when}, {_wrong_answer(result, late, depth)}")
    # Right answers are not enough: waiting for everything is right and gains nothing.
    result, plain = (simulate(each, few, depth=2) for each in (launch, one_stream))
    hidden = f"{_hidden(result):.0%} of upload and filter run behind the network"
    if _hidden(result) < HIDDEN_AT_LEAST:
        raise Mistake(
            f"every answer is right, but only {hidden} of another frame: give them streams of their "
            "own, and wait for no more than needed"
        )
    return (
        f"right whatever is late, and {hidden}: {few} frames take {result.total_ms:.1f} ms of "
        f"simulated time instead of {plain.total_ms:.1f}"
    )


def _check_steps(result: Simulation, frames: int) -> None:
    """Each frame takes each step once, and no wait names a stream that gets none."""
    counts = {name: sum(span.name == name for span in result.spans) for name in STEPS_MS}
    if missing := [name for name, count in counts.items() if not count]:
        raise Mistake(f"no frame goes through {' and '.join(missing)}")
    if wrong := [name for name, count in counts.items() if count != frames]:
        raise Mistake(f"{wrong[0]} ran {counts[wrong[0]]} times for {frames} frames")
    streams = sorted(map(str, result.streams))
    for name in sorted(map(str, result.waited_for - result.streams)):
        close = get_close_matches(name, streams, 1)
        meant = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(map(repr, streams))}"
        raise Mistake(f"a wait names the stream {name!r}, which gets no step; {meant}")


def _wrong_answer(result: Simulation, late: str | None, depth: int) -> str:
    """The first wrong answer, what should have waited, and names of streams that differ by a slip."""
    frame, answer = next((frame, answer) for frame, answer in result.answers if frame != answer)
    what = {
        NOTHING: "was read before it was written",
        TORN: "was read while it was being written",
    }.get(answer, f"is about frame {answer}")
    following = dict(pairwise(STEPS_MS)).get(late or "")
    advice = f"{following} must wait for {late}" if following else "what must wait for what"
    text = f"the answer to frame {frame} {what} ({depth} in flight); {advice}"
    for a, b in combinations(sorted(map(str, result.streams)), 2):
        if len(a) > 3 and get_close_matches(a, [b], cutoff=0.75):
            return f"{text}. Are {a!r} and {b!r} meant to be one stream?"
    return text


@exercise_check
def check_filter_beside(answer: Callable[..., Any], rng: Rng) -> str:
    """Check `filter_beside(x, network, filtering, inferring)`, which returns the filtered picture and scores.

    It runs on the practice GPU: x (1, 3, H, W) is smoothed on the stream `filtering` and judged by
    `network` on `inferring`; the streams wait for each other, the host waits for neither.
    """
    _check_beside(answer, rng, ("filtered picture", "scores"))
    return "filter and network run on streams of their own, each after what it reads; the host waits for none"


@exercise_check
def check_keep_memory(answer: Callable[..., Any], rng: Rng) -> str:
    """Check `keep_memory(x, network, filtering, inferring)`, which returns the scores alone.

    As `check_filter_beside`; nobody keeps the filtered picture, so its memory is free at the end of
    the function, before the network has read it.
    """
    _check_beside(answer, rng, ("scores",))
    return "the memory of the filtered picture is handed out again only when the network has read it"


def _check_beside(answer: Callable[..., Any], rng: Rng, wanted: tuple[str, ...]) -> None:
    """Run an answer on a picture that the current stream still uploads, with a network and two streams."""
    import torch
    from torch.nn.functional import avg_pool2d

    height, width = (int(n) for n in rng.integers(6, 20, 2))
    for shape in ((1, 3, height, width), (1, 3, height, width), (1, 3, width + 1, height)):
        with _practice() as gpu:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(rng.integers(10**6)))
                same = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
            network = deepcopy(same).to("cuda")
            filtering, inferring = torch.cuda.Stream(), torch.cuda.Stream()
            torch.cuda.synchronize()
            picture = torch.from_numpy(rng.normal(size=shape).astype(np.float32)).pin_memory()
            untouched = picture.clone()
            x = picture.to("cuda", non_blocking=True)
            got = _called(gpu, answer, x, network, filtering, inferring)
            if len(wanted) == 1:
                got = [got]
            elif not (isinstance(got, tuple | list) and len(got) == len(wanted)):
                raise Mistake(f"the {' and the '.join(wanted)} are expected, in this order")
            _check_ran(gpu, filtering, "filtering")
            _check_ran(gpu, inferring, "inferring")
            inferring.synchronize()
            filtering.synchronize()
            values = [_values(gpu, each) for each in got]
            torch.cuda.synchronize()
            smooth = avg_pool2d(untouched, 5, stride=1, padding=2)
            right = {"filtered picture": smooth, "scores": same(smooth)}
            for name, value in zip(wanted, values, strict=True):
                compare(value, right[name], {}, shape=f"the {name}", case=f"the {name}", atol=1e-4)


@exercise_check
def check_start_copy(answer: Callable[..., Any], rng: Rng) -> str:
    """Check `start_copy(scores, copying)`: a page-locked tensor of the host, and the event after the copy.

    The copy runs on the stream `copying`, after what the current stream has to do; the host goes on,
    and waits for the event before it reads.
    """
    rows, columns = (int(n) for n in rng.integers(3, 9, 2))
    for shape in ((1, rows, columns), (1, rows, columns), (1, columns, rows + 1)):
        _check_copy(answer, rng, shape)
    return "the copy runs while the host goes on, and the event says when it may read"


def _check_copy(answer: Callable[..., Any], rng: Rng, shape: tuple[int, ...]) -> None:
    import torch

    with _practice() as gpu:
        values = torch.from_numpy(rng.random(shape, np.float32))
        copying = torch.cuda.Stream()
        factor = float(rng.uniform(2, 9))
        scores = values.to("cuda") * factor
        got = _called(gpu, answer, scores, copying)
        if not (isinstance(got, tuple | list) and len(got) == 2):
            raise Mistake("two things are expected: the host's tensor and the event after the copy")
        host, done = got
        if not isinstance(host, torch.Tensor) or host.is_cuda:
            raise Mistake("the first of the two should be a tensor of the host")
        if not any(copy.to == "host" for copy in gpu.copies):
            raise Mistake("nothing was copied to the host")
        if any(copy.memory != "page-locked" for copy in gpu.copies):
            raise Mistake(
                "the host's tensor is pageable, so the copy goes through a buffer and the host waits: "
                "make it with pin_memory=True"
            )
        _check_ran(gpu, copying, "copying")
        if not isinstance(done, torch.cuda.Event):
            raise Mistake(f"the second of the two should be a torch.cuda.Event, not {type(done).__name__}")
        done.synchronize()
        compare(_values(gpu, host), values * factor, {}, shape="that of the scores", atol=1e-4)


@contextmanager
def _practice() -> Iterator[Any]:
    """The practice GPU; what it refuses, and its races, are mistakes."""
    import torch

    from labkit.practice import GpuError, RaceWarning, fake_gpu

    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore", RaceWarning)
            with fake_gpu(real=False) as gpu:
                yield gpu
                _check_races(gpu)
    except GpuError as error:
        raise Mistake(str(error)) from error


def _called(gpu: Any, answer: Callable[..., Any], *given: Any) -> Any:
    """The learner's result; what the host waited for meanwhile is a mistake."""
    gpu.reset()
    got = answer_of(answer, *given)
    _check_races(gpu)
    if gpu.waits:
        wait = gpu.waits[0]
        raise Mistake(
            f"the host waits for {wait.what} at {wait.line}, and launches nothing meanwhile; let a stream "
            "wait instead, or copy with non_blocking=True"
        )
    return got


def _check_races(gpu: Any) -> None:
    if gpu.races:
        raise Mistake(str(gpu.races[0]))


def _check_ran(gpu: Any, stream: Any, name: str) -> None:
    if gpu.order.last(stream.cuda_stream) < 0:
        raise Mistake(f"nothing runs on the stream {name}: with torch.cuda.stream({name}): ...")


def _values(gpu: Any, value: Any) -> Tensor:
    """A tensor as the host reads it now; a race of the reading is a mistake."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise Mistake(f"a tensor is expected, not {type(value).__name__}")
    read = value.cpu() if value.is_cuda else value + 0
    _check_races(gpu)
    return read
