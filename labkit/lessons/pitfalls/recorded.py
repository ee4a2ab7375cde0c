"""Exhibits that were measured elsewhere: shown, marked as recorded, where this machine cannot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

from labkit.core.errors import ResultsError
from labkit.core.files import write_atomic
from labkit.lessons.pitfalls.result import Exhibit

RECORDED = Path(__file__).with_name("recorded.json")


def recorded_or_skipped(about: Exhibit, reason: str, path: Path | None = None) -> Exhibit:
    """The recorded exhibit of that name, or one without figures that says why.

    Args:
        about: name and words of the exhibit.
        reason: what this machine lacks.
        path: of the recorded exhibits; default: those in the package.
    """
    for exhibit in read_recorded(path or RECORDED):
        if exhibit.name == about.name and exhibit.skipped is None:
            return replace(exhibit, recorded=True)
    return replace(about, skipped=f"it {reason}, and no run from a machine that has one is recorded yet")


def read_recorded(path: Path) -> list[Exhibit]:
    """The exhibits in a file written by `write_recorded`; none if there is no such file.

    Raises:
        ResultsError: the file is not one of these.
    """
    if not path.is_file():
        return []
    known = {field.name for field in fields(Exhibit)}
    try:
        return [
            Exhibit(**{k: v for k, v in one.items() if k in known}) for one in json.loads(path.read_text())
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} holds no recorded exhibits ({error}); record them again") from error


def write_recorded(exhibits: Iterable[Exhibit], path: Path = RECORDED) -> Path:
    """Writes exhibits with their raw figures, for machines that cannot measure them."""
    plain = [exhibit.to_json() for exhibit in exhibits if exhibit.skipped is None]
    return write_atomic(path, json.dumps(plain, indent=1) + "\n")
