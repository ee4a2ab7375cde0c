"""A small DETR, and the losses that train it from nothing in an hour.

DETR alone learns slowly. Three things help here, none of which changes the network that comes out:
the encoder first learns to say, at each of its positions, which object is there and where its edges
are ("dense" losses); the decoder then starts out as a copier of those answers, with the same heads
and with queries that look at spots spread over the frame; and the dense losses stay on as company.
The set loss and its weights are those of the DETR paper (Carion et al. 2020).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, generalized_box_iou_loss
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from labkit.core.types import Size

STRIDE_PX = 16
NO_OBJECT_WEIGHT = 0.2
MATCHER = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
SET_LOSSES = (("set_label", "loss_ce", 1), ("set_l1", "loss_bbox", 5), ("set_giou", "loss_giou", 2))
"""Name in the log, transformers' name and weight of each of DETR's losses."""


def build_detr(labels: tuple[str, ...], queries: tuple[int, int] = (6, 4)) -> Any:
    """A small, untrained `DetrForObjectDetection`; `queries` (across, down) are its slots."""
    backbone = ResNetConfig(  # type: ignore[call-arg]  # out_features reaches it through its parent
        embedding_size=32,
        hidden_sizes=[40, 80, 160],
        depths=[2, 2, 2],
        layer_type="basic",
        out_features=["stage3"],
    )
    config = DetrConfig(
        backbone_config=backbone,
        num_queries=queries[0] * queries[1],
        d_model=128,
        encoder_layers=2,
        decoder_layers=4,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        dropout=0.0,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
    )
    detr = DetrForObjectDetection(config).requires_grad_(True)
    _spread_queries(detr, queries)
    return detr


class Learner(nn.Module):
    """A DETR with the extra heads that it needs only while it learns.

    Batch norms are live in here; `finished` gives the network as it is used.
    """

    def __init__(self, detr: Any) -> None:
        super().__init__()
        self.detr = detr
        _exchange_norms(self.detr.model.backbone, DetrFrozenBatchNorm2d, nn.BatchNorm2d)
        self.dense_label = copy.deepcopy(detr.class_labels_classifier)
        self.dense_box = copy.deepcopy(detr.bbox_predictor)
        self.copied = nn.Buffer(torch.zeros((), dtype=torch.bool))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predictions of the decoder and of the encoder for a batch.

        Args:
            pixels: (B, 3, H, W) normalised.

        Returns:
            Logits (L, B, Q, C + 1) and boxes (L, B, Q, 4) of all decoder layers, then logits
            (B, T, C + 1) and boxes (B, T, 4) of the encoder's positions.
        """
        decoder = self.detr.model.decoder
        seen: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(
                lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            for layer in decoder.layers
        ]
        try:
            out = self.detr.model(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        layers = decoder.layernorm(torch.stack(seen))
        memory = out.encoder_last_hidden_state
        return (
            self.detr.class_labels_classifier(layers).float(),
            self.detr.bbox_predictor(layers).float().sigmoid(),
            self.dense_label(memory).float(),
            self.dense_box(memory).float().sigmoid(),
        )

    @torch.no_grad()
    def start_decoder(self) -> None:
        """Lets the decoder begin as a copier of what the encoder has learnt; once."""
        if bool(self.copied):
            return
        self.detr.class_labels_classifier.load_state_dict(self.dense_label.state_dict())
        self.detr.bbox_predictor.load_state_dict(self.dense_box.state_dict())
        self.copied.fill_(True)

    def finished(self) -> Any:
        """A copy of the DETR as it is used: frozen batch norms, evaluation mode."""
        detr = copy.deepcopy(self.detr)
        _exchange_norms(detr.model.backbone, nn.BatchNorm2d, DetrFrozenBatchNorm2d)
        return detr.eval()


def detr_losses(
    learner: Learner, pixels: Tensor, boxes: Tensor, labels: Tensor, *, dense_only: bool
) -> dict[str, Tensor]:
    """The losses of one batch.

    Args:
        learner: the network.
        pixels: (B, 3, H, W) normalised.
        boxes: (B, M, 4) (cx, cy, w, h) in [0, 1].
        labels: (B, M) int64, -1 where there is no object.
        dense_only: leave the decoder alone.
    """
    grid = (pixels.shape[3] // STRIDE_PX, pixels.shape[2] // STRIDE_PX)
    logits, found, dense_logits, dense_boxes = learner(pixels)
    dense = _dense_losses(dense_logits, dense_boxes, boxes, labels, grid)
    if dense_only:
        return dense
    learnt = {name: 0.3 * loss for name, loss in dense.items()}
    return learnt | set_losses(logits, found, boxes, labels)


def set_losses(logits: Tensor, found: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """DETR's losses over all decoder layers, each matched on its own.

    Args:
        logits: (L, B, Q, C + 1), the last class meaning no object.
        found: (L, B, Q, 4) (cx, cy, w, h).
        boxes: (B, M, 4) truth.
        labels: (B, M) truth, -1 where there is no object.
    """
    loss_of = ImageLoss(MATCHER, logits.shape[-1] - 1, NO_OBJECT_WEIGHT, ["labels", "boxes"])
    *others, last = ({"logits": a, "pred_boxes": b} for a, b in zip(logits, found, strict=True))
    losses = loss_of.to(logits.device)({**last, "auxiliary_outputs": others}, targets_of(boxes, labels))
    # The layers' losses are averaged, then counted as if there were two.
    return {
        name: 2
        * weight
        * torch.stack([loss for key, loss in losses.items() if key.startswith(theirs)]).mean()
        for name, theirs, weight in SET_LOSSES
    }


def targets_of(boxes: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """Truth, (B, M, 4) and (B, M) with -1 for no object, in the form that transformers takes."""
    there = labels >= 0
    return [{"class_labels": labels[i, is_], "boxes": boxes[i, is_]} for i, is_ in enumerate(there)]


def _dense_losses(
    logits: Tensor, found: Tensor, boxes: Tensor, labels: Tensor, grid: Size
) -> dict[str, Tensor]:
    owner = _owners(boxes, labels, grid)
    n_batch, n_cells = owner.shape
    batch = torch.arange(n_batch, device=owner.device)[:, None].expand(-1, n_cells)
    taken = owner >= 0
    wanted = torch.full_like(owner, logits.shape[-1] - 1)
    wanted[taken] = labels[batch[taken], owner[taken]]
    label_loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    pairs = found[taken], boxes[batch[taken], owner[taken]]
    corners = (box_convert(each, "cxcywh", "xyxy") for each in pairs)
    count = max(1, len(pairs[0]))
    return {
        "dense_label": 3 * label_loss,
        "dense_l1": 5 * functional.l1_loss(*pairs, reduction="sum") / count,
        "dense_giou": 2 * generalized_box_iou_loss(*corners, reduction="sum") / count,
    }


def _owners(boxes: Tensor, labels: Tensor, grid: Size) -> Tensor:
    """(B, T) index of the frontmost object around whose middle each cell lies, or -1."""
    across, down = grid
    x = (torch.arange(across, device=boxes.device) + 0.5) / across
    y = (torch.arange(down, device=boxes.device) + 0.5) / down
    reach_x = (0.3 * boxes[..., 2]).clamp(min=0.501 / across)
    reach_y = (0.3 * boxes[..., 3]).clamp(min=0.501 / down)
    near_x = (x - boxes[..., 0, None]).abs() <= reach_x[..., None]  # (B, M, across)
    near_y = (y - boxes[..., 1, None]).abs() <= reach_y[..., None]  # (B, M, down)
    near = near_y[..., :, None] & near_x[..., None, :] & (labels >= 0)[..., None, None]
    order = torch.arange(1, boxes.shape[1] + 1, device=boxes.device)[:, None, None]
    return (near * order).amax(dim=1).flatten(1) - 1


@torch.no_grad()
def _spread_queries(detr: Any, queries: tuple[int, int]) -> None:
    """Each query starts out looking at a spot of its own, and hands on what it sees there."""
    model = detr.model
    width = model.config.d_model
    spots = model.position_embedding((1, width, 48, 64), torch.device("cpu"), torch.float32)[0]
    across, down = queries
    rows = [(2 * j + 1) * 48 // (2 * down) for j in range(down) for _ in range(across)]
    columns = [(2 * i + 1) * 64 // (2 * across) for _ in range(down) for i in range(across)]
    model.query_position_embeddings.weight.copy_(spots[:, rows, columns].T)
    for layer in model.decoder.layers:
        attention = layer.encoder_attn
        nn.init.orthogonal_(attention.q_proj.weight, gain=1.5)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.eye_(attention.v_proj.weight)
        nn.init.eye_(attention.o_proj.weight)


@torch.no_grad()
def _exchange_norms(module: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    """Puts batch norms of another kind in the place of the old ones, with their values."""
    for name, norm in list(module.named_modules()):
        if isinstance(norm, old):
            fresh = new(len(norm.weight)).to(norm.weight.device)
            fresh.load_state_dict(norm.state_dict(), strict=False)
            module.set_submodule(name, fresh)
