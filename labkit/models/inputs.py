"""Byte inputs: normalisation as part of the graph that an engine compiles, or after the upload."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labkit.core.types import Size
from labkit.models.pinned_upload import PinnedUpload
from labkit.models.preprocess import InputSpec, Preprocess, normalise_torch, resize_opencv


class FromBytes(nn.Module):
    """A network behind its own normalisation: (B, h, w, 3) uint8 RGB in.

    An engine can then fuse the conversion with the first convolution, and a quarter of the
    bytes travel.
    """

    def __init__(self, module: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.module = module
        scale = torch.tensor([1 / (255 * s) for s in spec.std])
        shift = torch.tensor([-m / s for m, s in zip(spec.mean, spec.std, strict=True)])
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", shift.view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Normalises and runs the network."""
        x = pixels.permute(0, 3, 1, 2).to(self.scale.dtype)
        return self.module(x * self.scale + self.shift)


class ByteInput:
    """Preprocessing for a `FromBytes` network: resize on the host if need be, keep bytes."""

    def __init__(self, spec: InputSpec, device: str) -> None:
        self.spec = spec
        self.device = device

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 -> (1, h, w, 3) uint8 on the device."""
        pixels = np.ascontiguousarray(resize_opencv(image, self.spec, cv2.INTER_AREA))
        return torch.from_numpy(pixels)[None].to(self.device)


class PinnedInput:
    """Preprocessing through pinned memory: resize on the host, upload bytes, normalise there."""

    def __init__(self, spec: InputSpec, device: str) -> None:
        self.spec = spec
        self._upload = PinnedUpload(device)

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, h, w) float32 on the device."""
        pixels = self._upload(resize_opencv(image, self.spec, cv2.INTER_AREA))
        return normalise_torch(pixels.permute(0, 3, 1, 2).contiguous(), self.spec)


def with_bytes(module: nn.Module, spec: InputSpec) -> FromBytes:
    """`module` behind the normalisation of `spec`."""
    return FromBytes(module, spec).eval().requires_grad_(False)


def calibration_frames(preprocess: Preprocess, size: Size, n: int = 32, seed: int = 77_000) -> list[Tensor]:
    """Inputs for post-training quantisation, from scenes whose seeds no benchmark or test uses.

    Returns:
        n tensors, each a batch of one.
    """
    from labkit.sources.synthetic.scene import scene_frame

    return [preprocess(scene_frame(i * 40, size=size, seed=seed + i).image) for i in range(n)]
