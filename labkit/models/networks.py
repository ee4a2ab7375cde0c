"""The networks of the lab as plain torch modules, with their labels and input.

| model        | class                                   | input              | labels                   |
|--------------|-----------------------------------------|--------------------|--------------------------|
| `resnet18`   | torchvision ResNet-18                   | 224x224            | ImageNet's 1000          |
| `detr_r50`   | transformers DETR, ResNet-50 backbone   | the frame as it is | COCO's 91 ids            |
| `lab_resnet` | torchvision ResNet, narrow              | its config.json    | fine kinds of `scenes`   |
| `lab_detr`   | transformers DETR, small                | its config.json    | coarse kinds of `scenes` |

Others stand in rows: detectors in `detectors/`, classifiers in `classifiers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labkit.core.errors import LabError, WeightsError, first_line
from labkit.core.read_json import read_json
from labkit.models.classifiers import CLASSIFIERS
from labkit.models.decode import SOFTMAX, DecodingRule, DetrCore
from labkit.models.detectors.catalogue import detectors
from labkit.models.detr_files import load_detr
from labkit.models.preprocess import DETR_INPUT, InputSpec
from labkit.models.weights import MODELS, Weights, check_files, lab_weights, resolve, state_sha256


@dataclass(frozen=True, eq=False)
class Network:
    """A module with what is needed to use it.

    Attributes:
        module: in eval mode, float32, on the CPU.
        labels: names of its classes.
        input: what a whole frame is turned into.
        crop_input: what a crop is turned into; None for a detector.
        weights: which weights it holds.
        sha256: over its parameters and buffers.
        rule: how a detector's logits become scores and labels; None for a classifier.
    """

    model: str
    module: nn.Module
    labels: tuple[str, ...]
    input: InputSpec
    crop_input: InputSpec | None
    weights: Weights
    sha256: str
    rule: DecodingRule | None = None


def build(weights: Weights) -> Network:
    """The network that `weights` belong to, ready for inference.

    Raises:
        WeightsError: the files are missing, damaged, or do not fit the model.
    """
    try:
        if weights.kind == "lab" and weights.path is not None:
            check_files(weights.path)
        module, spec, crop, rule = _builder(weights.model)(weights)
        labels, sha256 = labels_of(weights), state_sha256(module)
    except LabError:
        raise
    except Exception as error:  # damage shows in as many kinds of error as the formats have layers
        where = weights.path or "random weights"
        raise WeightsError(f"{weights.model} cannot be built from {where}: {first_line(error)}") from error
    module.eval().requires_grad_(False)
    for part in module.modules():
        if getattr(part, "loss_type", "") is None:  # else transformers warns whoever traces the module
            part.loss_type = "ForObjectDetection"
    return Network(weights.model, module, labels, spec, crop, weights, sha256, rule)


Built = tuple[nn.Module, InputSpec, InputSpec | None, DecodingRule | None]
"""Module, inputs for a frame and for a crop, and decoding rule, as in `Network`."""


def _builder(model: str) -> Callable[[Weights], Built]:
    if model in _BUILDERS:
        return _BUILDERS[model]
    return _detector if model in detectors() else _classifier


def _classifier(weights: Weights) -> Built:
    row = CLASSIFIERS[weights.model]
    module = row.random(_seed(weights)) if weights.path is None else row.load(weights.path)
    return module, row.input, row.crop_input, None


def _detector(weights: Weights) -> Built:
    row = detectors()[weights.model]
    detector = row.random(_seed(weights)) if weights.path is None else row.load(weights.path)
    return DetrCore(detector), row.input, None, row.rule


def _detr_r50(weights: Weights) -> Built:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    if weights.path is None:
        config = DetrConfig(backbone_config=ResNetConfig(out_features=["stage4"]), num_labels=91)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(_seed(weights))
            detr = DetrForObjectDetection(config)
            _make_answers_vary(detr)
    else:
        detr = load_detr(weights.path)
    return DetrCore(detr), DETR_INPUT, None, SOFTMAX


def _lab_detr(weights: Weights) -> Built:
    assert weights.path is not None
    spec = _spec(read_json(weights.path / "preprocessor.json", error=WeightsError))
    return DetrCore(load_detr(weights.path)), spec, None, SOFTMAX


def _lab_resnet(weights: Weights) -> Built:
    from safetensors.torch import load_file

    from labkit.models.lab_resnet import build_lab_resnet

    assert weights.path is not None
    config = read_json(weights.path / "config.json", error=WeightsError)
    module = build_lab_resnet(config)
    module.load_state_dict(load_file(weights.path / "model.safetensors"))  # halves, copied into floats
    return module, _spec(config), _spec(config), None


def _spec(wanted: Mapping[str, Any]) -> InputSpec:
    return InputSpec(exact=tuple(wanted["size"]), mean=tuple(wanted["mean"]), std=tuple(wanted["std"]))


def load_network(model: str, weights: str = "auto", *, seed: int = 0) -> Network:
    """A network of the lab as a plain torch module, with the names of its labels.

    Args:
        model: "lab_resnet" or "lab_detr" (small, trained on `scenes`, in the package), "resnet18",
            "detr_r50", or another detector or classifier as `labkit weights` lists them, such as
            "rt_detr_v2_r18" or "convnext_tiny".
        weights: of all but the lab's: "auto" (pretrained where they can be had, else random),
            "pretrained" or "random".
        seed: of random weights.

    Returns:
        `.module`, in eval mode, float32, on the CPU: a classifier gives (N, C) logits; a detector gives
        logits and boxes (N, Q, 4) as centre, width and height relative to the frame. `.labels` are C
        names. DETR's logits are (N, Q, C + 1), the last class being "no object"; those of detectors
        whose `.rule` is the sigmoid's are (N, Q, C). `.input` holds what the network wants: `exact`
        (width, height) or the shortest side, `mean` and `std` per channel of RGB in [0, 1].

    Raises:
        WeightsError: there is no such model, or its weights cannot be had.

    Example:
        >>> import labkit, torch
        >>> resnet = labkit.load_network("lab_resnet")
        >>> width, height = resnet.input.exact
        >>> resnet.module(torch.zeros(1, 3, height, width)).shape[1] == len(resnet.labels)
        True
    """
    return build(lab_weights(model) if model in MODELS["lab"] else resolve(model, weights, seed=seed))


def labels_of(weights: Weights) -> tuple[str, ...]:
    """Names of a model's classes, without building it; "class 0", ... where weights are random."""
    model = weights.model
    if weights.kind == "random":
        known = detectors()[model].classes if model in detectors() else _CLASSES.get(model, 1000)
        return tuple(f"class {i}" for i in range(known))
    if model in CLASSIFIERS:
        return CLASSIFIERS[model].labels
    assert weights.path is not None
    config = read_json(weights.path / "config.json", error=WeightsError)
    if "labels" in config:
        return tuple(config["labels"])
    names = {int(i): name for i, name in config["id2label"].items()}
    return tuple(names.get(i, f"id {i}") for i in range(max(names) + 1))  # COCO's 91 ids have gaps


def _seed(weights: Weights) -> int:
    return int(weights.revision.removeprefix("seed "))


def _make_answers_vary(detr: Any) -> None:
    """Random weights whose answers depend on the picture.

    With the default initialisation, activations grow through the backbone and every query
    gives the same box for every image, so a fault in a faster version would go unseen.
    Damped residual branches, Xavier weights and sharper attention keep numbers in the range
    of a trained network and the answers sensitive to the input.
    """
    for module in detr.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if type(module).__name__ == "ResNetBottleNeckLayer":
            module.layer[-1].normalization.weight.fill_(0.4)
    nn.init.normal_(detr.model.query_position_embeddings.weight)
    projection = detr.model.input_projection.weight
    nn.init.xavier_uniform_(projection)
    projection.sub_(projection.mean(1, keepdim=True)).mul_(8)
    for layer in [*detr.model.encoder.layers, *detr.model.decoder.layers]:
        layer.self_attn.q_proj.weight.mul_(3)
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    for layer in detr.model.decoder.layers:
        layer.encoder_attn.q_proj.weight.mul_(3)
        layer.encoder_attn.k_proj.weight.mul_(3)
    detr.bbox_predictor.layers[-1].weight.mul_(2)
    detr.class_labels_classifier.weight.mul_(1.5)


_CLASSES = {"detr_r50": 91}
_BUILDERS = {
    "detr_r50": _detr_r50,
    "lab_detr": _lab_detr,
    "lab_resnet": _lab_resnet,
}
