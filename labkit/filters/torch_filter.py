"""The filters in torch: the same few lines on the CPU and on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UnavailableError

if TYPE_CHECKING:
    import torch

Image = NDArray[np.uint8]


def guided_tensor(
    image: torch.Tensor, radius: int, eps: float, guide: torch.Tensor | None = None
) -> torch.Tensor:
    """Guided filter on the device where the image lies.

    Args:
        image: (H, W, C) uint8.
        radius: px.
        eps: in squared intensity of images in [0, 1].
        guide: (H, W) uint8, or None.

    Returns:
        (H, W, C) uint8, contiguous.
    """
    p = image.permute(2, 0, 1).float().div(255)  # (C, H, W)
    I = p if guide is None else guide.float().div(255)[None]  # noqa: E741, N806
    mean_I, mean_p = box_mean(I, radius), box_mean(p, radius)  # noqa: N806
    var_I = (box_mean(I * I, radius) - mean_I * mean_I).clamp(min=0)  # noqa: N806
    cov_Ip = var_I if guide is None else box_mean(I * p, radius) - mean_I * mean_p  # noqa: N806
    a = cov_Ip / (var_I + eps)
    b = mean_p - a * mean_I
    q = box_mean(a, radius) * I + box_mean(b, radius)
    return _to_bytes(q * 255)


def box_mean(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over windows clipped to the image; (C, H, W) -> (C, H, W).

    The count of a clipped window is the product of its counts in x and y, so both directions are
    summed and divided one after the other.
    """
    across = _window_sum(values, radius, 2) * _share(values, radius, 2)
    return _window_sum(across, radius, 1) * _share(values, radius, 1)[:, None]


def _window_sum(values: torch.Tensor, radius: int, axis: int) -> torch.Tensor:
    """Sums over 2 radius + 1 neighbours along an axis, zeros beyond the border.

    Made of sums over 1, 2, 4, ... neighbours: 2 log w additions of whole tensors, where pooling
    reads each window on its own (9 times slower on a CPU at radius 4).
    """
    import torch.nn.functional as f

    n, width = values.shape[axis], 2 * radius + 1
    sums = f.pad(values, (radius, radius) if axis == 2 else (0, 0, radius, radius))
    total, done, size = sums.narrow(axis, 0, n), 1, 1
    while 2 * size <= width:
        length = sums.shape[axis] - size
        sums = sums.narrow(axis, 0, length) + sums.narrow(axis, size, length)
        size *= 2
        if width & size:
            total = total + sums.narrow(axis, done, n)
            done += size
    return total


def _share(values: torch.Tensor, radius: int, axis: int) -> torch.Tensor:
    """(n,) 1 / how many positions the clipped window around each position holds."""
    import torch

    last = values.shape[axis] - 1
    at = torch.arange(last + 1, device=values.device)
    counts = (at + radius).clamp(max=last) - (at - radius).clamp(min=0) + 1
    return counts.to(values.dtype).reciprocal()


def edges_tensor(image: torch.Tensor) -> torch.Tensor:
    """Strength of edges, (H, W, C) uint8 -> the same; see `reference.edges`."""
    import torch.nn.functional as f

    padded = f.pad(image.permute(2, 0, 1).float(), (1, 1, 1, 1), mode="replicate")
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]).abs()
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]).abs()
    return _to_bytes(across + down)


def guided(image: Image, radius: int, eps: float, guide: Image | None = None) -> Image:
    """`guided_tensor` on the CPU, for arrays."""
    return on_device("cpu", lambda *given: guided_tensor(given[0], radius, eps, given[1]), image, guide)


def guided_cuda(image: Image, radius: int, eps: float, guide: Image | None = None) -> Image:
    """`guided_tensor` on the GPU, for arrays: with an upload and a download."""
    return on_device("cuda", lambda *given: guided_tensor(given[0], radius, eps, given[1]), image, guide)


def edges(image: Image) -> Image:
    """`edges_tensor` on the CPU, for arrays."""
    return on_device("cpu", lambda p, _: edges_tensor(p), image, None)


def edges_cuda(image: Image) -> Image:
    """`edges_tensor` on the GPU, for arrays: with an upload and a download."""
    return on_device("cuda", lambda p, _: edges_tensor(p), image, None)


def on_device(device: str, work: Any, image: Image, guide: Image | None) -> Image:
    """`work` on arrays as tensors of a device; its result as an array.

    Raises:
        UnavailableError: torch sees no GPU.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(
            "this version filters on an NVIDIA GPU and torch sees none; use version='torch'"
        )
    # from_numpy refuses read-only arrays; a copy of those is the small price.
    tensors = [
        None
        if array is None
        else torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)
        for array in (image, guide)
    ]
    with torch.inference_mode():
        return np.asarray(work(*tensors).cpu().numpy())


def _to_bytes(values: torch.Tensor) -> torch.Tensor:
    """(C, H, W) grey levels in [0, 255] -> (H, W, C) uint8, rounded and saturated."""
    import torch

    return (values + 0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
