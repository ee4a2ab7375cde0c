"""HDR films (PQ of HDR10, HLG of phones) in the colours of an ordinary screen."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

PQ, HLG = 16, 18
"""Transfer characteristics of ITU-T H.273."""
WHITE_NITS, PEAK_NITS = 203.0, 1000.0
"""Brightness of white paper (ITU-R BT.2408), and the brightest that is told from what is brighter."""
_STEPS = 65  # per channel of the table
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128  # BT.2100, PQ
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073  # BT.2100, HLG
_LUMA = (0.2627, 0.6780, 0.0593)
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


def on_screen(image: NDArray[np.uint8], transfer: int) -> NDArray[np.uint8]:
    """An (H, W, 3) RGB image with BT.2020 primaries and transfer PQ or HLG as sRGB."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).filter(_table(transfer)))


@lru_cache(maxsize=2)
def _table(transfer: int) -> Any:
    from PIL import ImageFilter

    axis = np.linspace(0, 1, _STEPS)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")  # Pillow's tables change red first
    shown = to_srgb(np.stack([red, green, blue], axis=-1), transfer)
    return ImageFilter.Color3DLUT(_STEPS, shown.reshape(-1).tolist())


def to_srgb(signal: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """Convert signals (..., 3) from 0 to 1 with BT.2020 primaries and PQ or HLG to sRGB, from 0 to 1.

    Brightness goes through the curve of ITU-R BT.2390 for a screen whose white is `WHITE_NITS`.
    """
    nits = _from_pq(signal) if transfer == PQ else _from_hlg(signal)
    brightest = nits.max(axis=-1, keepdims=True)
    nits = nits * (_rolled_off(brightest) / np.maximum(brightest, 1e-6))
    linear = np.clip(nits / WHITE_NITS @ _BT2020_TO_BT709.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _from_pq(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    root = signal ** (1 / _M2)
    return 10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)


def _to_pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    root = (nits / 10000) ** _M1
    return ((_C1 + _C2 * root) / (1 + _C3 * root)) ** _M2


def _from_hlg(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _C) / _A) + _B) / 12)
    return PEAK_NITS * (scene @ np.array(_LUMA))[..., None] ** 0.2 * scene


def _rolled_off(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Brightness up to `PEAK_NITS` on a screen that ends at `WHITE_NITS`: a spline above a knee."""
    peak = _to_pq(np.array(PEAK_NITS))
    signal, highest = np.minimum(_to_pq(nits) / peak, 1), _to_pq(np.array(WHITE_NITS)) / peak
    knee = 1.5 * highest - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * highest
    )
    return _from_pq(np.where(signal < knee, signal, spline) * peak)
