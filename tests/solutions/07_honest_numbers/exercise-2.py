import numpy as np


def latency(began_s, done_s, fps):
    return done_s - np.arange(len(done_s)) / fps


print(lesson.check_paced_latency(latency))
