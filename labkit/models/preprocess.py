"""Preprocessing of an image into a network's input: one function, several implementations.

Every implementation takes an (H, W, 3) uint8 RGB image and gives a (1, 3, h, w) float32
tensor, scaled to [0, 1] and normalised with the network's mean and standard deviation.
The geometry (`InputSpec`) is the network's; only the arithmetic's owner differs:

| name            | resize                         | normalise                    |
|-----------------|--------------------------------|------------------------------|
| `pil`           | Pillow bilinear (antialiased)  | torch, after Pillow          |
| `opencv`        | INTER_AREA, else INTER_LINEAR  | NumPy                        |
| `opencv_linear` | `cv2.resize` INTER_LINEAR      | NumPy; aliases when shrinking|
| `opencv_lut`    | as `opencv`                    | one table look-up per value  |
| `torch`         | torch antialiased bilinear     | torch, on the input's device |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from labkit.core.errors import FrameError, UsageError
from labkit.core.types import Size
from labkit.sources.convert import resize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """Geometry and normalisation of a network's input.

    Attributes:
        shorter: resize so that the shorter side has this many px, or None.
        crop: then cut out the (width, height) in the middle, or None.
        exact: resize to exactly this (width, height), or None; excludes the other two.
        mean, std: per RGB channel, on values in [0, 1].
    """

    shorter: int | None = None
    crop: Size | None = None
    exact: Size | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def resized(self, size: Size) -> Size:
        """(width, height) after resizing an image of `size`, before cropping."""
        if self.exact is not None:
            return self.exact
        if self.shorter is None:
            return size
        width, height = size
        if width <= height:
            return self.shorter, max(1, int(self.shorter * height / width))
        return max(1, int(self.shorter * width / height)), self.shorter

    def crop_corner(self, size: Size) -> tuple[int, int]:
        """(left, top) of the middle crop in a resized image of `size`."""
        if self.crop is None:
            return 0, 0
        return round((size[0] - self.crop[0]) / 2), round((size[1] - self.crop[1]) / 2)

    def output_size(self, size: Size) -> Size:
        """(width, height) of the network's input for an image of `size`."""
        return self.crop if self.crop is not None else self.resized(size)


DETR_INPUT = InputSpec()
"""The frame at its own size, as the lab runs DETR (its default would enlarge to 800 px)."""

Preprocess = Callable[[NDArray[np.uint8]], Tensor]


def with_pil(image: NDArray[np.uint8], spec: InputSpec) -> Tensor:
    """Pillow's resize, then torch arithmetic: (1, 3, h, w) float32."""
    picture = Image.fromarray(image)
    size = spec.resized(picture.size)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    if spec.crop is not None:
        left, top = spec.crop_corner(size)
        picture = picture.crop((left, top, left + spec.crop[0], top + spec.crop[1]))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    mean = torch.tensor(spec.mean).view(3, 1, 1)
    std = torch.tensor(spec.std).view(3, 1, 1)
    return pixels.to(torch.float32).div(255).sub(mean).div(std)[None]


def with_opencv(image: NDArray[np.uint8], spec: InputSpec, interpolation: int = cv2.INTER_AREA) -> Tensor:
    """OpenCV's resize, then NumPy arithmetic: (1, 3, h, w) float32."""
    image = resize_opencv(image, spec, interpolation)
    # Planes first: NumPy is some ten times slower where the channel is the innermost of the axes.
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    pixels /= np.float32(255)
    pixels -= np.asarray(spec.mean, np.float32)[:, None, None]
    pixels /= np.asarray(spec.std, np.float32)[:, None, None]
    return torch.from_numpy(pixels)[None]


def with_opencv_linear(image: NDArray[np.uint8], spec: InputSpec) -> Tensor:
    """As most code is written: no antialiasing, so fine detail turns into false detail."""
    return with_opencv(image, spec, cv2.INTER_LINEAR)


def with_opencv_lut(image: NDArray[np.uint8], spec: InputSpec) -> Tensor:
    """OpenCV's resize; a uint8 has 256 values, so normalising is one look-up per value."""
    image = resize_opencv(image, spec, cv2.INTER_AREA)
    height, width = image.shape[:2]
    out = np.empty((3, height, width), np.float32)
    for channel, table in enumerate(normalisation_tables(spec)):
        cv2.LUT(np.ascontiguousarray(image[:, :, channel]), table, dst=out[channel])
    return torch.from_numpy(out)[None]


def with_torch(image: NDArray[np.uint8] | Tensor, spec: InputSpec, device: str = "cpu") -> Tensor:
    """Uploads bytes, then resizes and normalises on `device`: (1, 3, h, w) float32."""
    pixels = torch.from_numpy(image) if isinstance(image, np.ndarray) else image
    pixels = pixels.to(device, non_blocking=True).permute(2, 0, 1)[None].contiguous()
    return normalise_torch(resize_torch(pixels, spec), spec)


def resize_torch(pixels: Tensor, spec: InputSpec) -> Tensor:
    """(1, 3, H, W) uint8 or float in 0..255 -> resized and cropped, rounded as Pillow does."""
    height, width = pixels.shape[-2:]
    new_width, new_height = spec.resized((width, height))
    if (new_width, new_height) != (width, height):
        pixels = torch.nn.functional.interpolate(
            pixels.float(), size=(new_height, new_width), mode="bilinear", antialias=True
        ).round_()
    if spec.crop is not None:
        left, top = spec.crop_corner((new_width, new_height))
        pixels = pixels[..., top : top + spec.crop[1], left : left + spec.crop[0]]
    return pixels


def normalise_torch(pixels: Tensor, spec: InputSpec) -> Tensor:
    """(N, 3, h, w) values in 0..255 -> normalised float32, as one multiply and one add."""
    weight, bias = _normalisation(spec, str(pixels.device))
    return torch.addcmul(bias, pixels.to(torch.float32), weight)


def gray_levels(values: Tensor, spec: InputSpec) -> Tensor:
    """Undoes `normalise_torch`: (N, 3, h, w) normalised values -> float32 in 0..255."""
    weight, bias = _normalisation(spec, str(values.device))
    return (values.to(torch.float32) - bias) / weight


def _normalisation(spec: InputSpec, device: str) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel, on the device; made once, since making them waits for it."""
    # What is made while a graph is traced belongs to the trace, and must not be kept.
    make = scale_and_shift if torch.compiler.is_compiling() else _kept
    return make(spec, device)


def scale_and_shift(spec: InputSpec, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each: factor and term that normalise values in 0..255."""
    scale = torch.tensor([1 / (255 * s) for s in spec.std]).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(spec.mean, spec.std, strict=True)]).view(3, 1, 1)
    return scale.to(device), shift.to(device)


_kept = cache(scale_and_shift)  # graphs hold these addresses


def resize_opencv(image: NDArray[np.uint8], spec: InputSpec, interpolation: int) -> NDArray[np.uint8]:
    """Resizes and crops an (H, W, 3) image as `spec` says; INTER_AREA stands for `convert.resize`."""
    if spec.exact is None and spec.shorter is None and spec.crop is None:
        return image
    size = spec.resized((image.shape[1], image.shape[0]))
    resized: Any = image
    if interpolation == cv2.INTER_AREA:
        resized = resize(image, size)
    elif size != (image.shape[1], image.shape[0]):
        resized = cv2.resize(image, size, interpolation=interpolation)
    if spec.crop is not None:
        left, top = spec.crop_corner(size)
        resized = resized[top : top + spec.crop[1], left : left + spec.crop[0]]
    return resized


def normalisation_tables(spec: InputSpec) -> NDArray[np.float32]:
    """(3, 256) normalised value of each byte, per channel."""
    values = np.arange(256, dtype=np.float64) / 255
    return np.stack([(values - m) / s for m, s in zip(spec.mean, spec.std, strict=True)]).astype(np.float32)


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "pil": with_pil,
    "opencv": with_opencv,
    "opencv_linear": with_opencv_linear,
    "opencv_lut": with_opencv_lut,
    "torch": with_torch,
}


def preprocessor(name: str, spec: InputSpec, **options: Any) -> Preprocess:
    """The implementation `name` for a network that wants `spec`.

    Raises:
        UsageError: there is no implementation of that name.
        FrameError: (when called) the image is not (H, W, 3) uint8.
    """
    if name not in IMPLEMENTATIONS:
        raise UsageError(f"no preprocessing named {name!r}; there are {', '.join(IMPLEMENTATIONS)}")
    implementation = IMPLEMENTATIONS[name]

    def run(image: NDArray[np.uint8]) -> Tensor:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise FrameError(f"preprocessing wants (H, W, 3) uint8, not {image.dtype} {image.shape}")
        return implementation(image, spec, **options)

    return run
