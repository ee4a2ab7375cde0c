"""Blue, green, red becomes red, green, blue."""

import cv2


def from_camera(bgr):
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
