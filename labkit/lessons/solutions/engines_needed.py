"""Whole cameras per engine, rounded down; engines, rounded up."""

import math


def engines_needed(cameras, fps, frame_s, most_busy):
    per_engine = math.floor(most_busy / (fps * frame_s) + 1e-9)
    return math.ceil(cameras / per_engine)
