"""The guided filter compiled by numba: one fused pass over the image, a few rows of memory.

The filter is one walk down the image. Column sums over the window are kept up to date by
adding the row that enters and subtracting the row that leaves; the coefficients a and b of the
last 2 r + 1 rows live in a ring, so that their own column sums can do the same; nothing the
size of the image is ever stored but the result. Along a row, a window is summed from sums of
4, 16, ... neighbours, in loops that become vector instructions: each runs over slices from 0,
because an index such as `i + shift` makes numba check for negative values and stay scalar.
Bands of rows go to several threads (`numba_bands`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.filters.numba_bands import band_limits, compiled, read_only_rows, run_bands
from labkit.filters.reference import window_counts

Image = NDArray[np.uint8]


def guided(image: Image, radius: int, eps: float, guide: Image | None = None) -> Image:
    """Guided filter; arguments and result as in `reference.guided`.

    The first call for each kind of argument compiles, or reads the compiled code from disk.
    """
    height, width, channels = image.shape
    rows = read_only_rows(image)
    # A gray guide is repeated for each channel, so that all rows have one layout.
    guide_rows = None if guide is None else read_only_rows(np.repeat(guide[:, :, None], channels, axis=2))
    out = np.empty_like(rows)
    column_share = np.repeat(1 / window_counts(width, radius), channels).astype(np.float32)
    row_share = (1 / window_counts(height, radius)).astype(np.float32)
    eps_gray2 = np.float32(eps * 255**2)
    limits = band_limits(height)

    def work(band: int) -> None:
        first, last = limits[band], limits[band + 1]
        _filter_band(rows, guide_rows, out, first, last, radius, channels, eps_gray2, column_share, row_share)

    run_bands(work, len(limits) - 1)
    return out.reshape(image.shape)


@compiled
def _filter_band(
    image: Any,
    guide: Any,
    out: Any,
    first: int,
    last: int,
    radius: int,
    channels: int,
    eps: Any,
    column_share: Any,
    row_share: Any,
) -> None:
    """Filters rows first ... last - 1; numba drops the branches that a missing guide never takes.

    Names: `sums` and `products` belong to the guide I (products are I * I), `cross_` to the
    image p (products are I * p); int32 holds them exactly, 33 * 33 * 255^2 < 2^31.
    """
    height, n = image.shape
    pad, width = radius * channels, 2 * radius + 1
    padded = n + 2 * pad  # zeros beyond both ends clip the windows
    sums, products = np.zeros(padded, np.int32), np.zeros(padded, np.int32)
    total, total_products = np.empty(n, np.int32), np.empty(n, np.int32)
    work, more_work = np.empty(padded, np.int32), np.empty(padded, np.int32)
    if guide is not None:
        cross_sums, cross_products = np.zeros(padded, np.int32), np.zeros(padded, np.int32)
        cross_total, cross_total_products = np.empty(n, np.int32), np.empty(n, np.int32)
    ring_a, ring_b = np.zeros((width, n), np.float32), np.zeros((width, n), np.float32)
    sums_a, sums_b = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    total_a, total_b = np.empty(n, np.float32), np.empty(n, np.float32)
    float_work, more_float_work = np.empty(padded, np.float32), np.empty(padded, np.float32)
    inner_a, inner_b = sums_a[pad : pad + n], sums_b[pad : pad + n]

    top = max(first - radius, 0)
    for y in range(max(top - 2 * radius, -radius), last + radius):
        slot = y % width
        if y < height:
            if guide is None:
                _slide(image, image, y, top, radius, sums[pad : pad + n], products[pad : pad + n])
            else:
                _slide(guide, guide, y, top, radius, sums[pad : pad + n], products[pad : pad + n])
                _slide(guide, image, y, top, radius, cross_sums[pad : pad + n], cross_products[pad : pad + n])
        if y < top:
            continue
        if y < height:
            _window_sum(sums, channels, width, total, work, more_work)
            _window_sum(products, channels, width, total_products, work, more_work)
            if guide is None:
                _own_coefficients(
                    total, total_products, column_share, row_share[y], eps,
                    ring_a[slot], ring_b[slot], inner_a, inner_b,
                )  # fmt: skip
            else:
                _window_sum(cross_sums, channels, width, cross_total, work, more_work)
                _window_sum(cross_products, channels, width, cross_total_products, work, more_work)
                _coefficients(
                    total, total_products, cross_total, cross_total_products, column_share, row_share[y], eps,
                    ring_a[slot], ring_b[slot], inner_a, inner_b,
                )  # fmt: skip
        else:
            _forget(ring_a[slot], inner_a)
            _forget(ring_b[slot], inner_b)
        done = y - radius
        if done >= first:
            _window_sum(sums_a, channels, width, total_a, float_work, more_float_work)
            _window_sum(sums_b, channels, width, total_b, float_work, more_float_work)
            row = image[done] if guide is None else guide[done]
            _output(row, total_a, total_b, column_share, row_share[done], out[done])


@compiled
def _slide(I: Any, p: Any, y: int, top: int, radius: int, sums: Any, products: Any) -> None:  # noqa: E741, N803
    """Moves the window of rows down to y: row y + radius enters, row y - radius - 1 leaves.

    Nothing leaves before row `top`, the first with a full window, is reached.
    """
    enters, leaves = y + radius, y - radius - 1
    if enters < I.shape[0]:
        _add_row(I[enters], p[enters], sums, products)
    if leaves >= 0 and y > top:
        _remove_row(I[leaves], p[leaves], sums, products)


@compiled
def _add_row(I: Any, p: Any, sums: Any, products: Any) -> None:  # noqa: E741, N803
    for i in range(p.shape[0]):
        sums[i] += np.int32(p[i])
        products[i] += np.int32(I[i]) * np.int32(p[i])


@compiled
def _remove_row(I: Any, p: Any, sums: Any, products: Any) -> None:  # noqa: E741, N803
    for i in range(p.shape[0]):
        sums[i] -= np.int32(p[i])
        products[i] -= np.int32(I[i]) * np.int32(p[i])


@compiled
def _window_sum(padded: Any, step: int, width: int, total: Any, work: Any, more_work: Any) -> None:
    """Sets total[i] to the sum of padded[i + k * step] for k = 0 ... width - 1.

    Sums of 4, 16, ... neighbours are made of four sums of the size before; `width`, written in
    base 4, says how many of each size make up the window. `work` and `more_work` are room to
    work in, as long as `padded`.
    """
    n = total.shape[0]
    _copy(padded[:n], total)
    done, size = 1, 1
    source, target = padded, work
    while True:
        shift = size * step
        for _ in range((width // size) % 4 - (1 if size == 1 else 0)):
            _add(total, source[done * step : done * step + n])
            done += size
        if 4 * size > width:
            return
        m = n + (width - 4 * size) * step
        _sum_of_four(
            source[:m], source[shift : shift + m], source[2 * shift : 2 * shift + m],
            source[3 * shift : 3 * shift + m], target[:m],
        )  # fmt: skip
        source, target = target, more_work if size == 1 else source
        size *= 4


@compiled
def _copy(a: Any, total: Any) -> None:
    # As a loop it becomes a memcpy; a slice assignment takes as long as all the sums together.
    for i in range(total.shape[0]):
        total[i] = a[i]


@compiled
def _sum_of_four(a: Any, b: Any, c: Any, d: Any, total: Any) -> None:
    for i in range(total.shape[0]):
        total[i] = (a[i] + b[i]) + (c[i] + d[i])


@compiled
def _add(total: Any, a: Any) -> None:
    for i in range(total.shape[0]):
        total[i] += a[i]


@compiled
def _own_coefficients(
    total: Any,
    total_squares: Any,
    column_share: Any,
    row_share: Any,
    eps: Any,
    ring_a: Any,
    ring_b: Any,
    sums_a: Any,
    sums_b: Any,
) -> None:
    """One row of a and b where image and guide are one; it replaces the oldest row of the ring."""
    one, zero = np.float32(1), np.float32(0)
    for i in range(total.shape[0]):
        share = column_share[i] * row_share
        mean = np.float32(total[i]) * share
        variance = max(np.float32(total_squares[i]) * share - mean * mean, zero)
        a = variance / (variance + eps)
        b = mean * (one - a)
        sums_a[i] += a - ring_a[i]
        sums_b[i] += b - ring_b[i]
        ring_a[i] = a
        ring_b[i] = b


@compiled
def _coefficients(
    total_I: Any,  # noqa: N803
    total_II: Any,  # noqa: N803
    total_p: Any,
    total_Ip: Any,  # noqa: N803
    column_share: Any,
    row_share: Any,
    eps: Any,
    ring_a: Any,
    ring_b: Any,
    sums_a: Any,
    sums_b: Any,
) -> None:
    """As `_own_coefficients`, for an image p with a guide I."""
    zero = np.float32(0)
    for i in range(total_p.shape[0]):
        share = column_share[i] * row_share
        mean_I, mean_p = np.float32(total_I[i]) * share, np.float32(total_p[i]) * share  # noqa: N806
        variance = max(np.float32(total_II[i]) * share - mean_I * mean_I, zero)
        covariance = np.float32(total_Ip[i]) * share - mean_I * mean_p
        a = covariance / (variance + eps)
        b = mean_p - a * mean_I
        sums_a[i] += a - ring_a[i]
        sums_b[i] += b - ring_b[i]
        ring_a[i] = a
        ring_b[i] = b


@compiled
def _forget(ring: Any, sums: Any) -> None:
    for i in range(ring.shape[0]):
        sums[i] -= ring[i]
        ring[i] = np.float32(0)


@compiled
def _output(row: Any, total_a: Any, total_b: Any, column_share: Any, row_share: Any, out: Any) -> None:
    half, lowest, highest = np.float32(0.5), np.float32(0), np.float32(255.5)
    for i in range(row.shape[0]):
        mean_ai_b = (total_a[i] * np.float32(row[i]) + total_b[i]) * (column_share[i] * row_share)
        out[i] = np.uint8(np.int32(min(max(mean_ai_b + half, lowest), highest)))
