"""Lesson 08: two profiles side by side, and an exercise on reading tensors once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.lessons.exercise import Mistake, call, exercise_check, find_mistake
from labkit.lessons.hints import hint
from labkit.profiling.capture import Read
from labkit.profiling.profile import Profile
from labkit.profiling.range_table import side_by_side
from labkit.profiling.reads import noting_reads

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_one_read", "hint", "profiles_beside"]


def profiles_beside(
    before: Profile, after: Profile, names: tuple[str, str] = ("before", "after")
) -> pd.DataFrame:
    """Calls, CPU time and reads of each range per frame, in two profiles."""
    return side_by_side(before.capture, after.capture, names).round(2)


QUERIES, BEST = 40, 6


@exercise_check
def check_one_read(best: Callable[[Any, Any, int], Any]) -> str:
    """Check `best(scores, boxes, k)`: the k best rows in one read.

    `scores` (Q,) and `boxes` (Q, 4) are float32 tensors; expected is a NumPy array (k, 5), each
    row a score and its box, best first, with at most one tensor read by the host.
    """
    import torch

    rng = torch.Generator().manual_seed(8)
    scores, boxes = torch.rand(QUERIES, generator=rng), torch.rand(QUERIES, 4, generator=rng)
    noted: list[Read] = []

    def counted(*given: Any) -> Any:
        with noting_reads() as reads:
            got = best(*given)
        noted.extend(reads.noted)
        return got

    got = call(counted, scores, boxes, BEST)
    if not isinstance(got, np.ndarray):
        raise Mistake(f"a NumPy array is expected, not a {type(got).__name__}: the host needs the values")
    if got.shape != (BEST, 5):
        raise Mistake(f"the shape is {got.shape}, not (k, 5) = ({BEST}, 5): score, then box")
    _check_rows(got, np.column_stack([scores.numpy(), boxes.numpy()]))
    if len(noted) > 1:
        raise Mistake(
            f"the rows are right, but the host read tensors {len(noted)} times; on a GPU each is a wait"
        )
    return "the right rows, and at most one read, whatever the number of queries"


def _check_rows(got: Any, queries: Any) -> None:
    """Compare with the best of all (Q, 5) rows; name the well-known mistake that gives these ones."""
    ranked = queries[np.argsort(-queries[:, 0])]
    right = ranked[:BEST]
    if np.allclose(got, right, atol=1e-6):
        return
    mistakes = {
        "these are the first k queries, not the best": queries[:BEST],
        "these are the worst queries; look at the order of your sort": ranked[::-1][:BEST],
        "the right queries, but worst first": right[::-1],
        "the scores are sorted, but the boxes are not in the same order": np.column_stack(
            [right[:, 0], queries[:BEST, 1:]]
        ),
        "the box stands before the score": np.roll(right, -1, axis=1),
    }
    reason = find_mistake(got, mistakes, right, atol=1e-6)
    if reason is None and np.allclose(np.sort(got[:, 0]), np.sort(right[:, 0]), atol=1e-6):
        reason = "the right scores, but not in the order from best to worst, or with other boxes"
    raise Mistake(reason or "the scores are not those of the k best queries")
