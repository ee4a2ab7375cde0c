"""DETR's files, as the hub keeps them, into a module of transformers alone.

The hub's checkpoint names its backbone's tensors as torchvision and timm do, and its config asks for
timm. Transformers has the same ResNet under names of its own; with those the package is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.core.errors import WeightsError

COUNTER = "num_batches_tracked"
"""Counter of batch norms in training; a frozen one has no use for it."""

_IN_BACKBONE = re.compile(
    r"(?P<before>.*\bbackbone\.(?:conv_encoder\.)?model\.)(?P<name>(?:conv1|bn1|layer).*)"
)
_STAGE = re.compile(r"layer(\d)\.(\d+)\.(.+)")
_PARTS = (
    (re.compile(r"^conv(\d)\."), lambda found: f"layer.{int(found[1]) - 1}.convolution."),
    (re.compile(r"^bn(\d)\."), lambda found: f"layer.{int(found[1]) - 1}.normalization."),
    (re.compile(r"^downsample\.0\."), lambda found: "shortcut.convolution."),
    (re.compile(r"^downsample\.1\."), lambda found: "shortcut.normalization."),
)


def load_detr(folder: Path) -> Any:
    """A `DetrForObjectDetection` of a folder's config.json and model.safetensors, in float32.

    Raises:
        WeightsError: there is no such folder, or tensors are missing or of another shape.
    """
    from safetensors.torch import load_file
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
    from transformers.utils import logging

    if not folder.is_dir():  # transformers would take a missing folder for a hub's name
        raise WeightsError(f"there is no folder {folder} with DETR's config.json and model.safetensors")
    config = DetrConfig.from_pretrained(folder, local_files_only=True)
    if config.backbone_config.model_type == "timm_backbone":
        config.backbone_config = ResNetConfig(out_features=["stage4"])  # ResNet-50, by its defaults
    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar for what takes a blink
    try:
        detr, loading = DetrForObjectDetection.from_pretrained(
            None,
            config=config,
            state_dict=renamed(load_file(folder / "model.safetensors")),
            dtype=torch.float32,
            output_loading_info=True,
        )
    finally:
        if shows_bars:
            logging.enable_progress_bar()
    wrong = [f"{name} is missing" for name in sorted(loading["missing_keys"])]
    wrong += [f"{each[0]} has another shape" for each in sorted(loading["mismatched_keys"])]
    wrong += [
        f"{name} is unknown" for name in sorted(loading["unexpected_keys"]) if not name.endswith(COUNTER)
    ]
    if wrong:
        raise WeightsError(f"{folder / 'model.safetensors'} is not DETR's ({len(wrong)} tensors: {wrong[0]})")
    return detr


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of transformers' own ResNet; other names stay as they are."""
    return {_name(name): tensor for name, tensor in state.items()}


def _name(name: str) -> str:
    found = _IN_BACKBONE.fullmatch(name)
    if found is None:
        return name
    stage = _STAGE.fullmatch(found["name"])
    if stage is None:  # the first convolution and its normalisation
        kind, _, rest = found["name"].partition(".")
        part = {"conv1": "convolution", "bn1": "normalization"}[kind]
        return f"{found['before']}embedder.embedder.{part}.{rest}"
    within = stage[3]
    for pattern, replacement in _PARTS:
        within = pattern.sub(replacement, within)
    return f"{found['before']}encoder.stages.{int(stage[1]) - 1}.layers.{stage[2]}.{within}"
