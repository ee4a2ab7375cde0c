"""The filter of a preparation as a callable: on the host, or on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.core.errors import UsageError
from labkit.core.types import FilterStep, Precision, Size
from labkit.filters.image_filters import guided_filter
from labkit.filters.torch_filter import guided_tensor
from labkit.filters.versions import find_version
from labkit.models.cuda_streams import Streams
from labkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, InputSpec, normalise_torch

Image = NDArray[np.uint8]
AS_KERNEL = InputSpec(mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""Normalisation of the kernels that end in a network's input."""


@dataclass(eq=False)
class Filtered:
    """Networks, and the filter that comes before them.

    Attributes:
        inner: what the same preparation without a filter gives.
        smooth: on the host, (H, W, 3) uint8 -> the same; on the device, `DeviceSmoothing`.
        streams: for schedules that put preparing and inferring on streams of their own.
    """

    inner: Any
    smooth: Callable[[Any], Any]
    streams: Streams = field(default_factory=Streams)


class DeviceSmoothing:
    """The filter on a frame that is on the device already.

    On the CPU the torch version stands in for the kernels, so that schedules can be tested.

    Attributes:
        ends_in_input: whether the result is the detector's normalised input.
    """

    def __init__(self, step: FilterStep, size: Size, device: str, precision: Precision) -> None:
        version = find_version("guided", step.version)
        self.step = step
        self.ends_in_input = step.where in ("input", "graph")
        if self.ends_in_input != (version.output == "detr"):
            raise UsageError(
                f"filter version {version.short!r} ends in {version.output!r}, which where={step.where!r} "
                "does not want"
            )
        self._half = self.ends_in_input and precision == "fp16"
        self._kernel: Any = None
        self._channels_last = False
        self.shape = (size[1], size[0], 3)
        if device == "cuda" and version.kernel is not None:
            from labkit.filters.cuda import DeviceFilter

            self._kernel = DeviceFilter(version.kernel, self.shape, step.radius, half=self._half)
            self._channels_last = self.ends_in_input and self._kernel.out.shape == self.shape

    def __deepcopy__(self, memo: Any) -> DeviceSmoothing:
        return self  # an engine copies the networks that it changes; a kernel is never changed

    def __call__(self, frame: Tensor, out: Tensor | None = None) -> Tensor:
        """Smooths (1, H, W, 3) uint8 on torch's current stream, without waiting.

        Args:
            frame: on the device.
            out: where to put the result; None takes the filter's own buffer, which the next call
                overwrites.

        Returns:
            (1, H, W, 3) uint8, or the normalised input (1, 3, H, W), still on the device.
        """
        if self._kernel is not None and self._channels_last:
            place = None if out is None else out[0].permute(1, 2, 0)
            return self._kernel(frame[0], self.step.eps, place).permute(2, 0, 1)[None]
        if self._kernel is not None:
            return self._kernel(frame[0], self.step.eps, None if out is None else out[0])[None]
        result = self._in_torch(frame)
        return result if out is None else out.copy_(result)

    def new_out(self, device: str) -> Tensor:
        """A buffer for one result."""
        height, width, _ = self.shape
        shape = (1, 3, height, width) if self.ends_in_input else (1, height, width, 3)
        floats = torch.float16 if self._half else torch.float32
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        dtype = floats if self.ends_in_input else torch.uint8
        return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)

    def _in_torch(self, frame: Tensor) -> Tensor:
        with torch.inference_mode():
            smooth = guided_tensor(frame[0], self.step.radius, self.step.eps)[None]
            if not self.ends_in_input:
                return smooth
            return normalise_torch(smooth.permute(0, 3, 1, 2), AS_KERNEL)


def host_smoothing(step: FilterStep, device: str) -> Callable[[Image], Image]:
    """The filter from array to array: on the host, or by a round trip to the device."""
    version = step.version
    if step.where == "round_trip":
        if device != "cuda":
            version = "torch"  # stands in for the kernels, so that schedules can be tested
        else:
            from labkit.filters.cuda_managed import guided_in_managed_memory

            kernel = find_version("guided", version).kernel
            if kernel is None:
                raise UsageError(f"filter version {version!r} launches no kernel; take 'cuda-global'")
            return lambda image: guided_in_managed_memory(kernel, image, step.radius, step.eps)
    return lambda image: guided_filter(image, step.radius, step.eps, version=version)
