"""Two revisions of a user's own code, checked out side by side and measured in turns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.bench.run import compare
from labkit.core.errors import UsageError
from labkit.core.scratch import scratch_folder
from labkit.core.types import Rung
from labkit.pipelines.own_loop import again, as_rung, own_loop
from labkit.results.records import Comparison

GIT_S = 120
"""Longest time of a git command; a filter of the project may ask a server."""


def compare_commits(loop: str, a: str, b: str, *, against: str | None = None, **options: Any) -> Comparison:
    """Compares a loop of your own at revision `b` with itself at revision `a`.

    Both revisions are checked out into git worktrees of their own (what git tracks, and nothing else),
    which are removed afterwards; your files and your branch stay as they are.

    Args:
        loop: "FILE.py:FUNCTION" in a git repository.
        a, b: commits, branches or tags.
        against: rung whose networks the loop gets, if it takes some.
        options: as for `labkit.compare`.

    Raises:
        UsageError: no such revision, or no such file or function in one of them.
        LoopError: the loop failed at one of them.
    """
    with ExitStack() as stack:
        first, second = (stack.enter_context(rung_at(loop, each, against)) for each in (a, b))
        second = replace(second, changes=first.name, reference=first.name)
        return compare(first, again(second) if second.name == first.name else second, **options)


@contextmanager
def rung_at(loop: str, revision: str, against: str | None = None) -> Iterator[Rung]:
    """The rung of a loop as it was at a revision, named FUNCTION@COMMIT, while its files exist."""
    file, _, function = loop.rpartition(":")
    path = Path(file).resolve()
    if not (file.endswith(".py") and path.parent.is_dir()):
        raise UsageError(f"--commits compares a loop of your own, FILE.py:FUNCTION, not {loop!r}")
    top = Path(_git(path.parent, "rev-parse", "--show-toplevel")).resolve()
    commit = _git(top, "rev-parse", "--verify", "--short=7", f"{revision}^{{commit}}")
    with scratch_folder("commits") as folder:
        place = folder.resolve() / commit
        _git(top, "worktree", "add", "--detach", str(place), commit)
        try:
            there = place / path.relative_to(top)
            if not there.is_file():
                raise UsageError(f"there is no file {path.relative_to(top)} at {revision} ({commit})")
            rung = as_rung(f"{there}:{function}", against)
            own = own_loop(rung)
            assert own is not None
            own.keep_pickled()  # now, while the modules beside it are those of this revision
            _forget_modules(place)
            name = f"{rung.name}@{commit}"
            yield replace(rung, name=name, reference=name, changes=None)
        finally:
            _forget_modules(place)
            _git(top, "worktree", "remove", "--force", str(place))


def _forget_modules(place: Path) -> None:
    """Lets the next revision import its own modules of the same names."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).resolve().is_relative_to(place):
            del sys.modules[name]


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GIT_S, check=False,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UsageError("--commits needs git, which is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"git {arguments[0]} in {folder} took longer than {GIT_S} s; see what it waits for"
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(f"git {' '.join(arguments[:2])} {arguments[-1]} in {folder}: {said}")
    return done.stdout.strip()
