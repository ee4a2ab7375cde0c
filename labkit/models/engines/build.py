"""Engines by name: a module goes in, a callable on tensors comes out.

An engine takes one tensor with the batch in front and returns what the module does: a tensor,
or a tuple of several. Adding an engine is one file here and one line in `ENGINES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from labkit.core.errors import UnavailableError, UsageError
from labkit.core.requirements import INSTALL
from labkit.core.types import Precision


class Engine(Protocol):
    """A network made ready to run."""

    def __call__(self, x: Tensor) -> Any:
        """Runs the network on a batch; a tensor or a tuple of tensors on the engine's device."""
        ...


def as_module_output(outputs: Sequence[Tensor]) -> Any:
    """A lone output as a tensor, several as a tuple: what a module returns."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


@dataclass(frozen=True)
class Request:
    """A network with all that an engine needs to build it.

    Attributes:
        module: float32, eval mode, on the CPU; one tensor in, a tensor or tuple out.
        example: input of the shape and type that will come, batch first.
        cache_key: hash of weights and network; engines that convert cache under it.
        batches: batch sizes that will come; (1,) for a detector.
        calibration: inputs for post-training quantisation, or None.
        report: called with one line before a step that takes long.
    """

    module: nn.Module
    example: Tensor
    cache_key: str
    device: str = "cpu"
    precision: Precision = "fp32"
    batches: tuple[int, ...] = (1,)
    options: dict[str, Any] = field(default_factory=dict)
    calibration: Callable[[], list[Tensor]] | None = None
    report: Callable[[str], None] = lambda line: None


# name -> (module with a `build(request)`, the package it needs)
ENGINES: dict[str, tuple[str, str]] = {
    "eager": ("labkit.models.engines.eager", "torch"),
    "compile": ("labkit.models.engines.compiled", "torch"),
    "openvino": ("labkit.models.engines.openvino", "openvino"),
    "onnxruntime": ("labkit.models.engines.onnxruntime", "onnxruntime"),
    "cuda_graph": ("labkit.models.engines.cuda_graph", "torch"),
    "tensorrt": ("labkit.models.engines.tensorrt", "tensorrt"),
}


def build_engine(name: str, request: Request) -> Engine:
    """Builds the engine `name`.

    Raises:
        UsageError: there is no engine of that name.
        UnavailableError: the package or device that it needs is missing.
    """
    if name not in ENGINES:
        raise UsageError(f"no engine named {name!r}; there are {', '.join(ENGINES)}")
    where, package = ENGINES[name]
    try:
        module = importlib.import_module(where)
    except ImportError as error:
        install = INSTALL.get(package, f"pip install {package}")
        raise UnavailableError(f"engine {name} needs the package {package}: {install} ({error})") from error
    return module.build(request)
