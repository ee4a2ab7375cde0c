"""Choose first; name only what is kept."""

import numpy as np


def name_best(crops, scores, k, name):
    best = np.argsort(-np.asarray(scores))[:k]
    return [name(crops[i]) for i in best]
