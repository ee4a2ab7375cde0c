"""Detections of a rung drawn on some frames of a source."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from labkit.core.annotate import draw_detections
from labkit.core.types import Size, Workload
from labkit.lessons.image_grid import image_grid, letters_px
from labkit.models.prepare import prepare, resolve_all
from labkit.models.weights import MODELS, have_pretrained
from labkit.pipelines.ladder import rung
from labkit.sources.openers import open_source

if TYPE_CHECKING:
    from labkit.results.plots.style import Chart


def display_workload(size: Size = (640, 480), objects: int = 5, threshold: float = 0.5) -> Workload:
    """Models whose output is worth looking at: pretrained ones, fetched if need be, else the lab's.

    Random weights give honest speeds but meaningless names, so they are the last resort.
    """
    if have_pretrained(MODELS["full"]):
        return Workload("full", "pretrained", size, objects, threshold)
    return Workload("lab", "auto", size, objects, threshold)


def show_detections(
    source: str = "photos",
    rung_name: str = "detr_opencv_cpu",
    frames: int = 10,
    *,
    stride: int = 15,
    seed: int = 0,
    workload: Workload | None = None,
) -> Chart:
    """Plot the detections of a rung on some frames of a source.

    Args:
        source: see `labkit.open_source`.
        rung_name: name of the rung.
        frames: number of frames to show.
        stride: keep every so-manieth frame, so that the pictures differ; a live source keeps all.
        seed: of synthetic scenes.
        workload: models, size and boxes; default: `display_workload()`.

    Returns:
        A chart with the frames in rows of three, and the models in its title.
    """
    workload = workload or display_workload()
    chosen = rung(rung_name)
    with open_source(source, workload.size, seed=seed) as stream:
        kept = list(islice(islice(stream, 0, None, 1 if stream.live else stride), frames))
    prepared = prepare(chosen.prepare, workload, resolve_all(workload))
    answered = list(chosen.run(kept, prepared.net))
    models = f"{workload.model_set} models, {prepared.settings['weights']} weights"
    text_px = letters_px(workload.size[0], len(answered))
    images = [draw_detections(frame.image, found, text_px=text_px) for frame, found in answered]
    chart = image_grid(images, title=f"{chosen.name} on {source}: {models}")
    names = (f"{i}: {', '.join(found.name) or 'nothing'}" for i, (_, found) in enumerate(answered, 1))
    chart.alt_text = f"{chosen.name} on {source}, {models}. Found in picture {'; '.join(names)}."
    return chart
