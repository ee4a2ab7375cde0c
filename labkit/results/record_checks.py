"""Kinds of the values that a stored or exported record holds; another one is named and refused.

A row may come from anywhere: a colleague's store, an export, a damaged disk. What is checked here
is what the rest of the package counts on: kinds, signs, finite figures, known names. Keys of facts
that are not listed are of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import ResultsError

MOST_NAME = 4096  # characters: as long as a path may be
MOST_SENTENCE = 20_000


@dataclass(frozen=True)
class Kind:
    """One kind of value: its name in a sentence, and a test for it."""

    name: str
    holds: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(f"{self.name} or {other.name}", lambda value: self.holds(value) or other.holds(value))


def is_real(value: Any) -> bool:
    """True for an int or float, infinity and NaN included."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_text(value: Any, most: int = MOST_NAME) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_time(value: Any) -> bool:
    try:
        return _is_text(value, 40) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _is_pair(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(holds, value))


NONE = Kind("nothing", lambda value: value is None)
NUMBER = Kind("a finite number", lambda value: is_real(value) and abs(value) < 1e300)
NOT_NEGATIVE = Kind("a finite number from 0", lambda value: NUMBER.holds(value) and value >= 0)
INFINITE = Kind("infinity", lambda value: value == math.inf)
COUNT = Kind("a whole number from 0", _is_count)
FLAG = Kind("true or false", lambda value: value in (0, 1) and isinstance(value, int))
NAME = Kind("a text", _is_text)
FILLED = Kind("a name", lambda value: _is_text(value) and value != "")
TIME = Kind("a time in ISO format", _is_time)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
SIZE = Kind("(width, height)", lambda value: _is_pair(value, _is_count))
BOUNDS = Kind("two bounds", lambda value: _is_pair(value, lambda v: v is None or is_real(v)))
FIGURES = Kind(
    "an object of finite numbers from 0",
    lambda value: isinstance(value, dict) and all(v is None or NOT_NEGATIVE.holds(v) for v in value.values()),
)
SCENARIO = Kind("closed, paced or live", lambda value: value in ("closed", "paced", "live"))
LINES = Kind(
    "a list of sentences",
    lambda value: isinstance(value, list) and all(_is_text(line, MOST_SENTENCE) for line in value),
)
CEILING = Kind(
    "a ceiling",
    lambda value: (
        isinstance(value, dict)
        and LINES.holds(value.get("parts"))
        and NUMBER.holds(value.get("gain"))
        and value["gain"] >= 1
    ),
)

ID = {"id": COUNT}
RUN = {
    "created": TIME, "rung": FILLED, "stage": COUNT, "scenario": SCENARIO, "quick": FLAG,
    "offered": COUNT, "dropped": COUNT, "failed": COUNT, "startup_s": NOT_NEGATIVE, "peak_bytes": COUNT,
}  # fmt: skip
COMPARISON = {
    "created": TIME, "a": FILLED, "b": FILLED, "frames_per_turn": COUNT, "agrees": FLAG, "quick": FLAG,
}  # fmt: skip
AGREEMENT = {
    "reference": NAME, "n_frames": COUNT, "share": NOT_NEGATIVE, "same_name": NOT_NEGATIVE | NONE,
    "relative_error": Kind("a number from 0", lambda v: is_real(v) and not v < 0) | NONE, "nan_count": COUNT,
    "steady": NOT_NEGATIVE | NONE, "extra": NOT_NEGATIVE | NONE,
}  # fmt: skip
FACTS = {
    "settings": OBJECT, "source": OBJECT, "limit": OBJECT, "accuracy": OBJECT, "fingerprint": OBJECT,
    "agreement": OBJECT | NONE, "disturbances": LINES,
}  # fmt: skip
_ACCURACIES = ("map", "map_50", "top1")
WITHIN: dict[str, dict[str, Kind]] = {
    "settings": {
        "size": SIZE, "objects": COUNT | NONE, "device": NAME, "model_set": NAME, "weights": NAME,
        "weights_sha256": OBJECT | NONE, "preparation": OBJECT, "changes": NAME | NONE,
        "fallback": NAME | NONE,
        "paced_fps": NUMBER | NONE, "gpu_peak_bytes": NUMBER | NONE, "foreign_cpu": NUMBER | NONE,
        "steal": NUMBER | NONE, "baseline": NAME | NONE, "loop_sha256": NAME, "cpu_s": NOT_NEGATIVE,
        "energy_j": FIGURES, "no_energy": OBJECT,
        "ceiling": CEILING | NONE,
    },
    "source": {"spec": NAME, "sha256": NAME},
    "limit": {
        "gflop_per_frame": NOT_NEGATIVE | NONE, "peak_gflops": NOT_NEGATIVE | INFINITE | NONE,
        "mb_per_frame": NOT_NEGATIVE | NONE, "precision": NAME, "peaks": FIGURES,
    },
    "accuracy": {
        **dict.fromkeys(_ACCURACIES, NOT_NEGATIVE | NONE),
        **{f"{name}_interval": BOUNDS | NONE for name in _ACCURACIES},
        **{f"{name}_loss": NUMBER | NONE for name in _ACCURACIES},
        "names_changed": NUMBER | NONE, "n_images": COUNT, "n_scenes": COUNT, "on": NAME,
    },
    "fingerprint": {
        "gpu": OBJECT | NONE, "cpu": NAME | NONE, "cores": COUNT | NONE, "versions": OBJECT,
        "threads": OBJECT, "commit": NAME | NONE, "os": NAME, "python": NAME,
    },
}  # fmt: skip


def check(values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str = "") -> None:
    """Checks the values that have a kind.

    Raises:
        ResultsError: one of them is missing, or of another kind.
    """
    for name, kind in kinds.items():
        if name not in values:
            raise ResultsError(f"{where}{name} is missing")
        if not kind.holds(values[name]):
            raise ResultsError(f"{where}{name} is {kind.name}, not {describe(values[name])}")


def check_facts(facts: Mapping[str, Any]) -> None:
    """Checks the facts of a record, and within each of them what is read from it.

    Raises:
        ResultsError: something is of another kind.
    """
    check(facts, {name: FACTS[name] for name in facts})
    for name, kinds in WITHIN.items():
        inside = facts.get(name, {})
        check(inside, {key: kind for key, kind in kinds.items() if key in inside}, f"{name}: ")
    if facts.get("agreement") is not None:
        check(facts["agreement"], AGREEMENT, "agreement: ")
        unknown = facts["agreement"].keys() - AGREEMENT.keys()
        if unknown:
            raise ResultsError(f"agreement: {describe(min(unknown))} is not known")


def check_seconds(name: str, seconds: NDArray[np.float64], *, gaps: bool = False) -> None:
    """Checks a series of times.

    Args:
        name: of the series.
        seconds: (n,) s.
        gaps: whether NaN stands for a value that is not there.

    Raises:
        ResultsError: it holds a time below 0, infinity, or NaN where there are no gaps.
    """
    wrong = ~(seconds >= 0) | np.isinf(seconds)
    if gaps:
        wrong &= ~np.isnan(seconds)
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise ResultsError(f"{name} holds seconds from 0, not {seconds[place]} (sample {place})")


def describe(value: Any) -> str:
    """A value in a sentence: short, on one line, whatever it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list | tuple) or value is None:
        return {type(None): "nothing", dict: "an object"}.get(type(value), "a list")
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of {value.bit_length()} bits"
    text = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"
