"""A detector as a row of data: architecture, input, decoding rule, and where its weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from labkit.core.errors import UnavailableError
from labkit.models.decode import DecodingRule
from labkit.models.preprocess import InputSpec


@dataclass(frozen=True)
class DetectorRow:
    """A detector of transformers.

    Attributes:
        name: as typed after `--detector`.
        about: one line.
        model: transformers' class, e.g. "RTDetrV2ForObjectDetection".
        config: transformers' class of its configuration.
        backbone: class of the backbone's configuration, and what differs from its defaults.
        options: of the configuration, what differs from its defaults.
        classes: number of class ids.
        input: what a frame is turned into.
        rule: how logits become scores and labels.
        millions: of parameters, as published.
        processor: transformers' image processor, whose decoding is the reference.
        repo, revision: the hub's repository and commit.
        bytes: size of its files, for the time that fetching them may take.
        sha256: of its files, where known; the others are recorded at the first fetch.
    """

    name: str
    about: str
    model: str
    config: str
    backbone: tuple[str, Mapping[str, Any]]
    options: Mapping[str, Any]
    classes: int
    input: InputSpec
    rule: DecodingRule
    millions: float
    processor: str
    repo: str
    revision: str
    bytes: int
    sha256: Mapping[str, str] = field(default_factory=dict)

    def random(self, seed: int) -> Any:
        """The network with seeded random weights; torch's own generator stays as it was.

        Raises:
            UnavailableError: the installed transformers does not have this family.
        """
        backbone, options = self.backbone
        config = _of_transformers(self.config, self.name)(
            backbone_config=_of_transformers(backbone, self.name)(**options),
            num_labels=self.classes,
            **self.options,
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            module = _of_transformers(self.model, self.name)(config).eval()
            _keep_the_signal(module)
        return module

    def load(self, folder: Any) -> Any:
        """The network of a folder with config.json and model.safetensors, in float32."""
        model = _of_transformers(self.model, self.name)
        return model.from_pretrained(folder, local_files_only=True, dtype=torch.float32)


def _keep_the_signal(module: nn.Module) -> None:
    """Random weights with which answers depend on the picture.

    As transformers initialises these networks, activations shrink from layer to layer until, in
    float32, every place of a picture scores the same: the best places, which become the queries,
    are then chosen among equals, and each engine chooses others (`test_equal_scores_...`).
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)


def _of_transformers(name: str, detector: str) -> Any:
    import transformers

    try:
        return getattr(transformers, name)
    except AttributeError as error:
        raise UnavailableError(
            f"the detector {detector} needs {name}, which transformers {transformers.__version__} does not "
            "have; pip install -U transformers"
        ) from error
