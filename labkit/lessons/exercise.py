"""Checks of exercises: run a learner's function on inputs of their own, and say what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

P = ParamSpec("P")


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


def call(function: Callable[..., Any], *given: Any) -> Any:
    """Call a learner's function on copies of the inputs.

    Raises:
        Mistake: it raised an exception, returned nothing, or changed an input.
    """
    copies = deepcopy(given)
    try:
        got = function(*copies)
    except Exception as error:  # whatever the learner's code raises is the answer to show
        raise Mistake(f"your function raised {type(error).__name__}: {error}") from error
    if got is None or got is ...:
        raise Mistake("your function returns nothing yet; end it with return")
    if not all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(given, copies, strict=True)):
        raise Mistake("your function changed its input, which others still need; work on a copy")
    return got


def call_for_numbers(function: Callable[..., Any], *given: Any) -> NDArray[np.float64]:
    """Call a learner's function, which should return a number or an array of numbers.

    Raises:
        Mistake: as for `call`, or the result holds something else than finite numbers.
    """
    got = call(function, *given)
    try:
        numbers = np.asarray(got, np.float64)
    except (TypeError, ValueError) as error:
        raise Mistake(f"numbers are expected, not {type(got).__name__}") from error
    if not np.isfinite(numbers).all():
        raise Mistake("your function returned NaN or infinity; is there a division by zero?")
    return numbers


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
