"""Checks that accept what is right, reject what is plausible and wrong, and say why."""

import numpy as np
import pytest

from labkit.learn.change import change
from labkit.learn.checks import check_normalise
from labkit.learn.look import look, models_to_look_at
from labkit.learn.origin import PUBLISHED, published
from labkit.types import Workload

from conftest import TINY  # isort: skip

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def right(image):
    return ((image / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def in_place(image):
    result = right(image)
    image[:] = 0
    return result


WRONG = {
    "BGR": lambda image: right(image[..., ::-1]),
    "255": lambda image: ((image - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32),
    "mean and std are missing": lambda image: (image / 255).transpose(2, 0, 1)[None].astype(np.float32),
    "nothing is divided by std": lambda image: (
        (image / 255 - MEAN).transpose(2, 0, 1)[None].astype(np.float32)
    ),
    "batch dimension": lambda image: right(image)[0],
    "channels come first": lambda image: ((image / 255 - MEAN) / STD)[None].astype(np.float32),
    "height and width": lambda image: right(image).transpose(0, 1, 3, 2),
    "float32": lambda image: right(image).astype(np.float64),
    "not reshape": lambda image: ((image / 255 - MEAN) / STD).reshape(1, 3, 6, 9).astype(np.float32),
    "returns nothing": lambda image: None,
    "changed the frame": in_place,
    "ZeroDivisionError": lambda image: 1 / 0,
    "largest difference": lambda image: right(image) + 0.01,
}


def test_the_right_answer_passes_in_any_library():
    import torch

    assert check_normalise(right)
    assert check_normalise(lambda image: torch.from_numpy(right(image)))


@pytest.mark.parametrize("reason", WRONG)
def test_a_plausible_mistake_is_rejected_with_its_reason(reason):
    checked = check_normalise(WRONG[reason])
    assert not checked
    assert reason in str(checked)


def test_a_change_shows_preparation_and_code():
    text = change("resnet_pil_cpu", "resnet_opencv_cpu")
    assert "- preprocess: pil" in text
    assert "+ preprocess: opencv" in text
    text = change("combined_cpu", "batched_cpu")
    assert "one_by_one -> batched_crops" in text
    assert any(line.startswith("-") and "for box in" in line for line in text.splitlines())
    assert "nothing" in change("resnet_pil_cpu", "resnet_pil_cpu")


def test_looking_gives_a_picture_per_frame_and_says_which_models_looked():
    figure = look("scenes", "detr_opencv_cpu", 3, workload=Workload(weights="random", size=TINY))
    assert len(figure.axes) == 3
    assert "random weights" in figure._suptitle.get_text()


def test_looking_prefers_models_that_recognise():
    assert models_to_look_at().model_set in ("full", "lab")


def test_published_figures_belong_to_stages():
    assert [f.fps for f in published(1)] == [(60, 65), (70, 80), (6, 8), (8, 10)]
    assert all(f.fps[0] <= f.fps[1] for f in PUBLISHED)
