"""`%%profile`: runs a cell under a profiler and shows where its time went.

    %%profile before --engine torch

keeps the `Profile` in the variable `before` too.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Callable
from typing import Any

from labkit.core.errors import UsageError
from labkit.profiling.profile import Profile
from labkit.profiling.profiler import watching


def profile_magic(ipython: Any) -> Callable[[str, str], Profile | None]:
    """The function behind `%%profile` for one IPython shell."""

    def profile(line: str, cell: str) -> Profile | None:
        """%%profile [NAME] [--engine auto|nsys|torch]: runs the cell and shows its profile."""
        name, engine = parse(line)
        with watching("cell", engine) as watched:
            run_cell(ipython, cell)
        found = Profile(watched.result())
        if name is not None:
            ipython.user_ns[name] = found
        return found

    return profile


def parse(line: str) -> tuple[str | None, str]:
    """Reads the magic's line: the name to keep the profile under, and the engine.

    Raises:
        UsageError: a word that is neither.
    """
    words = shlex.split(line)
    engine = "auto"
    if "--engine" in words:
        place = words.index("--engine")
        if place + 1 == len(words):
            raise UsageError("--engine is followed by auto, nsys or torch")
        engine = words[place + 1]
        del words[place : place + 2]
    if len(words) > 1 or (words and not words[0].isidentifier()):
        raise UsageError(f"%%profile takes a name and --engine ENGINE, not {line.strip()!r}")
    return (words[0] if words else None), engine


def run_cell(ipython: Any, cell: str) -> None:
    """Runs a cell's code in the user's namespace; its last expression is displayed as ever."""
    source = ipython.transform_cell(cell)
    file = ipython.compile.cache(source)  # so that tracebacks and tables of lines find the source
    tree = ipython.compile.ast_parse(source, file)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, file, "exec"), ipython.user_ns)
    if last is not None and not source.rstrip().endswith(";"):
        value = eval(compile(ast.Expression(last.value), file, "eval"), ipython.user_ns)
        if value is not None:
            from IPython.display import display

            display(value)
    elif last is not None:
        eval(compile(ast.Expression(last.value), file, "eval"), ipython.user_ns)
