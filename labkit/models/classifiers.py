"""Classifiers of torchvision, one row each: builder, weights, and with them input and checksum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from labkit.models.efficientnet_lite import EfficientNetLite0
from labkit.models.packaged_weights import PACKAGED
from labkit.models.preprocess import InputSpec


@dataclass(frozen=True)
class ClassifierRow:
    """A classifier of ImageNet's 1000 classes.

    Attributes:
        name: as typed after `--classifier`.
        about: one line.
        builder: torchvision's function that makes the network, or one with the same classes.
        weights: torchvision's name of the weights that are used.
    """

    name: str
    about: str
    builder: str
    weights: str = "IMAGENET1K_V1"

    @property
    def entry(self) -> Any:
        """Torchvision's entry: url, whose file name holds the SHA-256's beginning, transforms, meta."""
        from torchvision.models import get_model_weights

        return get_model_weights(self.builder)[self.weights]

    @property
    def labels(self) -> tuple[str, ...]:
        """ImageNet's names."""
        return tuple(self.entry.meta["categories"])

    @property
    def input(self) -> InputSpec:
        """Input for a whole frame: the resize and crop that the weights were evaluated with."""
        preset = self.entry.transforms()
        side = preset.crop_size[0]
        mean, std = tuple(preset.mean), tuple(preset.std)
        return InputSpec(shorter=preset.resize_size[0], crop=(side, side), mean=mean, std=std)

    @property
    def crop_input(self) -> InputSpec:
        """Input for a crop: stretched to the size."""
        whole = self.input
        return InputSpec(exact=whole.crop, mean=whole.mean, std=whole.std)

    def random(self, seed: int) -> Any:
        """The network with seeded random weights; torch's own generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._empty()

    def load(self, path: Any) -> Any:
        """The network with the weights of torchvision's file."""
        module = self._empty()
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return module

    def _empty(self) -> Any:
        from torchvision.models import get_model

        return get_model(self.builder, weights=None)


class PackagedRow(ClassifierRow):
    """EfficientNet-Lite0, whose weights are in a package: real names where no hub can be reached."""

    @property
    def input(self) -> InputSpec:
        """Input for a whole frame."""
        return InputSpec(shorter=256, crop=(224, 224), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

    def _empty(self) -> Any:
        return EfficientNetLite0()


CLASSIFIERS = {
    row.name: row
    for row in (
        ClassifierRow("resnet18", "ResNet-18 (2015), 11.7 M parameters", "resnet18"),
        ClassifierRow(
            "mobilenet_v3_large",
            "MobileNetV3 (2019), 5.5 M parameters",
            "mobilenet_v3_large",
            "IMAGENET1K_V2",
        ),
        ClassifierRow("efficientnet_b0", "EfficientNet-B0 (2019), 5.3 M parameters", "efficientnet_b0"),
        ClassifierRow("convnext_tiny", "ConvNeXt-T (2022), 28.6 M parameters", "convnext_tiny"),
        PackagedRow(
            PACKAGED, "EfficientNet-Lite0 (2020), 4.7 M parameters, with its weights in a package", "resnet18"
        ),
        ClassifierRow("vit_b_16", "ViT-B/16 (2020), 86.6 M parameters", "vit_b_16"),
    )
}
"""The row of each classifier, by name."""
