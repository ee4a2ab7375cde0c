"""The whole frame with each step on a stream of its own, through a ring of buffers.

Steps of successive frames can then run at the same time. Buffers are made once, `depth` of each; a
frame owns the buffers of its slot from its upload until its answer has been fetched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.core.types import Detections, Size
from labkit.models.box_rows import ROW, BoxRows
from labkit.models.cuda_streams import Streams, streams_for
from labkit.models.engines.build import Engine
from labkit.models.filter_stage import DeviceSmoothing
from labkit.models.fused import CopyBack, FusedNet

STREAMS = ("upload", "filter", "infer", "back")
STAGES = ("upload", "detect", "name", "back")


class FrameRing:
    """Upload and copy back of frames under way, one slot each.

    Attributes:
        depth: frames that can be under way at once.
        streams: see `Streams`.
    """

    def __init__(self, net: FusedNet, depth: int, streams: Sequence[str]) -> None:
        self.depth = depth
        self._net = net
        device, pin = net.device, net.device == "cuda"
        width, height = net.workload.size

        def ring(*shape: int, dtype: torch.dtype, on: str, pinned: bool = False) -> list[Tensor]:
            return [torch.empty(shape, dtype=dtype, device=on, pin_memory=pinned) for _ in range(depth)]

        self._host = ring(height, width, 3, dtype=torch.uint8, on="cpu", pinned=pin)
        self._frames = ring(1, height, width, 3, dtype=torch.uint8, on=device)
        self._packed: list[Tensor | None] = [None] * depth
        self._answers = ring(1, net.workload.objects, ROW, dtype=torch.float32, on="cpu", pinned=pin)
        self._under_way: list[CopyBack | None] = [None] * depth
        self.streams: Streams = streams_for(device, streams)

    def upload(self, image: NDArray[np.uint8], slot: int) -> None:
        """(H, W, 3) uint8 into the slot's page-locked buffer, and from there to the device."""
        np.copyto(self._host[slot].numpy(), image)
        self._frames[slot].copy_(self._host[slot][None], non_blocking=True)

    def copy_back(self, slot: int) -> None:
        """Begins the copy of the slot's answer to the host."""
        packed, self._packed[slot] = self._packed[slot], None
        assert packed is not None, "copy_back comes after the networks"
        # A detector may have fewer queries than are asked for.
        host = self._answers[slot][:, : packed.shape[1]]
        host.copy_(packed, non_blocking=True)
        self._under_way[slot] = CopyBack(host, self.streams.mark("back"))

    def result(self, slot: int, size: Size) -> Detections:
        """Waits for the slot's answer alone; the slot is free afterwards."""
        copy = self._under_way[slot]
        assert copy is not None, "result comes after copy_back"
        self.streams.wait(copy.done)
        return self._net.unpack(copy.host, size)

    def _answer(self, packed: Tensor, slot: int) -> None:
        self.streams.keep(packed, "back")  # made on one stream, read on another
        self._packed[slot] = packed


class StreamedNet(FrameRing):
    """A filter and a fused network for `multi_stream.ring_of_streams`: one method per stream."""

    def __init__(self, net: FusedNet, smoothing: DeviceSmoothing, depth: int) -> None:
        super().__init__(net, depth, STREAMS)
        self._smoothing = smoothing
        self._inputs = [smoothing.new_out(net.device) for _ in range(depth)]

    def smooth(self, slot: int) -> None:
        """The slot's frame, filtered, into the slot's input."""
        self._smoothing(self._frames[slot], self._inputs[slot])

    def infer(self, slot: int) -> None:
        """Both networks on the slot's input."""
        self._answer(self._net.infer(self._inputs[slot]), slot)


class StagedNet(FrameRing):
    """Detector and classifier for `multi_stream.ring_of_stages`, each on a stream of its own.

    Args:
        net: whose engine is a `DetectorStage`.
        classify: crops of that stage -> logits.
        rows: packs the names.
        depth: frames that can be under way at once.
    """

    def __init__(self, net: FusedNet, classify: Engine, rows: BoxRows, depth: int) -> None:
        super().__init__(net, depth, STAGES)
        self._classify, self._rows = classify, rows
        self._found: list[tuple[Tensor, Tensor] | None] = [None] * depth

    def detect(self, slot: int) -> None:
        """Boxes in the slot's frame, and their crops."""
        found = self._net.infer(self._frames[slot])
        for each in found:
            self.streams.keep(each, "name")
        self._found[slot] = found

    @torch.inference_mode()
    def name(self, slot: int) -> None:
        """Names of the slot's crops."""
        found, self._found[slot] = self._found[slot], None
        assert found is not None, "name comes after detect"
        rows, crops = found
        self._answer(self._rows.name(rows, self._classify(crops)), slot)
