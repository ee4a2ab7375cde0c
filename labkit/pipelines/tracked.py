"""Tracking between detections: both networks on every k-th frame, optical flow for the boxes in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from labkit.core.boxes import box_iou
from labkit.core.trace import span
from labkit.core.types import Detections, Frame
from labkit.pipelines.combined import batched_crops

if TYPE_CHECKING:
    from labkit.models.callables import Combined

GRID = np.stack(np.meshgrid(*[np.linspace(0.15, 0.85, 7)] * 2), -1).reshape(-1, 2)
"""Points of a box that are followed, as shares of its width and height, (P, 2)."""
RETURN_PX = 1.0
"""A point counts if flow back to the frame before ends no farther than this from where it began."""
LEAST_POINTS = 8
"""Of a box that is followed; one with fewer stays where it was."""
LEAST_BOXES = 0.5
"""Share of the boxes that must be followed; with fewer, the frame is detected anew."""
SAME_IOU = 0.3
"""Overlap from which a detection with the same label is the object of a followed box."""


def tracked(frames: Iterable[Frame], net: Combined) -> Iterator[tuple[Frame, Detections]]:
    """As `batched_crops` on every `net.every`-th frame; in between optical flow moves the boxes.

    Score and names are those of the last detection; `track_id` is the same for the same object.
    Where there is nothing to follow, or most boxes are lost (a cut, say), the frame is detected at once,
    so that unrelated pictures are answered as without tracking.
    """
    tracker = FlowTracker(net.every)
    for frame in frames:
        with span("follow", frame):
            found = tracker.follow(frame)
        if found is None:
            ((_, detected),) = batched_crops([frame], net)
            found = tracker.restart(detected)
        yield frame, found


class FlowTracker:
    """Boxes that optical flow carries on, with ids that last from one detection to the next.

    Args:
        every: a frame is due for detection so many frames after the last one.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._age = 0
        self._next_id = 1
        self._gray: NDArray[np.uint8] | None = None
        self._found: Detections | None = None

    def follow(self, frame: Frame) -> Detections | None:
        """The last boxes where they are in this frame; None if it is to be detected."""
        before, self._gray = self._gray, cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        self._age += 1
        last = self._found
        if last is None or not len(last) or self._age >= self.every or last.frame_size != frame.size:
            return None
        xyxy, seen = flow_boxes(before, self._gray, last.xyxy)
        if seen.mean() < LEAST_BOXES:
            return None
        self._found = replace(last, xyxy=xyxy)
        return self._found

    def restart(self, found: Detections) -> Detections:
        """Detections of the frame that was given last, with the ids of the boxes that they overlap."""
        ids = np.arange(self._next_id, self._next_id + len(found), dtype=np.int64)
        self._next_id += len(found)
        last = self._found
        if last is not None and last.track_id is not None:
            from scipy.optimize import linear_sum_assignment

            overlap = box_iou(last.xyxy, found.xyxy) * (last.label[:, None] == found.label)
            for i, j in zip(*linear_sum_assignment(-overlap), strict=True):
                if overlap[i, j] >= SAME_IOU:
                    ids[j] = last.track_id[i]
        self._age, self._found = 0, replace(found, track_id=ids)
        return self._found


def flow_boxes(
    before: NDArray[np.uint8], now: NDArray[np.uint8], xyxy: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes moved and scaled as the points in them were: median flow (Kalal et al., 2010).

    Args:
        before, now: (H, W) uint8 gray levels.
        xyxy: (N, 4) px in `before`.

    Returns:
        (N, 4) px in `now`, inside it, and (N,) True where a box could be followed.
    """
    from scipy.spatial.distance import pdist

    corner, extent = xyxy[:, None, :2], xyxy[:, None, 2:] - xyxy[:, None, :2]
    points = (corner + GRID * extent).astype(np.float32)  # (N, P, 2) px
    flat = points.reshape(-1, 1, 2)
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, flat, None)
    back, again, _ = cv2.calcOpticalFlowPyrLK(now, before, there, None)
    returned = np.linalg.norm(back - flat, axis=-1) < RETURN_PX
    good = (found.astype(bool) & again.astype(bool) & returned).reshape(points.shape[:2])
    there = there.reshape(points.shape)
    seen = good.sum(1) >= LEAST_POINTS
    moved = xyxy.copy()
    for i in np.flatnonzero(seen):
        old, new = points[i, good[i]], there[i, good[i]]
        centre = (xyxy[i, :2] + xyxy[i, 2:]) / 2 + np.median(new - old, axis=0)
        apart = pdist(old)
        scales = pdist(new)[apart > 0] / apart[apart > 0]
        half = (xyxy[i, 2:] - xyxy[i, :2]) / 2 * (np.median(scales) if len(scales) else 1)
        moved[i] = [*(centre - half), *(centre + half)]
    height, width = now.shape
    return np.clip(moved, 0, np.array([width, height] * 2, np.float32)), seen
