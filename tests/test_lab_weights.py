"""The weights that ship in the package recognise what they were trained for, and the measure of
that notices the mistakes that are easily made around them.
"""

from dataclasses import replace

import numpy as np
import pytest

from labkit.bench.accuracy import OBJECTS, truth_frames
from labkit.bench.agreement import match
from labkit.core.types import Workload
from labkit.models.prepare import prepare
from labkit.models.preprocess import preprocessor
from labkit.models.weights import LAB_FOLDER
from labkit.pipelines.ladder import rung
from labkit.sources.synthetic.objects import COARSE, FINE
from labkit.sources.synthetic.scene import SHOT_FRAMES, scene_frame

RUNG = rung("batched_cpu")


@pytest.fixture(scope="module")
def frames():
    return truth_frames(40)


@pytest.fixture
def net():
    return prepare(RUNG.prepare, Workload(model_set="lab", objects=OBJECTS, threshold=0.5)).net


def recognised(net, frames, *, image=lambda x: x, found=lambda x: x):
    """Shares of objects that were found under their kind, and under their kind and fine name."""
    seen = [replace(frame, image=np.ascontiguousarray(image(frame.image))) for frame in frames]
    pairs = [
        (truth, detections, i, j)
        for frame, (_, answer) in zip(frames, RUNG.run(seen, net), strict=True)
        for truth, detections in [(frame.truth, found(answer))]
        for i, j in match(truth, detections)
    ]
    wanted = sum(len(frame.truth) for frame in frames)
    named = sum(truth.fine_label[i] == detections.fine_label[j] for truth, detections, i, j in pairs)
    return len(pairs) / wanted, named / wanted


@pytest.fixture(scope="module")
def as_it_should_be(frames):
    net = prepare(RUNG.prepare, Workload(model_set="lab", objects=OBJECTS, threshold=0.5)).net
    return recognised(net, frames)


def test_objects_are_found_and_named(as_it_should_be):
    found, named = as_it_should_be
    assert found > 0.93
    assert named > 0.91


def test_the_classifier_names_an_object_that_fills_the_frame():
    classifier = rung("resnet_opencv_cpu")
    net = prepare(classifier.prepare, Workload(model_set="lab")).net
    drawn = [scene_frame(SHOT_FRAMES * shot + 40 * (shot % 4), closeup=True) for shot in range(40)]
    answers = [answer.name[0] for _, answer in classifier.run(drawn, net)]
    assert sum(a == frame.truth.fine_name[0] for a, frame in zip(answers, drawn, strict=True)) >= 37


def test_red_and_blue_exchanged_gives_wrong_names(net, frames, as_it_should_be):
    assert recognised(net, frames, image=lambda x: x[..., ::-1])[1] < as_it_should_be[1] - 0.3


def test_pixels_that_were_not_normalised_are_not_recognised(net, frames, as_it_should_be):
    raw = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    for part, name in ((net.detector, "preprocess"), (net.classifier, "crop_input")):
        setattr(part, name, preprocessor("opencv", replace(part.network.input, **raw)))
    assert recognised(net, frames)[1] < as_it_should_be[1] - 0.1


@pytest.mark.parametrize(
    "mistake",
    [
        lambda d: replace(d, xyxy=d.xyxy[:, [1, 0, 3, 2]], frame_size=(640, 640)),
        lambda d: replace(d, label=(d.label + 1) % len(COARSE)),
    ],
    ids=["x and y exchanged", "labels off by one"],
)
def test_boxes_and_labels_that_are_mistaken_are_wrong(mistake, net, frames, as_it_should_be):
    assert recognised(net, frames, found=mistake)[0] < as_it_should_be[0] - 0.5


def test_the_files_are_small_and_carry_the_names(net):
    assert sum(path.stat().st_size for path in LAB_FOLDER.rglob("*") if path.is_file()) < 12e6
    assert net.detector.network.labels == COARSE
    assert net.classifier.network.labels == FINE
