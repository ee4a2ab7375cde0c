"""Checks that accept what is right, reject what is plausible and wrong, and say why."""

import math

import numpy as np
import pytest

from labkit.core.errors import UsageError
from labkit.core.types import Workload
from labkit.lessons.checks import check_corners, check_device_time, check_normalise, check_speed_up
from labkit.lessons.gpu_work import gpu_work
from labkit.lessons.published import PUBLISHED, published
from labkit.lessons.show_frame import look, models_to_look_at
from labkit.lessons.source_diff import chain, change
from labkit.pipelines.ladder import LADDER, rung

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


def signed(text, sign):
    return [line[1:] for line in text.splitlines() if line.startswith(sign)]


def test_a_loop_that_stays_is_named_and_what_comes_before_it_is_shown():
    text = change("folded_cpu", "filter_opencv_cpu")
    assert "the same in both: batched_crops" in text
    assert signed(text, "-") == []
    assert any("net.smooth(frame.image)" in line for line in signed(text, "+"))
    assert not any("net.classifier" in line for line in signed(text, "+"))
    text = change("baseline_combined_cuda", "filter_baseline_cuda")
    assert "the same in both: baseline_combined" in text


def test_a_loop_that_is_replaced_shows_what_it_hands_on_to():
    text = change("filter_numba_cpu", "streams_cpu")
    assert "the same in both: smoothed" in text
    assert any("def batched_crops" in line for line in signed(text, "-"))
    assert any("ReadAhead" in line for line in signed(text, "+"))
    text = change("filter_fused_cuda", "streams_cuda")
    assert any('lanes.after("filter", "upload")' in line for line in signed(text, "+"))
    assert any("under_way.popleft()" in line for line in signed(text, "+"))


@pytest.mark.parametrize("name", [each.name for each in LADDER if each.changes])
def test_every_step_of_the_ladder_shows_some_difference(name):
    text = change(rung(name).changes, name)
    assert len(signed(text, "+")) + len(signed(text, "-")) > 0
    assert len(text.splitlines()) < 90


def test_a_chain_leads_from_the_first_rung_to_the_last():
    assert chain("batched_cpu") == ["baseline_combined_cpu", "combined_cpu", "batched_cpu"]


def test_looking_gives_a_picture_per_frame_and_says_which_models_looked():
    figure = look("scenes", "detr_opencv_cpu", 3, workload=Workload(weights="random", size=TINY))
    assert len(figure.axes) == 3
    assert "random weights" in figure._suptitle.get_text()
    shown = figure._repr_html_()
    assert shown.startswith('<img src="data:image/png;base64,')
    assert "Found in picture 1" in shown


def test_looking_prefers_models_that_recognise(monkeypatch):
    for there, model_set in ((True, "full"), (False, "lab")):
        monkeypatch.setattr("labkit.lessons.show_frame.have_pretrained", lambda models, there=there: there)
        assert models_to_look_at().model_set == model_set


def test_published_figures_belong_to_stages():
    assert [f.fps for f in published(1)] == [(60, 65), (70, 80), (6, 8), (8, 10)]
    assert all(f.fps[0] <= f.fps[1] for f in PUBLISHED)


def good_corners(box, width, height):
    left, top = min(int(max(box[0], 0)), width - 1), min(int(max(box[1], 0)), height - 1)
    right = min(max(math.ceil(box[2]), left + 1), width)
    bottom = min(max(math.ceil(box[3]), top + 1), height)
    return left, top, right, bottom


WRONG_CORNERS = {
    "truncated": lambda box, w, h: tuple(int(side) for side in box),
    "rounded": lambda box, w, h: tuple(round(float(side)) for side in box),
    "not clipped": lambda box, w, h: (*(math.floor(x) for x in box[:2]), *(math.ceil(x) for x in box[2:])),
    "empty stays empty": lambda box, w, h: (
        *(max(0, math.floor(x)) for x in box[:2]),
        min(w, math.ceil(box[2])), min(h, math.ceil(box[3])),
    ),
    "width and height swapped": lambda box, w, h: good_corners(box, h, w),
    "floats": lambda box, w, h: tuple(float(side) + 0.5 for side in box),
    "nothing": lambda box, w, h: None,
    "an error": lambda box, w, h: box.nosuch,
}  # fmt: skip


def test_corners_are_checked():
    assert check_corners(good_corners)
    for name, wrong in WRONG_CORNERS.items():
        assert not check_corners(wrong), name


WRONG_DEVICE_TIMES = {
    "wait in the queue": lambda asked, done: done - asked,
    "counts idling": lambda asked, done: np.diff(done, prepend=asked[0]),
    "when the host asked": lambda asked, done: np.diff(asked, prepend=asked[0]),
    "when each frame was done": lambda asked, done: done,
    "mean of all": lambda asked, done: np.full(len(done), (done[-1] - asked[0]) / len(done)),
    "one per frame": lambda asked, done: done[1:] - np.maximum(asked[1:], done[:-1]),
    "when could it begin": lambda asked, done: done - asked + 1,
    "returns nothing": lambda asked, done: None,
    "ZeroDivisionError": lambda asked, done: 1 / 0,
}


def device_time(asked_s, done_s):
    return [end - max(begin, *done_s[:k][-1:]) if k else end - begin
            for k, (begin, end) in enumerate(zip(asked_s, done_s, strict=True))]  # fmt: skip


def test_device_times_are_checked():
    assert check_device_time(device_time)
    for reason, wrong in WRONG_DEVICE_TIMES.items():
        checked = check_device_time(wrong)
        assert not checked and reason in str(checked), reason


WRONG_SPEED_UPS = {
    "inverse": lambda s, f: 1 - s + s / f,
    "times add up": lambda s, f: 1 - s + s * f,
    "ceiling": lambda s, f: 1 / max(1e-12, 1 - s),
    "not the whole": lambda s, f: f,
    "nothing": lambda s, f: None,
    "raised": lambda s, f: 1 / 0,
    "old time as 1": lambda s, f: 1 + s,
}


def test_speed_ups_are_checked():
    assert check_speed_up(lambda s, f: 1 / (1 - s + s / f))
    for reason, wrong in WRONG_SPEED_UPS.items():
        checked = check_speed_up(wrong)
        assert not checked, reason
        assert reason in checked.reason


def test_work_for_a_gpu_is_counted_without_one():
    five, fifteen = gpu_work(), gpu_work(15)
    assert (five["waits"] == five[["values", "copies", "on purpose"]].sum(axis=1)).all()
    per_box = (fifteen - five).loc["baseline_combined_cuda"] / 10
    assert per_box["values"] == 8  # four corners, score and label of a box; its name and how sure that is
    assert per_box["copies"] == 1  # its crop
    assert five.loc["baseline_combined_cuda", "values"] == 100 + 8 * 5 + 2  # and what the library reads
    for name in ("on_device_cuda", "half_cuda", "graph_cuda", "filter_fused_cuda", "streams_cuda"):
        assert five.loc[name, "waits"] == fifteen.loc[name, "waits"] == 1
    assert five.loc["graph_cuda", "launches"] < 10 < five.loc["half_cuda", "launches"]
    with pytest.raises(UsageError, match="5 or 15 boxes, not 7"):
        gpu_work(7)
