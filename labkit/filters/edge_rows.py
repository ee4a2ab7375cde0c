"""The edge filter on the CPU, compiled by numba: row by row, bytes throughout."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.filters.numba_bands import compiled, read_only_rows

Image = NDArray[np.uint8]


def edges(image: Image) -> Image:
    """Strength of edges; argument and result as in `reference.edges`."""
    height, width, channels = image.shape
    out = np.empty((height, width * channels), np.uint8)
    _edge_rows(read_only_rows(image), channels, out)
    return out.reshape(image.shape)


@compiled
def _edge_rows(image: Any, channels: int, out: Any) -> None:
    height, n = image.shape
    first, last = slice(0, channels), slice(n - channels, n)
    inner = slice(channels, n - channels)
    for y in range(height):
        row, above, below = image[y], image[max(y - 1, 0)], image[min(y + 1, height - 1)]
        if n == channels:
            _edge_row(row, row, above, below, out[y])
            continue
        _edge_row(row[first], row[channels : 2 * channels], above[first], below[first], out[y, first])
        _edge_row(row[n - 2 * channels : n - channels], row[last], above[last], below[last], out[y, last])
        _edge_row(row[: n - 2 * channels], row[2 * channels :], above[inner], below[inner], out[y, inner])


@compiled
def _edge_row(left: Any, right: Any, above: Any, below: Any, out: Any) -> None:
    # Bytes throughout, four times as many per vector instruction as int32; a sum of two bytes that
    # is smaller than one of them has wrapped around.
    for i in range(out.shape[0]):
        across = np.uint8(max(left[i], right[i]) - min(left[i], right[i]))
        down = np.uint8(max(above[i], below[i]) - min(above[i], below[i]))
        total = np.uint8(across + down)
        out[i] = total if total >= across else np.uint8(255)
