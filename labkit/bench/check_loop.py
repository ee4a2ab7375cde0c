"""A first look at a loop of one's own: a few frames, in this process, beside a rung of the lab."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Unpack

import numpy as np

from labkit.bench.agreement import NEAR, Answers, extra_share, measure_agreement
from labkit.bench.frames import collect
from labkit.bench.session import Session
from labkit.core.annotate import draw_detections
from labkit.core.errors import UsageError
from labkit.core.types import (
    MOST_OBJECTS,
    Detections,
    Frame,
    Rung,
    Workload,
    WorkOptions,
    is_whole,
    read_work,
)
from labkit.models.prepare import resolve_all
from labkit.models.weights import Weights
from labkit.pipelines.ladder import rung as rung_named
from labkit.pipelines.own_loop import as_rung, own_loop
from labkit.results.records import Agreement

SHOWN_PX, TEXT_PX = 320, 12
"""Width of a picture on the page, and height of the letters in it."""
SURE = 0.3
"""Score from which on a box is drawn: those of a detector that is unsure lie on top of one another."""


@dataclass(frozen=True, repr=False)
class LoopCheck:
    """A loop's answers beside those of a rung of the lab; shows itself with a picture in a notebook.

    Attributes:
        agreement: with the rung, on the same frames.
        answers, expected: detections per frame of the loop and of the rung.
        frames: what both were given.
    """

    agreement: Agreement
    answers: Answers
    expected: Answers
    frames: Sequence[Frame]

    @property
    def passed(self) -> bool:
        """True if both answer the same: 99% of boxes with their labels and of names, and 1% extra at most."""
        return self.agreement.agrees

    def __str__(self) -> str:
        found, wanted = (sum(map(len, each.found)) for each in (self.answers, self.expected))
        name, of = self.answers.rung, f"{self.expected.rung} on {len(self.frames)} frames"
        if not self.passed:
            why = "; ".join(self.agreement.differences)
            return (
                f"{name} differs from {of}: {why}; it found {found or 'nothing'}, and {wanted} are expected"
            )
        same_name = self.agreement.same_name
        named = "" if same_name is None else f", {same_name:.0%} of them named alike"
        return (
            f"{name} agrees with {of}: {self.agreement.share:.0%} of its {wanted} detections have the same "
            f"label and place in yours ({found}){named}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        frame = self.frames[0]
        pictures = "".join(_figure(frame, each) for each in (self.answers, self.expected))
        return f"<p>{'✓' if self.passed else '✗'} {escape(str(self))}</p>{pictures}"


def check(
    loop: Callable[..., Any] | str,
    against: str,
    *,
    frames: int = 4,
    **work: Unpack[WorkOptions],
) -> LoopCheck:
    """Runs a loop of your own on a few frames in this process, and compares its answers with a rung's.

    Boxes that are missing count, and so do those that the rung has nowhere, even if it is asked for as many.

    Args:
        loop: as in `labkit.bench`.
        against: name of the rung.
        frames: how many, 1 to 100.
        work: source ("scenes" if not given), model_set ("lab"), size, fit, objects, weights, seed and so
            on, as in `labkit.bench`.

    Returns:
        What both answered, and whether they agree.

    Raises:
        LoopError: the loop failed; the message is its own traceback.
        UsageError: an answer cannot be read, or there is no such rung.

    Example:
        >>> import labkit
        >>> def my_loop(frames, net):
        ...     for frame in frames:
        ...         logits = net.infer(net.preprocess(frame.image))
        ...         yield frame, net.decode(logits, frame.size)
        >>> labkit.check(my_loop, "resnet_opencv_cpu", frames=2).passed
        True
    """
    if not is_whole(frames, 1, 100):
        raise UsageError(f"frames is a number from 1 to 100, not {frames!r}")
    other = rung_named(against)
    rung = as_rung(loop, other)
    work.setdefault("source", "scenes")
    work.setdefault("model_set", "lab")
    source, workload, timeouts = read_work(work)
    chosen = resolve_all(workload, (rung.prepare.task, other.prepare.task))
    kept = collect(source, workload.size, frames, fit=workload.fit, seed=workload.seed, **timeouts).frames
    found = Session(rung, workload, kept, chosen).answers(kept)
    objects = workload.objects
    if cuts := own_loop(other) is None and other.prepare.task != "classify":
        # As many boxes as the loop gave: what the rung leaves out for a lower score alone is no extra one.
        objects = min(MOST_OBJECTS, max([objects, *map(len, found.found)]))
    full = Session(other, replace(workload, objects=objects), kept, chosen).answers(kept)
    expected, sure = (
        replace(full, found=[_best(each, workload.objects, least) if cuts else each for each in full.found])
        for least in (1.0, NEAR)
    )
    extra = extra_share(sure, found, objects, workload.threshold)
    return LoopCheck(replace(measure_agreement(expected, found), extra=extra), found, expected, kept)


def _best(found: Detections, most: int, least: float) -> Detections:
    """The `most` boxes with the highest scores, and further ones with a score above `least`."""
    order = np.argsort(-found.score, kind="stable")
    return found.take([*order[:most], *(i for i in order[most:] if found.score[i] > least)])


def try_own_loops(
    rungs: Sequence[Rung], workload: Workload, frames: Sequence[Frame], weights: Mapping[str, Weights]
) -> dict[str, float]:
    """Runs loops that bring their own networks on two frames, so that a mistake is told at once.

    What runs is the copy that the measuring process gets: a loop that keeps what it has made in a global
    (a compiled network, a session) finds it empty there, and could not be sent once it is filled.

    Returns:
        name -> GFLOP per frame, of those in which torch computes; what other libraries do is not counted.

    Raises:
        LoopError: one of them failed.
        UsageError: one of them cannot be sent to a process of its own, or its answers cannot be read.
    """
    counted = {}
    for rung in rungs:
        if (loop := own_loop(rung)) is None:
            continue
        sent = loop.as_sent()
        if rung.prepare.form == "own":
            session = Session(replace(rung, run=sent), workload, frames[:2], weights)
            session.answers(frames[:2])
            if gflop := _gflop_per_frame(session, frames[:2]):
                counted[rung.name] = gflop
    return counted


def _gflop_per_frame(session: Session, frames: Sequence[Frame]) -> float:
    """Arithmetic that torch's own counter sees; 0 where it cannot look into a loop (compiled code)."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        with counter:
            session.answers(frames)
    except Exception:
        return 0.0
    return float(counter.get_total_flops()) / 1e9 / len(frames)


def _figure(frame: Frame, answers: Answers) -> str:
    """HTML of a frame with what was found in it."""
    import cv2

    found = answers.found[0]
    least = min(SURE, found.score.max(initial=0.0))  # the best one is drawn, however unsure
    sure = found.take([i for i, score in enumerate(found.score) if score >= least])
    drawn = draw_detections(frame.image, sure, text_px=max(10, round(TEXT_PX * frame.size[0] / SHOWN_PX)))
    png = base64.b64encode(cv2.imencode(".png", drawn[..., ::-1])[1].tobytes()).decode()
    unsure = f"; {len(found) - len(sure)} below {SURE}" if len(sure) < len(found) else ""
    caption = escape(f"{answers.rung}: {', '.join(sure.name) or 'nothing'}{unsure}")
    return (
        '<figure style="display: inline-block; margin: 4px">'
        f'<img alt="{caption}" width="{SHOWN_PX}" src="data:image/png;base64,{png}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
