"""Accuracy: perfect answers score 1, each kind of mistake costs what it should."""

import importlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from labkit.bench import accuracy
from labkit.bench import tracking as tracking_module
from labkit.bench.agreement import Answers
from labkit.bench.session import Session
from labkit.bench.tracking import measure_tracking
from labkit.cli.main import main
from labkit.core.errors import UsageError
from labkit.core.requirements import unmet_requirement
from labkit.core.types import Detections, Workload
from labkit.models.inputs import calibration_frames
from labkit.pipelines.ladder import rung
from labkit.results.ablation import Estimate

pytest.importorskip("torchmetrics")
pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def frames():
    return accuracy.truth_frames(16, (160, 128))


def answers(frames, change=lambda truth: truth):
    return Answers("test", [change(frame.truth) for frame in frames], {})


def test_the_truth_itself_is_perfect(frames):
    result = accuracy.score(answers(frames), frames)
    assert result["map_50"] == result["map"] == result["top1"] == 1
    assert result["n_scenes"] == 16
    assert result["top1_interval"][1] <= 1 + 1e-9


def shifted(truth):
    xyxy = truth.xyxy.copy()
    half = (xyxy[:, 2] - xyxy[:, 0])[:, None] * 0.5
    xyxy[:, [0, 2]] = np.clip(xyxy[:, [0, 2]] + half, 0, truth.frame_size[0])
    return replace(truth, xyxy=xyxy)


MISTAKES = {
    "labels off by one": lambda t: replace(t, label=t.label + 1),
    "boxes half a width to the side": shifted,
    "nothing found": lambda t: Detections.empty(t.frame_size).with_fine(
        np.empty(0, np.int64), np.empty(0, np.float32), ()
    ),
    "x and y swapped": lambda t: replace(
        t, xyxy=np.clip(t.xyxy[:, [1, 0, 3, 2]], 0, [*t.frame_size, *t.frame_size]).astype(np.float32)
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_precision(mistake, frames):
    result = accuracy.score(answers(frames, MISTAKES[mistake]), frames)
    assert result["map_50"] < 0.6
    assert accuracy.against(accuracy.score(answers(frames), frames), result)["loses"]


@pytest.fixture(scope="module")
def scenes():
    return accuracy.truth_frames(20)


@pytest.fixture(scope="module")
def session(scenes):
    """The lab's models, prepared as the ladder prepares them."""
    return Session(rung("batched_cpu"), accuracy.lab_workload(Workload()), scenes[:1])


@pytest.fixture(scope="module")
def as_it_should_be(session, scenes):
    return accuracy.score(session.answers(scenes), scenes)


def red_for_blue(net):
    for part, name in ((net.detector, "preprocess"), (net.classifier, "crop_input")):
        right = getattr(part, name)
        setattr(part, name, lambda image, right=right: right(np.ascontiguousarray(image[..., ::-1])))


def not_normalised(net):
    for part, name in ((net.detector, "preprocess"), (net.classifier, "crop_input")):
        right, spec = getattr(part, name), part.network.input
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        setattr(part, name, lambda image, right=right, mean=mean, std=std: right(image) * std + mean)


def of_another_size(net):
    right = net.detector.decode
    net.detector.decode = lambda out, size: replace(right(out, (480, 360)), frame_size=size)


def x_for_y(net):
    right = net.detector.infer
    net.detector.infer = lambda x: (lambda out: (out[0], out[1][..., [1, 0, 3, 2]]))(right(x))


def labels_by_one(net):
    right = net.detector.decode
    net.detector.decode = lambda out, size: (lambda found: replace(found, label=found.label + 1))(
        right(out, size)
    )


@pytest.mark.parametrize("fault", [red_for_blue, not_normalised, of_another_size, x_for_y, labels_by_one])
def test_a_fault_in_the_pipeline_is_marked_as_a_loss(fault, session, scenes, as_it_should_be):
    """Each of these runs without an error, and looks quite all right on a clock."""
    net = session.prepared.net
    right = {part: dict(vars(part)) for part in (net.detector, net.classifier)}
    assert as_it_should_be["map_50"] > 0.9
    try:
        fault(net)
        found = accuracy.score(session.answers(scenes), scenes)
    finally:
        for part, values in right.items():
            vars(part).clear()
            vars(part).update(values)
    told = accuracy.against(as_it_should_be, found)
    assert told["loses"], told


def test_int8_is_calibrated_on_other_scenes_than_it_is_examined_on():
    size = (64, 48)
    seen = {each.numpy().tobytes() for each in calibration_frames(lambda image: torch.tensor(image), size)}
    examined = {frame.image.tobytes() for frame in accuracy.truth_frames(accuracy.FULL_SCENES, size)}
    assert len(seen) == 32
    assert not seen & examined


def test_wrong_names_cost_top1_only(frames):
    def misnamed(truth):
        return replace(truth, fine_name=("red elephant",) * len(truth))

    result = accuracy.score(answers(frames, misnamed), frames)
    assert result["map_50"] == 1
    assert result["top1"] == 0


def test_names_that_change_are_marked_even_if_as_many_are_right(frames):
    """One object's name is wrong in the one rung, another's in the other: no loss, but a change."""

    def misnaming(which):
        named = [0]

        def change(truth):
            names = list(truth.fine_name)
            for i in range(len(names)):
                names[i] = "red elephant" if named[0] == which else names[i]
                named[0] += 1
            return replace(truth, fine_name=tuple(names))

        return accuracy.score(answers(frames, change), frames)

    first, second = misnaming(0), misnaming(1)
    total = sum(len(frame.truth) for frame in frames)
    told = accuracy.against(first, second)
    assert told["top1_loss"] == 0
    assert told["names_changed"] == pytest.approx(2 / total)
    assert told["loses"] == (2 / total > 0.01)
    assert accuracy.against(first, first)["names_changed"] == 0
    assert accuracy.NAMED not in accuracy.without_names(told)


def test_a_reference_loses_nothing_against_itself(frames):
    own = accuracy.score(answers(frames), frames)
    assert accuracy.against(own, own)["map_50_loss"] == 0
    assert not accuracy.against(own, own)["loses"]


def test_single_objects_are_named_frames(frames):
    singles = accuracy.single_objects(frames)
    assert len(singles) >= 16
    assert all(len(frame.truth) == 1 for frame in singles)
    assert [frame.index for frame in singles] == list(range(len(singles)))
    assert accuracy.frames_for("classify", 2)[0].truth is not None


def test_an_interval_of_a_share_is_wilsons():
    low, high = accuracy._share_interval([1] * 8 + [0] * 2)
    assert (low, high) == pytest.approx((0.490, 0.943), abs=0.002)


def test_what_was_measured_is_remembered_for_the_same_preparation_only(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mark = {"versions": {}, "cpu": "x", "gpu": None, "commit": "abc", "dirty": False}
    module = importlib.import_module("labkit.core.machine")  # the room exports a function so called
    monkeypatch.setattr(module, "fingerprint", lambda: mark)

    def of(name, weights="weights"):
        return accuracy.cached_score(rung(name), weights, 40, lambda: measured.append(name) or {"map": 0.5})

    measured = []
    assert of("batched_cpu") == of("batched_cpu") == {"map": 0.5}
    assert measured == ["batched_cpu"]
    of("batched_cpu", "others"), of("combined_cpu")
    assert measured == ["batched_cpu", "batched_cpu", "combined_cpu"]
    mark["dirty"] = True  # what changed is not known
    of("batched_cpu")
    assert len(measured) == 4


@pytest.mark.skipif(unmet_requirement(["openvino"]) is not None, reason="needs OpenVINO")
def test_tracking_is_measured_against_a_detection_on_every_frame(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    every, third = measure_tracking(
        rung("tracked_bf16_cpu"), Workload(model_set="lab", objects=16), [3], shots=16, frames=4
    )
    assert (every.every, every.detected, third.every, third.detected) == (1, 1, 3, 0.5)
    assert every.lost == Estimate(0, 0, 0) and every.times == Estimate(1, 1, 1)
    assert third.lost.low <= third.lost.value <= third.lost.high < 0.2
    assert third.map.value == pytest.approx(every.map.value - third.lost.value)
    assert third.fps.low < third.fps.value < third.fps.high
    with pytest.raises(UsageError, match="looks for boxes in every frame"):
        measure_tracking(rung("cpu_engine_bf16"), Workload(model_set="lab"))
    with pytest.raises(UsageError, match="k is 1 or more"):
        measure_tracking(rung("tracked_bf16_cpu"), Workload(model_set="lab"), [0])
    for shots, frames in ((0, 4), (1, 0), (1, tracking_module.SHOT_FRAMES + 1)):
        with pytest.raises(UsageError, match="1 shot or more"):
            tracking_module.moving_shots(shots, frames)


def test_the_command_writes_what_tracking_costs(tmp_path, monkeypatch, capsys):
    found = Estimate(0.02, 0.01, 0.03)
    row = tracking_module.TrackingRow(4, 0.25, found, found, found, found)
    monkeypatch.setattr(tracking_module, "measure_tracking", lambda *_, **__: [row])
    with pytest.raises(SystemExit, match="0"):
        main(["tracking", "--every", "4", "--out", str(tmp_path)])
    assert "every 4" in capsys.readouterr().out
    kept = json.loads((tmp_path / "tracking.json").read_text())
    assert kept["rows"][0]["lost"] == {"value": 0.02, "low": 0.01, "high": 0.03}
    assert (kept["rung"], kept["workload"]["model_set"], kept["shots"]) == ("tracked_bf16_cpu", "lab", 16)
    assert "cpu" in kept["fingerprint"]


def test_a_detection_on_every_frame_is_the_closest(monkeypatch):
    monkeypatch.setattr(tracking_module, "moving_shots", lambda *_: 1 / 0)
    tracked = rung("tracked_bf16_cpu")
    for every in ((), (0,), (2, -1)):
        with pytest.raises(UsageError, match="k is 1 or more"):
            measure_tracking(tracked, Workload(), every)
    with pytest.raises(ZeroDivisionError):  # 1 is taken, and the films come next
        measure_tracking(tracked, Workload(), (1,))


def test_a_fold_without_objects_is_no_accuracy_of_its_own(monkeypatch):
    folds = [{"map": share} for share in (0.4, 0.5, 0.6)]
    monkeypatch.setattr(accuracy, "_map", lambda *_: {"map": 0.5})
    monkeypatch.setattr(accuracy, "_folds", lambda *_: folds)
    alone = accuracy._average_precision([], [], [])
    folds.append({"map": -1.0})
    assert accuracy._average_precision([], [], []) == alone
    low, high = alone["map_interval"]
    assert 0 < low < 0.5 < high < 1


@pytest.mark.parametrize(("figure", "share", "loses"), [
    ("map", 0.009, False), ("map", 0.011, True), ("map_50", 0.011, True), ("map_50", -0.2, False),
    ("top1", 0.009, False), ("top1", 0.011, True),
])  # fmt: skip
def test_more_than_a_point_or_one_name_in_a_hundred_is_a_loss(figure, share, loses):
    reference = {"map_50": 0.9, "map": 0.7, "top1": 0.8}
    own = reference | {figure: reference[figure] - share}
    told = accuracy.against(reference, own)
    assert told["loses"] is loses and told[f"{figure}_loss"] == pytest.approx(share)


def test_a_reference_rung_is_evaluated_once_and_others_against_it(monkeypatch):
    scored = []

    def on_scenes(which, context):
        scored.append(which.name)
        return {"map": 0.7 if which.name == "detr_pil_cpu" else 0.6}

    monkeypatch.setattr(accuracy, "_on_scenes", on_scenes)
    context = SimpleNamespace(photographs=None, scenes=4, workload=Workload())
    first = accuracy.evaluate(rung("detr_pil_cpu"), {}, context)
    assert first["map_loss"] == 0 and scored == ["detr_pil_cpu"]
    for known in ({"detr_pil_cpu": first}, {}):
        assert accuracy.evaluate(rung("detr_opencv_cpu"), known, context)["map_loss"] == pytest.approx(0.1)
    assert scored == ["detr_pil_cpu", "detr_opencv_cpu", "detr_opencv_cpu", "detr_pil_cpu"]
