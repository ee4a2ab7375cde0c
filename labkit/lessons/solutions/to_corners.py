"""Half a width and half a height to each side of the centre, in pixels."""

import numpy as np


def to_corners(boxes, width, height):
    cx, cy, w, h = (np.asarray(boxes) * [width, height, width, height]).T  # (N,) each
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
