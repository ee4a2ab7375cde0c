"""Lesson 08: checks of three mended loops, by counts and by CPU time, and of reading tensors once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from labkit.lessons.exercise import (
    Mistake,
    Rng,
    answer_of,
    call,
    compare,
    compare_lists,
    exercise_check,
    items_in,
    solved,
)
from labkit.lessons.hints import hint
from labkit.lessons.practice_check import check_reads, on_practice_gpu
from labkit.profiling.profile import Profile
from labkit.profiling.range_table import side_by_side

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_as_input", "check_name_best", "check_one_read", "check_suppress", "hint", "profiles_beside",
           "solved"]  # fmt: skip

ENOUGH = 3.0
"""Times less CPU time that a mended function needs; the solutions need 20 times less and more."""
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def profiles_beside(
    before: Profile, after: Profile, names: tuple[str, str] = ("before", "after")
) -> pd.DataFrame:
    """Calls, CPU time and reads of each range per frame, in two profiles."""
    return side_by_side(before.capture, after.capture, names).round(2)


@exercise_check
def check_as_input(as_input: Callable[..., Any], rng: Rng) -> str:
    """Check `as_input(image, size)`: (H, W, 3) uint8 -> (1, 3, h, w) float32, shrunk and normalised.

    It must agree with pixel by pixel normalising, and need a third of its CPU time at most.
    """
    cost = []
    height, width, long, short = (int(n) for n in rng.integers((60, 60, 30, 20), (90, 90, 40, 30)))
    for size, flat in (((long, short), False), ((long, short), False), ((short, long), True)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if flat:  # however it is shrunk, nothing is rounded
            image[:] = rng.integers(128, 256, 3)
        got, mended_ns = _timed(as_input, image, size)
        right, slow_ns = _timed(pixel_by_pixel, image, size)
        cost.append((slow_ns, mended_ns))
        try:
            got = torch.as_tensor(got)
        except Exception as error:
            raise Mistake(f"a tensor is expected, not {type(got).__name__}") from error
        if got.shape == right.shape and got.dtype != torch.float32:
            raise Mistake(f"the network wants float32, not {str(got.dtype).removeprefix('torch.')}")
        mistakes = {
            "mean and std are missing": right.numpy() * STD[:, None, None] + MEAN[:, None, None],
            "the channels are reversed: BGR": pixel_by_pixel(image[..., ::-1], size),
        }
        otherwise = "other values; shrink with cv2.INTER_AREA, then normalise"
        shape = "(1, 3, h, w); a size is (width, height)"
        compare(got, right, mistakes, otherwise, shape=shape, atol=1e-4 if flat else 0.03)
    return f"the same picture for {_gain(cost)}"


def pixel_by_pixel(image: NDArray[np.uint8], size: tuple[int, int]) -> Any:
    """As in the notebook's first slow loop."""
    height, width = image.shape[:2]
    x = np.empty((height, width, 3))
    for row in range(height):
        for column in range(width):
            x[row, column] = (image[row, column] / 255 - MEAN) / STD
    small = cv2.resize(x, size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small.transpose(2, 0, 1).astype(np.float32))[None]


@exercise_check
def check_name_best(name_best: Callable[..., Any], rng: Rng) -> str:
    """Check `name_best(crops, scores, k, name)`: names of the k best queries' crops, best first.

    `crops` is a list of Q images, `scores` (Q,) an array; `name(crop)` is the classifier, whose calls
    are counted: k of them are enough.
    """
    queries, k = int(rng.integers(30, 60)), int(rng.integers(3, 7))
    calls = [_check_named(name_best, rng, queries, most) for most in (k, k, k + 5, 1)]
    return f"the right names, with {calls[0]} calls of the classifier instead of {queries}"


def _check_named(name_best: Callable[..., Any], rng: Rng, queries: int, k: int) -> int:
    """Number of calls of the classifier for the right names."""
    scores, numbers = rng.permutation(queries) / 1e5, rng.permutation(queries)  # close to each other
    scores[-1] = 1.0  # the best is the last one
    crops = [np.full((2, 2, 3), number, np.uint8) for number in numbers]
    things, called = rng.permutation(10**4), 0  # names that only the classifier knows

    def name(crop: Any) -> str:
        nonlocal called
        called += 1
        return f"thing {things[np.asarray(crop).flat[0]]}"

    got = call(lambda crops, scores, k: answer_of(name_best, crops, scores, k, name), crops, scores, k)
    names = [f"thing {things[number]}" for number in numbers]
    best_first = [names[i] for i in np.argsort(-scores)]
    mistakes = {
        "these are the first k queries, not the best": names[:k],
        "these are the worst queries; look at the order of your sort": best_first[::-1][:k],
        "the right queries, but worst first": best_first[:k][::-1],
        "all queries are named; wanted are the k best": best_first,
    }
    otherwise = f"{k} names are expected, of the best queries, best first"
    compare_lists(items_in(got, f"{k} names", str), best_first[:k], mistakes, otherwise)
    if called > k:
        raise Mistake(f"the right names, but the classifier was called {called} times for {k} of them")
    return called


@exercise_check
def check_suppress(suppress: Callable[..., Any], rng: Rng) -> str:
    """Check `suppress(corners, scores, limit)`: boxes to keep, best first, of those that overlap.

    `corners` (Q, 4) and `scores` (Q,) are float32 tensors; expected are indices, as a tensor, array or
    list. It must need a third of the CPU time of comparing pair by pair at most.
    """
    cost, queries = [], int(rng.integers(25, 40))
    for n, side in ((queries, 60), (queries, 60), (queries + 7, 1)):  # in pixels, and as shares of a frame
        corners, scores, limit = _crowded_boxes(rng, n, side)
        got, mended_ns = _timed(suppress, corners, scores, limit)
        right, slow_ns = _timed(pair_by_pair, corners, scores, limit)
        cost.append((slow_ns, mended_ns))
        found = items_in(got, "indices of boxes", int)
        mistakes = {
            "all boxes are kept; those that overlap a better one by more than the limit go": [
                *range(len(scores))
            ],
            "the boxes are sorted, but none is dropped": scores.argsort(descending=True).tolist(),
            "the right boxes, but worst first": right[::-1],
            "the worst box of each heap is kept: look at the order of your sort": (
                nms(corners, -scores, limit).tolist()
            ),
        }
        otherwise = (
            f"{len(found)} boxes are kept, {len(right)} are right: a box goes if its IoU with a better one "
            "that is kept is above the limit"
        )
        compare_lists(found, right, mistakes, otherwise)
    return f"the same boxes for {_gain(cost)}"


def _crowded_boxes(rng: Rng, queries: int, side: float) -> tuple[Any, Any, float]:
    """Corners, scores and a limit of IoU; others are kept where worse ones come first."""
    while True:
        limit = float(rng.uniform(0.3, 0.6))
        corner, extent = rng.uniform(0, side, (queries, 2)), rng.uniform(side / 6, side * 5 / 6, (queries, 2))
        corners = torch.from_numpy(np.hstack([corner, corner + extent]).astype(np.float32))
        scores = torch.from_numpy((rng.permutation(queries) / queries).astype(np.float32))
        scores[-1] = 1.0  # the best is the last one
        if set(nms(corners, scores, limit).tolist()) != set(nms(corners, -scores, limit).tolist()):
            return corners, scores, limit


def pair_by_pair(corners: Any, scores: Any, limit: float) -> list[int]:
    """As in the notebook's third slow loop."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i].item()):
        if all(_iou(corners[i], corners[j]) <= limit for j in kept):
            kept.append(i)
    return kept


def _iou(a: Any, b: Any) -> float:
    width = (min(a[2], b[2]) - max(a[0], b[0])).clamp(min=0)
    height = (min(a[3], b[3]) - max(a[1], b[1])).clamp(min=0)
    both = width * height
    return (both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)).item()


def _timed(function: Callable[..., Any], *given: Any) -> tuple[Any, int]:
    """Result of a function, and the CPU time of this process in ns; other programs do not count in it."""
    begun = time.process_time_ns()
    got = call(function, *given)
    return got, max(time.process_time_ns() - begun, 1)


def _gain(cost_ns: list[tuple[int, int]]) -> str:
    """Gain in CPU time of the mended one of (slow, mended), in words.

    Raises:
        Mistake: it is not `ENOUGH` times cheaper.
    """
    slow, mended = (min(each) for each in zip(*cost_ns, strict=True))
    factor = slow / mended
    if factor < ENOUGH:
        raise Mistake(
            f"the answers are right, but it needs {1 / factor:.2f} of the slow one's CPU time; a third is "
            "asked for. Profile it again: what is still long, or repeated?"
        )
    return f"{'more than 100' if factor > 100 else f'{factor:.0f}'} times less CPU time"


@exercise_check
def check_one_read(best: Callable[[Any, Any, int], Any], rng: Rng) -> str:
    """Check `best(scores, boxes, k)`: the k best rows with one wait for the GPU.

    `scores` (Q,) and `boxes` (Q, 4) are float32 tensors on the practice GPU, whose waits are counted;
    expected is a NumPy array (k, 5), each row a score and its box, best first.
    """
    queries, k = int(rng.integers(20, 50)), int(rng.integers(3, 8))
    for most in (k, k, k + 5, 1):
        _check_read(best, rng, queries, most)
    return "the right rows with a single wait, whatever the number of queries"


def _check_read(best: Callable[[Any, Any, int], Any], rng: Rng, queries: int, k: int) -> None:
    rows = rng.random((queries, 5)).astype(np.float32)
    rows[-1, 0] = 1.0  # the best is the last one
    given = torch.from_numpy(rows[:, 0].copy()), torch.from_numpy(rows[:, 1:].copy())
    got, waits = on_practice_gpu(best, given, (k,))
    if not isinstance(got, np.ndarray):
        raise Mistake(f"a NumPy array is expected, not {type(got).__name__}: the host needs the values")
    best_first = rows[np.argsort(-rows[:, 0])]
    right = best_first[:k]
    mistakes = {
        "these are the first k queries, not the best": rows[:k],
        "these are the worst queries; look at the order of your sort": best_first[::-1][:k],
        "the right queries, but worst first": right[::-1],
        "the scores are sorted, but the boxes are not in the same order": np.column_stack(
            [right[:, 0], rows[:k, 1:]]
        ),
        "the box stands before the score": np.roll(right, -1, axis=1),
    }
    otherwise = "these are not the rows of the k best queries, best first"
    compare(got, right, mistakes, otherwise, shape="(k, 5): score, then box", atol=1e-6)
    check_reads("the rows are right", waits)
