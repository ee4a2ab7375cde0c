"""Lesson 03: DETR's attention in pictures; boxes read in one wait, cut out, and named as one batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labkit.core.errors import UsageError
from labkit.lessons.attention import attention_maps, plot_attention
from labkit.lessons.exercise import Mistake, call, call_for_array, find_mistake, seeded_check, solved
from labkit.lessons.hints import hint
from labkit.practice.gpu_report import Waits
from labkit.practice.practice_gpu import fake_gpu

if TYPE_CHECKING:
    from labkit.results.plots.style import Chart

__all__ = ["check_best_boxes", "check_corners", "check_name_crops", "hint", "inside_detr", "solved"]

Floats = NDArray[np.float64]


def inside_detr(source: str = "scenes", index: int = 0, *, objects: int = 3, seed: int = 0) -> Chart:
    """Plot the output of DETR's four parts for frame `index` of a source."""
    return plot_attention(attention_maps(source, index, objects=objects, seed=seed))


@seeded_check
def check_corners(corners: Callable[[Any, int, int], Any], rng: np.random.Generator) -> str:
    """Check `corners(box, width, height)`: float box -> whole pixels in the frame, one or more each way."""
    drawn = [(f"box {i + 1} of {DRAWN_BOXES}", *_drawn_box(rng)) for i in range(DRAWN_BOXES)]
    for case, box, width, height in [*KNOWN_BOXES, *drawn]:
        got = call(corners, np.array(box, np.float32), width, height)
        sides = _whole_sides(got)
        if sides is None:
            raise Mistake(f"for {case} it gives {got}; expected are four whole numbers")
        left, top, right, bottom = sides
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise Mistake(f"for {case} it gives {got}, which is empty or leaves the {width}x{height} frame")
        expected = _outward(np.array(box, np.float32), width, height)
        if sides != expected:
            raise Mistake(f"for {case}, {box} in {width}x{height}, it gives {sides}; expected is {expected}")
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


def _drawn_box(rng: np.random.Generator) -> tuple[tuple[float, ...], int, int]:
    """A box inside a frame, over its edges, or beside it, some of them without area."""
    width, height = (int(side) for side in rng.integers(1, (2000, 1200)))
    x, y = (np.sort(rng.uniform(-0.3 * side, 1.3 * side, 2)) for side in (width, height))
    if rng.random() < 0.4:  # a box of a few pixels
        x, y = (pair[0] + rng.uniform(0, 2, 2).cumsum() for pair in (x, y))
    if rng.random() < 0.4:  # sides on whole pixels, and no area where both are the same
        x, y = np.round(x), np.round(y)
    return tuple(round(float(side), 2) for side in (x[0], y[0], x[1], y[1])), width, height


def _whole_sides(got: Any) -> tuple[int, ...] | None:
    """Four whole numbers as ints, or None where they are anything else."""
    try:
        sides = np.asarray([float(side) for side in got])
    except Exception:  # whatever the answer is, it is not four numbers
        return None
    if len(sides) != 4 or not np.isfinite(sides).all() or (sides != np.round(sides)).any():
        return None
    return tuple(int(side) for side in sides)


def _outward(box: Any, width: int, height: int) -> tuple[int, ...]:
    """Sides rounded outwards, inside the frame and one pixel apart at least."""
    low = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1))
    high = np.clip(np.ceil(box[2:]), low + 1, (width, height))
    return tuple(int(side) for side in (*low, *high))


@seeded_check
def check_best_boxes(best_boxes: Callable[..., Any], rng: np.random.Generator) -> str:
    """Check `best_boxes(logits, boxes, size, k)` on the practice GPU: right rows, read in one wait.

    logits (Q, C + 1), whose last class is "no object", and relative centre boxes (Q, 4) become (k, 6)
    rows on the host, best first: x_min, y_min, x_max, y_max in px, score, label.
    """
    for _ in range(4):
        queries, classes, k = (int(n) for n in rng.integers((20, 3, 3), (120, 40, 12)))
        size = (int(rng.integers(50, 2000)), int(rng.integers(50, 2000)))
        logits = rng.normal(0, 1.5, (queries, classes + 1)).astype(np.float32)
        logits[rng.permutation(queries)[: queries // 2], -1] += 6  # queries that found nothing
        boxes = rng.uniform((0.3, 0.3, 0.05, 0.05), (0.7, 0.7, 0.5, 0.5), (queries, 4)).astype(np.float32)
        got, waits = _on_practice_gpu(
            best_boxes, (torch.from_numpy(logits), torch.from_numpy(boxes)), (size, k)
        )
        rows = _on_host(got)
        if rows.shape != (k, 6):
            raise Mistake(f"the shape is {rows.shape}, not (k, 6) = ({k}, 6): four corners, score and label")
        right = _rows(logits, boxes, size, k)
        if not np.allclose(rows, right, rtol=1e-4, atol=1e-3):
            raise Mistake(
                find_mistake(rows, _wrong_rows(logits, boxes, size, k), right, rtol=1e-4, atol=1e-3)
                or f"the rows are not those of the {k} best queries; the first is {_row(rows)}, "
                f"expected is {_row(right)}"
            )
        if len(waits) > 1:
            raise Mistake(f"the rows are right, but the host waits {_most(waits)}; one read is enough")
    return "the rows are right, and the host waits once"


@seeded_check
def check_name_crops(name_crops: Callable[..., Any], rng: np.random.Generator) -> str:
    """Check `name_crops(module, crops, device)` on the practice GPU: one call, one read.

    n crops (3, h, w) float32 on the host become labels (n,) and probabilities (n,) on the host.
    """
    for _ in range(3):
        n, classes, side = (int(each) for each in rng.integers((2, 5, 4), (9, 30, 12)))
        crops = list(torch.from_numpy(rng.normal(0, 1, (n, 3, side, side)).astype(np.float32)))
        network = _Classifier(torch.from_numpy(rng.normal(0, 0.2, (classes, 3 * side * side))).float())
        logits = network(torch.stack(crops)).double().numpy()  # (n, classes)
        network.shapes.clear()
        got, waits = _on_practice_gpu(name_crops, (network,), (crops, "cuda"))
        results = [_on_host(each) for each in got] if isinstance(got, tuple | list) else []
        if len(results) != 2 or not all(each.ndim for each in results):
            raise Mistake("two results are expected: return labels, scores")
        labels, scores = results
        if labels.shape != (n,) or scores.shape != (n,):
            raise Mistake(
                f"{n} crops give labels and scores of the shape ({n},), not {labels.shape} and {scores.shape}"
            )
        right = np.stack([logits.argmax(-1), _softmax(logits).max(-1)])
        if not np.allclose([labels, scores], right, rtol=1e-4):
            raise Mistake(
                find_mistake(np.stack([labels, scores]), _wrong_names(logits), right, rtol=1e-4)
                or f"the first crop is class {right[0, 0]:g} with {right[1, 0]:.3f}, "
                f"not {labels[0]:g} with {scores[0]:.3f}"
            )
        if len(network.shapes) != 1:
            raise Mistake(
                f"the names are right, but the module is called {len(network.shapes)} times, first with "
                f"{network.shapes[0]}; stack the crops and call it once"
            )
        reads = Waits(wait for wait in waits if wait.what != "a copy from the host")
        if len(reads) > 1:
            raise Mistake(f"the names are right, but the host waits {_most(reads)}; one read is enough")
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


def _on_practice_gpu(
    function: Callable[..., Any], there: tuple[Any, ...], here: tuple[Any, ...]
) -> tuple[Any, Waits]:
    """A learner's answer, and how the host waited for it.

    Args:
        there: tensors and modules, which are moved to the practice GPU first.
        here: what the function is given after them.

    Raises:
        Mistake: as for `call`, or streams race, or a practice GPU is switched on already.
    """
    if not callable(function):
        call(function)
    waits = Waits()
    races: list[Any] = []
    spoiled: list[Tensor] = []

    def answer() -> Any:
        given = [each.to("cuda") for each in there]
        tensors = [each for each in given if isinstance(each, Tensor)]
        before = [each.clone() for each in tensors]
        gpu.reset()
        got = function(*given, *here)
        waits.extend(gpu.waits)
        races.extend(gpu.races)
        spoiled.extend(old for old, new in zip(before, tensors, strict=True) if not torch.equal(old, new))
        return _marked(got)

    try:
        with warnings.catch_warnings(), fake_gpu(real=False) as gpu:
            warnings.simplefilter("ignore")  # races are told below
            got = call(answer)
    except UsageError as error:
        raise Mistake(str(error)) from error
    if races:
        raise Mistake(str(races[0]))
    if spoiled:
        raise Mistake("your function changed its input, which others still need; work on a copy")
    return got, waits


class _LeftOnGpu:
    """Mark in the place of a result that was not brought to the host."""


def _marked(got: Any) -> Any:
    if type(got) in (tuple, list):
        return [_marked(each) for each in got]
    return _LeftOnGpu() if isinstance(got, Tensor) and got.is_cuda else got


def _on_host(got: Any) -> Floats:
    if isinstance(got, _LeftOnGpu) or (isinstance(got, list) and any(isinstance(x, _LeftOnGpu) for x in got)):
        raise Mistake("the result is still on the GPU; .cpu().numpy() brings it to the host")
    return call_for_array(lambda: got).astype(np.float64)


def _most(waits: Waits) -> str:
    """How often the host waits, and at which line most."""
    line, times = waits.by_line().most_common(1)[0]
    return f"{len(waits)} times, {times} of them at {line}"


def _softmax(logits: Any, axis: int = -1) -> Floats:
    shares = np.exp(logits - logits.max(axis, keepdims=True))
    return shares / shares.sum(axis, keepdims=True)


def _rows(
    logits: Any, boxes: Any, size: tuple[int, int], k: int, share: Callable[[Any], Any] = _softmax
) -> Floats:
    """(k, 6) rows of the best queries, best first; `share` gives probabilities of logits."""
    shares = share(np.asarray(logits, np.float64))[:, : logits.shape[1] - 1]  # (Q, C)
    query = np.argsort(-shares.max(1))[:k]
    return _with_corners(boxes[query], size, shares[query])


def _with_corners(boxes: Any, size: tuple[int, int], shares: Any) -> Floats:
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:] / 2
    return np.column_stack([(centre - half) * size, (centre + half) * size, shares.max(1), shares.argmax(1)])


def _wrong_rows(logits: Any, boxes: Any, size: tuple[int, int], k: int) -> dict[str, Floats]:
    """What well-known mistakes give, by a sentence about each."""

    def rows(share: Callable[[Any], Any]) -> Floats:
        return _rows(logits, boxes, size, k, share)

    right = _rows(logits, boxes, size, k)
    first = _with_corners(boxes[:k], size, _softmax(np.asarray(logits, np.float64))[:k, :-1])
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
            lambda x: _softmax(x[:, :-1])
        ),
        "a sigmoid is no softmax: DETR's classes share one probability": rows(lambda x: 1 / (1 + np.exp(-x))),
        "the scores are logits, not probabilities: softmax is missing": rows(lambda x: x),
        "softmax went over the queries; the classes are the last axis": rows(lambda x: _softmax(x, 0)),
        "these are the first k queries, not the best": first,
        "the labels are those of the first k queries": np.hstack([corner, score, first[:, 5:]]),
        "the rows stand worst first": right[::-1],
        "these are the worst queries": _rows(logits, boxes, size, len(logits))[::-1][:k],
        "label and score have changed places": np.hstack([corner, label, score]),
        **{reason: np.hstack([wrong, score, label]) for reason, wrong in boxes_instead.items()},
    }


def _wrong_names(logits: Floats) -> dict[str, Floats]:
    label, over_crops = logits.argmax(-1), _softmax(logits, 0)
    return {
        "the scores are logits, not probabilities: softmax is missing": np.stack([label, logits.max(-1)]),
        "softmax went over the crops; the classes are the last axis": np.stack(
            [over_crops.argmax(-1), over_crops.max(-1)]
        ),
        "labels and scores have changed places": np.stack([_softmax(logits).max(-1), label]),
    }


def _row(rows: Floats) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in rows[0]) + "]"
