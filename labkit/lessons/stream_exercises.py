"""Exercises on streams: a schedule on the simulated GPU, and PyTorch's streams on the practice GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.core.trace import hidden_share
from labkit.lessons.exercise import Mistake, Rng, answer_of, exercise_check, seeded_check
from labkit.lessons.simulated_streams import (
    NOTHING,
    STEPS_MS,
    TORN,
    Launch,
    Simulation,
    one_stream,
    simulate,
)

if TYPE_CHECKING:
    from torch import Tensor

FRAMES = 8
DELAY_MS = 5.0
HIDDEN_AT_LEAST = 0.5


@exercise_check
def check_launch(launch: Launch) -> str:
    """Check `launch(frame, slot, net)`: each step of a frame waits for the one before it, and for no more.

    It runs on a simulated GPU, as it is and with each step delayed in turn, with one to three
    frames in flight.
    """
    for depth in (2, 1, 3):
        for late in (None, *STEPS_MS):
            delays = {} if late is None else {late: DELAY_MS}
            try:
                result = simulate(launch, FRAMES, depth=depth, delays_ms=delays)
            except Exception as error:  # whatever the learner's code raises is the answer to show
                raise Mistake(f"your function raised {type(error).__name__}: {error}") from error
            _check_steps(result)
            _check_names(result)
            _check_answers(result, late, depth)
    return _check_overlap(launch)


def _check_steps(result: Simulation) -> None:
    counts = {name: sum(span.name == name for span in result.spans) for name in STEPS_MS}
    missing = [name for name, count in counts.items() if not count]
    if missing:
        raise Mistake(f"no frame goes through {' and '.join(missing)}")
    for name, count in counts.items():
        if count != FRAMES:
            raise Mistake(f"{name} ran {count} times for {FRAMES} frames")


def _check_names(result: Simulation) -> None:
    """A wait for a stream that never gets a step orders nothing; its name is probably misspelt."""
    for name in sorted(map(str, result.waited_for - result.streams)):
        raise Mistake(f"a wait names the stream {name!r}, which gets no step{_meant(name, result.streams)}")


def _meant(name: str, streams: frozenset[str]) -> str:
    names = sorted(map(str, streams))
    close = get_close_matches(name, names, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(map(repr, names))}"


def _alike(streams: frozenset[str]) -> str:
    """A question about two names that differ by a slip, or nothing."""
    for a, b in combinations(sorted(map(str, streams)), 2):
        if len(a) > 3 and get_close_matches(a, [b], cutoff=0.75):
            return f". Are {a!r} and {b!r} meant to be one stream?"
    return ""


def _check_answers(result: Simulation, late: str | None, depth: int) -> None:
    if result.right:
        return
    frame, answer = next((frame, answer) for frame, answer in result.answers if frame != answer)
    when = f"when {late} is {DELAY_MS:g} ms late" if late else "even when nothing is late"
    what = {
        NOTHING: "was read before it was written",
        TORN: "was read while it was being written",
    }.get(answer, f"is about frame {answer}")
    following = dict(pairwise(STEPS_MS)).get(late or "")
    advice = f"; {following} must wait for {late}" if following else "; what must wait for what"
    raise Mistake(
        f"{when}, the answer to frame {frame} {what} ({depth} in flight){advice}{_alike(result.streams)}"
    )


def _check_overlap(launch: Launch) -> str:
    """Right answers are not enough: waiting for everything is right and gains nothing."""
    result, plain = (simulate(each, FRAMES, depth=2) for each in (launch, one_stream))
    hidden = hidden_share(result.spans, {"upload", "filter"}, {"infer"}) or 0.0
    if hidden < HIDDEN_AT_LEAST:
        raise Mistake(
            f"every answer is right, but only {hidden:.0%} of upload and filter run behind the network "
            "of another frame: give them streams of their own, and wait for no more than needed"
        )
    return (
        f"right whatever is late, and {hidden:.0%} of upload and filter run behind the network: "
        f"{FRAMES} frames take {result.total_ms:.1f} ms of simulated time instead of {plain.total_ms:.1f}"
    )


@seeded_check
def check_filter_beside(answer: Callable[..., Any], rng: Rng) -> str:
    """Check `filter_beside(x, network, filtering, inferring)`, which returns the filtered picture and scores.

    It runs on the practice GPU: x (1, 3, H, W) is smoothed on the stream `filtering` and judged by
    `network` on `inferring`; the streams wait for each other, the host waits for neither.
    """
    with _practice() as gpu:
        x, network, filtering, inferring = _given(rng)
        got = _called(gpu, answer, x, network, filtering, inferring)
        if not (isinstance(got, tuple | list) and len(got) == 2):
            raise Mistake("the filtered picture and the scores are expected, in this order")
        _check_streams(gpu, filtering, inferring)
        inferring.synchronize()
        filtering.synchronize()
        smooth, scores = (_values(gpu, each) for each in got)
        wanted, judged = _filtered_and_judged(x, network)
        _check_values("the filtered picture", smooth, wanted)
        _check_values("the scores", scores, judged)
    return "filter and network run on streams of their own, each after what it reads; the host waits for none"


@seeded_check
def check_keep_memory(answer: Callable[..., Any], rng: Rng) -> str:
    """Check `keep_memory(x, network, filtering, inferring)`, which returns the scores alone.

    As `check_filter_beside`; nobody keeps the filtered picture, so its memory is free at the end of
    the function, before the network has read it.
    """
    with _practice() as gpu:
        x, network, filtering, inferring = _given(rng)
        scores = _called(gpu, answer, x, network, filtering, inferring)
        _check_streams(gpu, filtering, inferring)
        inferring.synchronize()
        _check_values("the scores", _values(gpu, scores), _filtered_and_judged(x, network)[1])
    return "the memory of the filtered picture is handed out again only when the network has read it"


@seeded_check
def check_start_copy(answer: Callable[..., Any], rng: Rng) -> str:
    """Check `start_copy(scores, copying)`: a page-locked tensor of the host, and the event after the copy.

    The copy runs on the stream `copying`, after what the current stream has to do; the host goes on,
    and waits for the event before it reads.
    """
    import torch

    with _practice() as gpu:
        shape = (1, int(rng.integers(3, 9)), int(rng.integers(3, 9)))
        values = torch.from_numpy(rng.random(shape, np.float32))
        copying = torch.cuda.Stream()
        scores = values.to("cuda") * 1
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
        _check_values("the host's tensor", _values(gpu, host), values)
    return "the copy runs while the host goes on, and the event says when it may read"


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


def _given(rng: Rng) -> tuple[Any, ...]:
    """A picture that the current stream still uploads, a network, and two streams."""
    import torch

    height, width = (int(n) for n in rng.integers(6, 20, 2))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval().to("cuda")
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    picture = torch.from_numpy(rng.random((1, 3, height, width), np.float32)).pin_memory()
    return picture.to("cuda", non_blocking=True), network, *streams


def _filtered_and_judged(x: Tensor, network: Any) -> tuple[Tensor, Tensor]:
    import torch
    from torch.nn.functional import avg_pool2d

    torch.cuda.synchronize()
    smooth = avg_pool2d(x, 5, stride=1, padding=2)
    return smooth.cpu(), network(smooth).cpu()


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


def _check_streams(gpu: Any, filtering: Any, inferring: Any) -> None:
    _check_ran(gpu, filtering, "filtering")
    _check_ran(gpu, inferring, "inferring")


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


def _check_values(what: str, got: Tensor, right: Tensor) -> None:
    import torch

    if got.shape != right.shape:
        raise Mistake(f"{what} should have the shape {tuple(right.shape)}, not {tuple(got.shape)}")
    if not torch.allclose(got.float(), right.float(), atol=1e-4):
        raise Mistake(f"{what} differs by up to {float((got.float() - right.float()).abs().max()):.3g}")
