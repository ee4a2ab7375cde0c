import numpy as np


def device_time(asked_s, done_s):
    begun_s = np.concatenate([asked_s[:1], np.maximum(asked_s[1:], done_s[:-1])])
    return done_s - begun_s


print(lesson.check_device_time(device_time))
