import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.core.errors import FrameError, UnavailableError, UsageError
from labkit.core.types import MAX_GROUP, Detections, Frame, Preparation, Workload


def boxes(n=2, **changes):
    parts = {
        "xyxy": np.tile(np.array([[1, 2, 3, 4]], np.float32), (n, 1)),
        "score": np.linspace(0.9, 0.5, n, dtype=np.float32),
        "label": np.arange(n, dtype=np.int64),
        "name": tuple(f"thing {i}" for i in range(n)),
        "frame_size": (10, 10),
    }
    return Detections(**{**parts, **changes})


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 4, 3), np.uint8).transpose(1, 0, 2),
        [[1, 2, 3]],
    ],
)
def test_frame_refuses_what_is_not_rgb(image):
    with pytest.raises(FrameError):
        Frame(image, 0, 0.0)


def test_frame_size_is_width_by_height():
    assert Frame(np.zeros((4, 5, 3), np.uint8), 0, 0.0).size == (5, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"xyxy": np.array([[1, 2, 3, 11], [1, 2, 3, 4]], np.float32)}, "clip them first"),
        ({"xyxy": np.array([[-0.5, 2, 3, 4], [1, 2, 3, 4]], np.float32)}, "clip them first"),
        ({"xyxy": np.array([[1, -0.5, 3, 4], [1, 2, 3, 4]], np.float32)}, "clip them first"),
        ({"xyxy": np.array([[5, 2, 3, 4], [1, 2, 3, 4]], np.float32)}, "here x_max < x_min"),
        ({"xyxy": np.array([[np.nan, 2, 3, 4], [1, 2, 3, 4]], np.float32)}, "finite"),
        ({"score": np.array([0.5, np.nan], np.float32)}, "finite"),
        ({"xyxy": np.zeros((2, 4))}, "float64"),
        ({"score": np.zeros(3, np.float32)}, "score is"),
        ({"label": np.zeros(2, np.int32)}, "int32"),
        ({"name": ("one",)}, "xyxy is"),
        ({"fine_name": ("a", "b")}, "come together"),
    ],
)
def test_detections_refuse_what_does_not_fit(changes, words):
    with pytest.raises(UsageError, match=words):
        boxes(**changes)


def test_detections_of_nothing_are_empty():
    nothing = Detections.empty((10, 10))
    assert len(nothing) == 0
    assert nothing.take([]).xyxy.shape == (0, 4)


@given(st.permutations(range(4)))
def test_take_keeps_every_part_together(order):
    found = boxes(4).with_fine(np.arange(4) * 10, np.ones(4, np.float32), ("a", "b", "c", "d"))
    taken = found.take(order)
    assert list(taken.label) == list(order)
    assert taken.name == tuple(f"thing {i}" for i in order)
    assert list(taken.fine_label) == [10 * i for i in order]
    assert taken.fine_name == tuple("abcd"[i] for i in order)


@pytest.mark.parametrize(
    "wrong",
    [
        {"objects": -1},
        {"objects": 101},
        {"threshold": 2},
        {"size": (0, 5)},
        {"size": 320},
        {"size": "320x240"},
        {"size": (320, 240, 3)},
        {"objects": "3"},
        {"model_set": "x"},
        {"weights": "x"},
    ],
)
def test_workload_says_what_is_wrong(wrong):
    with pytest.raises(
        UsageError, match=str(next(iter(wrong.values()))).replace("(", r"\(").replace(")", r"\)")
    ):
        Workload(**wrong)


class LikeSupervision:
    """`supervision.Detections` as far as it is used, for machines without the package."""

    def __init__(self, xyxy, confidence=None, class_id=None, tracker_id=None, data=None):
        self.xyxy, self.confidence, self.class_id = xyxy, confidence, class_id
        self.tracker_id, self.data = tracker_id, data or {}


@pytest.fixture
def supervision(monkeypatch):
    """The package itself where it is installed, else what it looks like."""
    try:
        import supervision
    except ImportError:
        supervision = types.SimpleNamespace(Detections=LikeSupervision)
        monkeypatch.setitem(sys.modules, "supervision", supervision)
    return supervision


@pytest.mark.parametrize("n", [0, 1, 3])
def test_detections_go_to_supervision_and_back(n, supervision):
    found = Detections(
        xyxy=np.array([[1, 2, 30, 40]] * n, np.float32).reshape(n, 4),
        score=np.linspace(0.9, 0.5, n).astype(np.float32),
        label=np.arange(n),
        name=tuple(f"thing {i}" for i in range(n)),
        frame_size=(64, 48),
        track_id=np.arange(n) + 7,
        fine_label=np.arange(n) + 3,
        fine_score=np.linspace(0.5, 0.25, n).astype(np.float32),
        fine_name=tuple(f"kind {i}" for i in range(n)),
    )
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert list(theirs.data["class_name"]) == list(found.name)
    back = Detections.from_supervision(theirs, (64, 48))
    for name in ("xyxy", "score", "label", "track_id", "fine_label", "fine_score"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
    assert (back.name, back.fine_name) == (found.name, found.fine_name)


def test_what_supervision_leaves_out_is_filled_in_and_boxes_are_clipped(supervision):
    theirs = supervision.Detections(xyxy=np.array([[-5.0, 2, 99, 40]]), class_id=np.array([1]))
    found = Detections.from_supervision(theirs, (64, 48), names=["cat", "dog"])
    assert (found.name, found.score.tolist(), found.track_id) == (("dog",), [1.0], None)
    assert found.xyxy.tolist() == [[0, 2, 64, 40]]
    assert Detections.from_supervision(theirs, (64, 48)).name == ("class 1",)
    assert Detections.from_supervision(theirs, (64, 48), names={7: "dog"}).name == ("class 1",)
    assert Detections.from_supervision(theirs, (64, 48), names={1: "dog"}).name == ("dog",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"xyxy": np.array([[30.0, 2, 5, 40]])}, "here x_max < x_min"),
        ({"xyxy": np.array([[1.0, 2, 5, 40]]), "tracker_id": np.array([None])}, "no tracker_id"),
        ({"xyxy": np.array([[1.0, 2, np.nan, 40]])}, "finite"),
    ],
)
def test_what_is_wrong_in_supervisions_detections_is_told(given, words):
    with pytest.raises(UsageError, match=words):
        Detections.from_supervision(LikeSupervision(**given), (64, 48))


def test_a_missing_supervision_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UnavailableError, match=r"needs the package supervision: pip install 'labkit"):
        Detections.empty((4, 4)).to_supervision()


@pytest.mark.parametrize("frames", [0, 1.5, MAX_GROUP + 1, "2"])
def test_a_group_is_a_number_of_frames(frames):
    assert Preparation("detect", options={"frames": MAX_GROUP}).group == MAX_GROUP
    with pytest.raises(UsageError, match="a group is a number of frames"):
        _ = Preparation("detect", options={"frames": frames}).group
