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
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128  # BT.2100, PQ
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073  # BT.2100, HLG
_LUMA = (0.2627, 0.6780, 0.0593)
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def on_screen(image: NDArray[np.uint8], transfer: int) -> NDArray[np.uint8]:
    """An (H, W, 3) RGB image with BT.2020 primaries and transfer PQ or HLG as sRGB.

    Brightness goes through the curve of ITU-R BT.2390 for a screen whose white is `WHITE_NITS`.
    """
    import cv2

    linear, share, encoded = _tables(transfer)
    light: Any = cv2.LUT(image, linear)
    red, green, blue = cv2.split(image if transfer == PQ else light)
    brightest = cv2.max(cv2.max(red, green), blue)
    if transfer == PQ:
        gain = cv2.LUT(brightest, share)
    else:
        gain = PEAK_NITS * cv2.pow(cv2.transform(light, np.array([_LUMA], np.float32)), 0.2)
        gain *= share[(gain * brightest * ((len(share) - 1) / PEAK_NITS)).astype(np.uint16)]
    light *= gain[..., None]
    light = cv2.transform(light, _BT2020_TO_BT709 * np.float32((len(encoded) - 1) / WHITE_NITS))
    return encoded[
        cv2.add(light, np.zeros(4), dtype=cv2.CV_16U)
    ]  # which cuts off what is below 0 and above 1


@lru_cache
def _tables(transfer: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Light of each signal, the screen's share of each brightness, and the sRGB value of each light.

    Light is in nits for PQ and from 0 to 1 for HLG, where a picture's own brightness decides. The share
    is by the signal of PQ, and by the brightness up to `PEAK_NITS` of HLG.
    """
    signal = np.arange(256) / 255
    if transfer == PQ:
        light = nits = _from_pq(signal)
    else:
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _C) / _A) + _B) / 12)
        nits = np.linspace(0, PEAK_NITS, 4096)
    share = _rolled_off(nits) / np.maximum(nits, 1e-6)
    shown = np.linspace(0, 1, 65536)
    shown = np.where(shown <= 0.0031308, 12.92 * shown, 1.055 * shown ** (1 / 2.4) - 0.055)
    return light.astype(np.float32), share.astype(np.float32), np.rint(255 * shown).astype(np.uint8)


def _from_pq(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    root = signal ** (1 / _M2)
    return 10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)


def _to_pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    root = (nits / 10000) ** _M1
    return ((_C1 + _C2 * root) / (1 + _C3 * root)) ** _M2


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
