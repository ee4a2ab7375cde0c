"""The copy waits for the scores, and its event says when the host may read."""

import torch


def start_copy(scores, copying):
    host = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
    copying.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(copying):
        host.copy_(scores, non_blocking=True)
    scores.record_stream(copying)
    return host, copying.record_event()
