"""`torch.autocast("cuda")` on the practice GPU, by torch's own lists of operations.

Torch casts at a place that only tensors of a real GPU reach. Here the same is done where a learner
calls a function, and, where no gradients are kept, for the operations inside other functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

LOWER = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
    "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "mv", "bmm", "addmm", "addmv", "addbmm", "baddbmm",
    "einsum", "prelu", "scaled_dot_product_attention", "multi_head_attention_forward",
})  # fmt: skip
"""Products, in half precision."""

FULL = frozenset({
    "softmax", "_softmax", "log_softmax", "_log_softmax", "layer_norm", "native_layer_norm", "group_norm",
    "native_group_norm", "norm", "exp", "log", "log2", "log10", "log1p", "pow", "__pow__", "rsqrt",
    "reciprocal", "sum", "prod", "cumsum", "cumprod", "softplus", "cdist", "cosine_similarity",
    "cross_entropy", "nll_loss",
    "mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits",
})  # fmt: skip
"""Operations that need the range or the digits of float32."""


def cast(name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments of an operation in the precision in which autocast runs it; unchanged outside of autocast."""
    if not torch.is_autocast_enabled("cuda") or name not in LOWER | FULL:
        return args, kwargs
    wanted = torch.get_autocast_dtype("cuda") if name in LOWER else torch.float32

    def in_precision(value: Any) -> Any:
        fits = isinstance(value, torch.Tensor) and value.is_cuda and value.is_floating_point()
        return value.to(wanted) if fits and value.dtype not in (wanted, torch.float64) else value

    return tree_map(in_precision, (args, kwargs))
