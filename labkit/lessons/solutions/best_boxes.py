"""The best queries are picked where the scores lie; their rows come to the host in one copy."""

import torch


def best_boxes(logits, boxes, size, k):
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)  # (Q,) each; the last class says "no object"
    score, query = scores.topk(k)  # (k,) each
    centre, half = boxes[query, :2], boxes[query, 2:] / 2  # (k, 2) each
    columns = [centre - half, centre + half, score[:, None], labels[query, None]]
    rows = torch.cat(columns, 1).cpu().numpy()  # (k, 6), the one read
    rows[:, :4] *= [*size, *size]
    return rows
