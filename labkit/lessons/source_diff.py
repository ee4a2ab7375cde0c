"""Difference between two rungs, as text.

A schedule may be little more than "the one I know, over frames that came through something else".
So schedules are compared by the loops that they are made of, with the functions that these call: what
both have is named, not shown.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from labkit.core.terminal import print_text
from labkit.pipelines.ladder import rung

Schedule = Callable[..., Any]


def rung_diff(a: str, b: str) -> str:
    """Difference of two rungs: their preparation line by line, and their schedule's code.

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
        lines += [
            "",
            f"  {before.run.__name__} -> {after.run.__name__}",
            *_code_change(before.run, after.run),
        ]
    if not lines:
        lines = ["  nothing in preparation or schedule differs"]
    return "\n".join([f"{a} -> {b}: {after.about}", "", *lines])


def show_change(a: str, b: str) -> None:
    """Print `rung_diff(a, b)`."""
    print_text(rung_diff(a, b))


def path_to(last: str) -> list[str]:
    """Names of the rungs from the first of the ladder up to `last`, each a change of the one before."""
    names: list[str] = []
    name: str | None = last
    while name is not None:
        names.append(name)
        name = rung(name).changes
    return names[::-1]


def _code_change(before: Schedule, after: Schedule) -> list[str]:
    old, new = _schedule_loops(before), _schedule_loops(after)
    kept = [loop for loop in old if loop in new]
    all_old, all_new = _with_helpers(old), _with_helpers(new)
    removed = [function for function in all_old if function not in all_new]
    added = [function for function in all_new if function not in all_old]
    lines = [f"  the same in both: {', '.join(loop.__name__ for loop in kept)}"] if kept else []
    if not removed and not added:  # the same loops, put together in another way
        removed, added = [before], [after]
    first, second = (_code_of_all(functions) for functions in (removed, added))
    return [*lines, *list(difflib.unified_diff(first, second, lineterm="", n=2))[2:]]


def _schedule_loops(schedule: Schedule) -> list[Schedule]:
    """Functions of the pipelines that a schedule consists of, those that run first come first.

    A schedule that only delegates to others is not among them.
    """
    body = ast.parse("\n".join(_code(schedule))).body[0]
    assert isinstance(body, ast.FunctionDef)
    steps = [step for step in body.body if not _is_docstring(step)]
    delegates = (
        len(steps) == 1 and isinstance(steps[0], ast.Expr) and isinstance(steps[0].value, ast.YieldFrom)
    )
    found: list[Schedule] = []
    for other in _named(schedule):
        if delegates or inspect.isgeneratorfunction(other):
            found += [loop for loop in _schedule_loops(other) if loop not in found]
    return found if delegates and found else [*found, schedule]


def _with_helpers(loops: list[Schedule]) -> list[Schedule]:
    """Loops, and the plain functions of the pipelines that they call, in the order of use."""
    found = list(loops)
    for function in found:  # grows meanwhile: helpers call helpers
        for other in _named(function):
            if other not in found and not inspect.isgeneratorfunction(other):
                found.append(other)
    return found


def _named(function: Schedule) -> Iterator[Schedule]:
    """Other functions of the pipelines whose names a function's code reads."""
    for name in _names(ast.parse("\n".join(_code(function)))):
        other = function.__globals__.get(name)  # type: ignore[attr-defined]
        if not inspect.isfunction(other) or other is function:
            continue
        if other.__module__.startswith("labkit.pipelines"):
            yield other


def _names(tree: ast.AST) -> Iterator[str]:
    """Names in a syntax tree, a call's arguments before the function."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.Name):
            yield from _names(child)
    yield from (child.id for child in ast.iter_child_nodes(tree) if isinstance(child, ast.Name))


def _is_docstring(step: ast.stmt) -> bool:
    return isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)


def _code_of_all(functions: list[Schedule]) -> list[str]:
    """Source lines of functions, an empty line between two of them."""
    return [line for function in functions for line in ["", *_code(function)]][1:]


def _code(function: Schedule) -> list[str]:
    return textwrap.dedent(inspect.getsource(function)).splitlines()
