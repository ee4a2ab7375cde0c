"""The allocator is told that another stream reads the memory, too."""

import torch
from torch.nn.functional import avg_pool2d


def keep_memory(x, network, filtering, inferring):
    filtering.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(filtering):
        smooth = avg_pool2d(x, 5, stride=1, padding=2)
    inferring.wait_stream(filtering)
    with torch.cuda.stream(inferring):
        scores = network(smooth)
    smooth.record_stream(inferring)
    return scores
