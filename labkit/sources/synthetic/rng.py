"""Random integers that are the same on every machine and with every NumPy version.

Only the raw stream of a bit generator is promised to stay as it is; the distributions that
`numpy.random.Generator` builds on top of it are not. So the synthetic world draws from the raw
stream, and everything that follows from a draw is integer arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TURN = 4096
"""Angles are integers, in 1/4096 of a full turn."""

ONE = 1 << 14
"""The value 1.0 in the sine table."""

SIN = np.array([round(math.sin(2 * math.pi * k / TURN) * ONE) for k in range(TURN)], dtype=np.int64)
"""(TURN,) sine in 1/ONE; rounded so coarsely that no libm can disagree about it."""


def sin(angle: int) -> int:
    """Sine of `angle` (in 1/TURN turn), in 1/ONE."""
    return int(SIN[angle % TURN])


def cos(angle: int) -> int:
    """Cosine of `angle` (in 1/TURN turn), in 1/ONE."""
    return int(SIN[(angle + TURN // 4) % TURN])


def _gaussian_table() -> NDArray[np.int16]:
    """(4096,) quantiles of the normal distribution, in 1/256 of a standard deviation."""
    from statistics import NormalDist

    normal = NormalDist()
    return np.array([round(256 * normal.inv_cdf((k + 0.5) / 4096)) for k in range(4096)], dtype=np.int16)


class IntegerRng:
    """A stream of integers that depends on its seeds alone."""

    def __init__(self, *seeds: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed % 2**64 for seed in seeds]))

    def between(self, low: int, high: int) -> int:
        """One integer from `low` to `high`, both included."""
        return low + int(self._bits.random_raw() >> 11) % (high - low + 1)

    def bytes_array(self, *shape: int) -> NDArray[np.uint8]:
        """Evenly spread uint8 of the given shape."""
        return self._words(math.prod(shape), "<u1").reshape(shape)

    def gaussian(self, *shape: int) -> NDArray[np.int16]:
        """Normally distributed values of the given shape, in 1/256 of a standard deviation."""
        return _GAUSSIAN[self._words(math.prod(shape), "<u2") >> 4].reshape(shape)

    def _words(self, n: int, dtype: str) -> NDArray[np.unsignedinteger]:
        per_raw = 8 // np.dtype(dtype).itemsize
        raw = self._bits.random_raw(-(-n // per_raw))
        return np.asarray(raw).astype("<u8", copy=False).view(dtype)[:n]


_GAUSSIAN = _gaussian_table()
