"""Exercises: checks that run a learner's answer on inputs of their own, and solutions.

An exercise has a name, e.g. "corners": the function `check_corners` checks it, `HINTS["corners"]`
leads to it, and `solutions/corners.py` (or `.cu`) solves it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UsageError

P = ParamSpec("P")
Rng = np.random.Generator

SOLUTIONS = Path(__file__).parent / "solutions"


@dataclass(frozen=True)
class CheckResult:
    """Outcome of a check: passed or not, and why."""

    passed: bool
    reason: str

    def __str__(self) -> str:
        return f"{'Right' if self.passed else 'Not yet'}: {self.reason}"

    def __bool__(self) -> bool:
        return self.passed


class Mistake(Exception):
    """Reason for which an answer does not pass."""


def exercise_check(check: Callable[P, str]) -> Callable[P, CheckResult]:
    """Decorator for a check, which raises `Mistake` or returns why the answer passes."""

    @wraps(check)
    def checked(*given: P.args, **options: P.kwargs) -> CheckResult:
        try:
            return CheckResult(True, check(*given, **options))
        except Mistake as mistake:
            return CheckResult(False, str(mistake))

    return checked


def seeded_check(check: Callable[[Any, Rng], str]) -> Callable[..., CheckResult]:
    """Decorator for a check on inputs that are drawn anew at each call.

    The checked function takes the answer, and `seed` to draw the same inputs again; the outcome
    names its seed. Whatever answer is given, an outcome is returned.
    """

    @wraps(check)
    def checked(answer: Any, *, seed: int | None = None) -> CheckResult:
        drawn = secrets.randbelow(10**6) if seed is None else seed
        try:
            outcome = CheckResult(True, check(answer, np.random.default_rng(drawn)))
        except Mistake as mistake:
            outcome = CheckResult(False, str(mistake))
        return CheckResult(outcome.passed, f"{outcome.reason} (seed={drawn} draws the same inputs)")

    return checked


@dataclass(frozen=True)
class Solution:
    """Solution of one exercise: folded in a notebook, plain text elsewhere.

    Attributes:
        exercise: its name.
        text: Python, or CUDA where `path` ends in ".cu".
        path: the file that it stands in.
    """

    exercise: str
    text: str
    path: Path

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
    files = solution_files()
    if exercise not in files:
        raise UsageError(f"there is no exercise {exercise!r}; there are {', '.join(files)}")
    return Solution(exercise, files[exercise].read_text(encoding="utf-8"), files[exercise])


def solved(exercise: str) -> Callable[..., Any]:
    """The function that solves an exercise in Python, so that a notebook goes on without the learner's.

    Raises:
        UsageError: there is no such exercise.
    """
    space: dict[str, Any] = {"__name__": "__main__"}  # sent to other processes by value
    solved_by = solution(exercise)
    exec(compile(solved_by.text, str(solved_by.path), "exec"), space)
    return space[exercise]


def solution_files() -> dict[str, Path]:
    """Files of all solutions by the name of the exercise, in alphabetical order."""
    paths = [*SOLUTIONS.glob("*.py"), *SOLUTIONS.glob("*.cu")]
    return {path.stem: path for path in sorted(paths) if path.stem != "__init__"}


def answer_of(function: Callable[..., Any], *given: Any) -> Any:
    """What a learner's function returns for these very inputs.

    Raises:
        Mistake: it is no function, raised an exception, or returned nothing.
    """
    if not callable(function):
        raise Mistake(f"give the function itself to the check, not {_described(function)}")
    try:
        got = function(*given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the learner's code raises is the answer to show
        raise Mistake(f"your function raised {type(error).__name__}: {error}") from error
    if got is None or got is ...:
        raise Mistake("your function returns nothing yet; end it with return")
    return got


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


def call_for_array(function: Callable[..., Any], *given: Any) -> NDArray[Any]:
    """Call a learner's function, which should return an array of numbers of any type.

    Returns:
        A copy of the result, which the learner's function can no longer change.

    Raises:
        Mistake: as for `call`, or the result is no array of numbers.
    """
    got = call(function, *given)
    try:
        array = np.asarray(got).copy()
    except (
        Exception
    ) as error:  # a tensor that needs a gradient, lists of unequal lengths, __array__ that fails
        raise Mistake(f"an array of numbers is expected, not {_described(got)}: {error}") from error
    if array.dtype.kind not in "biuf":
        raise Mistake(f"an array of numbers is expected, not {_described(got)}")
    return array


def call_for_numbers(function: Callable[..., Any], *given: Any) -> NDArray[np.float64]:
    """Call a learner's function, which should return a number or an array of numbers.

    Raises:
        Mistake: as for `call`, or the result holds something else than finite numbers.
    """
    got = call(function, *given)
    try:
        numbers = np.asarray(got, np.float64)
    except Exception as error:
        raise Mistake(f"numbers are expected, not {_described(got)}") from error
    if not np.isfinite(numbers).all():
        raise Mistake("your function returned NaN or infinity; is there a division by zero?")
    return numbers


def call_for_number(function: Callable[..., Any], *given: Any) -> float:
    """Call a learner's function, which should return one number.

    Raises:
        Mistake: as for `call_for_numbers`, or the result is an array.
    """
    numbers = call_for_numbers(function, *given)
    if numbers.ndim:
        raise Mistake(f"expected is one number, not an array of the shape {numbers.shape}")
    return float(numbers)


def _described(value: Any) -> str:
    """Type and, where it is short, value of what was given."""
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 40 else type(value).__name__


def find_mistake(
    got: Any, mistakes: Mapping[str, Any], right: Any, *, rtol: float = 1e-6, atol: float = 1e-12
) -> str | None:
    """The well-known mistake that gives just these values, if there is one.

    Args:
        got: values of the learner's function.
        mistakes: what a mistake is, in words -> the values that it gives.
        right: the right values; a mistake that changes nothing here is passed over.
        rtol, atol: see `numpy.allclose`.
    """
    for reason, values in mistakes.items():
        if np.shape(values) != np.shape(got) or np.allclose(values, right, rtol=rtol, atol=atol):
            continue
        if np.allclose(got, values, rtol=rtol, atol=atol):
            return reason
    return None
