"""Options that several commands share, and what they describe."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from labkit.core.errors import UsageError
from labkit.core.types import Fit, Size


class Scenario(StrEnum):
    """Pace of the frames: as fast as possible, or at a fixed rate."""

    closed = "closed"
    paced = "paced"


RungNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RUNG]...", help="Names, or FILE.py:FUNCTION for a loop of yours; default: all."),
]
SourceOption = Annotated[
    str, typer.Option(help="photos, scenes, webcam, webcam:1, a file, a folder, an address.")
]
SizeOption = Annotated[str, typer.Option(metavar="WxH", help="Size of the frames in px.")]
FitOption = Annotated[
    Fit, typer.Option(help="Images of another shape: letterbox (whole), crop (centre), stretch, none.")
]
_OPEN, _READ = "Longest wait for a camera or address to open.", "Longest wait for a frame of it."
OpenTimeoutOption = Annotated[
    float, typer.Option("--open-timeout", metavar="S", min=0.001, max=3600, help=_OPEN)
]
ReadTimeoutOption = Annotated[
    float, typer.Option("--read-timeout", metavar="S", min=0.001, max=3600, help=_READ)
]
ObjectsOption = Annotated[int, typer.Option(help="Best boxes kept per frame.")]
ModelSetOption = Annotated[str, typer.Option(help="full or lab.")]
DetectorOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Another detector than DETR-R50, e.g. rt_detr_v2_r18.")
]
ClassifierOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Another classifier than ResNet-18, e.g. convnext_tiny.")
]
WeightsOption = Annotated[str, typer.Option(help="auto, pretrained or random.")]
SeedOption = Annotated[int, typer.Option(help="Of random weights and scenes.")]
QuickOption = Annotated[bool, typer.Option("--quick/--full", help="Short runs, marked as such.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


def parse_size(text: str) -> Size:
    """Reads a size such as 640x480 as (640, 480)."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise UsageError(f"a size is WIDTHxHEIGHT in px, such as 640x480, not {text!r}")
    return int(width), int(height)
