"""Overlap and formats of boxes, against torchvision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision import ops

from labkit.core.boxes import box_iou, xyxy_to_cxcywh
from labkit.core.errors import UsageError
from labkit.core.types import Workload
from labkit.models.decode import DetrDecoder, unpack_detections
from labkit.models.fused import FusedNet


def random_boxes(n, seed):
    corners = np.random.default_rng(seed).uniform(0, 100, (n, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(1), corners.max(1)], -1)


def test_iou_is_that_of_torchvision():
    a, b = random_boxes(30, 0), random_boxes(20, 1)
    wanted = ops.box_iou(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(box_iou(a, b), wanted.numpy(), atol=1e-5)


def unpacked(boxes, size):
    """The corners that DETR's decoding makes of relative centre boxes."""
    rows = np.hstack([boxes, np.ones((len(boxes), 1)), np.zeros((len(boxes), 1))]).astype(np.float32)
    return unpack_detections(torch.from_numpy(rows), size, ["thing"], 0.5).xyxy


def test_formats_are_those_of_torchvision_and_inverse():
    xyxy = random_boxes(30, 2)
    wanted = ops.box_convert(torch.from_numpy(xyxy), "xyxy", "cxcywh") / torch.tensor([120, 110, 120, 110])
    np.testing.assert_allclose(xyxy_to_cxcywh(xyxy, (120, 110)), wanted.numpy(), rtol=1e-6)
    np.testing.assert_allclose(unpacked(wanted.numpy(), (120, 110)), xyxy, atol=1e-4)


def test_boxes_that_reach_over_the_edge_are_clipped():
    boxes = np.array([[0.5, 0.5, 3.0, 3.0], [-1, -1, 0.1, 0.1], [0.5, 0.5, 0, 0]], np.float32)
    got = unpacked(boxes, (100, 50))
    np.testing.assert_allclose(got, [[0, 0, 100, 50], [0, 0, 0, 0], [50, 25, 50, 25]])


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_a_score_that_is_nan_is_no_frame_without_boxes(threshold):
    rows = torch.tensor([[0.5, 0.5, 0.1, 0.1, torch.nan, 0, 0.5, 0]])
    with pytest.raises(UsageError, match="NaN"):
        unpack_detections(rows[:, :6], (64, 48), ["thing"], threshold)
    labels = SimpleNamespace(labels=["thing"])
    net = SimpleNamespace(workload=Workload(threshold=threshold), detector=labels, classifier=labels)
    with pytest.raises(UsageError, match="NaN"):
        FusedNet.unpack(net, rows[None], (64, 48))


def test_a_decoder_without_a_threshold_keeps_the_least_sure():
    logits, boxes = torch.zeros(1, 3, 5), torch.full((1, 3, 4), 0.5)
    found = DetrDecoder("abcd", 3)((logits, boxes), (64, 48))
    assert len(found) == 3 and found.score == pytest.approx([0.2] * 3)
