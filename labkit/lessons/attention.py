"""Attention maps of DETR on a real frame: backbone, encoder, decoder, heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from labkit.core.annotate import draw_detections
from labkit.core.types import Workload
from labkit.lessons.image_grid import image_grid, letters_px
from labkit.models.decode import DetrDecoder, best_queries
from labkit.models.networks import build
from labkit.models.prepare import resolve_all
from labkit.models.preprocess import preprocessor
from labkit.models.weights import MODELS, have_pretrained, models_of
from labkit.sources.openers import open_source

if TYPE_CHECKING:
    from labkit.results.plots.style import Chart


def inside_detr(source: str = "scenes", index: int = 0, *, objects: int = 3, seed: int = 0) -> Chart:
    """Plot the output of DETR's four parts for frame `index` of a source, as heat maps over it.

    They are the strength of the backbone's last feature map, the encoder's attention from the middle of
    the best box, the decoder's attention of each of the best `objects` boxes, and these boxes.
    """
    model_set = "full" if have_pretrained(MODELS["full"][:1]) else "lab"  # random weights look at nothing
    workload = Workload(model_set, "auto", objects=objects, threshold=0.5)  # type: ignore[arg-type]
    weights = resolve_all(workload, ["detect"])
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
    encoder = out.encoder_attentions[-1][0].mean(0)[place]  # (h * w), mean over heads
    decoder = out.cross_attentions[-1][0].mean(0)[query]  # (n, h * w)
    heats = [features, *(each.view(height, width) for each in (encoder, *decoder))]
    queries = [f"3 decoder: query of “{name}”" for name in found.name]
    titles = ["1 backbone: strength of features", "2 encoder: from the best box's middle", *queries]
    image, models = frame.image, f"{workload.model_set} models, {weights[detector].kind} weights"
    text_px = letters_px(image.shape[1], len(heats) + 1)
    chart = image_grid(
        [*[image] * len(heats), draw_detections(image, found, text_px=text_px)],
        [*titles, "4 heads: boxes and names"],
        columns=3,
        title=f"Inside DETR ({models})",
    )
    extent = (0, image.shape[1], image.shape[0], 0)
    for axes, heat in zip(chart.axes, heats, strict=False):  # the last one shows boxes
        axes.imshow(heat.numpy(), extent=extent, cmap="inferno", alpha=0.6, interpolation="bilinear")
    chart.alt_text = (
        f"Inside DETR ({models}), as heat maps over one frame: the backbone's features, the encoder "
        "seen from the best box's middle, the decoder's query of each box, and the boxes found: "
        f"{', '.join(found.name) or 'nothing'}."
    )
    return chart
