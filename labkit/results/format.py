"""Numbers as text, the same in tables, plots, pages and the terminal."""

from __future__ import annotations

import math


def format_number(value: float | None) -> str:
    """Format with three significant digits and no exponent; "-" for None or NaN."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "?"
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def format_percent(share: float | None) -> str:
    """Format a share as whole percent; "-" for None."""
    return "-" if share is None else f"{100 * share:.0f}%"


def format_bounds(interval: tuple[float, float], few: str = "too few frames") -> str:
    """Format an interval as "1.20 to 1.35"; `few` where it has no upper bound."""
    return " to ".join(map(format_number, interval)) if math.isfinite(interval[1]) else few


def format_load(foreign: float, steal: float) -> str:
    """What took the CPU's time from a measurement, in words, by the larger of two shares."""
    if steal > foreign:
        return f"the host gave {steal:.0%} of this machine's CPU time to others (steal)"
    return f"other programs used {foreign:.0%} of the CPU"
