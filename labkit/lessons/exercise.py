"""Exercises: checks that run a learner's answer on inputs of their own, and solutions.

An exercise has a name, e.g. "corners": the function `check_corners` checks it, `HINTS["corners"]`
leads to it, and `solutions.py` or `solution_kernels.cu` solves it.
"""

from __future__ import annotations

import ast
import linecache
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, wraps
from html import escape
from pathlib import Path
from traceback import extract_tb
from types import FrameType, FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UsageError
from labkit.core.shown import ShownText

Rng = np.random.Generator

FUNCTIONS = {"one_read": "best", "paced_latency": "latency"}
"""Names of the functions to write, where they are not those of their exercises."""

LESSONS = str(Path(__file__).parent) + os.sep
TOOLS = ("builtins", "math", "numpy", "time", "torch")
"""Modules, beside the lessons, with which answers are judged."""


@dataclass(frozen=True, repr=False)
class CheckResult(ShownText):
    """Outcome of a check: passed or not, and why."""

    passed: bool
    reason: str

    def __str__(self) -> str:
        return f"{'Right' if self.passed else 'Not yet'}: {self.reason}"

    def __bool__(self) -> bool:
        return self.passed


class Mistake(Exception):
    """Reason for which an answer does not pass."""


def exercise_check(check: Callable[[Any, Rng], str]) -> Callable[..., CheckResult]:
    """Decorator for a check, which raises `Mistake` or returns why the answer passes.

    Inputs are drawn anew at each call. The checked function takes the answer, and `seed` to draw
    the same inputs again; the outcome names its seed. Whatever is given, an outcome is returned.
    An answer that changes what judges it does not pass, and what it changed is put back.
    """

    @wraps(check)
    def checked(answer: Any, *, seed: int | None = None) -> CheckResult:
        drawn = secrets.randbelow(10**6) if seed is None else seed
        tools, put_back = _tools(), _put_back
        try:
            passed, reason = True, check(answer, np.random.default_rng(drawn))
        except Mistake as mistake:
            passed, reason = False, str(mistake)
        finally:
            changed = put_back(tools)
        if changed:
            passed, reason = False, f"your function changed {changed}, with which answers are checked"
        return CheckResult(passed, f"{reason} (seed={drawn} draws the same inputs)")

    return checked


def _tools() -> list[tuple[Any, str, Any]]:
    """(owner, name, value) of all that judges an answer: in modules, functions and classes."""
    found: list[tuple[Any, str, Any]] = []
    for module_name, module in [*sys.modules.items()]:
        if not (lesson := module_name.startswith("labkit.lessons.")) and module_name not in TOOLS:
            continue
        for name, value in [*vars(module).items()]:
            found.append((module, name, value))
            if lesson and isinstance(value, FunctionType):
                found.append((value, "__code__", value.__code__))
            elif lesson and isinstance(value, type) and value.__module__ == module_name:
                found += [(value, n, v) for n, v in vars(value).items() if isinstance(v, FunctionType)]
    return found


def _put_back(tools: list[tuple[Any, str, Any]]) -> str:
    """Undo changes of tools; the name of one that was changed, "" where none was."""
    changed = ""
    for owner, name, value in tools:
        if getattr(owner, name, None) is not value:
            setattr(owner, name, value)
            changed = f"{owner.__name__}.{name}"
    return changed


def answer_of(function: Callable[..., Any], *given: Any) -> Any:
    """A learner's function's result for these very inputs.

    Raises:
        Mistake: it is no function, raised an exception, returned nothing, or calls what holds the answers.
    """
    if not callable(function):
        raise Mistake(f"give the function itself to the check, not {_described(function)}")
    try:
        got, used = _watched(function, given)
    except (KeyboardInterrupt, Mistake):
        raise
    except BaseException as error:  # whatever the learner's code raises is the answer to show
        raise Mistake(f"your function raised {type(error).__name__}: {error}{_place(error)}") from error
    if got is None or got is ...:
        raise Mistake("your function returns nothing yet; end it with return")
    if used:
        raise Mistake(f"your function calls {used[0]} of the lab's lessons; it has to find the answer itself")
    return got


def _place(error: BaseException) -> str:
    """Line of the learner's own at which an exception left it, in words; "" where none is known."""
    places = [p for p in extract_tb(error.__traceback__) if not p.filename.startswith(LESSONS)]
    line = next((p for p in reversed(places) if p.filename == places[0].filename), None)
    return f" (line {line.lineno}: {line.line})" if line is not None and line.line else ""


def _watched(function: Callable[..., Any], given: Iterable[Any]) -> tuple[Any, list[str]]:
    """Result of a function, and the lessons' functions that it called without having been given them."""
    used: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code, caller = frame.f_code, frame.f_back
        if event != "call" or not code.co_filename.startswith(LESSONS) or caller is None:
            return
        of_others = "." not in code.co_qualname and not code.co_filename.endswith("simulated_streams.py")
        if of_others and not caller.f_code.co_filename.startswith(LESSONS):
            used.append(code.co_name)

    if sys.getprofile() is not None:  # one that watches already, or a profiler of the learner
        return function(*given), used
    sys.setprofile(watch)
    try:
        return function(*given), used
    finally:
        sys.setprofile(None)


def call(function: Callable[..., Any], *given: Any) -> Any:
    """Call a learner's function on copies of the inputs.

    Raises:
        Mistake: as for `answer_of`, or it changed an input.
    """
    copies = deepcopy(given)
    got = answer_of(function, *copies)
    if not all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(given, copies, strict=True)):
        raise Mistake("your function changed its input, which others still need; work on a copy")
    return got


def numbers_in(got: Any) -> NDArray[Any]:
    """A copy of an answer as an array of finite numbers of any type.

    Raises:
        Mistake: it is something else.
    """
    try:
        array = np.asarray(got).copy()
    except Exception as error:  # a tensor that needs a gradient, lists of unequal lengths, an __array__
        raise Mistake(f"numbers are expected, not {_described(got)}: {error}") from error
    if array.dtype.kind not in "biuf" or not _plain(got):
        raise Mistake(f"numbers are expected, not {_described(got)}")
    if not np.isfinite(array).all():
        raise Mistake("your function returned NaN or infinity; is there a division by zero?")
    return array


def _plain(got: Any) -> bool:
    """True for numbers, arrays and tensors of the libraries' own types, whose values stay as they are."""
    kind = type(got)
    if kind in (list, tuple):
        return all(map(_plain, got))
    return kind in (bool, int, float, np.ndarray) or kind.__module__.split(".")[0] in ("numpy", "torch")


def items_in(got: Any, what: str, kind: type) -> list[Any]:
    """The items of an answer, each made a `kind` of the same value; a `Mistake` where that cannot be."""
    try:
        given = [*got]
        items = [kind(each) for each in given]
        same = all(bool(item == each) for item, each in zip(items, given, strict=True))
    except Exception as error:
        raise Mistake(f"{what} are expected, not {_described(got)}") from error
    if not same or not all(type(item) is kind for item in items):  # a subclass may be equal to anything
        raise Mistake(f"{what} are expected, not {_described(got)}")
    return items


def compare(
    got: Any,
    right: Any,
    mistakes: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    otherwise: str = "",
    *,
    shape: str = "",
    case: str = "",
    rtol: float = 1e-6,
    atol: float = 1e-9,
) -> None:
    """Compare an answer's numbers with the right ones.

    Args:
        got: values of the learner's function.
        right: the right values.
        mistakes: what well-known mistakes are, in words -> the values that they give, or a function
            that works these out; one that changes nothing here is passed over.
        otherwise: what is said of other wrong values; default: by how much they are off.
        shape: what the right shape is, in words.
        case: which inputs these are, said after the reason.
        rtol, atol: see `numpy.allclose`.

    Raises:
        Mistake: shape or values are wrong.
    """
    case = f" ({case})" if case else ""
    got, right = numbers_in(got), np.asarray(right)
    if got.shape != right.shape:
        shape = shape or ("one number" if right.ndim == 0 else "one value per input")
        raise Mistake(f"the shape is {got.shape}, not {right.shape}: expected is {shape}{case}")
    if np.allclose(got, right, rtol=rtol, atol=atol):
        return
    for reason, values in (mistakes() if callable(mistakes) else mistakes).items():
        if np.shape(values) != got.shape or np.allclose(values, right, rtol=rtol, atol=atol):
            continue
        if np.allclose(got, values, rtol=rtol, atol=atol):
            raise Mistake(f"{reason}{case}")
    worst = float(np.abs(got.astype(float) - right).max())
    raise Mistake(f"{otherwise or f'the result is off by up to {worst:.3g}'}{case}")


def compare_lists(
    got: list[Any], right: list[Any], mistakes: Mapping[str, list[Any]], otherwise: str
) -> None:
    """Compare a list with the right one, best first.

    Raises:
        Mistake: they differ.
    """
    if got == right:
        return
    if (reason := next((reason for reason, values in mistakes.items() if values == got), None)) is None:
        same = sorted(map(str, got)) == sorted(map(str, right))
        reason = "the right ones in another order; best first" if same else otherwise
    raise Mistake(reason)


def _described(value: Any) -> str:
    """Type and, where it is short, value of what was given."""
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 40 else type(value).__name__


@dataclass(frozen=True)
class Solution:
    """Solution of one exercise: folded in a notebook, plain text elsewhere.

    Attributes:
        exercise: its name.
        text: Python, or CUDA.
    """

    exercise: str
    text: str

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return (
            f"<details><summary>Solution of <code>{escape(self.exercise)}</code></summary>"
            f"<pre>{escape(self.text)}</pre></details>"
        )


def solution(exercise: str) -> Solution:
    """Solution of an exercise, folded until it is clicked in a notebook.

    >>> import labkit
    >>> print(labkit.solution("speed_up").text.splitlines()[-1].strip())
    return 1 / (1 - share + share / part_factor)

    Args:
        exercise: its name, e.g. "speed_up".

    Raises:
        UsageError: there is no such exercise; the message lists what there is.
    """
    texts = solutions()
    if not isinstance(exercise, str) or exercise not in texts:
        raise UsageError(f"there is no exercise {exercise!r}; there are {', '.join(texts)}")
    return Solution(exercise, texts[exercise])


def solved(exercise: str) -> Callable[..., Any]:
    """The function that solves an exercise in Python, so that a notebook goes on without the learner's.

    Raises:
        UsageError: there is no such exercise.
    """
    space: dict[str, Any] = {"__name__": "__main__"}  # sent to other processes by value
    text, file = solution(exercise).text, f"solution of {exercise}"
    linecache.cache[file] = (
        len(text),
        None,
        text.splitlines(keepends=True),
        file,
    )  # for reports and tracebacks
    exec(compile(text, file, "exec"), space)
    return space[FUNCTIONS.get(exercise, exercise)]


def solutions() -> dict[str, str]:
    """Texts of all solutions by the name of the exercise, in alphabetical order."""
    return dict(_read_solutions())


@cache
def _read_solutions() -> dict[str, str]:
    folder = Path(__file__).parent
    kernels = re.split(r"// solves (\w+)\n", (folder / "solution_kernels.cu").read_text(encoding="utf-8"))[1:]
    texts = {name: text.strip() for name, text in zip(kernels[::2], kernels[1::2], strict=True)}
    python = (folder / "solutions.py").read_text(encoding="utf-8")
    body = ast.parse(python).body
    solves = {function: exercise for exercise, function in FUNCTIONS.items()}
    for step in body:
        if isinstance(step, ast.FunctionDef):
            texts[solves.get(step.name, step.name)] = _with_imports(step, body, python)
    return dict(sorted(texts.items()))


def _with_imports(function: ast.FunctionDef, body: Iterable[ast.stmt], text: str) -> str:
    """A function's text, and before it the imports and constants of its module that it needs."""
    wanted = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    parts: dict[type[ast.stmt], list[str]] = {ast.Import: [], ast.Assign: []}
    for step in reversed([*body]):  # constants before imports: they need some, too
        if isinstance(step, ast.Import | ast.ImportFrom):
            names = {alias.asname or alias.name for alias in step.names}
        elif isinstance(step, ast.Assign):
            names = {target.id for target in step.targets if isinstance(target, ast.Name)}
        else:
            continue
        if names & wanted:
            wanted |= {node.id for node in ast.walk(step) if isinstance(node, ast.Name)}
            kind = ast.Assign if isinstance(step, ast.Assign) else ast.Import
            parts[kind].insert(0, ast.get_source_segment(text, step) or "")
    blocks = ["\n".join(lines) for lines in parts.values() if lines]
    return "\n\n\n".join(["\n\n".join(blocks), ast.get_source_segment(text, function) or ""]).lstrip()
