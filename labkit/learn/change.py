"""What one rung changes of another, as text beside the story."""

from __future__ import annotations

import difflib
import inspect
import textwrap

from labkit.pipelines import rung


def change(a: str, b: str) -> str:
    """The difference of two rungs: their preparation line by line, and their schedule's code.

    Args:
        a: name of the earlier rung.
        b: name of the later rung.

    Returns:
        Text in which "-" stands before what `a` has and "+" before what `b` has.
    """
    before, after = rung(a), rung(b)
    first, second = before.prepare.describe(), after.prepare.describe()
    lines = []
    for key in dict.fromkeys([*first, *second]):
        if first.get(key) == second.get(key):
            continue
        if key in first:
            lines.append(f"- {key}: {first[key]}")
        if key in second:
            lines.append(f"+ {key}: {second[key]}")
    if before.run is not after.run:
        old, new = (_code(side.run) for side in (before, after))
        lines += ["", f"  {before.run.__name__} -> {after.run.__name__}"]
        lines += list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]
    if not lines:
        lines = ["  nothing in preparation or schedule differs"]
    return "\n".join([f"{a} -> {b}: {after.about}", "", *lines])


def show_change(a: str, b: str) -> None:
    """Prints `change(a, b)`."""
    print(change(a, b))


def chain(last: str) -> list[str]:
    """The rungs from the first of the ladder up to `last`, each changing one thing of the one before."""
    names: list[str] = []
    name: str | None = last
    while name is not None:
        names.append(name)
        name = rung(name).changes
    return names[::-1]


def _code(function: object) -> list[str]:
    return textwrap.dedent(inspect.getsource(function)).splitlines()  # type: ignore[arg-type]
