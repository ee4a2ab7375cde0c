"""Each side is rounded outwards, and at least one pixel stays inside the frame."""

import math


def corners(box, width, height):
    left, top = min(int(max(box[0], 0)), width - 1), min(int(max(box[1], 0)), height - 1)
    right = min(max(math.ceil(box[2]), left + 1), width)
    bottom = min(max(math.ceil(box[3]), top + 1), height)
    return left, top, right, bottom
