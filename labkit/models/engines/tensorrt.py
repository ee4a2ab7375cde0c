"""TensorRT: NVIDIA's compiler for inference, given the network as ONNX in the wanted precision.

The ONNX graph carries its own number formats and TensorRT keeps to them (a "strongly typed"
network), so what runs in half precision is what the module was turned into, nothing else.
"""

from __future__ import annotations

import copy
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import tensorrt as trt
import torch
from torch import Tensor, nn

from labkit.core.errors import UnavailableError, UsageError
from labkit.models.engines.build import Request, as_module_output
from labkit.models.engines.eager import DTYPES
from labkit.models.engines.engine_cache import cached_file

OPSET = 20
WORKSPACE_BYTES = 2 * 2**30


class FloatFirst(nn.Module):
    """The module with bytes turned into floats before anything else, as TensorRT wants bytes handled."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        """Any input of the module, bytes or not."""
        return self.module(x.float())


class TensorRtEngine:
    """A built plan behind the engine's interface; work goes onto torch's current stream."""

    def __init__(self, plan: bytes) -> None:
        self._runtime = trt.Runtime(_logger())
        self._plan = self._runtime.deserialize_cuda_engine(plan)
        if self._plan is None:
            raise UnavailableError(
                "TensorRT cannot read its plan; it was built for another GPU or version: delete the folder "
                "labkit/engines in your cache and try again"
            )
        self._context = self._plan.create_execution_context()
        names = [self._plan.get_tensor_name(i) for i in range(self._plan.num_io_tensors)]
        inputs = [n for n in names if self._plan.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._input = inputs[0]
        self._dtype = _torch_type(self._plan.get_tensor_dtype(self._input))
        self._shape = tuple(self._plan.get_tensor_shape(self._input))
        self._outputs = [name for name in names if name not in inputs]
        self._own: torch.cuda.Stream | None = None

    def __call__(self, x: Tensor) -> Any:
        """Runs the plan on a tensor of the shape it was built for; the outputs are the caller's own.

        Raises:
            UsageError: the tensor has another shape.
            UnavailableError: TensorRT refused to run.
        """
        if tuple(x.shape) != self._shape:
            raise UsageError(f"this plan is for inputs of {self._shape}, not {tuple(x.shape)}")
        x = x.to(self._dtype).contiguous()
        outputs = tuple(
            torch.empty(
                tuple(self._context.get_tensor_shape(name)),
                dtype=_torch_type(self._plan.get_tensor_dtype(name)),
                device=x.device,
            )
            for name in self._outputs
        )
        self._context.set_tensor_address(self._input, x.data_ptr())
        for name, out in zip(self._outputs, outputs, strict=True):
            self._context.set_tensor_address(name, out.data_ptr())
        current = torch.cuda.current_stream()
        stream = self._stream_beside(current)
        ran = self._context.execute_async_v3(stream.cuda_stream)
        if stream is not current:
            current.wait_stream(stream)  # and so does whoever gets this memory next
        if not ran:
            raise UnavailableError("TensorRT did not run; its messages above say why")
        return as_module_output(outputs)

    def _stream_beside(self, current: Any) -> Any:
        """The current stream; on the default one TensorRT would wait, so then one that comes after it."""
        if current.cuda_stream != 0:
            return current
        self._own = self._own or torch.cuda.Stream()
        self._own.wait_stream(current)
        return self._own


def build(request: Request) -> TensorRtEngine:
    """Exports to ONNX and builds a plan for this GPU; both are kept on disk.

    Raises:
        UnavailableError: there is no GPU, or TensorRT does not take the network.
    """
    if request.device != "cuda" or not torch.cuda.is_available():
        raise UnavailableError("TensorRT needs an NVIDIA GPU")
    gpu = torch.cuda.get_device_properties(0)
    key = f"{request.cache_key}-tensorrt-{trt.__version__}-{gpu.name}-{request.precision}"

    def write(path: Path) -> None:
        onnx = path.with_name("model.onnx")
        export(request, onnx)
        request.report("building TensorRT's plan for this GPU, once (minutes)")
        path.write_bytes(_plan_of(onnx))

    return TensorRtEngine(cached_file(key, "model.plan", write).read_bytes())


def export(request: Request, path: Path) -> None:
    """Writes the request's module as ONNX in the request's precision, for exactly its example's shape."""
    request.report(f"exporting {request.cache_key.split('-')[0]} to ONNX, once")
    module = FloatFirst(copy.deepcopy(request.module).to(DTYPES[request.precision])).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (request.example,), str(path), dynamo=True, opset_version=OPSET, external_data=False,
            verbose=False,
        )  # fmt: skip


def _plan_of(onnx: Path) -> bytes:
    logger = _logger()
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise UnavailableError(f"TensorRT {trt.__version__} does not take this network: {reasons}")
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise UnavailableError(f"TensorRT {trt.__version__} could not build a plan; its messages say why")
    return bytes(plan)


@cache
def _logger() -> Any:
    """TensorRT's log; what it needs for `roi_align` is registered with it, for plans and for parsing."""
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    return logger


def _torch_type(dtype: Any) -> torch.dtype:
    types = {
        trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.INT32: torch.int32,
        trt.DataType.INT64: torch.int64, trt.DataType.BF16: torch.bfloat16, trt.DataType.BOOL: torch.bool,
        trt.DataType.UINT8: torch.uint8,
    }  # fmt: skip
    return types[dtype]
