"""Upload of frames through pinned memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SLOTS = 4


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
