"""Image quality after filtering: PSNR, SSIM and edge retention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import FrameError
from labkit.filters.image_filters import guided_filter

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

STRONGEST_SHARE = 0.05
"""The pixels with the strongest gradients in the clean image count as its edges."""


@dataclass(frozen=True)
class Quality:
    """Similarity of an image to the clean one.

    Attributes:
        psnr_db: peak signal-to-noise ratio in dB; infinite where they are equal.
        ssim: structural similarity, mean over channels; 1 where they are equal.
        edge_retention: how much of the clean image's edges is left: the part of its gradient,
            summed over its strongest edges, that the image has in the same direction. 1 is all,
            0 none; above 1 is sharper.
    """

    psnr_db: float
    ssim: float
    edge_retention: float


@dataclass(frozen=True)
class FilteredQuality:
    """Quality of the noisy image after one setting of the filter; radius 0 is the noisy image itself."""

    version: str
    radius: int
    eps: float
    quality: Quality


def measure_quality(clean: Image, image: Image) -> Quality:
    """Compare an image with the clean one.

    Args:
        clean, image: (H, W, C) uint8, of one shape, at least 7 px in height and width.

    Raises:
        FrameError: shapes or types differ, or are too small for SSIM's 7 px windows.
    """
    if clean.shape != image.shape or clean.ndim != 3 or clean.dtype != np.uint8 or image.dtype != np.uint8:
        raise FrameError(
            "both images are uint8 (H, W, C) of one shape, "
            f"not {clean.dtype} {clean.shape} and {image.dtype} {image.shape}"
        )
    if min(clean.shape[:2]) < 7:
        raise FrameError(f"SSIM looks at windows of 7 px; the image is {clean.shape[1]}x{clean.shape[0]}")
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    with np.errstate(divide="ignore"):  # equal images: infinite
        psnr_db = float(peak_signal_noise_ratio(clean, image))
    ssim = float(structural_similarity(clean, image, channel_axis=2, data_range=255))
    return Quality(psnr_db, ssim, edge_retention(clean, image))


def edge_retention(clean: Image, image: Image) -> float:
    """See `Quality`; 1.0 where the clean image has no edges to keep."""
    wanted, found = _gradient(clean), _gradient(image)  # (H, W, C, 2)
    strength = np.linalg.norm(wanted, axis=-1)
    edges = (strength >= np.quantile(strength, 1 - STRONGEST_SHARE)) & (strength > 0)
    if not edges.any():
        return 1.0
    along = (wanted * found).sum(axis=-1)[edges] / strength[edges]
    return float(along.sum() / strength[edges].sum())


def quality_sweep(
    clean: Image,
    noisy: Image,
    radii: Sequence[int] = (2, 4, 8),
    eps_values: Sequence[float] = (0.0001, 0.001, 0.01, 0.1),
) -> tuple[FilteredQuality, ...]:
    """Quality for every radius and eps, after a first row for the noisy image as it is.

    Args:
        clean, noisy: (H, W, C) uint8, of one shape.
        radii: px.
        eps_values: in squared intensity of [0, 1] images.

    Raises:
        FrameError: see `measure_quality`.
        UsageError: see `guided_filter`.
    """
    before = FilteredQuality("none", 0, 0.0, measure_quality(clean, noisy))
    after = tuple(
        FilteredQuality("numba", radius, eps, measure_quality(clean, guided_filter(noisy, radius, eps)))
        for radius in radii
        for eps in eps_values
    )
    return (before, *after)


def add_noise(clean: Image, sigma_gray: float, seed: int = 0) -> Image:
    """Add Gaussian noise of standard deviation `sigma_gray` grey levels, rounded and clipped."""
    noise = np.random.default_rng(seed).normal(0, sigma_gray, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def _gradient(image: Image) -> Floats:
    down, across = np.gradient(image.astype(np.float64), axis=(0, 1))
    return np.stack((across, down), axis=-1)
