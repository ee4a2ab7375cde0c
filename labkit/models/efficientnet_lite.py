"""EfficientNet-Lite0 (Google, 2020), whose ImageNet weights come inside a package, without a model hub.

The names of its parts are those of the file. As in TensorFlow, where it was trained, a convolution
that halves the picture pads more on the right and below than on the left and above.
"""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = (  # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


class PaddedConv(nn.Conv2d):
    """A convolution that pads so that its output is as large as its input, or half of it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        before = (kernel - stride) // 2
        self.around = (before, kernel - stride - before) * 2  # left, right, top, bottom

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w), h and w even where it halves."""
        return super().forward(nn.functional.pad(x, self.around) if any(self.around) else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """An inverted residual: expand, filter each channel, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        if expansion > 1:
            self._expand_conv, self._bn0 = PaddedConv(inputs, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = PaddedConv(inner, inner, kernel, stride, inner), _norm(inner)
        self._project_conv, self._bn2 = PaddedConv(inner, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, outputs, h / stride, w / stride)."""
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """(N, 3, 224, 224) -> (N, 1000) logits of ImageNet's classes."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = PaddedConv(3, 32, 3, 2), _norm(32)
        blocks, width = [], 32
        for repeats, kernel, stride, expansion, channels in BLOCKS:
            for i in range(repeats):
                blocks.append(Block(width, channels, kernel, stride if i == 0 else 1, expansion))
                width = channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = PaddedConv(width, 1280, 1), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, blocks, head."""
        x = self._blocks(nn.functional.relu6(self._bn0(self._conv_stem(x))))
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))
