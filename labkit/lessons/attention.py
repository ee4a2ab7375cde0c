"""DETR's four parts in pictures, on a real frame: backbone, encoder, decoder, heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from labkit.core.annotate import draw_detections
from labkit.core.types import Detections, Frame
from labkit.lessons.show_frame import models_to_look_at
from labkit.models import decode
from labkit.models.networks import MODELS, build
from labkit.models.prepare import resolve_all
from labkit.models.preprocess import preprocessor
from labkit.sources.openers import open_source

if TYPE_CHECKING:
    from labkit.lessons.figure import Picture

Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Inside:
    """What DETR computed on the way to its answer for one frame.

    Attributes:
        frame: the picture.
        found: the best boxes, best first.
        features: (h, w) strength of the backbone's last feature map.
        encoder: (h, w) where the encoder looks from the middle of the best box.
        decoder: (n, h, w) where the decoder looks for each of the n best boxes.
        models: which models and weights.
    """

    frame: Frame
    found: Detections
    features: Map
    encoder: Map
    decoder: Map
    models: str


def look_inside(source: str = "scenes", index: int = 0, *, objects: int = 3, seed: int = 0) -> Inside:
    """Runs the detector on frame `index` of a source and keeps what it attends to."""
    workload = models_to_look_at(objects=objects)
    weights = resolve_all(workload)
    detector = MODELS[workload.model_set][0]
    network = build(weights[detector])
    with open_source(source, workload.size, seed=seed, limit=index + 1) as stream:
        frame = list(stream)[-1]
    x = preprocessor("opencv", network.input)(frame.image)
    detr: Any = network.module.detr
    detr.set_attn_implementation("eager")  # the fused kernels do not give their weights away
    with torch.inference_mode():
        out = detr(pixel_values=x, output_attentions=True)
        mask = torch.ones(1, *x.shape[-2:])
        features = detr.model.backbone(x, mask)[-1][0][0].abs().mean(0)  # (h, w)
    height, width = features.shape
    _, _, query = decode.best_queries(out.logits[0], objects)
    found = decode.detections(out.logits[0], out.pred_boxes[0], frame.size, network.labels, objects, 0.0)
    cx, cy = out.pred_boxes[0, query[0], :2].tolist()
    place = min(int(cy * height), height - 1) * width + min(int(cx * width), width - 1)
    cross = out.cross_attentions[-1][0].mean(0)[query]  # (n, h * w), mean over heads
    own = out.encoder_attentions[-1][0].mean(0)[place]  # (h * w)
    return Inside(
        frame,
        found,
        features.numpy(),
        own.view(height, width).numpy(),
        cross.view(-1, height, width).numpy(),
        f"{workload.model_set} models, {weights[detector].kind} weights",
    )


def picture(inside: Inside) -> Picture:
    """The four parts side by side, heat maps laid over the frame."""
    from labkit.lessons.figure import Picture

    image = inside.frame.image
    panels: list[tuple[str, Map | None]] = [
        ("1 backbone: where features are strong", inside.features),
        ("2 encoder: seen from the best box's middle", inside.encoder),
        *zip((f"3 decoder: query of “{name}”" for name in inside.found.name), inside.decoder, strict=True),
        ("4 heads: boxes and names", None),
    ]  # fmt: skip
    columns = 3
    rows = -(-len(panels) // columns)
    aspect = image.shape[0] / image.shape[1]
    figure = Picture(figsize=(4.2 * columns, (4.2 * aspect + 0.35) * rows + 0.3), layout="constrained")
    for i, (title, heat) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(draw_detections(image, inside.found) if heat is None else image)
        if heat is not None:
            extent = (0, image.shape[1], image.shape[0], 0)
            axes.imshow(heat, extent=extent, cmap="inferno", alpha=0.6, interpolation="bilinear")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.suptitle(f"Inside DETR ({inside.models})", fontsize=11)
    names = ", ".join(inside.found.name) or "nothing"
    figure.alt_text = (
        f"Inside DETR ({inside.models}), as heat maps over one frame: the backbone's features, the encoder "
        f"seen from the best box's middle, the decoder's query of each box, and the boxes found: {names}."
    )
    return figure
