"""What a schedule is given: networks with their input and output sides attached.

A `Classifier` names whole frames or crops, a `Detector` finds boxes, and `Combined` holds
one of each. Schedules call their small methods in whatever order, thread or stream they like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.core.trace import tap
from labkit.core.types import Detections, Size, Workload
from labkit.models import decode
from labkit.models.engines.build import Engine
from labkit.models.networks import Network
from labkit.models.preprocess import Preprocess


@dataclass(eq=False)
class Classifier:
    """Names a frame, or each of several crops.

    Attributes:
        preprocess: (H, W, 3) uint8 -> the engine's input for a whole frame.
        crop_input: the same for a crop.
        max_batch: largest batch the engine takes at once, or None for any.
    """

    network: Network
    engine: Engine
    preprocess: Preprocess
    crop_input: Preprocess
    device: str
    max_batch: int | None = None

    def infer(self, x: Tensor) -> Tensor:
        """(N, ...) input -> (N, C) logits on the engine's device."""
        if self.max_batch is None or len(x) <= self.max_batch:
            return self.engine(x)[0]
        return torch.cat([self.engine(part)[0] for part in x.split(self.max_batch)])

    def decode(self, logits: Tensor, size: Size) -> Detections:
        """(1, C) logits of a frame -> its name, as one detection with the frame as box."""
        tap("classifier.logits", logits)
        return decode.whole_frame(logits, size, self.network.labels)

    def crops(self, image: NDArray[np.uint8], xyxy: NDArray[np.float32]) -> Tensor:
        """Cuts each box out of an (H, W, 3) image: (N, ...) input for `infer`, on the host."""
        return torch.cat([self.crop_input(cut(image, box)) for box in xyxy])

    def name(self, found: Detections, logits: Sequence[Tensor] | Tensor) -> Detections:
        """The detections with a name for each box; (N, C) logits, or N times (1, C)."""
        if not isinstance(logits, Tensor):
            logits = torch.cat(list(logits)) if logits else torch.empty(0, len(self.network.labels))
        tap("classifier.logits", logits)
        return decode.with_names(found, logits, self.network.labels)


@dataclass(eq=False)
class Detector:
    """Finds boxes in a frame."""

    network: Network
    engine: Engine
    preprocess: Preprocess
    device: str
    workload: Workload

    def infer(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, ...) input -> logits (B, Q, C + 1) and relative centre boxes (B, Q, 4)."""
        return self.engine(x)

    def decode(self, out: tuple[Tensor, ...], size: Size) -> Detections:
        """One frame's outputs, (1, Q, ...) each -> the workload's number of best boxes; size in px."""
        logits, boxes = out[0][0], out[1][0]
        tap("detector.logits", logits)
        tap("detector.boxes", boxes)
        return decode.detections(
            logits, boxes, size, self.network.labels, self.workload.objects, self.workload.threshold
        )


@dataclass(eq=False)
class Combined:
    """A detector whose boxes a classifier names.

    Attributes:
        group: most frames that a schedule may put through the detector in one pass.
    """

    detector: Detector
    classifier: Classifier
    group: int = 1


Net = Any
"""`Classifier`, `Detector`, `Combined`, or whatever else a schedule of the ladder is written for."""


@dataclass(frozen=True)
class Prepared:
    """A rung's networks, ready, with what a result row says about them.

    Attributes:
        net: what the schedule gets.
        settings: model_set, weights, weights_sha256, device, objects, size, ... as used.
        notes: lines for the user, e.g. on which weights were chosen.
    """

    net: Net
    settings: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    def synchronize(self) -> None:
        """Waits until the device has done all it was given; nothing to do on the CPU."""
        if self.settings["device"] == "cuda":
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
