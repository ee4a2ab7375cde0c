"""Byte inputs: uploaded through pinned memory, normalised there or in the graph that an engine compiles."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labkit.core.types import Size
from labkit.models.preprocess import InputSpec, Preprocess, normalise_torch, resize_opencv, scale_and_shift

SLOTS = 4


CALIBRATION_FRAMES = 32


class PinnedUpload:
    """Uploads bytes from page-locked memory, through a ring of buffers made once.

    A copy from pinned memory needs no staging by the driver and can run while the host goes
    on. A buffer is written again only when its last copy is over, which after a whole ring
    it practically always is. On the CPU the same code runs without pinning, for tests.
    """

    def __init__(self, device: str, slots: int = SLOTS) -> None:
        self.device = device
        self._slots = slots
        self._buffers: list[Tensor] = []
        self._copied: list[torch.cuda.Event] = []
        self._next = 0

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 -> (1, H, W, 3) uint8 on the device; the image may be reused at once."""
        buffer, slot = self._free_buffer(image.shape)
        np.copyto(buffer.numpy(), image)
        if self.device == "cpu":
            return buffer[None].clone()
        out = buffer[None].to(self.device, non_blocking=True)
        self._copied[slot].record()
        return out

    def _free_buffer(self, shape: tuple[int, ...]) -> tuple[Tensor, int]:
        if not self._buffers or tuple(self._buffers[0].shape) != shape:
            self._make(shape)
        slot, self._next = self._next, (self._next + 1) % self._slots
        if self.device != "cpu" and not self._copied[slot].query():
            self._copied[slot].synchronize()
        return self._buffers[slot], slot

    def _make(self, shape: tuple[int, ...]) -> None:
        pin = self.device != "cpu"
        for event in self._copied:  # copies from buffers that are about to be freed
            event.synchronize()
        self._buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=pin) for _ in range(self._slots)]
        self._copied = [torch.cuda.Event() for _ in range(self._slots)] if pin else []


class FromBytes(nn.Module):
    """A network behind its own normalisation: (B, h, w, 3) uint8 RGB in.

    An engine can then fuse the conversion with the first convolution, and a quarter of the
    bytes travel.
    """

    def __init__(self, module: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.module = module
        scale, shift = scale_and_shift(spec)
        self.register_buffer("scale", scale[None])
        self.register_buffer("shift", shift[None])

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


def calibration_frames(
    preprocess: Preprocess, size: Size, n: int = CALIBRATION_FRAMES, seed: int = 77_000
) -> list[Tensor]:
    """Inputs for post-training quantisation, from scenes whose seeds no benchmark or test uses.

    Returns:
        n tensors, each a batch of one.
    """
    from labkit.sources.synthetic.scene import scene_frame

    return [preprocess(scene_frame(i * 40, size=size, seed=seed + i).image) for i in range(n)]
