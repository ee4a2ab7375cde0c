"""Shrink the bytes first, then act on the whole array at once."""

import cv2
import numpy as np
import torch

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def as_input(image, size):
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    x = (small / np.float32(255) - MEAN) / STD  # (h, w, 3)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None]
