"""Options that several commands share, and what they describe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Annotated, Any

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
QuickOption = Annotated[bool, typer.Option("--quick/--full", help="Short runs, marked as such.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]

_SIZE: Any = typer.Option(metavar="WxH", help="Size of the frames in px.")
_SOURCE: Any = typer.Option(help="photos, scenes, closeups, webcam, webcam:1, a file, a folder, an address.")
_SEED: Any = typer.Option(help="Of random weights and scenes.")
_FIT = "Images of another shape: letterbox (whole), crop (centre), stretch, none."
_DETECTOR = "Another detector than DETR-R50, e.g. rt_detr_v2_r18."
_CLASSIFIER = "Another classifier than ResNet-18, e.g. convnext_tiny."
_OPEN, _READ = "Longest wait for a camera or address to open.", "Longest wait for a frame of it."
_SECONDS: dict[str, Any] = {"metavar": "S", "min": 0.001, "max": 3600}

SizeOption = Annotated[str, _SIZE]
SourceOption = Annotated[str, _SOURCE]
SeedOption = Annotated[int, _SEED]

_WORK: dict[str, tuple[Any, Any, Any]] = {
    "source": (str, "photos", _SOURCE),
    "size": (str, "640x480", _SIZE),
    "fit": (Fit, "letterbox", typer.Option(help=_FIT)),
    "open_timeout": (float, 5.0, typer.Option(help=_OPEN, **_SECONDS)),
    "read_timeout": (float, 2.0, typer.Option(help=_READ, **_SECONDS)),
    "objects": (int, 5, typer.Option(help="Best boxes kept per frame.")),
    "model_set": (str, "full", typer.Option(help="full or lab.")),
    "detector": (str | None, None, typer.Option(metavar="NAME", help=_DETECTOR)),
    "classifier": (str | None, None, typer.Option(metavar="NAME", help=_CLASSIFIER)),
    "weights": (str, "auto", typer.Option(help="auto, pretrained or random.")),
    "seed": (int, 0, _SEED),
}
"""Options of frames and models: type, default and description of each."""


def work_options(
    *, without: Collection[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that gives a command the options of frames and models, which it receives as `**work`.

    Args:
        without: options that this command does not have, or defines itself.
        defaults: that differ from those of `labkit bench`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [each for each in own if each.kind is not each.VAR_KEYWORD]
        for name, (kind, default, option) in _WORK.items():
            if name not in without:
                parameters.append(
                    inspect.Parameter(
                        name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name, default),
                        annotation=Annotated[kind, option],
                    )
                )  # fmt: skip
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def as_keywords(work: Mapping[str, Any]) -> dict[str, Any]:
    """The options of frames and models as the keywords of `labkit.bench`."""
    keywords = {f"{name}_s" if name.endswith("_timeout") else name: value for name, value in work.items()}
    return {**keywords, "size": parse_size(work["size"])} if "size" in work else keywords


def parse_size(text: str) -> Size:
    """Reads a size such as 640x480 as (640, 480)."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise UsageError(f"a size is WIDTHxHEIGHT in px, such as 640x480, not {text!r}")
    return int(width), int(height)
