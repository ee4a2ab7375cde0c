"""Cheap pipelines for fleets and batches: no network, results that encode their frame."""

import time

import numpy as np

from labkit.core.types import Detections, Preparation, Rung


def mean_colour(frames, net):
    """One box whose label is the frame's mean intensity."""
    for frame in frames:
        if net:
            time.sleep(net)  # a network's time, without its work
        yield frame, detect(frame)


def mean_colours(frames, net):
    """The same, several frames at a time."""
    held = []
    for frame in frames:
        if frame is not None:
            held.append(frame)
        if held and (frame is None or len(held) == 4):
            time.sleep(net)
            yield from ((each, detect(each)) for each in held)
            held = []
    yield from ((each, detect(each)) for each in held)


def detect(frame):
    width, height = frame.size
    label = np.array([round(float(frame.image.mean()))], np.int64)
    box = np.array([[0, 0, width, height]], np.float32)
    return Detections(box, np.ones(1, np.float32), label, (str(label[0]),), frame.size)


def fails_on_bright(frames, net):
    """Raises at the brightest frames, whose index in a film is 62 to 69."""
    for frame in frames:
        if frame.image.mean() > 204.5:
            raise RuntimeError("too bright")
        yield frame, detect(frame)


def open_nothing(rung, workload):
    return 0.0, {"weights": "none"}


def open_slow(rung, workload):
    return 0.05, {"weights": "none"}


def open_in_another_precision(rung, workload):
    return 0.0, {"weights": "none", "fallback": "float32: no bfloat16 here"}


CHEAP = Rung("cheap", 9, mean_colour, Preparation("classify"), None, "cheap", "no network")
_IN_GROUPS = Preparation("classify", options={"frames": 4})
CHEAP_GROUPS = Rung("cheap_groups", 9, mean_colours, _IN_GROUPS, None, "cheap", "no network")
TOUCHY = Rung("touchy", 9, fails_on_bright, Preparation("classify"), None, "touchy", "fails now and then")
