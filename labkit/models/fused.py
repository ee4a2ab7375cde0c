"""Detector and classifier fused into one module: bytes in, named boxes out, no read in between.

The frame goes up once as bytes; normalising, detecting, picking the best queries, cutting
crops (`roi_align` from the frame that is already there), naming and packing happen where it
is; one small matrix comes back. The number of boxes is fixed, so every shape is known in
advance and the whole can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from labkit.core.trace import tap
from labkit.core.types import Detections, Size, Workload
from labkit.models.box_rows import BoxRows
from labkit.models.decode import unpack_detections
from labkit.models.engines.build import Engine
from labkit.models.networks import Network
from labkit.models.preprocess import InputSpec, Preprocess, gray_levels, normalise_torch, resize_torch


class FusedNetwork(nn.Module):
    """Detector and classifier behind one `forward`: (B, H, W, 3) uint8 -> (B, k, 8) float32.

    Args:
        detector: pixels -> logits and boxes.
        classifier: crops -> logits.
        detector_input, crop_input: what each wants to be fed.
        rows: chooses the k boxes that are named, and packs what is known of them.
    """

    def __init__(
        self,
        detector: nn.Module,
        classifier: nn.Module,
        detector_input: InputSpec,
        crop_input: InputSpec,
        rows: BoxRows,
    ) -> None:
        super().__init__()
        self.detector, self.classifier = detector, classifier
        self.detector_input, self.crop_input = detector_input, crop_input
        self.rows = rows

    def forward(self, frames: Tensor) -> Tensor:
        """One row per box, best first: centre box, score, label, fine score, fine label."""
        rows, crops = self.crops(frames)
        return self.rows.name(rows, self.classifier(crops))

    def crops(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the best boxes, still without names, and the classifier's input (B k, 3, h, w)."""
        pixels = frames.permute(0, 3, 1, 2).float()
        x = normalise_torch(resize_torch(pixels, self.detector_input), self.detector_input)
        return self._cut(x, pixels, lambda crops: normalise_torch(crops, self.crop_input))

    def _cut(self, x: Tensor, pixels: Tensor, as_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Detects in `x`, cuts crops out of `pixels` (B, 3, H, W), and makes input of them."""
        dtype, layout = next(self.detector.parameters()).dtype, _layout(self.detector)
        height, width = pixels.shape[-2:]
        logits, boxes = self.detector(x.to(dtype, memory_format=layout))
        rows, cuts = self.rows.choose(logits, boxes, (width, height))
        crops = roi_align(pixels, cuts, self.crop_input.exact[::-1], aligned=True)  # (B k, 3, h, w)
        return rows, as_input(crops).to(dtype, memory_format=layout)


class FusedFromInput(FusedNetwork):
    """A `FusedNetwork` for frames that come normalised already: (B, 3, H, W) -> (B, k, 8) float32.

    Crops are cut from the normalised frame: cutting averages, and averages of normalised values
    are normalised averages. Only networks that want another mean and deviation than the frame
    came with need theirs put in.

    Args:
        came_as: what the frames are normalised with.
    """

    def __init__(self, *parts: Any, came_as: InputSpec) -> None:
        super().__init__(*parts)
        self.came_as = came_as

    def crops(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `FusedNetwork.crops`."""
        spec, (height, width) = self.detector_input, frames.shape[-2:]
        if spec.output_size((width, height)) == (width, height):
            x = self._normalised_for(frames, spec)
        else:
            x = normalise_torch(resize_torch(gray_levels(frames, self.came_as), spec), spec)
        return self._cut(x, frames.float(), lambda crops: self._normalised_for(crops, self.crop_input))

    def _normalised_for(self, values: Tensor, spec: InputSpec) -> Tensor:
        if (spec.mean, spec.std) == (self.came_as.mean, self.came_as.std):
            return values
        return normalise_torch(gray_levels(values, self.came_as), spec)


class SmoothedNetwork(nn.Module):
    """A filter and the networks behind it as one module: (1, H, W, 3) uint8 -> (1, k, 8) float32.

    Args:
        smooth: (1, H, W, 3) uint8 -> the network's input.
        network: a `FusedFromInput`.
    """

    def __init__(self, smooth: Callable[[Tensor], Tensor], network: FusedFromInput) -> None:
        super().__init__()
        self.smooth, self.network = smooth, network

    def forward(self, frame: Tensor) -> Tensor:
        """One row per box, as `FusedNetwork`."""
        return self.network(self.smooth(frame))


class DetectorStage(nn.Module):
    """A `FusedNetwork` up to its classifier: (B, H, W, 3) uint8 -> rows, and crops (B, k, h, w, 3)."""

    def __init__(self, network: FusedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Rows without names, and the crops to be named, channels last."""
        rows, crops = self.network.crops(frames)
        return rows, crops.permute(0, 2, 3, 1).unflatten(0, rows.shape[:2])


class ClassifierStage(nn.Module):
    """The classifier behind a `DetectorStage`: crops (B, k, h, w, 3) -> logits (B k, C)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, crops: Tensor) -> Tensor:
        """Names every crop; no copy where convolutions want their channels last."""
        return self.classifier(crops.flatten(0, 1).permute(0, 3, 1, 2))


def _layout(module: nn.Module) -> torch.memory_format:
    """Memory format of a network's convolutions; an input in another one costs copies of weights."""
    weight = next((p for p in module.parameters() if p.ndim == 4 and p.shape[-1] > 1), None)
    if weight is None or weight.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last


@dataclass(frozen=True, eq=False)
class CopyBack:
    """A copy to host memory under way: where it lands, and the event that ends it."""

    host: Tensor
    done: torch.cuda.Event | None


@dataclass(eq=False)
class FusedNet:
    """A `FusedNetwork` engine with the sides that the plain loop calls.

    Attributes:
        preprocess: (H, W, 3) uint8 -> (1, H, W, 3) uint8 on the device.
        infer: that -> (1, k, 8) packed boxes, still on the device; or several frames at once.
        group: most frames that a schedule may put through it in one pass.
    """

    detector: Network
    classifier: Network
    preprocess: Preprocess
    infer: Engine
    device: str
    workload: Workload
    group: int = 1

    def decode(self, packed: Tensor, size: Size) -> Detections:
        """The frame's one copy back, made into detections with names; size is (width, height)."""
        return self.unpack(packed.cpu(), size)

    def start_copy(self, packed: Tensor) -> CopyBack:
        """Begins the copy back without waiting for it."""
        if self.device == "cpu":
            return CopyBack(packed, None)
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        host.copy_(packed, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return CopyBack(host, done)

    def finish_copy(self, copy: CopyBack) -> Tensor:
        """Waits for this copy alone; (1, k, 8) in host memory."""
        if copy.done is not None:
            copy.done.synchronize()
        return copy.host

    def unpack(self, packed: Tensor, size: Size) -> Detections:
        """(1, k, 8) packed boxes in host memory -> detections."""
        packed = packed[0]
        tap("detector.boxes", packed[:, :4])
        packed = packed[~(packed[:, 4] < self.workload.threshold)]  # as `unpack_detections` does
        found = unpack_detections(packed[:, :6], size, self.detector.labels, self.workload.threshold)
        label = packed[:, 7].numpy().astype("int64")
        names = tuple(self.classifier.labels[i] for i in label)
        return found.with_fine(label, packed[:, 6].numpy(), names)
