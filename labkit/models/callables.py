"""Networks as schedules call them, with their input and output sides attached.

A `Classifier` names whole frames or crops, a `Detector` finds boxes, and `Combined` holds
one of each. Schedules call their parts in whatever order, thread or stream they like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.core.trace import tap
from labkit.core.types import Detections, Size
from labkit.models.decode import DetrDecoder, top1
from labkit.models.engines.build import Engine
from labkit.models.networks import Network
from labkit.models.preprocess import Preprocess


@dataclass(eq=False)
class Classifier:
    """Names a frame, or each of several crops.

    Attributes:
        preprocess: (H, W, 3) uint8 -> the engine's input for a whole frame.
        infer: (N, ...) input -> (N, C) logits on the engine's device.
        crop_input: (h, w, 3) uint8 -> the engine's input for a crop.
    """

    network: Network
    preprocess: Preprocess
    infer: Engine
    crop_input: Preprocess

    def decode(self, logits: Tensor, size: Size) -> Detections:
        """(1, C) logits of a frame -> its name, as one detection with the frame as box."""
        tap("classifier.logits", logits)
        label, score = top1(logits)
        return Detections(
            xyxy=np.array([[0, 0, *size]], np.float32),
            score=score,
            label=label,
            name=(self.network.labels[label[0]],),
            frame_size=size,
        )

    def crops(self, image: NDArray[np.uint8], xyxy: NDArray[np.float32]) -> Tensor:
        """Cuts each box out of an (H, W, 3) image: (N, ...) input for `infer`, on the host."""
        return torch.cat([self.crop_input(cut(image, box)) for box in xyxy])

    def name(self, found: Detections, logits: Sequence[Tensor] | Tensor) -> Detections:
        """The detections with a name for each box; (N, C) logits, or N times (1, C)."""
        if not isinstance(logits, Tensor):
            logits = torch.cat(list(logits)) if logits else torch.empty(0, len(self.network.labels))
        tap("classifier.logits", logits)
        if not len(found):
            return found.with_fine(np.empty(0, np.int64), np.empty(0, np.float32), ())
        label, score = top1(logits)
        return found.with_fine(label, score, tuple(self.network.labels[i] for i in label))


@dataclass(eq=False)
class Detector:
    """Finds boxes in a frame.

    Attributes:
        preprocess: (H, W, 3) uint8 -> the engine's input.
        infer: (B, ...) input -> logits (B, Q, C + 1) and relative centre boxes (B, Q, 4).
        decode: one frame's outputs, (1, Q, ...) each, and its size -> the best boxes.
    """

    network: Network
    preprocess: Preprocess
    infer: Engine
    decode: DetrDecoder


@dataclass(eq=False)
class Combined:
    """A detector whose boxes a classifier names.

    Attributes:
        group: most frames that a schedule may put through the detector in one pass.
        every: frames from one detection to the next, for a schedule that follows boxes in between.
    """

    detector: Detector
    classifier: Classifier
    group: int = 1
    every: int = 1


@dataclass(frozen=True)
class OwnLabels:
    """For a loop that brings its own networks: the names that its numbers stand for.

    Attributes:
        names: of the boxes' labels, or of a classifier's.
        fine_names: of what each box is named by a classifier.
    """

    names: tuple[str, ...]
    fine_names: tuple[str, ...] = ()


Net = Any
"""`Classifier`, `Detector`, `Combined`, or whatever else a schedule of the ladder is written for."""


@dataclass(frozen=True)
class Prepared:
    """A rung's networks, ready, with what a result row says about them.

    Attributes:
        net: what the schedule gets.
        settings: model_set, weights, weights_sha256, device, objects, size, ... as used.
    """

    net: Net
    settings: dict[str, Any]

    def synchronize(self) -> None:
        """Waits until the device has done all it was given; nothing to do on the CPU."""
        own = isinstance(self.net, OwnLabels)  # such a loop chooses its device itself
        if self.settings["device"] == "cuda" or (own and torch.cuda.is_initialized()):
            torch.cuda.synchronize()


def cut(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The pixels that a box touches: (h, w, 3) view with h, w >= 1, even for an empty box.

    Args:
        image: (H, W, 3) uint8.
        box: (4,) x_min, y_min, x_max, y_max in px, inside the image.
    """
    height, width = image.shape[:2]
    left, top = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    right, bottom = max(int(np.ceil(box[2])), left + 1), max(int(np.ceil(box[3])), top + 1)
    return image[top:bottom, left:right]
