"""ONNX Runtime on the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from torch import Tensor

from labkit.core.errors import UnavailableError
from labkit.models.engines.build import Request, as_module_output
from labkit.models.engines.engine_cache import cached_file


class OnnxRuntimeEngine:
    """An ONNX Runtime session behind the engine's interface."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self._input = session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> Any:
        """Runs the model on (B, ...); every call gives new arrays."""
        outputs = self.session.run(None, {self._input: x.numpy()})
        return as_module_output([torch.from_numpy(value) for value in outputs])


def build(request: Request) -> OnnxRuntimeEngine:
    """Exports to ONNX (cached on disk) and opens a session whose idle threads sleep.

    Options: spin, to let them spin until there is work.

    Raises:
        UnavailableError: the device is not the CPU, or the precision is not fp32.
    """
    if request.device != "cpu" or request.precision != "fp32":
        raise UnavailableError("the ONNX Runtime engine of labkit runs fp32 on the CPU")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    spin = "1" if request.options.get("spin") else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spin)
    path = _exported(request)
    return OnnxRuntimeEngine(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


def _exported(request: Request) -> Path:
    many = len(request.batches) > 1
    key = f"{request.cache_key}-onnx-{torch.__version__}-{'many' if many else 'one'}"

    def write(path: Path) -> None:
        request.report(f"exporting {request.cache_key.split('-')[0]} to ONNX, once")
        dynamic: Any = ({0: torch.export.Dim("batch", min=1, max=128)},) if many else None
        example = request.example.repeat(2, 1, 1, 1) if many else request.example  # 1 would be taken as fixed
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                request.module, (example,), str(path), dynamo=True, dynamic_shapes=dynamic,
                external_data=False, verbose=False,
            )  # fmt: skip

    return cached_file(key, "model.onnx", write)
