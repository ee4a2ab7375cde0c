"""The detection pipeline of transformers, as it comes, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from labkit.core.types import Detections, Preparation, Size, Workload
from labkit.models.detectors.catalogue import detectors
from labkit.models.networks import Network
from labkit.models.preprocess import InputSpec

SHORTEST_EDGE, LONGEST_EDGE = 800, 1333  # px, as DETR was trained: the first, unless the second is passed


def enlarged(spec: InputSpec, size: Size, shortest_edge: int) -> Size:
    """The size (width, height) to which transformers' processor brings a frame of `size`."""
    if spec.exact is not None:
        return spec.exact
    from transformers.image_transforms import get_size_with_aspect_ratio

    width, height = size
    height, width = get_size_with_aspect_ratio((height, width), shortest_edge, LONGEST_EDGE)
    return width, height


@dataclass(eq=False)
class TransformersPipeline:
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


def transformers_pipeline(
    network: Network, workload: Workload, preparation: Preparation
) -> TransformersPipeline:
    """The library's pipeline around the same weights.

    Args:
        network: a detector; the library decodes its answers by the rule of its family.
        workload: frame size and boxes.
        preparation: option "resize": the length in px to which it brings the shorter side, 800 as
            it ships; without it the frame keeps its size, the same work as the lab's rungs. A
            network that takes one size only gets that one.
    """
    import transformers

    spec, resize, row = network.input, preparation.options.get("resize"), detectors().get(network.model)
    if spec.exact is not None:
        sides = dict(zip(("width", "height"), spec.exact, strict=True))
    else:
        sides = {"shortest_edge": resize or SHORTEST_EDGE, "longest_edge": LONGEST_EDGE}
    processor = getattr(transformers, "DetrImageProcessor" if row is None else row.processor)(
        do_resize=spec.exact is not None or resize is not None,
        size=sides,
        do_normalize=True,
        image_mean=spec.mean,
        image_std=spec.std,
        do_pad=False,
    )
    device = torch.device(preparation.device)
    run = transformers.pipeline(
        "object-detection", model=network.module.detr.to(device), image_processor=processor, device=device
    )
    return TransformersPipeline(run, network, workload)
