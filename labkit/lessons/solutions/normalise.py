"""One image as a network takes it: scaled, normalised per channel, channels first, in a batch of one."""

import numpy as np

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def normalise(image):
    scaled = (image / 255 - MEAN) / STD  # (H, W, 3): mean and std act on the last axis
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, H, W)
