"""Text for a terminal, with control characters made visible, and whether there is a screen beside it."""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from typing import Any

HIDDEN = {"Cc", "Cf", "Cs"}
"""Kinds of characters that steer a terminal, turn the direction of writing, or are none at all."""


def printable(text: str) -> str:
    r"""The text with every control character but line breaks and tabs written as \xNN or \uNNNN."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def print_text(*values: object, **options: Any) -> None:
    """`print` for text that may be anybody's: with its control characters made visible."""
    print(*(printable(str(value)) for value in values), **options)


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in HIDDEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def accept_any_text() -> None:
    """Makes standard output and error write what their encoding lacks as an escape, and not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def screen() -> str | None:
    """Display that a window would open on, in words; None on a machine without a screen."""
    if not sys.platform.startswith("linux"):
        return "the system's own"
    return next((f"{n}={os.environ[n]}" for n in ("WAYLAND_DISPLAY", "DISPLAY") if os.environ.get(n)), None)
