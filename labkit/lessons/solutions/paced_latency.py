"""A viewer waits from when a frame was due, ready or not."""

import numpy as np


def latency(began_s, done_s, fps):
    return done_s - np.arange(len(done_s)) / fps
