"""What notebook 08 calls: a rung ready to be profiled, two profiles beside one another, an exercise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.lessons.checks import Checked
from labkit.profiling.profile import Profile
from labkit.profiling.range_table import side_by_side
from labkit.profiling.reads import noting_reads
from labkit.profiling.variant import pipeline

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["beside", "check_one_read", "pipeline"]


def beside(before: Profile, after: Profile, names: tuple[str, str] = ("before", "after")) -> pd.DataFrame:
    """Per frame: how often each range came, its CPU time and its reads, in two profiles."""
    return side_by_side(before.capture, after.capture, names).round(2)


QUERIES, BEST = 40, 6


def check_one_read(best: Callable[[Any, Any, int], Any]) -> Checked:
    """Checks `best(scores, boxes, k)`: the k best rows in one read.

    `scores` (Q,) and `boxes` (Q, 4) are float32 tensors; wanted is a NumPy array (k, 5), each
    row a score and its box, best first, with at most one tensor read by the host.
    """
    import torch

    scores, boxes = _inputs()
    given = scores.clone(), boxes.clone()
    with noting_reads() as reads:
        try:
            got = best(scores, boxes, BEST)
        except Exception as error:  # whatever the learner's code raises is the answer to show
            return Checked(False, f"your function raised {type(error).__name__}: {error}")
    if got is None or got is ...:
        return Checked(False, "your function returns nothing yet; end it with return")
    if not (torch.equal(scores, given[0]) and torch.equal(boxes, given[1])):
        return Checked(False, "your function changed the tensors that it was given; others still need them")
    if not isinstance(got, np.ndarray):
        return Checked(
            False, f"a NumPy array is wanted, not a {type(got).__name__}: the host needs the values"
        )
    if got.shape != (BEST, 5):
        return Checked(False, f"the shape is {got.shape}, wanted is (k, 5) = ({BEST}, 5): score, then box")
    right = _rows(given[0].numpy(), given[1].numpy())[:BEST]
    if not np.allclose(got, right, atol=1e-6):
        return Checked(False, _cause(got, given[0].numpy(), given[1].numpy()))
    return _counted(len(reads.noted))


def _counted(reads: int) -> Checked:
    if reads > 1:
        return Checked(
            False, f"the rows are right, but the host read tensors {reads} times; on a GPU each is a wait"
        )
    return Checked(True, "the right rows, and at most one read, whatever the number of queries")


def _inputs() -> tuple[Any, Any]:
    import torch

    dice = torch.Generator().manual_seed(8)
    return torch.rand(QUERIES, generator=dice), torch.rand(QUERIES, 4, generator=dice)


def _rows(scores: Any, boxes: Any) -> Any:
    order = np.argsort(-scores)
    return np.column_stack([scores[order], boxes[order]])


def _cause(got: Any, scores: Any, boxes: Any) -> str:
    """Which well-known mistake gives just these values."""
    rows = _rows(scores, boxes)
    by_place = np.column_stack([scores, boxes])
    mistakes = {
        "these are the first k queries, not the best": by_place[:BEST],
        "these are the worst queries; look at the order of your sort": rows[::-1][:BEST],
        "the right queries, but worst first": rows[:BEST][::-1],
        "the scores are sorted, but the boxes are not in the same order": np.column_stack(
            [rows[:BEST, 0], boxes[:BEST]]
        ),
        "the box stands before the score": np.roll(rows[:BEST], -1, axis=1),
    }
    for reason, values in mistakes.items():
        if np.allclose(got, values, atol=1e-6):
            return reason
    if np.allclose(np.sort(got[:, 0]), np.sort(rows[:BEST, 0]), atol=1e-6):
        return "the right scores, but not in the order from best to worst, or with other boxes"
    return "the scores are not those of the k best queries"
