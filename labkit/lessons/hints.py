"""Hints for the exercises, in steps: each says more than the one before, none is the solution."""

from __future__ import annotations

import re
from pathlib import Path

from labkit.core.errors import UsageError
from labkit.core.shown import Sentence

_TEXT = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
_SECTIONS = re.split(r"^# (\w+)$", _TEXT, flags=re.M)[1:]
HINTS = {
    exercise: tuple(re.findall(r"^\d+\. (.+)$", section, re.M))
    for exercise, section in zip(_SECTIONS[::2], _SECTIONS[1::2], strict=True)
}


def hint(exercise: str, step: int = 1) -> Sentence:
    """A hint for an exercise, with the number of hints; each step says more than the one before.

    Args:
        exercise: a name in `HINTS`, such as "normalise".
        step: from 1.

    Raises:
        UsageError: there is no such exercise or step; the message lists what there is.
    """
    if exercise not in HINTS:
        raise UsageError(f"there is no exercise {exercise!r}; there are {', '.join(HINTS)}")
    steps = HINTS[exercise]
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= len(steps):
        raise UsageError(f"the exercise {exercise!r} has hints 1 to {len(steps)}, not {step!r}")
    more = "" if step == len(steps) else f' For more: lesson.hint("{exercise}", {step + 1}).'
    return Sentence(f"Hint {step} of {len(steps)}: {steps[step - 1]}{more}")
