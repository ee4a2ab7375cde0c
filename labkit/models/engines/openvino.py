"""OpenVINO on the CPU: the whole graph compiled, in fp32, bf16 or int8."""

from __future__ import annotations

import copy
import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit.core.errors import UnavailableError, UsageError
from labkit.core.openvino_core import openvino_core, switch_off_telemetry
from labkit.models.engines.build import Request, as_module_output
from labkit.models.engines.eager import fold_batch_norms
from labkit.models.engines.engine_cache import cached_file

switch_off_telemetry()

import openvino as ov  # noqa: E402

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVinoEngine:
    """A compiled OpenVINO model behind the engine's interface, with the graph that was compiled."""

    def __init__(self, compiled: Any, graph: Any) -> None:
        self._request = compiled.create_infer_request()
        self.compiled = compiled
        self.graph = graph

    def __call__(self, x: Tensor) -> Any:
        """Runs the model on (B, ...); the outputs are copies that later calls leave alone."""
        results = self._request.infer([x.numpy()], share_inputs=True)
        return as_module_output([torch.from_numpy(np.array(value, copy=True)) for value in results.values()])


def build(request: Request) -> OpenVinoEngine:
    """Converts (cached on disk), optionally quantises, and compiles.

    Options: rest_precision, the format of what int8 leaves unquantised ("fp32" or "bf16"); unquantised,
    names of modules that int8 leaves alone; smooth_quant, the share in [0, 1] of the activations' outliers
    that SmoothQuant moves into the weights (NNCF's own is 0.95); exact_bias, to correct biases layer by layer
    on what the quantised layers before give; count_operators, to let every request tell how long each
    operator took.

    Raises:
        UnavailableError: the device is not the CPU.
        UsageError: int8 is to leave modules alone that there are not.
    """
    if request.device != "cpu":
        raise UnavailableError("the OpenVINO engine of labkit runs on the CPU; use device 'cpu'")
    core = openvino_core()
    model = core.read_model(_converted(request))
    precision = request.options.get("rest_precision", request.precision)
    properties = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "PERF_COUNT": "YES" if request.options.get("count_operators") else "NO",
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }
    return OpenVinoEngine(core.compile_model(model, "CPU", properties), model)


def _converted(request: Request) -> Path:
    """The model's file, in floating point or int8, for one batch or for any."""
    kind = "int8" if request.precision == "int8" else "fp"
    batch = "many" if len(request.batches) > 1 else str(request.batches[0])
    way = hashlib.sha256("|".join(_way_of_quantising(request)).encode()).hexdigest()[:8]
    key = f"{request.cache_key}-openvino-{ov.__version__}-{kind}-{batch}-{way}"

    def write(path: Path) -> None:
        request.report(f"converting {request.cache_key.split('-')[0]} for OpenVINO ({kind}), once")
        model = _convert(request)
        if request.precision == "int8":
            model = _quantise(model, request)
        ov.save_model(model, path, compress_to_fp16=False)

    return cached_file(key, "model.xml", write)


def _way_of_quantising(request: Request) -> list[str]:
    """What makes a quantised model another one, in words; a plain one has only the modules left alone."""
    ways = ("calibration_frames", "smooth_quant", "exact_bias")
    chosen = [f"{name}={request.options[name]}" for name in ways if name in request.options]
    return [*request.options.get("unquantised", ()), *chosen]


def _convert(request: Request) -> Any:
    """The module as a graph; a batch that never varies is fixed, so that shapes fold into constants.

    Batch norms are folded before, not by OpenVINO, which gives the convolution another name then.
    """
    module = copy.deepcopy(request.module)
    fold_batch_norms(module)
    batch = -1 if len(request.batches) > 1 else request.batches[0]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing fixes the frame size, which is what is wanted here
        shape = ov.PartialShape([batch, *request.example.shape[1:]])
        return ov.convert_model(module, example_input=request.example, input=[shape])


def _quantise(model: Any, request: Request) -> Any:
    """Post-training quantisation: activation ranges come from the calibration inputs."""
    try:
        import nncf
    except ImportError as error:
        raise UnavailableError(
            f"int8 needs the package nncf: pip install 'labkit[engines]' ({error})"
        ) from error
    if request.calibration is None:
        raise UnavailableError("int8 needs calibration inputs, and this network was given none")
    inputs = [x.numpy() for x in request.calibration()]
    names = operators_of(request.options.get("unquantised", ()), model, request.module)
    request.report(f"quantising to int8 with {len(inputs)} calibration inputs, once (about a minute)")
    transformer = any(re.search("attn|attention", name) for name, _ in request.module.named_modules())
    smooth = nncf.AdvancedSmoothQuantParameters(matmul=request.options.get("smooth_quant", 0.95))
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        ignored_scope=nncf.IgnoredScope(names=names),
        fast_bias_correction=not request.options.get("exact_bias"),
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth),
    )


def operators_of(modules: Sequence[str], graph: Any, network: nn.Module) -> list[str]:
    """Names of a graph's operators that came of modules of the network, or of modules inside them.

    Raises:
        UsageError: there is no such module, or no operator came of any of them.
    """
    if not modules:
        return []
    known = [f".{name}" for name, _ in network.named_modules(remove_duplicate=False)]
    absent = [name for name in modules if not any(each.endswith(f".{name}") for each in known)]
    inside = re.compile(rf"__module\.(.*\.)?({'|'.join(map(re.escape, modules))})[./]")
    operators = (op for op in graph.get_ordered_ops() if op.get_type_name() != "Constant")
    found = [name for op in operators if inside.match(name := op.get_friendly_name())]
    if absent or not found:
        raise UsageError(
            f"int8 is to leave {', '.join(absent or modules)} alone, and no operator of the network came of "
            "a module so called; network.module.named_modules() lists them"
        )
    return sorted(found)
