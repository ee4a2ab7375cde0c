"""JSON from outside: size, depth and kind are checked before anything is done with it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.core.errors import LabError, ResultsError, first_line

MOST_JSON_BYTES = 64 * 2**20
MOST_LEVELS = 64
KIND_NAMES = {dict: "an object", list: "a list", str: "a text", object: "a value"}


def parse_json(
    text: str | bytes,
    kind: type = object,
    *,
    most_bytes: int = MOST_JSON_BYTES,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    constants: bool = False,
) -> Any:
    """The value of a JSON text.

    Args:
        text: in UTF-8, 16 or 32, where it is bytes.
        kind: dict, list or str, if it has to be one.
        most_bytes: length from which it is refused.
        object_hook: as of `json.loads`.
        constants: accept NaN and infinity, which are no JSON, as some tools write them.

    Raises:
        ValueError: it is too long, too deep, no JSON, or of another kind.
    """
    if len(text) > most_bytes:
        raise ValueError(f"its JSON is longer than the limit of {describe_bytes(most_bytes)}")
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        refuse = None if constants else _refuse_constant
        value = json.loads(text, object_hook=object_hook, parse_constant=refuse)
    except UnicodeDecodeError as error:
        encoding = error.encoding.upper()
        raise ValueError(f"its text is no {encoding} (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"its JSON is nested more than {MOST_LEVELS} levels deep") from error
    if not isinstance(value, kind):
        raise ValueError(f"its JSON is {KIND_NAMES.get(kind, kind.__name__)}, not {type(value).__name__}")
    _check_depth(value)
    return value


def read_json(
    path: Path,
    kind: type = dict,
    *,
    most_bytes: int = MOST_JSON_BYTES,
    error: type[LabError] = ResultsError,
) -> Any:
    """The value in a JSON file; see `parse_json`.

    Raises:
        error: the file cannot be read, or `parse_json` refuses it; the message names it.
    """
    try:
        return parse_json(read_bytes(path, most_bytes), kind, most_bytes=most_bytes)
    except FileNotFoundError:
        raise error(f"{path} is missing; restore it, or make it again") from None
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else first_line(problem)
        raise error(f"{path} cannot be read: {reason}; restore it, or make it again") from problem


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file; a pipe or a device, which may never end, is not opened.

    Raises:
        OSError: it cannot be read.
        ValueError: it is longer than `most_bytes`, or no regular file.
    """
    with open(
        os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
    ) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no regular file")
        if about.st_size > most_bytes:
            raise ValueError(
                f"it has {describe_bytes(about.st_size)}, more than the limit of {describe_bytes(most_bytes)}"
            )
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is longer than the limit of {describe_bytes(most_bytes)}")
    return content


def describe_bytes(count: int) -> str:
    """A number of bytes in KiB, MiB or GiB, as a person would say it."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_LEVELS:
            raise ValueError(f"its JSON is nested more than {MOST_LEVELS} levels deep")
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below.extend(part for part in each.values() if isinstance(part, dict | list))
            elif isinstance(each, list):
                below.extend(part for part in each if isinstance(part, dict | list))
        level = below


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON")
