"""Other people's pipelines, run as they come, to stand beside the lab's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from labkit.models.networks import Network
from labkit.types import Detections, Preparation, Size, Workload


@dataclass(eq=False)
class PipelinePeer:
    """`transformers.pipeline("object-detection")` behind the sides of a detector."""

    pipeline: Any
    network: Network
    workload: Workload

    def preprocess(self, image: NDArray[np.uint8]) -> Image.Image:
        """The pipeline wants a Pillow image and prepares it itself."""
        return Image.fromarray(image)

    def infer(self, picture: Image.Image) -> list[dict[str, Any]]:
        """Everything from resizing to boxes, as the library does it."""
        return self.pipeline(picture, threshold=self.workload.threshold)

    def decode(self, found: list[dict[str, Any]], size: Size) -> Detections:
        """The best boxes; the library gives whole pixels, label names and scores."""
        best = sorted(found, key=lambda one: -one["score"])[: self.workload.objects]
        if not best:
            return Detections.empty(size)
        ids = {name: i for i, name in self.pipeline.model.config.id2label.items()}
        sides = ("xmin", "ymin", "xmax", "ymax")
        xyxy = np.array([[one["box"][side] for side in sides] for one in best], np.float32)
        limit = np.array([*size, *size], np.float32)
        label = np.array([ids[one["label"]] for one in best], np.int64)
        return Detections(
            xyxy=np.clip(xyxy, 0, limit),
            score=np.array([one["score"] for one in best], np.float32),
            label=label,
            name=tuple(self.network.labels[i] for i in label),
            frame_size=size,
        )


def transformers_pipeline(network: Network, workload: Workload, preparation: Preparation) -> PipelinePeer:
    """The library's pipeline around the same weights.

    Args:
        network: a DETR.
        workload: frame size and boxes.
        preparation: option "resize": True lets it enlarge to 800 px as it ships; False keeps
            the frame's size, which is the same work as the lab's rungs.
    """
    from transformers import DetrImageProcessor, pipeline

    processor = DetrImageProcessor(do_resize=bool(preparation.options.get("resize")), do_pad=False)
    device = torch.device(preparation.device)
    run = pipeline(
        "object-detection", model=network.module.detr.to(device), image_processor=processor, device=device
    )
    return PipelinePeer(run, network, workload)
