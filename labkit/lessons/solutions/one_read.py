"""Everything stays a tensor until the host reads the finished table, once."""

import torch


def best(scores, boxes, k):
    score, query = scores.topk(k)  # (k,) each
    return torch.cat([score[:, None], boxes[query]], 1).cpu().numpy()  # (k, 5)
