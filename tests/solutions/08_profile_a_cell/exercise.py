import torch


def best(scores, boxes, k):
    score, query = scores.topk(k)
    return torch.cat([score[:, None], boxes[query]], 1).cpu().numpy()


print(lesson.check_one_read(best))
