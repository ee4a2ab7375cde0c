"""Frames after the warm-up, over the time since its last frame was done."""


def fps(done_s, warm):
    began_s = done_s[warm - 1] if warm else 0.0
    return (len(done_s) - warm) / (done_s[-1] - began_s)
