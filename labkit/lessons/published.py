"""The origin of the journey: what its author published, to hold one's own figures against.

EricJeong05/Real-Time-Webcam-Image-Classification. The machine is not named there, the
figures are ranges read off an on-screen counter that leaves out capture and display, and
DETR's input size changes from row to row; so they set the scene and prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published figure.

    Attributes:
        stage: of the journey, and of the lab.
        what: what was run.
        fps: lowest and highest frames per second; equal where one figure was given.
        rung: the rung of the lab that does this work properly.
    """

    stage: int
    what: str
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


def published(stage: int) -> tuple[Published, ...]:
    """The published figures of a stage."""
    return tuple(figure for figure in PUBLISHED if figure.stage == stage)
