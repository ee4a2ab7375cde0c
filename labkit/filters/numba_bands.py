"""Numba's options for the CPU versions, and bands of rows filtered in parallel by a thread pool.

The threads are this module's own, and wait without spinning: OpenMP's, which numba would use,
spin between calls and take the cores that torch's threads need next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from labkit.core.threads import available_cores


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


def band_limits(height: int) -> NDArray[np.int64]:
    """First rows of the bands of an image, and at the end its height.

    They depend on the height alone: running sums of floats depend in their last digits on where
    they start, and the result shall be the same bytes on any number of cores.
    """
    bands = 1 if height < 64 else 2 * -(-height // 240)
    return np.arange(bands + 1) * height // bands


def read_only_rows(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) -> a read-only view (H, W * C).

    Read-only arrays are a type of their own to numba; since some frames are, all are passed so,
    or the first of the other kind would stop for seconds to be compiled for.
    """
    rows = image.reshape(image.shape[0], -1)
    rows.flags.writeable = False
    return rows


def run_bands(work: Callable[[int], None], n_bands: int) -> None:
    """Run work(band) for the bands 0 ... n_bands - 1, here and in other threads.

    Each thread takes the next band when it has done one, so a thread that the system holds up
    holds up no more than one band; one that has not begun when none is left is not waited for.
    `work` releases the GIL, or nothing is gained. Returns when all are done; raises what it raised.
    """
    left = iter(range(n_bands))

    def run() -> None:
        for band in left:
            work(band)

    others = [_threads().submit(run) for _ in range(min(available_cores(), n_bands) - 1)]
    try:
        run()
    finally:
        for other in others:
            if not other.cancel():
                other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, available_cores() - 1), thread_name_prefix="filter-band")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked child has none of the threads
