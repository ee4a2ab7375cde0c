"""Raw network outputs decoded: DETR's queries into pixel boxes, class logits into names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labkit.core.trace import tap
from labkit.core.types import Detections, Size


class DetrCore(nn.Module):
    """A detector reduced to the two outputs that are decoded: pixels in, class logits and boxes out.

    `forward` takes (B, 3, h, w) float and gives logits (B, Q, C + 1), or (B, Q, C) where the rule
    is `SIGMOID`, and boxes (B, Q, 4), relative centre boxes. Every pixel counts: there is no
    padding mask.

    Args:
        detr: a `...ForObjectDetection` of transformers.
    """

    def __init__(self, detr: Any) -> None:
        super().__init__()
        self.detr = detr

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Runs backbone, encoder, decoder and heads."""
        out = self.detr(pixel_values=pixels)
        return out.logits, out.pred_boxes

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Names of the modules of each part: "backbone", "encoder" and "decoder".

        Of an encoder that also convolves, as RT-DETR's, these are the layers of matrix products; it is empty
        where the backbone is the encoder. The decoder is all that comes after both, which chooses queries,
        refines them and ends in the heads.
        """
        base, prefix = self.detr.base_model, f"detr.{self.detr.base_model_prefix}"
        inner = dict(base.named_children())
        heads = [f"detr.{name}" for name, module in self.detr.named_children() if module is not base]
        last = "encoder" if "encoder" in inner else "backbone"
        after = list(inner)[list(inner).index(last) + 1 :]
        attends = _of_products(inner["encoder"], f"{prefix}.encoder") if last == "encoder" else ()
        return {
            "backbone": (f"{prefix}.backbone",),
            "encoder": tuple(attends),
            "decoder": (*(f"{prefix}.{name}" for name in after), *heads),
        }


def _of_products(module: nn.Module, name: str) -> Iterator[str]:
    """Names of the largest parts of a module with matrix products and no convolution.

    Norms and activations of convolutions are none: an engine fuses them with what they follow.
    """
    if not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        if any(isinstance(part, nn.Linear) for part in module.modules()):
            yield name
        return
    for child, part in module.named_children():
        yield from _of_products(part, f"{name}.{child}")


Candidates = tuple[Tensor, Tensor, Tensor]
"""Score (..., k), label (..., k) int64 and query (..., k) int64."""


def one_per_query(logits: Tensor) -> tuple[Tensor, Tensor, range]:
    """Each query with its best class: softmax over the classes and "no object", the last one.

    Args:
        logits: (Q, C + 1).

    Returns:
        Score (Q,), label (Q,), and the queries, which the host knows without asking the device.
    """
    score, label = logits.softmax(-1)[:, :-1].max(-1)
    return score, label, range(len(score))


def best_pairs(logits: Tensor, k: int | None = None) -> Candidates:
    """The k best pairs of query and class, best first: a sigmoid for each, no "no object".

    A query can stand twice, with two labels, as in the decoding of these detectors' authors.

    Args:
        logits: (..., Q, C).
        k: Q if it is None.
    """
    queries, classes = logits.shape[-2:]
    score, pair = logits.sigmoid().flatten(-2).topk(queries if k is None else min(k, queries * classes))
    return score, pair % classes, pair // classes


def best_queries(logits: Tensor, objects: int) -> Candidates:
    """DETR's k best-scoring queries, worked out where the logits are.

    Args:
        logits: (..., Q, C + 1); the last class means "no object".
        objects: k, at most Q are kept.

    Returns:
        score (..., k) float32, label (..., k) int64 and query (..., k) int64, best first.
    """
    score, label = logits.float().softmax(-1)[..., :-1].max(-1)
    score, query = score.topk(min(objects, score.shape[-1]))
    return score, label.gather(-1, query), query


@dataclass(frozen=True)
class DecodingRule:
    """Rule by which a family's logits become scores and labels.

    Attributes:
        name: "softmax" or "sigmoid".
        candidates: logits (Q, ...) -> what transformers' processor gives with no threshold: Q of them.
        best: logits and k -> the k best, best first, with scores in float32.
    """

    name: str
    candidates: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | range]]
    best: Callable[[Tensor, int], Candidates]


SOFTMAX = DecodingRule("softmax", one_per_query, best_queries)
SIGMOID = DecodingRule("sigmoid", best_pairs, lambda logits, k: best_pairs(logits.float(), k))


@dataclass(frozen=True)
class DetrDecoder:
    """A detector's outputs for one frame -> its best boxes, with one copy from device to host.

    Attributes:
        labels: names of the C classes.
        objects: how many best-scoring boxes are kept.
        threshold: lowest score that is kept.
        rule: of the detector's family.
    """

    labels: Sequence[str]
    objects: int
    threshold: float = 0.0
    rule: DecodingRule = SOFTMAX

    def __call__(self, out: tuple[Tensor, ...], size: Size) -> Detections:
        """Decodes one frame.

        Args:
            out: class logits (1, Q, ...) and relative centre boxes (1, Q, 4); more is ignored.
            size: (width, height) of the frame in px.
        """
        logits, boxes = out[0][0], out[1][0]
        tap("detector.logits", logits)
        tap("detector.boxes", boxes)
        score, label, query = self.rule.best(logits, self.objects)
        packed = torch.cat([boxes.float()[query], score[:, None], label[:, None].float()], 1)  # (k, 6)
        return unpack_detections(packed.cpu(), size, self.labels, self.threshold)


def unpack_detections(packed: Tensor, size: Size, labels: Sequence[str], threshold: float) -> Detections:
    """(k, 6) rows of relative centre box, score and label, on the host -> Detections in px.

    Boxes are clipped to the frame of `size` (width, height); rows below `threshold` are left out.

    Raises:
        UsageError: a kept row holds NaN or infinity.
    """
    rows = packed.numpy()  # NumPy is quicker than torch on a handful of boxes
    rows = rows[~(rows[:, 4] < threshold)]  # a score that is NaN stays, so that the frame is refused
    centre, half, limit = rows[:, :2], rows[:, 2:4] / 2, np.array([*size, *size], np.float32)
    label = rows[:, 5].astype(np.int64)
    return Detections(
        xyxy=np.clip(np.hstack([centre - half, centre + half]) * limit, 0, limit),
        score=rows[:, 4].copy(),
        label=label,
        name=tuple(map(labels.__getitem__, label)),
        frame_size=size,
    )


def top1(logits: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(N, C) class logits -> the best label (N,) and its probability (N,), on the host."""
    score, label = logits.float().softmax(-1).max(-1)
    packed = torch.stack([score, label.float()]).cpu().numpy()  # labels below 2**24 are exact
    return packed[1].astype(np.int64), packed[0].astype(np.float32)
