"""The weights that ship in the package recognise what they were trained for, and the measure of
that notices the mistakes that are easily made around them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from labkit.core.types import Frame
from labkit.models.weights import LAB_FOLDER
from labkit.sources.synthetic.objects import COARSE, FINE
from labkit.sources.synthetic.scene import SHOT_FRAMES, scene_frame

from lab_model_scores import LabModels, detect, matched, name, read_models  # isort: skip

N_SCENES = 40
Change = Callable[..., object]


@pytest.fixture(scope="module")
def models() -> LabModels:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield read_models(LAB_FOLDER)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [scene_frame(SHOT_FRAMES * shot + 13 * shot % SHOT_FRAMES, seed=11) for shot in range(N_SCENES)]


def recognised(
    models: LabModels,
    frames: list[Frame],
    *,
    image: Change = lambda x: x,
    boxes: Change = lambda x: x,
    label: Change = lambda x: x,
) -> tuple[float, float]:
    """Shares of objects that were found under their kind, and under their kind and fine name."""
    wanted = right = named = 0
    for frame in frames:
        truth = frame.truth
        pixels = np.ascontiguousarray(image(frame.image))
        found, score, kind = detect(models, pixels)
        sure = score >= 0.5
        fine = name(models, pixels, found[sure])
        pairs = matched(boxes(found[sure]), label(kind[sure]), score[sure], truth)
        wanted += len(truth)
        right += len(pairs)
        named += sum(fine[mine] == truth.fine_label[theirs] for mine, theirs, _ in pairs)
    return right / wanted, named / wanted


@pytest.fixture(scope="module")
def as_it_should_be(models, frames) -> tuple[float, float]:
    return recognised(models, frames)


def test_objects_are_found_and_named(as_it_should_be):
    found, named = as_it_should_be
    assert found > 0.93
    assert named > 0.91


def test_red_and_blue_exchanged_gives_wrong_names(models, frames, as_it_should_be):
    _, named = recognised(models, frames, image=lambda x: x[..., ::-1])
    assert named < as_it_should_be[1] - 0.3


def test_pixels_that_were_not_normalised_are_not_recognised(models, frames, as_it_should_be):
    raw = replace(models, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert recognised(raw, frames)[1] < as_it_should_be[1] - 0.1


def test_boxes_with_x_and_y_exchanged_are_not_those_of_the_objects(models, frames, as_it_should_be):
    found, _ = recognised(models, frames, boxes=lambda b: b[:, [1, 0, 3, 2]])
    assert found < as_it_should_be[0] - 0.5


def test_labels_off_by_one_are_wrong(models, frames, as_it_should_be):
    found, _ = recognised(models, frames, label=lambda k: (k + 1) % len(COARSE))
    assert found < as_it_should_be[0] - 0.5


def test_the_files_are_small_and_carry_the_names(models):
    size = sum(path.stat().st_size for path in LAB_FOLDER.rglob("*") if path.is_file())
    assert size < 12e6
    names = models.detector.config.id2label
    assert tuple(names[i] for i in range(len(names))) == COARSE
    assert models.classifier.fc.out_features == len(FINE)
    assert next(models.detector.parameters()).dtype == torch.float32
