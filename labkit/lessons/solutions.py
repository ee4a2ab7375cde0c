"""Solutions of the exercises in Python, one function each, in the order of the notebooks.

`labkit.solution("fold")` shows one with what it imports; the tests try each against its check.
"""

import math

import cv2
import numpy as np
import torch
from torch.nn.functional import avg_pool2d
from torchvision.ops import nms

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def to_corners(boxes, width, height):
    """Half a width and half a height to each side of the centre, in pixels."""
    cx, cy, w, h = (np.asarray(boxes) * [width, height, width, height]).T  # (N,) each
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)


def normalise(image):
    """One image as a network takes it: scaled, normalised per channel, channels first, in a batch of one."""
    scaled = (image / 255 - MEAN) / STD  # (H, W, 3): mean and std act on the last axis
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, H, W)


def from_camera(bgr):
    """Blue, green, red becomes red, green, blue."""
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def counters(per_frame_s, wall_s):
    """In a mean of rates each frame has the same say, however long it took; throughput counts all time."""
    return np.mean(1 / per_frame_s), len(per_frame_s) / wall_s


def on_gpu(net, x):
    """The input goes to the network, and the answer comes back to the host, where NumPy lives."""
    probabilities = net(x.to("cuda")).softmax(-1)[0]  # (classes,) on the GPU
    return probabilities.cpu().numpy()


def device_time(asked_s, done_s):
    """A frame begins when it was asked for and the frame before is done, whichever comes later."""
    began_s = np.concatenate([asked_s[:1], np.maximum(asked_s[1:], done_s[:-1])])
    return done_s - began_s


def best_boxes(logits, boxes, size, k):
    """The best queries are picked where the scores lie; their rows come to the host in one copy."""
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)  # (Q,) each; the last class says "no object"
    score, query = scores.topk(k)  # (k,) each
    centre, half = boxes[query, :2], boxes[query, 2:] / 2  # (k, 2) each
    columns = [centre - half, centre + half, score[:, None], labels[query, None]]
    rows = torch.cat(columns, 1).cpu().numpy()  # (k, 6), the one read
    rows[:, :4] *= [*size, *size]
    return rows


def corners(box, width, height):
    """Each side is rounded outwards, and at least one pixel stays inside the frame."""
    left, top = min(int(max(box[0], 0)), width - 1), min(int(max(box[1], 0)), height - 1)
    right = min(max(math.ceil(box[2]), left + 1), width)
    bottom = min(max(math.ceil(box[3]), top + 1), height)
    return left, top, right, bottom


def name_crops(module, crops, device):
    """All crops go through the network as one batch, and all names come back in one copy."""
    x = torch.stack(crops).to(device, non_blocking=True)  # (n, 3, h, w)
    score, label = module(x).softmax(-1).max(-1)  # (n,) each
    rows = torch.stack([label.float(), score]).cpu().numpy()  # (2, n), the one read
    return rows[0].astype(int), rows[1]


def launch(frame, slot, net):
    """The network waits for its own picture, and for nothing else."""
    with net.streams.on("preprocess"):
        net.upload(frame.image, slot)
        net.smooth(slot)
    net.streams.after("infer", "preprocess")
    with net.streams.on("infer"):
        net.infer(slot)
        net.copy_back(slot)


def filter_beside(x, network, filtering, inferring):
    """Each stream waits for the one that writes what it reads."""
    filtering.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(filtering):
        smooth = avg_pool2d(x, 5, stride=1, padding=2)
    inferring.wait_stream(filtering)
    with torch.cuda.stream(inferring):
        scores = network(smooth)
    return smooth, scores


def keep_memory(x, network, filtering, inferring):
    """The allocator is told that another stream reads the memory, too."""
    filtering.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(filtering):
        smooth = avg_pool2d(x, 5, stride=1, padding=2)
    inferring.wait_stream(filtering)
    with torch.cuda.stream(inferring):
        scores = network(smooth)
    smooth.record_stream(inferring)
    return scores


def start_copy(scores, copying):
    """The copy waits for the scores, and its event says when the host may read."""
    host = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
    copying.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(copying):
        host.copy_(scores, non_blocking=True)
    scores.record_stream(copying)
    return host, copying.record_event()


def fold(weight, mean, var, gamma, beta, eps):
    """The norm is a multiplication and an addition per channel, and a convolution can do both."""
    scale = gamma / torch.sqrt(var + eps)  # (O,)
    return weight * scale[:, None, None, None], beta - mean * scale


def speed_up(share, part_factor):
    """Amdahl's law: the rest takes as long as before, the part takes its share over the factor."""
    return 1 / (1 - share + share / part_factor)


def fps(done_s, warm):
    """Frames after the warm-up, over the time since its last frame was done."""
    began_s = done_s[warm - 1] if warm else 0.0
    return (len(done_s) - warm) / (done_s[-1] - began_s)


def latency(began_s, done_s, fps):
    """A viewer waits from when a frame was due, ready or not."""
    return done_s - np.arange(len(done_s)) / fps


def as_input(image, size):
    """Shrink the bytes first, then act on the whole array at once."""
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    x = (small / np.float32(255) - MEAN) / STD  # (h, w, 3)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None]


def name_best(crops, scores, k, name):
    """Choose first; name only what is kept."""
    best = np.argsort(-np.asarray(scores))[:k]
    return [name(crops[i]) for i in best]


def suppress(corners, scores, limit):
    """All pairs are compared in one call."""
    return nms(corners, scores, limit)


def best(scores, boxes, k):
    """Everything stays a tensor until the host reads the finished table, once."""
    score, query = scores.topk(k)  # (k,) each
    return torch.cat([score[:, None], boxes[query]], 1).cpu().numpy()  # (k, 5)


def keep_newest(waiting, frame, most):
    """The newest frames stay, in their order; what is too old by now is dropped."""
    waiting = [*waiting, frame]
    too_many = max(len(waiting) - most, 0)
    return waiting[too_many:], waiting[:too_many]


def engines_needed(cameras, fps, frame_s, most_busy):
    """Whole cameras per engine, rounded down; engines, rounded up."""
    per_engine = math.floor(most_busy / (fps * frame_s) + 1e-9)
    return math.ceil(cameras / per_engine)
