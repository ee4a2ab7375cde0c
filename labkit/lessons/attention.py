"""Attention maps of DETR on a real frame: backbone, encoder, decoder, heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from labkit.core.annotate import draw_detections
from labkit.core.types import Detections, Frame, Workload
from labkit.lessons.image_grid import image_grid, letters_px
from labkit.models.decode import DetrDecoder, best_queries
from labkit.models.networks import build
from labkit.models.prepare import resolve_all
from labkit.models.preprocess import preprocessor
from labkit.models.weights import MODELS, have_pretrained, models_of
from labkit.sources.openers import open_source

if TYPE_CHECKING:
    from labkit.results.plots.style import Chart

Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Intermediate results of DETR for one frame.

    Attributes:
        frame: the picture.
        found: the best boxes, best first.
        features: (h, w) strength of the backbone's last feature map.
        encoder: (h, w) encoder attention from the middle of the best box.
        decoder: (n, h, w) decoder attention of each of the n best boxes.
        models: name of the models and weights.
    """

    frame: Frame
    found: Detections
    features: Map
    encoder: Map
    decoder: Map
    models: str


def attention_maps(
    source: str = "scenes", index: int = 0, *, objects: int = 3, seed: int = 0
) -> AttentionMaps:
    """Run the detector on frame `index` of a source and keep its attention."""
    model_set = "full" if have_pretrained(MODELS["full"]) else "lab"  # random weights look at nothing
    workload = Workload(model_set, "auto", objects=objects, threshold=0.5)  # type: ignore[arg-type]
    weights = resolve_all(workload)
    detector = models_of(workload)[0]
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
    _, _, query = best_queries(out.logits[0], objects)
    found = DetrDecoder(network.labels, objects)((out.logits, out.pred_boxes), frame.size)
    cx, cy = out.pred_boxes[0, query[0], :2].tolist()
    place = min(int(cy * height), height - 1) * width + min(int(cx * width), width - 1)
    cross = out.cross_attentions[-1][0].mean(0)[query]  # (n, h * w), mean over heads
    own = out.encoder_attentions[-1][0].mean(0)[place]  # (h * w)
    return AttentionMaps(
        frame,
        found,
        features.numpy(),
        own.view(height, width).numpy(),
        cross.view(-1, height, width).numpy(),
        f"{workload.model_set} models, {weights[detector].kind} weights",
    )


def plot_attention(maps: AttentionMaps) -> Chart:
    """Plot the four parts side by side, heat maps laid over the frame."""
    image = maps.frame.image
    queries = [f"3 decoder: query of “{name}”" for name in maps.found.name]
    titles = ["1 backbone: strength of features", "2 encoder: from the best box's middle", *queries]
    heats = [maps.features, maps.encoder, *maps.decoder]
    text_px = letters_px(image.shape[1], len(heats) + 1)
    chart = image_grid(
        [*[image] * len(heats), draw_detections(image, maps.found, text_px=text_px)],
        [*titles, "4 heads: boxes and names"],
        columns=3,
        title=f"Inside DETR ({maps.models})",
    )
    extent = (0, image.shape[1], image.shape[0], 0)
    for axes, heat in zip(chart.axes, heats, strict=False):  # the last one shows boxes
        axes.imshow(heat, extent=extent, cmap="inferno", alpha=0.6, interpolation="bilinear")
    names = ", ".join(maps.found.name) or "nothing"
    chart.alt_text = (
        f"Inside DETR ({maps.models}), as heat maps over one frame: the backbone's features, the encoder "
        f"seen from the best box's middle, the decoder's query of each box, and the boxes found: {names}."
    )
    return chart
