"""DETR with everything that no frame changes worked out once.

Position embeddings depend on the frame's size alone, query embeddings on nothing. So in an
attention (h + p) W = h W + p W, where p W is a constant; the first decoder layer, which starts
from zeros, attends to nothing but constants; and the keys and values of all decoder layers are
products of one and the same input. What is left is 61 matrix products instead of 100, to the same
numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from labkit.models.trimmed import TrimmedDetr


class PrecomputedDetr(nn.Module):
    """DETR for frames of one size: (B, 3, h, w) -> logits (B, Q, C + 1), boxes (B, Q, 4).

    Args:
        trimmed: the same network before.
    """

    def __init__(self, trimmed: TrimmedDetr) -> None:
        super().__init__()
        self.backbone = trimmed.backbone
        self.projection = trimmed.input_projection
        with torch.no_grad():
            layers = [EncoderLayer(layer, trimmed.positions) for layer in trimmed.encoder.layers]
            self.encoder = nn.Sequential(*layers)
            self.decoder = Decoder(trimmed.decoder, trimmed.positions, trimmed.query_positions)
        self.class_head = trimmed.class_head
        *hidden, last = trimmed.box_head.layers
        self.box_head = nn.Sequential(*map(LinearRelu, hidden), last, nn.Sigmoid())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Backbone, encoder, decoder and heads."""
        features = self.backbone(pixels).feature_maps[-1].flatten(2).transpose(1, 2)  # (B, h w, D)
        memory = linear(features, self.projection.weight.flatten(1), self.projection.bias)
        decoded = self.decoder(self.encoder(memory))
        return self.class_head(decoded), self.box_head(decoded)


class Product(nn.Module):
    """Several linear maps of one input in one matrix product, plus a constant for each position.

    Args:
        maps: of the same input.
        constant: (1, L, sum of the maps' outputs); their biases are part of it.
    """

    def __init__(self, maps: list[nn.Linear], constant: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([each.weight for each in maps]), requires_grad=False)
        self.register_buffer("constant", constant.clone())

    def forward(self, h: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, sum of the maps' outputs)."""
        return linear(h, self.weight) + self.constant


class SelfAttention(nn.Module):
    """Self-attention whose queries, keys and values are one product."""

    def __init__(self, attention: Any, positions: Tensor) -> None:
        super().__init__()
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        constant = torch.cat([q(positions), k(positions), v(torch.zeros_like(positions))], -1)
        self.project = Product([q, k, v], constant)
        self.out = attention.o_proj
        self.heads = q.out_features // attention.head_dim

    def forward(self, h: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.out(attend(*self.project(h).chunk(3, -1), self.heads))


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each added to its input and normalised."""

    def __init__(self, layer: Any, positions: Tensor) -> None:
        super().__init__()
        self.attention = SelfAttention(layer.self_attn, positions)
        self.attention_norm = layer.self_attn_layer_norm
        self.mlp = mlp(layer.mlp)
        self.mlp_norm = layer.final_layer_norm

    def forward(self, h: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        h = self.attention_norm(h + self.attention(h))
        return self.mlp_norm(h + self.mlp(h))


class Decoder(nn.Module):
    """Object queries that attend to each other and to the encoder's output.

    Args:
        decoder: of the library.
        positions: (1, L, D) of the encoder's output.
        query_positions: (1, Q, D) of the queries.
    """

    def __init__(self, decoder: Any, positions: Tensor, query_positions: Tensor) -> None:
        super().__init__()
        first = decoder.layers[0]
        nothing = torch.zeros_like(query_positions)
        attended, _ = first.self_attn(nothing, position_embeddings=query_positions)
        start = first.self_attn_layer_norm(attended)
        self.register_buffer("start", start.clone())
        self.register_buffer("first_query", first.encoder_attn.q_proj(start + query_positions).clone())
        keys_and_values, constants = [], []
        for layer in decoder.layers:
            k, v = layer.encoder_attn.k_proj, layer.encoder_attn.v_proj
            keys_and_values += [k, v]
            constants += [k(positions), v(torch.zeros_like(positions))]
        self.keys_and_values = Product(keys_and_values, torch.cat(constants, -1))
        self.cross = nn.ModuleList(map(CrossLayer, decoder.layers))
        self.between = nn.ModuleList(QueryLayer(layer, query_positions) for layer in decoder.layers[1:])
        self.norm = decoder.layernorm

    def forward(self, encoded: Tensor) -> Tensor:
        """(B, L, D) -> (B, Q, D)."""
        batch = len(encoded)
        kv = self.keys_and_values(encoded).chunk(2 * len(self.cross), -1)
        h, query = self.start.expand(batch, -1, -1), self.first_query.expand(batch, -1, -1)
        h = self.cross[0](h, query, kv[0], kv[1])
        for i, (queries, cross) in enumerate(zip(self.between, self.cross[1:], strict=True), 1):
            h, query = queries(h)
            h = cross(h, query, kv[2 * i], kv[2 * i + 1])
        return self.norm(h)


class QueryLayer(nn.Module):
    """Self-attention among the queries, and what each of them asks the encoder's output for."""

    def __init__(self, layer: Any, query_positions: Tensor) -> None:
        super().__init__()
        self.attention = SelfAttention(layer.self_attn, query_positions)
        self.norm = layer.self_attn_layer_norm
        ask = layer.encoder_attn.q_proj
        self.ask = Product([ask], ask(query_positions))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, D) -> the same after attention, and its queries (B, Q, D)."""
        h = self.norm(h + self.attention(h))
        return h, self.ask(h)


class CrossLayer(nn.Module):
    """Attention to the encoder's output and MLP, each added to its input and normalised."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.encoder_attn
        self.out, self.heads = attention.o_proj, attention.q_proj.out_features // attention.head_dim
        self.attention_norm = layer.encoder_attn_layer_norm
        self.mlp = mlp(layer.mlp)
        self.mlp_norm = layer.final_layer_norm

    def forward(self, h: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, Q, D) with queries (B, Q, D), keys and values (B, L, D) -> (B, Q, D)."""
        h = self.attention_norm(h + self.out(attend(query, key, value, self.heads)))
        return self.mlp_norm(h + self.mlp(h))


class LinearRelu(nn.Module):
    """A linear map and ReLU; on a GPU one kernel, to which both are the end of the product."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., outputs)."""
        if not x.is_cuda:
            return linear(x, self.weight, self.bias).relu_()
        product = torch._addmm_activation(self.bias, x.flatten(0, -2), self.weight.t())
        return product.unflatten(0, x.shape[:-1])


def mlp(layers: Any) -> nn.Sequential:
    """The library's two linear maps with ReLU between."""
    if not isinstance(layers.activation_fn, nn.ReLU):
        raise TypeError(f"DETR's MLP has ReLU in the middle, not {type(layers.activation_fn).__name__}")
    return nn.Sequential(LinearRelu(layers.fc1), layers.fc2)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention in `heads` heads: (B, Q, D), (B, L, D), (B, L, D) -> (B, Q, D)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
