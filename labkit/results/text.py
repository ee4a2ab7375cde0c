"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def folded(title: str, lines: Sequence[str]) -> list[str]:
    """A list that opens on a click; nothing where there is nothing to list."""
    return details(title, [f"- {line}" for line in lines]) if lines else []


def details(title: str, lines: Sequence[str]) -> list[str]:
    """Markdown that opens on a click."""
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def percent(value: float | None) -> str:
    """A share as whole percent, or a dash."""
    return "-" if value is None else f"{100 * value:.0f}%"
