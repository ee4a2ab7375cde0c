"""Numba options of the CPU versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function with numba on its first call and cache the code on disk.

    It releases the GIL, and divides as hardware does. Where no folder for the code can be written
    (a read-only installation without a home), each process compiles for itself.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": {"contract", "nsz", "arcp"},  # no reordering: NaN and the order of sums stay
        "error_model": "numpy",
    }
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": numba found no folder it may write to
        return numba.njit(**options)(function)
