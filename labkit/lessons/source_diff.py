"""Difference between two rungs, as text."""

from __future__ import annotations

import difflib
import inspect

from labkit.core.terminal import print_text
from labkit.pipelines.ladder import rung


def rung_diff(a: str, b: str) -> str:
    """Difference of two rungs: their preparation line by line, and the code of their schedules.

    Args:
        a: name of the earlier rung.
        b: name of the later rung.

    Returns:
        Text in which "-" stands before what `a` has and "+" before what `b` has.
    """
    before, after = rung(a), rung(b)
    prepared = [
        [f"{key}: {value}" for key, value in each.prepare.describe().items()] for each in (before, after)
    ]
    lines = [f"- {line}" for line in prepared[0] if line not in prepared[1]]
    lines += [f"+ {line}" for line in prepared[1] if line not in prepared[0]]
    if before.run is not after.run:
        old, new = (inspect.getsource(each.run).splitlines() for each in (before, after))
        lines += ["", f"  {before.run.__name__} -> {after.run.__name__}"]
        lines += [*difflib.unified_diff(old, new, lineterm="", n=2)][2:]
    return "\n".join([f"{a} -> {b}: {after.about}", "", *(lines or ["  nothing differs"])])


def show_change(a: str, b: str) -> None:
    """Print `rung_diff(a, b)`."""
    print_text(rung_diff(a, b))
