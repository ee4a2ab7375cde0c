"""Looking at what a rung sees: frames with boxes and names, as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.core.annotate import draw_detections
from labkit.core.types import Frame, Size, Workload
from labkit.models.networks import MODELS
from labkit.models.prepare import prepare, resolve_all
from labkit.models.weights import have_pretrained
from labkit.pipelines.ladder import rung
from labkit.sources.openers import open_source

if TYPE_CHECKING:
    from labkit.lessons.figure import Picture


def models_to_look_at(size: Size = (640, 480), objects: int = 5, threshold: float = 0.5) -> Workload:
    """The models with which looking makes sense here: pretrained ones, fetched if need be, else the lab's.

    Random weights give honest speeds but meaningless names, so they are the last resort.
    """
    if have_pretrained(MODELS["full"]):
        return Workload("full", "pretrained", size, objects, threshold)
    return Workload("lab", "auto", size, objects, threshold)


def look(
    source: str = "photos",
    rung_name: str = "detr_opencv_cpu",
    frames: int = 10,
    *,
    stride: int = 15,
    seed: int = 0,
    workload: Workload | None = None,
) -> Picture:
    """Shows what a rung finds in some frames of a source.

    Args:
        source: see `open_source`.
        rung_name: which rung looks.
        frames: how many pictures.
        stride: keep every so-manieth frame, so that the pictures differ.
        seed: of synthetic scenes.
        workload: models, size and boxes; default: `models_to_look_at()`.

    Returns:
        A figure with the frames in rows of five, and the models in its title.
    """
    workload = workload or models_to_look_at()
    chosen = rung(rung_name)
    with open_source(source, workload.size, seed=seed) as stream:
        kept: list[Frame] = []
        for i, frame in enumerate(stream):
            if i % stride == 0 or stream.live:
                kept.append(frame)
            if len(kept) == frames:
                break
    prepared = prepare(chosen.prepare, workload, resolve_all(workload))
    seen = list(chosen.run(kept, prepared.net))
    pictures = [draw_detections(frame.image, found) for frame, found in seen]
    weights = f"{workload.model_set} models, {prepared.settings['weights']} weights"
    figure = _grid(pictures, f"{chosen.name} on {source}: {weights}")
    names = (f"{i}: {', '.join(found.name) or 'nothing'}" for i, (_, found) in enumerate(seen, 1))
    figure.alt_text = f"{chosen.name} on {source}, {weights}. Found in picture {'; '.join(names)}."
    return figure


def _grid(pictures: list[Any], title: str) -> Picture:
    from labkit.lessons.figure import Picture

    columns = min(5, max(1, len(pictures)))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[:2]
    figure = Picture(figsize=(3.2 * columns, 3.2 * height / width * rows + 0.4), layout="constrained")
    for i, picture in enumerate(pictures):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(picture)
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure
