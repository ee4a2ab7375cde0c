"""Prepare a rung's networks from the data in its `Preparation`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from labkit.core.errors import UnavailableError, UsageError
from labkit.core.requirements import fallback
from labkit.core.threads import bound_threads
from labkit.core.types import Preparation, Size, Workload
from labkit.models.box_rows import BoxRowKernels, BoxRows
from labkit.models.callables import Classifier, Combined, Detector, Net, OwnLabels, Prepared
from labkit.models.cuda_streams import streams_for
from labkit.models.decode import DetrCore, DetrDecoder
from labkit.models.engines.build import Engine, Request, build_engine
from labkit.models.filter_stage import AS_KERNEL, DeviceSmoothing, Filtered, host_smoothing
from labkit.models.fused import (
    ClassifierStage,
    DetectorStage,
    FusedFromInput,
    FusedNet,
    FusedNetwork,
    SmoothedNetwork,
)
from labkit.models.inputs import (
    CALIBRATION_FRAMES,
    ByteInput,
    PinnedInput,
    PinnedUpload,
    calibration_frames,
    with_bytes,
)
from labkit.models.networks import Network, build, labels_of
from labkit.models.precomputed import PrecomputedDetr
from labkit.models.preprocess import InputSpec, Preprocess, preprocessor
from labkit.models.streamed import StagedNet, StreamedNet
from labkit.models.third_party import transformers_pipeline
from labkit.models.trimmed import TrimmedDetr, trimmed
from labkit.models.weights import Weights, lab_weights, models_for, models_of, resolve

Report = Callable[[str], None]
_BYTES: dict[str, Callable[[InputSpec, str], Preprocess]] = {"bytes": ByteInput, "pinned": PinnedInput}


def prepare(
    preparation: Preparation,
    workload: Workload,
    weights: Mapping[str, Weights] | None = None,
    report: Report = lambda line: None,
) -> Prepared:
    """Builds what `preparation` asks for.

    Args:
        preparation: how.
        workload: model set, weights, frame size and number of boxes.
        weights: already resolved weights by model name; resolved here where absent.
        report: called with one line before a step that takes long.

    Raises:
        UnavailableError: the machine lacks the device or engine.
        WeightsError: weights that were asked for cannot be had.
    """
    if preparation.device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("this rung needs an NVIDIA GPU; labkit doctor says what is missing")
    bound_threads()
    models = models_for(preparation.task, workload)
    chosen = {part: _weights_of(model, workload, weights) for part, model in models.items()}
    if preparation.form == "own":  # no network, only the names that its labels stand for
        names = OwnLabels(*map(labels_of, chosen.values()))
        return Prepared(names, {**_settings(preparation, workload, {}), "weights": "own"})
    networks = {part: build(each) for part, each in chosen.items()}
    net = _FORMS[preparation.form](networks, preparation, workload, report)
    return Prepared(_with_filter(net, preparation, workload), _settings(preparation, workload, networks))


def resolve_all(
    workload: Workload, tasks: Iterable[str] = ("combined",), *, progress: bool = False
) -> dict[str, Weights]:
    """The weights of the workload's models for these tasks, chosen once for many rungs."""
    models = dict.fromkeys(model for task in tasks for model in models_for(task, workload).values())
    return {model: _weights_of(model, workload, progress=progress) for model in models}


def _weights_of(
    model: str, workload: Workload, known: Mapping[str, Weights] | None = None, progress: bool = False
) -> Weights:
    if known is not None and model in known:
        return known[model]
    if workload.model_set == "lab":
        return lab_weights(model)
    return resolve(model, workload.weights, seed=workload.seed, progress=progress)


def _in_parts(
    networks: Mapping[str, Network], preparation: Preparation, workload: Workload, report: Report
) -> Net:
    nets: list[Any] = []
    if "detect" in networks:
        nets.append(_detector(networks["detect"], preparation, workload, report))
    if "classify" in networks:
        nets.append(_classifier(networks["classify"], preparation, workload, report))
    if len(nets) < 2:
        return nets[0]
    return Combined(*nets, group=preparation.group, every=preparation.options.get("every", 1))


def _as_whole_frame(
    networks: Mapping[str, Network], preparation: Preparation, workload: Workload, report: Report
) -> FusedNet:
    parts = _parts_of_frame(networks, preparation, workload)
    width, height = workload.size
    module: nn.Module = FusedNetwork(*parts)
    example = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    where = preparation.filter.where if preparation.filter is not None else None
    if where == "input":
        module, example = FusedFromInput(*parts, came_as=AS_KERNEL), torch.zeros(1, 3, height, width)
    if where == "graph":
        from_input = FusedFromInput(*parts, came_as=AS_KERNEL)
        module = SmoothedNetwork(_device_smoothing(preparation, workload), from_input)
    request = _frame_request(module, example, networks, preparation, workload, report)
    return _fused_net(build_engine(preparation.engine, request), networks, preparation, workload)


def _parts_of_frame(networks: Mapping[str, Network], preparation: Preparation, workload: Workload) -> Any:
    """Arguments of a `FusedNetwork`."""
    detector, classifier = networks["detect"], networks["classify"]
    assert classifier.crop_input is not None and detector.rule is not None
    rows = BoxRowKernels if preparation.options.get("box_kernels") else BoxRows
    return (
        _trimmed_detr(detector, preparation, workload),
        classifier.module,
        detector.input,
        classifier.crop_input,
        rows(workload.objects, detector.rule),
    )


def _frame_request(
    module: nn.Module,
    example: torch.Tensor,
    networks: Mapping[str, Network],
    preparation: Preparation,
    workload: Workload,
    report: Report,
) -> Request:
    width, height = workload.size
    hashes = [networks[part].sha256[:16] for part in ("detect", "classify")]
    parts = [type(module).__name__.lower(), *hashes, f"{width}x{height}", str(workload.objects)]
    return Request(
        module=module,
        example=example,
        cache_key="-".join(parts),
        device=preparation.device,
        precision=preparation.precision,
        batches=tuple(range(1, preparation.group + 1)),
        options=preparation.options,
        report=report,
    )


def _fused_net(
    engine: Engine, networks: Mapping[str, Network], preparation: Preparation, workload: Workload
) -> FusedNet:
    upload = PinnedUpload(preparation.device, slots=2 * preparation.group + 2)
    return FusedNet(
        networks["detect"], networks["classify"], upload, engine, preparation.device, workload,
        preparation.group,
    )  # fmt: skip


def _as_staged(
    networks: Mapping[str, Network], preparation: Preparation, workload: Workload, report: Report
) -> StagedNet:
    """An engine for the detector and one for the classifier, whose batch is what the first one cuts."""
    detector, classifier, *inputs, rows = _parts_of_frame(networks, preparation, workload)
    width, height = workload.size

    def engine(module: nn.Module, example: torch.Tensor) -> Engine:
        request = _frame_request(module, example, networks, preparation, workload, report)
        return build_engine(preparation.engine, request)

    frame = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    detect = engine(DetectorStage(FusedNetwork(detector, nn.Identity(), *inputs, rows)), frame)
    _, crops = detect(frame.to(preparation.device))
    classify = engine(ClassifierStage(classifier), torch.zeros(crops.shape))
    net = _fused_net(detect, networks, preparation, workload)
    return StagedNet(net, classify, rows, int(preparation.options.get("depth", 2)))


def _as_peer(
    networks: Mapping[str, Network], preparation: Preparation, workload: Workload, report: Report
) -> Any:
    return transformers_pipeline(networks["detect"], workload, preparation)


def _as_streamed(
    networks: Mapping[str, Network], preparation: Preparation, workload: Workload, report: Report
) -> StreamedNet:
    if preparation.filter is None:
        raise UsageError("the form 'streamed' has a stream for the filter; give the preparation a filter")
    net = _as_whole_frame(networks, preparation, workload, report)
    return StreamedNet(
        net, _device_smoothing(preparation, workload), int(preparation.options.get("depth", 2))
    )


_FORMS = {
    "parts": _in_parts, "whole_frame": _as_whole_frame, "streamed": _as_streamed, "staged": _as_staged,
    "peer": _as_peer,
}  # fmt: skip


def _with_filter(net: Any, preparation: Preparation, workload: Workload) -> Any:
    """The networks with the preparation's filter beside them, where it has one."""
    step = preparation.filter
    if step is None or preparation.form == "streamed":
        return net
    if preparation.form == "parts" and step.where in ("host", "round_trip"):
        streams = streams_for(preparation.device, ("preprocess", "infer"))
        return Filtered(net, host_smoothing(step, preparation.device), streams)
    if preparation.form == "whole_frame" and step.where == "graph":
        return net  # the filter is part of its engine
    if preparation.form == "whole_frame" and step.where in ("device", "input"):
        return Filtered(net, _device_smoothing(preparation, workload))
    raise UsageError(f"a filter with where={step.where!r} does not go with the form {preparation.form!r}")


def _device_smoothing(preparation: Preparation, workload: Workload) -> DeviceSmoothing:
    assert preparation.filter is not None
    return DeviceSmoothing(preparation.filter, workload.size, preparation.device, preparation.precision)


def _input(preparation: Preparation, spec: InputSpec) -> Preprocess:
    if preparation.preprocess in ("bytes", "pinned"):
        return _BYTES[preparation.preprocess](spec, preparation.device)
    options = {"device": preparation.device} if preparation.preprocess == "torch" else {}
    run = preprocessor(preparation.preprocess, spec, **options)
    if preparation.device == "cpu" or options:
        return run
    return lambda image: run(image).to(preparation.device)


def _request(
    network: Network,
    spec: InputSpec,
    size: Size,
    preparation: Preparation,
    report: Report,
    batches: tuple[int, ...],
    unquantised: Sequence[str] = (),
) -> Request:
    width, height = spec.output_size(size)
    module, example = network.module, torch.zeros(1, 3, height, width)
    if preparation.preprocess == "bytes":
        module, example = with_bytes(module, spec), torch.zeros(1, height, width, 3, dtype=torch.uint8)
    return Request(
        module=module,
        example=example,
        cache_key=f"{network.model}-{network.sha256[:16]}-{width}x{height}-{preparation.preprocess}",
        device=preparation.device,
        precision=preparation.precision,
        batches=batches,
        options={**preparation.options, "unquantised": unquantised},
        calibration=lambda: calibration_frames(
            _input(preparation, spec), size, preparation.options.get("calibration_frames", CALIBRATION_FRAMES)
        ),
        report=report,
    )


def _detector(network: Network, preparation: Preparation, workload: Workload, report: Report) -> Detector:
    if preparation.options.get("lean"):
        network = replace(network, module=_trimmed_detr(network, preparation, workload))
    batches = tuple(range(1, preparation.group + 1))
    left = _modules_of(preparation.options.get("unquantised", ()), network)
    request = _request(network, network.input, workload.size, preparation, report, batches, left)
    engine = build_engine(preparation.engine, request)
    assert network.rule is not None
    decoder = DetrDecoder(network.labels, workload.objects, workload.threshold, network.rule)
    return Detector(network, _input(preparation, network.input), engine, decoder)


def _modules_of(parts: Sequence[str], network: Network) -> list[str]:
    """Names of a detector's modules, given by their part of it, or by their own names."""
    known = network.module.parts() if isinstance(network.module, DetrCore) else {}
    return [name for part in parts for name in known.get(part, (part,))]


def _trimmed_detr(network: Network, preparation: Preparation, workload: Workload) -> nn.Module:
    """DETR without what a fixed frame size makes superfluous, or (precomputed) constant."""
    lean = trimmed(network.module, network.input.output_size(workload.size))
    if preparation.options.get("precomputed") and isinstance(lean, TrimmedDetr):
        lean = PrecomputedDetr(lean)
    return lean.eval()


def _classifier(network: Network, preparation: Preparation, workload: Workload, report: Report) -> Classifier:
    assert network.crop_input is not None
    whole_frames = preparation.task == "classify"
    spec = network.input if whole_frames else network.crop_input
    most = max(1, workload.objects) * preparation.group
    batches = (1,) if whole_frames else tuple(range(1, most + 1))
    request = _request(network, spec, workload.size, preparation, report, batches)
    engine = build_engine(preparation.engine, request)
    whole, crop = (_input(preparation, each) for each in (network.input, network.crop_input))
    return Classifier(network, whole, engine, crop)


def _settings(
    preparation: Preparation, workload: Workload, networks: Mapping[str, Network]
) -> dict[str, Any]:
    kinds = {network.weights.kind for network in networks.values()}
    detector, classifier = models_of(workload)
    return {
        "model_set": workload.model_set,
        "detector": detector,
        "classifier": classifier,
        "weights": kinds.pop() if len(kinds) == 1 else "mixed",
        "weights_kind": {n.model: n.weights.kind for n in networks.values()},
        "weights_sha256": {n.model: n.sha256 for n in networks.values()},
        "weights_revision": {n.model: n.weights.revision for n in networks.values()},
        "device": preparation.device,
        "size": list(workload.size),
        "objects": 1 if preparation.task == "classify" else workload.objects,
        "threshold": workload.threshold,
        "seed": workload.seed,
        "preparation": preparation.describe(),
        "fallback": fallback(preparation),
    }
