"""Figures of others: published by the author of the journey, or recorded on another machine.

The author's are from EricJeong05/Real-Time-Webcam-Image-Classification. The machine is not named there, the
figures are ranges read off an on-screen counter that leaves out capture and display, and
DETR's input size changes from row to row; so they set the scene and prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.core.shown import Sentence, shown_table
from labkit.core.stats import format_interval
from labkit.results.records import Run
from labkit.results.result_set import ResultSet, results

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Published:
    """One published figure.

    Attributes:
        stage: of the journey, and of the lab.
        about: the networks and the device.
        fps: lowest and highest frames per second; equal where one figure was given.
        rung: the rung of the lab that does this work properly.
    """

    stage: int
    about: str
    fps: tuple[float, float]
    rung: str


PUBLISHED = (
    Published(1, "ResNet-18 on the CPU, Pillow", (60, 65), "resnet_pil_cpu"),
    Published(1, "ResNet-18 on the CPU, OpenCV", (70, 80), "resnet_opencv_cpu"),
    Published(1, "DETR on the CPU, Pillow", (6, 8), "detr_pil_cpu"),
    Published(1, "DETR on the CPU, OpenCV", (8, 10), "detr_opencv_cpu"),
    Published(2, "DETR on the GPU", (60, 60), "detr_cuda"),
    Published(2, "ResNet-18 on the GPU", (300, 300), "resnet_cuda"),
    Published(3, "DETR and ResNet-18 combined, GPU", (30, 40), "baseline_combined_cuda"),
    Published(5, "with filter and streams, GPU", (18, 20), "baseline_streams_cuda"),
    Published(6, "optimised, with filter, GPU", (25, 30), "filter_device_cuda"),
    Published(6, "optimised, without filter, GPU", (50, 55), "batched_cuda"),
)


def published_beside(runs: Iterable[Run], stage: int) -> pd.DataFrame:
    """Published figures of a stage beside the runs of the same rungs on this machine."""
    by_rung = {run.rung: run for run in runs}
    rows = []
    for figure in (figure for figure in PUBLISHED if figure.stage == stage):
        run = by_rung.get(figure.rung)
        rows.append(
            {
                "what was published": figure.about,
                "published FPS": format_interval(figure.fps, ".3g"),
                "rung": figure.rung,
                "FPS here": format_interval(run.fps_interval, ".3g") if run else "not measured",
                "agreement": run.agreed if run else None,
            }
        )
    return shown_table(rows)


def recorded_gpu() -> ResultSet | Sentence:
    """Recorded runs of GPU rungs that ship with the project; a sentence where there are none."""
    runs = [run for run in results(recorded=True) if run.settings.get("device") == "cuda"]
    return ResultSet(runs) if runs else Sentence("No recorded run on a GPU ships with the project yet.")
