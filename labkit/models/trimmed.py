"""DETR without what a fixed frame size makes superfluous.

The library's forward pass builds a padding mask, asks whether anything is padded (a hidden
wait on a GPU), and works out the same position embedding for every frame. With frames of one
size and no padding all of that is constant; taken out, the pass has no wait in it, can be
captured in a CUDA graph, and gives the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labkit.core.types import Size
from labkit.models.decode import DetrCore


def trimmed(core: DetrCore, size: Size) -> nn.Module:
    """DETR without what a fixed size makes superfluous; any other detector as it is.

    What others ask of their tensors in a pass, a CUDA graph repeats (`cuda_graph.HostValues`).
    """
    return TrimmedDetr(core, size) if type(core.detr).__name__ == "DetrForObjectDetection" else core


class TrimmedDetr(nn.Module):
    """DETR for frames of one size: (B, 3, h, w) -> logits (B, Q, C + 1), boxes (B, Q, 4).

    Shares the weights of the model that it is made from.

    Args:
        core: the model as the library runs it.
        size: (width, height) of its input.
    """

    def __init__(self, core: DetrCore, size: Size) -> None:
        super().__init__()
        detr: Any = core.detr
        self.backbone = detr.model.backbone.model
        self.input_projection = detr.model.input_projection
        self.encoder = detr.model.encoder
        self.decoder = detr.model.decoder
        self.class_head = detr.class_labels_classifier
        self.box_head = detr.bbox_predictor
        weight = detr.model.query_position_embeddings.weight
        with torch.no_grad():
            features = self._features(torch.zeros(1, 3, size[1], size[0], dtype=weight.dtype))
            positions = detr.model.position_embedding(
                shape=features.shape,
                device=features.device,
                dtype=features.dtype,
                mask=torch.ones(1, *features.shape[-2:], dtype=torch.bool),
            )
        self.register_buffer("positions", positions.flatten(2).transpose(1, 2).clone())
        self.register_buffer("query_positions", weight.detach()[None].clone())
        self.register_buffer("queries", torch.zeros_like(weight)[None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Backbone, encoder, decoder and heads."""
        batch = pixels.shape[0]
        memory = self.input_projection(self._features(pixels)).flatten(2).transpose(1, 2)
        positions = self.positions.expand(batch, -1, -1)
        encoded = self.encoder(
            inputs_embeds=memory, attention_mask=None, spatial_position_embeddings=positions
        ).last_hidden_state
        decoded = self.decoder(
            inputs_embeds=self.queries.expand(batch, -1, -1),
            attention_mask=None,
            spatial_position_embeddings=positions,
            object_queries_position_embeddings=self.query_positions.expand(batch, -1, -1),
            encoder_hidden_states=encoded,
            encoder_attention_mask=None,
        ).last_hidden_state
        return self.class_head(decoded), self.box_head(decoded).sigmoid()

    def _features(self, pixels: Tensor) -> Tensor:
        features = self.backbone(pixels)
        return features[-1] if isinstance(features, (list, tuple)) else features.feature_maps[-1]
