"""The networks of the lab as plain torch modules, with their labels and input.

| model        | class                                   | input              | labels                   |
|--------------|-----------------------------------------|--------------------|--------------------------|
| `resnet18`   | torchvision ResNet-18                   | 224x224            | ImageNet's 1000          |
| `detr_r50`   | transformers DETR, ResNet-50 backbone   | the frame as it is | COCO's 91 ids            |
| `lab_resnet` | torchvision ResNet, narrow              | its config.json    | fine kinds of `scenes`   |
| `lab_detr`   | transformers DETR, small                | its config.json    | coarse kinds of `scenes` |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labkit.core.errors import LabError, WeightsError, first_line
from labkit.core.read_json import read_json
from labkit.models.decode import DetrCore
from labkit.models.detr_files import load_detr
from labkit.models.preprocess import DETR_INPUT, RESNET_CROP_INPUT, RESNET_INPUT, InputSpec
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
    """

    model: str
    module: nn.Module
    labels: tuple[str, ...]
    input: InputSpec
    crop_input: InputSpec | None
    weights: Weights
    sha256: str


def build(weights: Weights) -> Network:
    """The network that `weights` belong to, ready for inference.

    Raises:
        WeightsError: the files are missing, damaged, or do not fit the model.
    """
    try:
        if weights.kind == "lab" and weights.path is not None:
            check_files(weights.path)
        network = _BUILDERS[weights.model](weights)
    except LabError:
        raise
    except Exception as error:  # damage shows in as many kinds of error as the formats have layers
        where = weights.path or "random weights"
        raise WeightsError(f"{weights.model} cannot be built from {where}: {first_line(error)}") from error
    network.module.eval().requires_grad_(False)
    return network


def _resnet18(weights: Weights) -> Network:
    from torchvision.models import resnet18

    if weights.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(weights))
            module = resnet18(weights=None)
    else:
        module = resnet18(weights=None)
        module.load_state_dict(torch.load(weights.path, map_location="cpu", weights_only=True))
    labels = labels_of(weights)
    return Network("resnet18", module, labels, RESNET_INPUT, RESNET_CROP_INPUT, weights, state_sha256(module))


def _detr_r50(weights: Weights) -> Network:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    if weights.path is None:
        config = DetrConfig(backbone_config=ResNetConfig(out_features=["stage4"]), num_labels=91)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(_seed(weights))
            detr = DetrForObjectDetection(config)
            _make_answers_vary(detr)
    else:
        detr = load_detr(weights.path)
    core = DetrCore(detr)
    return Network("detr_r50", core, labels_of(weights), DETR_INPUT, None, weights, state_sha256(core))


def _lab_detr(weights: Weights) -> Network:
    assert weights.path is not None
    detr = load_detr(weights.path)
    wanted = read_json(weights.path / "preprocessor.json", error=WeightsError)
    spec = InputSpec(exact=tuple(wanted["size"]), mean=tuple(wanted["mean"]), std=tuple(wanted["std"]))
    core = DetrCore(detr)
    return Network("lab_detr", core, labels_of(weights), spec, None, weights, state_sha256(core))


def _lab_resnet(weights: Weights) -> Network:
    from safetensors.torch import load_file

    from labkit.models.lab_resnet import build_lab_resnet

    assert weights.path is not None
    config = read_json(weights.path / "config.json", error=WeightsError)
    module = build_lab_resnet(config)
    state = load_file(weights.path / "model.safetensors")
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    spec = InputSpec(exact=tuple(config["size"]), mean=tuple(config["mean"]), std=tuple(config["std"]))
    return Network("lab_resnet", module, labels_of(weights), spec, spec, weights, state_sha256(module))


def load_network(model: str, weights: str = "auto", *, seed: int = 0) -> Network:
    """A network of the lab as a plain torch module, with the names of its labels.

    Args:
        model: "lab_resnet" or "lab_detr" (small, trained on `scenes`, in the package), "resnet18"
            or "detr_r50".
        weights: of the latter two: "auto" (pretrained where they can be had, else random),
            "pretrained" or "random".
        seed: of random weights.

    Returns:
        `.module`, in eval mode, float32, on the CPU: a ResNet gives (N, C) logits; a DETR gives
        logits (N, Q, C + 1), the last class being "no object", and boxes (N, Q, 4) as centre, width
        and height relative to the frame. `.labels` are C names. `.input` holds what the network
        wants: `exact` (width, height) or the shortest side, `mean` and `std` per channel of RGB
        in [0, 1].

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
    if weights.kind == "random":
        return tuple(f"class {i}" for i in range(_CLASSES[weights.model]))
    if weights.model == "resnet18":
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
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


_CLASSES = {"resnet18": 1000, "detr_r50": 91}
_BUILDERS = {
    "resnet18": _resnet18,
    "detr_r50": _detr_r50,
    "lab_detr": _lab_detr,
    "lab_resnet": _lab_resnet,
}
