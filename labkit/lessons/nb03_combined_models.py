"""Lesson 03: DETR's attention in pictures; boxes read in one wait, cut out, and named; cost per box."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from labkit.bench.frames import collect
from labkit.bench.noise import NoiseMonitor
from labkit.bench.plan import QUICK
from labkit.bench.timing import Timing
from labkit.bench.worker import Worker
from labkit.core.machine import fingerprint
from labkit.core.requirements import unmet_requirement
from labkit.core.types import Size, Workload
from labkit.lessons.attention import inside_detr
from labkit.lessons.exercise import (
    Mistake,
    Rng,
    call,
    compare,
    exercise_check,
    items_in,
    numbers_in,
    solved,
)
from labkit.lessons.hints import hint
from labkit.lessons.practice_check import check_reads, on_practice_gpu
from labkit.models.prepare import resolve_all
from labkit.pipelines.ladder import rung as rung_named
from labkit.practice.gpu_report import Waits
from labkit.results.records import Run
from labkit.results.result_set import ResultSet

__all__ = [
    "box_costs", "check_best_boxes", "check_corners", "check_name_crops", "hint", "inside_detr", "solved",
]  # fmt: skip

Floats = NDArray[np.float64]
over_classes = partial(softmax, axis=-1)


def box_costs(
    rungs: Sequence[str],
    boxes: Sequence[int] = (1, 5, 10, 15),
    *,
    rounds: int = 5,
    source: str = "scenes",
    size: Size = (640, 480),
    model_set: str = "lab",
    seed: int = 0,
    quick: bool = True,
) -> ResultSet:
    """Runs of rungs with several numbers of boxes, for `cost_per_box()` and `plot("by_boxes")`.

    Each rung has one process. All rungs and numbers of boxes take turns in random order, round by
    round: a machine that becomes slower meanwhile slows all of them alike, and a process that is a
    slow one shifts its line without tilting it.

    Args:
        rungs: names; those that cannot run here are skipped.
        boxes: numbers of boxes per frame.
        rounds: turns of each rung and number of boxes.
        source, size, model_set, seed, quick: as in `labkit.bench`.
    """
    frames = collect(source, size, seed=seed)
    workloads = {n: Workload(model_set, "auto", size, n, seed=seed) for n in boxes}  # type: ignore[arg-type]
    weights = resolve_all(workloads[boxes[0]], [rung_named(name).prepare.task for name in rungs])
    plan = replace(QUICK, seconds=QUICK.seconds / 5 if quick else QUICK.seconds, warm_s=0.1)
    reasons = {name: unmet_requirement(rung_named(name).needs) for name in rungs}
    found = ResultSet(skipped={name: reason for name, reason in reasons.items() if reason})
    turns: dict[tuple[str, int], list[Timing]] = {
        (name, n): [] for name in rungs if not reasons[name] for n in boxes
    }
    order = random.Random(seed)
    with ExitStack() as stack:

        def started(name: str) -> Worker:
            return stack.enter_context(Worker(rung_named(name), workloads[boxes[0]], frames.frames, weights))

        names = list(dict.fromkeys(name for name, _ in turns))
        with ThreadPoolExecutor() as pool:  # nothing is timed while they start
            workers = dict(zip(names, pool.map(started, names), strict=True))
        with NoiseMonitor(tuple(worker.pid for worker in workers.values())) as monitor:
            for _ in range(rounds):
                for name, n in order.sample(list(turns), len(turns)):
                    workers[name].become(rung_named(name), workloads[n], frames.frames, weights)
                    turns[name, n].append(workers[name].run(plan))
        for (name, n), timed in turns.items():
            begun_s = np.cumsum([0.0, *(turn.done_s[-1] for turn in timed[:-1])])
            run = Run(
                name,
                rung_named(name).stage,
                "closed",
                quick,
                latency_s=np.concatenate([turn.latency_s for turn in timed]),
                done_s=np.concatenate([s + turn.done_s for s, turn in zip(begun_s, timed, strict=True)]),
                spans_s={},
                warmup_s=timed[0].warmup_s,
                offered=sum(turn.offered for turn in timed),
                dropped=0,
                failed=sum(turn.failed for turn in timed),
                startup_s=workers[name].ready.startup_s,
                peak_bytes=workers[name].footprint().peak_bytes,
                settings={**workers[name].ready.settings, "objects": n},
                source=frames.source,
                disturbances=tuple(monitor.disturbances()),
                fingerprint=fingerprint(),
            )
            found.runs.append(run)
    return found


@exercise_check
def check_corners(corners: Callable[[Any, int, int], Any], rng: Rng) -> str:
    """Check `corners(box, width, height)`: float box -> whole pixels in the frame, one or more each way."""
    drawn = [(f"box {i + 1} of {DRAWN_BOXES}", *_drawn_box(rng)) for i in range(DRAWN_BOXES)]
    for case, box, width, height in [*KNOWN_BOXES, *drawn]:
        exact = np.array(box, np.float32)
        got = call(corners, exact, width, height)
        sides = items_in(got, "four whole numbers", float)
        if len(sides) != 4 or not all(side.is_integer() for side in sides):
            raise Mistake(f"for {case} it gives {got}; expected are four whole numbers")
        left, top, right, bottom = sides
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise Mistake(f"for {case} it gives {got}, which is empty or leaves the {width}x{height} frame")
        low = np.clip(np.floor(exact[:2]), 0, (width - 1, height - 1))
        wanted = *low.tolist(), *np.clip(np.ceil(exact[2:]), low + 1, (width, height)).tolist()
        if tuple(sides) != wanted:
            given, expected = (tuple(map(int, each)) for each in (sides, wanted))
            raise Mistake(f"for {case}, {box} in {width}x{height}, it gives {given}; expected is {expected}")
    return "every box gives pixels that can be cut out"


KNOWN_BOXES = [
    ("an ordinary box", (2.2, 3.7, 8.1, 9.0), 20, 10),
    ("a box that touches part of a pixel", (4.9, 4.9, 5.1, 5.1), 20, 10),
    ("a box that reaches over the edges", (-3.0, -2.0, 25.5, 12.0), 20, 10),
    ("a box without area", (6.0, 7.0, 6.0, 7.0), 20, 10),
    ("a box without area in the far corner", (20.0, 10.0, 20.0, 10.0), 20, 10),
    ("the whole frame", (0.0, 0.0, 20.0, 10.0), 20, 10),
]
DRAWN_BOXES = 60


def _drawn_box(rng: Rng) -> tuple[tuple[float, ...], int, int]:
    """A box inside a frame, over its edges, or beside it, some of them without area."""
    width, height = (int(side) for side in rng.integers(1, (2000, 1200)))
    x, y = (np.sort(rng.uniform(-0.3 * side, 1.3 * side, 2)) for side in (width, height))
    if rng.random() < 0.4:  # a box of a few pixels
        x, y = (pair[0] + rng.uniform(0, 2, 2).cumsum() for pair in (x, y))
    if rng.random() < 0.4:  # sides on whole pixels, and no area where both are the same
        x, y = np.round(x), np.round(y)
    return tuple(round(float(side), 2) for side in (x[0], y[0], x[1], y[1])), width, height


@exercise_check
def check_best_boxes(best_boxes: Callable[..., Any], rng: Rng) -> str:
    """Check `best_boxes(logits, boxes, size, k)` on the practice GPU: right rows, read in one wait.

    logits (Q, C + 1), whose last class is "no object", and relative centre boxes (Q, 4) become (k, 6)
    rows on the host, best first: x_min, y_min, x_max, y_max in px, score, label.
    """
    first = tuple(map(int, rng.integers((20, 3, 3), (120, 40, 12))))
    queries, classes = (int(n) for n in rng.integers((100, 60), (120, 95)))
    other = queries, classes, queries // 2 + first[2]  # some of these found nothing, and stay
    wide, high = sorted(map(int, rng.integers(50, 2000, 2)), reverse=True)
    drawn = (
        (first, (wide, high)),
        (first, (wide, high)),
        (other, (high, wide)),
        ((queries, classes, 1), (wide, high)),
    )
    for (queries, classes, k), size in drawn:
        logits = _drawn_logits(rng, queries, classes, k)
        boxes = rng.uniform((0.3, 0.3, 0.05, 0.05), (0.7, 0.7, 0.5, 0.5), (queries, 4)).astype(np.float32)
        given = torch.from_numpy(logits), torch.from_numpy(boxes)
        got, waits = on_practice_gpu(best_boxes, given, (size, k))
        right, wrong = _rows(logits, boxes, size, k), partial(_wrong_rows, logits, boxes, size, k)
        otherwise = (
            f"the rows are not those of the {k} best queries; the first is {right[0].round(3).tolist()}"
        )
        compare(got, right, wrong, otherwise, shape="(k, 6): corners, score, label", rtol=1e-4, atol=1e-3)
        check_reads("the rows are right", waits)
    return "the rows are right, and the host waits once"


def _drawn_logits(rng: Rng, queries: int, classes: int, k: int) -> NDArray[np.float32]:
    """(queries, classes + 1) float32 logits, whose k best scores float32 tells from their neighbours."""
    while True:
        logits = rng.normal(0, 1.5, (queries, classes + 1)).astype(np.float32)
        logits[rng.permutation(queries)[: queries // 2], -1] += 6  # queries that found nothing
        logits[[-1, 0], [-2, 0]] = 15, 14  # the last query and class are among the best, and the first ones
        best = np.sort(over_classes(logits.astype(np.float64))[:, :-1].max(1))[-(k + 1) :]
        if np.diff(best).min() > 2e-6:
            return logits


@exercise_check
def check_name_crops(name_crops: Callable[..., Any], rng: Rng) -> str:
    """Check `name_crops(module, crops, device)` on the practice GPU: one call, one read.

    n crops (3, h, w) float32 on the host become labels (n,) and probabilities (n,) on the host.
    """
    few, classes, side = (int(each) for each in rng.integers((2, 5, 4), (9, 30, 12)))
    sides = (side, side + int(rng.integers(1, 4)))
    for n, (height, width) in (
        (few, sides),
        (few, sides),
        (int(rng.integers(9, 40)), sides[::-1]),
        (1, sides),
    ):
        crops = list(torch.from_numpy(rng.normal(0, 1, (n, 3, height, width)).astype(np.float32)))
        weight = rng.normal(0, 0.2, (classes, 3 * height * width)).astype(np.float32)
        network = _Classifier(torch.from_numpy(weight.copy()))
        got, waits = on_practice_gpu(name_crops, (network,), (crops, "cuda"))
        logits = torch.stack(crops).flatten(1).double().numpy() @ weight.T.astype(float)  # (n, classes)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Mistake("two results are expected: return labels, scores")
        label, over_crops = logits.argmax(-1), softmax(logits, 0)
        right = np.stack([label, over_classes(logits).max(-1)])
        mistakes = {
            "the scores are logits, not probabilities: softmax is missing": np.stack([label, logits.max(-1)]),
            "softmax went over the crops; the classes are the last axis": np.stack(
                [over_crops.argmax(-1), over_crops.max(-1)]
            ),
            "labels and scores have changed places": right[::-1],
        }
        otherwise = f"the first crop is class {right[0, 0]:g} with a probability of {right[1, 0]:.3f}"
        shape = f"labels ({n},) and scores ({n},) of {n} crops"
        compare([numbers_in(each) for each in got], right, mistakes, otherwise, shape=shape, rtol=1e-4)
        if len(network.shapes) != 1:
            raise Mistake(
                f"the names are right, but the module is called {len(network.shapes)} times, first with "
                f"{network.shapes[0]}; stack the crops and call it once"
            )
        reads = Waits(wait for wait in waits if wait.what != "a copy from the host")
        check_reads("the names are right", reads)
    return "one call names all crops, and the host reads once"


class _Classifier(nn.Module):
    """A linear classifier that notes the shapes of what it is given.

    Args:
        weight: (classes, 3 * h * w) float32.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) crops -> (n, classes) logits."""
        self.shapes.append(tuple(x.shape))
        return x.flatten(1) @ self.weight.T


def _rows(
    logits: Any,
    boxes: Any,
    size: tuple[int, int],
    k: int,
    share: Callable[[Any], Any] = over_classes,
) -> Floats:
    """(k, 6) rows of the best queries, best first; `share` gives probabilities of logits."""
    shares = share(np.asarray(logits, np.float64))[:, : logits.shape[1] - 1]  # (Q, C)
    query = np.argsort(-shares.max(1))[:k]
    return _with_corners(boxes[query], size, shares[query])


def _with_corners(boxes: Any, size: tuple[int, int], shares: Any) -> Floats:
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:] / 2
    return np.column_stack([(centre - half) * size, (centre + half) * size, shares.max(1), shares.argmax(1)])


def _wrong_rows(logits: Any, boxes: Any, size: tuple[int, int], k: int) -> dict[str, Floats]:
    """Results of well-known mistakes, by a sentence about each."""
    rows, right = partial(_rows, logits, boxes, size, k), _rows(logits, boxes, size, k)
    first = _with_corners(boxes[:k], size, over_classes(np.asarray(logits, np.float64))[:k, :-1])
    sides = np.array([*size, *size])
    corner, score, label = right[:, :4], right[:, 4:5], right[:, 5:]
    centre, extent = (corner[:, :2] + corner[:, 2:]) / 2, corner[:, 2:] - corner[:, :2]
    never = np.full((len(logits), 1), -np.inf)
    boxes_instead = {
        "the boxes are those of the first k queries": first[:, :4],
        "the boxes are still relative to the frame; multiply them by its width and height": corner / sides,
        "width and height are mixed up": corner / sides * sides[[1, 0, 1, 0]],
        "the boxes are still centre and size, not corners": np.hstack([centre, extent]),
        "the whole size goes off and on; a corner is half of it away from the centre": np.hstack(
            [centre - extent, centre + extent]
        ),
    }
    return {
        'the last class, "no object", takes part; it has to be left out': _rows(
            np.hstack([logits, never]), boxes, size, k
        ),
        '"no object" is left out before softmax; it belongs into it, and is left out afterwards': rows(
            lambda x: over_classes(x[:, :-1])
        ),
        "a sigmoid is no softmax: DETR's classes share one probability": rows(lambda x: 1 / (1 + np.exp(-x))),
        "the scores are logits, not probabilities: softmax is missing": rows(lambda x: x),
        "softmax went over the queries; the classes are the last axis": rows(lambda x: softmax(x, 0)),
        "these are the first k queries, not the best": first,
        "the labels are those of the first k queries": np.hstack([corner, score, first[:, 5:]]),
        "the rows stand worst first": right[::-1],
        "these are the worst queries": _rows(logits, boxes, size, len(logits))[::-1][:k],
        "label and score have changed places": np.hstack([corner, label, score]),
        **{reason: np.hstack([wrong, score, label]) for reason, wrong in boxes_instead.items()},
    }
