"""A narrow ResNet: torchvision's own class and blocks, with fewer channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from labkit.core.errors import WeightsError


class NarrowResNet(ResNet):
    """torchvision's ResNet with `width` channels after the stem, where it has 64.

    Only construction differs; the forward pass is torchvision's.
    """

    def __init__(self, layers: tuple[int, int, int, int], width: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(BasicBlock, width, layers[0])
        self.layer2 = self._make_layer(BasicBlock, 2 * width, layers[1], stride=2)
        self.layer3 = self._make_layer(BasicBlock, 4 * width, layers[2], stride=2)
        self.layer4 = self._make_layer(BasicBlock, 8 * width, layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build_lab_resnet(config: Mapping[str, Any]) -> nn.Module:
    """The network that a `config.json` describes, in evaluation mode, with seedable random weights.

    Args:
        config: {"block": "basic", "layers": [n, n, n, n], "width": w, "num_classes": c, ...}.

    Returns:
        A module from (N, 3, h, w) float to (N, c) logits.

    Raises:
        WeightsError: if the description is not one of such a network.
    """
    try:
        block, layers = config["block"], tuple(int(n) for n in config["layers"])
        width, num_classes = int(config["width"]), int(config["num_classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"the small ResNet's config.json is incomplete: {error!r}") from error
    if block != "basic" or len(layers) != 4 or min(layers) < 1 or width < 1 or num_classes < 1:
        raise WeightsError(
            f"the small ResNet has four stages of basic blocks, not block={block!r}, layers={layers}, "
            f"width={width}, num_classes={num_classes}; reinstall the package to restore its config.json"
        )
    return NarrowResNet((layers[0], layers[1], layers[2], layers[3]), width, num_classes).eval()
