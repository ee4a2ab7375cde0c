"""Overlap and formats of boxes, against torchvision."""

import numpy as np
import torch
from torchvision import ops

from labkit.core.boxes import box_iou, cxcywh_to_xyxy, xyxy_to_cxcywh


def random_boxes(n, seed):
    corners = np.random.default_rng(seed).uniform(0, 100, (n, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(1), corners.max(1)], -1)


def test_iou_is_that_of_torchvision():
    a, b = random_boxes(30, 0), random_boxes(20, 1)
    wanted = ops.box_iou(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(box_iou(a, b), wanted.numpy(), atol=1e-5)


def test_formats_are_those_of_torchvision_and_inverse():
    xyxy = random_boxes(30, 2)
    wanted = ops.box_convert(torch.from_numpy(xyxy), "xyxy", "cxcywh") / torch.tensor([120, 110, 120, 110])
    np.testing.assert_allclose(xyxy_to_cxcywh(xyxy, (120, 110)), wanted.numpy(), rtol=1e-6)
    np.testing.assert_allclose(cxcywh_to_xyxy(wanted.numpy(), (120, 110)), xyxy, atol=1e-4)


def test_boxes_that_reach_over_the_edge_are_clipped():
    boxes = np.array([[0.5, 0.5, 3.0, 3.0], [-1, -1, 0.1, 0.1], [0.5, 0.5, 0, 0]], np.float32)
    got = cxcywh_to_xyxy(boxes, (100, 50))
    np.testing.assert_allclose(got, [[0, 0, 100, 50], [0, 0, 0, 0], [50, 25, 50, 25]])
