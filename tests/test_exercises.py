"""Exercises: right answers pass however they are written, plausible mistakes are named, hints lead on."""

import json
import math
import re
import shutil
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import nms

from labkit.core.errors import UsageError
from labkit.lessons import kernel_exercises, nb08_profile
from labkit.lessons.exercise import CheckResult, solution, solution_files, solved
from labkit.lessons.hints import HINTS, hint_text
from labkit.lessons.kernel_exercises import check_kernel
from labkit.lessons.nb01_cpu_baseline import check_normalise
from labkit.lessons.nb02_gpu_move import check_device_time, check_on_gpu
from labkit.lessons.nb03_combined_models import check_best_boxes, check_corners, check_name_crops
from labkit.lessons.nb05_streams import (
    check_filter_beside,
    check_keep_memory,
    check_launch,
    check_start_copy,
)
from labkit.lessons.nb06_optimizations import check_fold, check_speed_up
from labkit.lessons.nb07_pitfalls import check_fps, check_paced_latency
from labkit.lessons.nb08_profile import check_as_input, check_name_best, check_one_read, check_suppress
from labkit.lessons.nb09_fleet import check_engines_needed, check_keep_newest
from labkit.lessons.simulated_streams import one_stream, two_streams_no_wait
from labkit.pipelines.multi_stream import launch

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run kernels on the CPU")

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def normalise(image):
    return ((image / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def normalise_in_place(image):
    result = normalise(image)
    image[:] = 0
    return result


WRONG_IMAGES = {
    "BGR": lambda image: normalise(image[..., ::-1]),
    "255": lambda image: ((image - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32),
    "mean and std are missing": lambda image: (image / 255).transpose(2, 0, 1)[None].astype(np.float32),
    "nothing is divided by std": lambda image: (
        (image / 255 - MEAN).transpose(2, 0, 1)[None].astype(np.float32)
    ),
    "batch dimension": lambda image: normalise(image)[0],
    "channels come first": lambda image: ((image / 255 - MEAN) / STD)[None].astype(np.float32),
    "height and width": lambda image: normalise(image).transpose(0, 1, 3, 2),
    "float32": lambda image: normalise(image).astype(np.float64),
    "not reshape": lambda image: ((image / 255 - MEAN) / STD).reshape(1, 3, 6, 9).astype(np.float32),
    "returns nothing": lambda image: None,
    "changed its input": normalise_in_place,
    "ZeroDivisionError": lambda image: 1 / 0,
    "largest difference": lambda image: normalise(image) + 0.01,
}


WRONG_ON_GPU = {
    "Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor)": lambda net, x: net(x),
    "Use Tensor.cpu() to copy": lambda net, x: net(x.cuda()).softmax(-1)[0],
    "those are the network's logits": lambda net, x: net(x.cuda())[0].cpu(),
    "the shape is (1, ": lambda net, x: net(x.cuda()).softmax(-1).cpu(),
    "not the network back": lambda net, x: net.cpu()(x).softmax(-1)[0].numpy(),
    "returns nothing": lambda net, x: None,
    "not callable": 3,
}


WRONG_DEVICE_TIMES = {
    "wait in the queue": lambda asked, done: done - asked,
    "counts idling": lambda asked, done: np.diff(done, prepend=asked[0]),
    "when the host asked": lambda asked, done: np.diff(asked, prepend=asked[0]),
    "when each frame was done": lambda asked, done: done,
    "mean of all": lambda asked, done: np.full(len(done), (done[-1] - asked[0]) / len(done)),
    "one value per frame": lambda asked, done: done[1:] - np.maximum(asked[1:], done[:-1]),
    "when could it begin": lambda asked, done: done - asked + 1,
    "returns nothing": lambda asked, done: None,
    "ZeroDivisionError": lambda asked, done: 1 / 0,
}


def device_time(asked_s, done_s):
    return [end - max(begin, *done_s[:k][-1:]) if k else end - begin
            for k, (begin, end) in enumerate(zip(asked_s, done_s, strict=True))]  # fmt: skip


def corners(box, width, height):
    left, top = min(int(max(box[0], 0)), width - 1), min(int(max(box[1], 0)), height - 1)
    right = min(max(math.ceil(box[2]), left + 1), width)
    bottom = min(max(math.ceil(box[3]), top + 1), height)
    return left, top, right, bottom


WRONG_CORNERS = {
    "it gives (2, 3, 8, 9)": lambda box, w, h: tuple(int(side) for side in box),
    "it gives (2, 4, 8, 9)": lambda box, w, h: tuple(round(float(side)) for side in box),
    "leaves the 20x10 frame": lambda box, w, h: (
        *(math.floor(x) for x in box[:2]), *(math.ceil(x) for x in box[2:])
    ),
    "for a box without area it gives": lambda box, w, h: (
        *(max(0, math.floor(x)) for x in box[:2]),
        min(w, math.ceil(box[2])), min(h, math.ceil(box[3])),
    ),
    "it gives (0, 0, 10, 12)": lambda box, w, h: corners(box, h, w),
    "four whole numbers": lambda box, w, h: tuple(float(side) + 0.5 for side in box),
    "returns nothing": lambda box, w, h: None,
    "AttributeError": lambda box, w, h: box.nosuch,
}  # fmt: skip


KERNEL = solution("guided").text


def check_guided(text):
    return check_kernel("guided", text)


def edited(*changes):
    text = KERNEL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


WRONG_KERNELS = {
    "a blur": edited(
        ("sum_a += a[there];", "sum_a += a[there] * image[there] + b[there];"), ("sum_b += b[there];", ""),
        ("(sum_a * image[here] + sum_b) / count", "sum_a / count"),
    ),
    "half a level too dark": edited((" + 0.5f);", ");")),
    "own a and b": edited(("(sum_a * image[here] + sum_b) / count", "a[here] * image[here] + b[here]")),
    "divided by a full window": edited(
        ("(right - left + 1) * (bottom - top + 1)", "(2 * R + 1) * (2 * R + 1)")
    ),
    "never divided": edited(("/ count", "")),
    "b is missing": edited((" + sum_b) /", ") /")),
    "use <=": edited(("v <= bottom", "v < bottom"), ("u <= right", "u < right")),
    "reads or writes outside": edited(("    if (x >= width || y >= height) return;\n", "")),
    "does not compile": edited(("float count", "flaot count")),
    "endless loop": edited(("v++", "v += 0")),
    "never written": re.sub(r"\{.*\}", "{ /* ... */ }", KERNEL, flags=re.DOTALL),
    "values are wrong; at row": edited((" + sum_b) /", " + 1.1f * sum_b) /")),
    "image itself": edited(("fminf(fmaxf(q, 0.0f), 255.0f) + 0.5f", "image[here]")),
}  # fmt: skip


def schedule(*steps):
    """A launch function: "upload@a" puts a step onto stream a, "b>a" makes b wait for a, "drain" for all."""

    def launch(frame, slot, net):
        for step in steps:
            name, _, stream = step.partition("@")
            if stream:
                with net.streams.on(stream):
                    getattr(net, name)(*([frame.image] if name == "upload" else []), slot)
            elif name == "drain":
                net.streams.drain()
            else:
                net.streams.after(*name.split(">"))

    return launch


PREPARE, INFER = ("upload@a", "smooth@a"), ("infer@b", "copy_back@b")
two_streams = schedule(*PREPARE, "b>a", *INFER)


def slot_zero_for_all(frame, slot, net):
    two_streams(frame, 0, net)
    if slot:
        net._arrived[slot] = net._arrived[0]


WRONG_LAUNCHES = [
    ("before it was written|while it was being written|is about frame", two_streams_no_wait),
    ("was read|is about frame", schedule(*PREPARE, "a>b", *INFER)),
    ("was read|is about frame", schedule("b>a", *PREPARE, *INFER)),
    ("was read|is about frame", schedule(*reversed(PREPARE), "b>a", *INFER)),
    ("was read|is about frame", slot_zero_for_all),
    ("streams of their own", one_stream),
    ("wait for no more than needed", schedule(*PREPARE, "b>a", *INFER, "drain")),
    ("no frame goes through filter", schedule("upload@a", "b>a", *INFER)),
    ("no frame goes through", schedule()),
    ("ZeroDivisionError", lambda frame, slot, net: 1 / 0),
]

WRONG_LAUNCHES += [
    ("'other', which gets no step; there are 'a', 'b'", schedule(*PREPARE, "other>a", *INFER)),
    (
        "'prepare', which gets no step; did you mean 'prepares'",
        schedule("upload@prepares", "smooth@prepares", "infer>prepare", "infer@infer", "copy_back@infer"),
    ),
    (
        "'infer' and 'infers' meant to be one",
        schedule(*PREPARE, "infer>a", "infer@infer", "copy_back@infers"),
    ),
    ("your function raised TypeError", 3),
]


def without(exercise, line, instead=""):
    """The solution of an exercise with a line taken out of it, or changed."""
    text = solution(exercise).text
    assert line in text
    space = {}
    exec(text.replace(line, instead), space)
    return space[exercise]


NOT_AN_ANSWER = [
    ("returns nothing yet", lambda *given: None), ("raised ZeroDivisionError", lambda *given: 1 / 0),
    ("give the function itself", ...), ("give the function itself", 3),
]  # fmt: skip
FILTER_WAITS = "filtering.wait_stream(torch.cuda.current_stream())"
WRONG_FILTER_BESIDE = [
    *NOT_AN_ANSWER,
    ("reads x", without("filter_beside", FILTER_WAITS)),
    ("reads smooth", without("filter_beside", "inferring.wait_stream(filtering)")),
    ("Put inferring.wait_stream", without("filter_beside", "inferring.wait", "filtering.wait")),
    ("the host waits for everything", without("filter_beside", FILTER_WAITS, "torch.cuda.synchronize()")),
    (
        "the host waits for a stream",
        without("filter_beside", "inferring.wait_stream(", "(lambda s: s.synchronize())("),
    ),
    ("nothing runs on the stream filtering", lambda x, network, *streams: (x, network(x))),
    ("differs by up to", without("filter_beside", "avg_pool2d(x, 5", "avg_pool2d(x * 2, 5")),
    ("should have the shape", without("filter_beside", "padding=2", "padding=1")),
    (
        "scores are expected, in this order",
        without("filter_beside", "return smooth, scores", "return [smooth, scores, x]"),
    ),
]
WRONG_KEEP_MEMORY = [
    *NOT_AN_ANSWER,
    ("was freed while", without("keep_memory", "smooth.record_stream(inferring)")),
    ("was freed while", without("keep_memory", "record_stream(inferring)", "record_stream(filtering)")),
    ("a tensor is expected, not str", without("keep_memory", "return scores", "return 'scores'")),
]
WRONG_START_COPY = [
    *NOT_AN_ANSWER,
    ("reads scores", without("start_copy", "copying.wait_stream(torch.cuda.current_stream())")),
    (
        "may not have reached",
        without("start_copy", "copying.record", "torch.cuda.current_stream().record"),
    ),
    ("the host waits for a copy to the host", without("start_copy", ", pin_memory=True")),
    (
        "the host waits for a copy to the host",
        without("start_copy", "non_blocking=True", "non_blocking=False"),
    ),
    ("nothing was copied", without("start_copy", "host.copy_(scores, non_blocking=True)", "pass")),
    ("torch.cuda.Event, not int", without("start_copy", "copying.record_event()", "3")),
]

WRONG_SPEED_UPS = {
    "inverse": lambda s, f: 1 - s + s / f,
    "times add up": lambda s, f: 1 - s + s * f,
    "ceiling": lambda s, f: 1 / max(1e-12, 1 - s),
    "not the whole": lambda s, f: f,
    "returns nothing": lambda s, f: None,
    "raised": lambda s, f: 1 / 0,
    "old time as 1": lambda s, f: 1 + s,
}


def fps(done_s, warm):
    began_s = done_s[warm - 1] if warm else 0.0
    return (len(done_s) - warm) / (done_s[-1] - began_s)


def kept(done_s, warm):
    return np.diff(done_s, prepend=0.0)[warm:]


def spoiling_fps(done_s, warm):
    done_s -= done_s[0]
    return 1.0


WRONG_FPS = {
    "mean of rates, which forgets": lambda done, warm: np.mean(1 / kept(done, warm)),
    "mean of rates, with the warm-up": lambda done, warm: np.mean(1 / np.diff(done, prepend=0.0)),
    "median frame": lambda done, warm: 1 / np.median(kept(done, warm)),
    "best frame": lambda done, warm: 1 / kept(done, warm).min(),
    "seconds per frame": lambda done, warm: kept(done, warm).mean(),
    "warm-up frames are in it": lambda done, warm: len(done) / done[-1],
    "but not their time": lambda done, warm: (len(done) - warm) / done[-1],
    "but its frames are counted": lambda done, warm: len(done) / (done[-1] - (done[warm - 1] if warm else 0)),
    "one frame too few": lambda done, warm: (len(done) - warm - 1) / kept(done, warm).sum(),
    "that frame's own time": lambda done, warm: (len(done) - warm) / (done[-1] - done[warm]),
    "left out altogether": lambda done, warm: (len(done) - warm - 1) / (done[-1] - done[warm]),
    "per millisecond": lambda done, warm: fps(done, warm) / 1e3,
    "ZeroDivisionError": lambda done, warm: (len(done) - warm) / float(done[-1] - done[warm - 1]),
    "off by up to": lambda done, warm: fps(done, warm) + 1,
    "expected is one number": lambda done, warm: 1 / kept(done, warm),
    "returns nothing": lambda done, warm: None,
    "NaN or infinity": lambda done, warm: float("inf"),
    "numbers are expected": lambda done, warm: "fast",
    "changed its input": spoiling_fps,
    "IndexError": lambda done, warm: done[len(done)],
}


def latency(began_s, done_s, rate):
    return done_s - np.arange(len(done_s)) / rate


def spoiling_latency(began_s, done_s, rate):
    done_s -= np.arange(len(done_s)) / rate
    return done_s


WRONG_LATENCY = {
    "coordinated omission": lambda began, done, rate: done - began,
    "queued, without the work": lambda began, done, rate: began - np.arange(len(done)) / rate,
    "between results": lambda began, done, rate: np.diff(done, prepend=0.0),
    "not after one period": lambda began, done, rate: done - np.arange(1, len(done) + 1) / rate,
    "you multiplied": lambda began, done, rate: done - np.arange(len(done)) * rate,
    "not from when the loop began": lambda began, done, rate: latency(began, done, rate) - began[0],
    "sign is turned": lambda began, done, rate: -latency(began, done, rate),
    "milliseconds": lambda began, done, rate: 1e3 * latency(began, done, rate),
    "it begins when it was due": lambda began, done, rate: done,
    "one latency per frame": lambda began, done, rate: latency(began, done, rate).mean(),
    "off by up to": lambda began, done, rate: np.minimum(latency(began, done, rate), 0.2),
    "changed its input": spoiling_latency,
    "returns nothing": lambda began, done, rate: ...,
    "TypeError": lambda began, done: done,
}


def best(scores, boxes, k):
    score, which = scores.topk(k)
    return torch.cat([score[:, None], boxes[which]], 1).cpu().numpy()


def one_by_one(scores, boxes, k):
    rows = [(scores[i].item(), *boxes[i].tolist()) for i in range(len(scores))]
    return np.array(sorted(rows, reverse=True)[:k], np.float32)


def best_in_place(scores, boxes, k):
    answer = best(scores, boxes, k)
    scores.zero_()
    return answer


def wrong_fold(weight=None, bias=None):
    def fold(w, mean, var, gamma, beta, eps):
        scale = gamma / (var + eps).sqrt()
        new = weight or (lambda w, v, g, e: w * scale[:, None, None, None])
        return new(w, var, gamma, eps), (bias or (lambda m, b, s: b - m * s))(mean, beta, scale)

    return fold


WRONG_FOLDS = {
    "the weight is unchanged": wrong_fold(weight=lambda w, v, g, e: w),
    "divide by its square root": wrong_fold(weight=lambda w, v, g, e: w * (g / v)[:, None, None, None]),
    "eps is missing": wrong_fold(weight=lambda w, v, g, e: w * (g / v.sqrt())[:, None, None, None]),
    "gamma is missing": wrong_fold(weight=lambda w, v, g, e: w / (v + e).sqrt()[:, None, None, None]),
    "the weight is wrong": wrong_fold(weight=lambda w, v, g, e: 3 * w),
    "the mean that it subtracts is missing": wrong_fold(bias=lambda m, b, s: b),
    "the mean is scaled": wrong_fold(bias=lambda m, b, s: b - m),
    "sign of the mean": wrong_fold(bias=lambda m, b, s: b + m * s),
    "beta is missing": wrong_fold(bias=lambda m, b, s: -m * s),
    "the bias is not": wrong_fold(bias=lambda m, b, s: 7 * b),
    "the bias has the shape ()": wrong_fold(bias=lambda m, b, s: 0),
    "two things": lambda w, *rest: w,
    "the weight is a tensor": lambda *given: (None, None),
    "returns nothing": lambda *given: ...,
    "raised TypeError": lambda: 1,
}


def slow_input(image, size):
    return nb08_profile._pixel_by_pixel(image, size)


WRONG_INPUTS = {
    "of the slow one's CPU time": slow_input,
    "(h, w) of a size of (width, height)": lambda image, size: solved("as_input")(image, size).mT,
    "the shape is": lambda image, size: solved("as_input")(image, size)[0],
    "float32, not float64": lambda image, size: solved("as_input")(image, size).double(),
    "mean and std are missing": lambda image, size: torch.from_numpy(
        np.float32(cv2.resize(image, size, interpolation=cv2.INTER_AREA) / 255).transpose(2, 0, 1)[None]
    ),
    "BGR": lambda image, size: solved("as_input")(image[..., ::-1].copy(), size),
    "other values": lambda image, size: solved("as_input")(image, size) + 1,
    "a tensor is expected": lambda image, size: "picture",
    "returns nothing": lambda image, size: ...,
    "raised ZeroDivisionError": lambda image, size: 1 / 0,
}


def name_best(crops, scores, k, name):
    return [name(crops[i]) for i in np.argsort(-scores)[:k]]


WRONG_BEST_NAMES = {
    "the classifier was called": lambda crops, scores, k, name: (
        [[name(crop) for crop in crops][i] for i in np.argsort(-scores)[:k]]
    ),
    "the first k queries": lambda crops, scores, k, name: [name(crop) for crop in crops[:k]],
    "the worst queries": lambda crops, scores, k, name: name_best(crops, -scores, k, name),
    "worst first": lambda crops, scores, k, name: name_best(crops, scores, k, name)[::-1],
    "all queries are named": lambda crops, scores, k, name: name_best(crops, scores, len(crops), name),
    "names are expected": lambda crops, scores, k, name: [],
    "a list of": lambda crops, scores, k, name: 5,
    "returns nothing": lambda crops, scores, k, name: ...,
    "raised TypeError": lambda crops: crops,
}


WRONG_SUPPRESSED = {
    "of the slow one's CPU time": lambda b, s, limit: nb08_profile._pair_by_pair(b, s, limit),
    "all boxes are kept": lambda b, s, limit: range(len(b)),
    "none is dropped": lambda b, s, limit: s.argsort(descending=True),
    "worst first": lambda b, s, limit: nms(b, s, limit).flip(0),
    "the worst box": lambda b, s, limit: nms(b, -s, limit),
    "boxes are kept": lambda b, s, limit: [],
    "indices of boxes": lambda b, s, limit: 3.5,
    "returns nothing": lambda b, s, limit: ...,
    "raised TypeError": lambda b: b,
}


WRONG_ROWS = {
    "host waited for the GPU": one_by_one,
    "host waited for the GPU 2 times": lambda s, b, k: np.column_stack(
        [s.topk(k)[0].cpu().numpy(), b[s.topk(k)[1]].cpu().numpy()]
    ),
    "can't convert cuda:0": lambda s, b, k: np.asarray(torch.cat([s[:k, None], b[:k]], 1)),
    "raised TypeError: can't convert": lambda s, b, k: s.numpy(),
    "the first k queries": lambda s, b, k: torch.cat([s[:k, None], b[:k]], 1).cpu().numpy(),
    "worst queries": lambda s, b, k: (
        torch.cat([s[s.argsort()[:k], None], b[s.argsort()[:k]]], 1).cpu().numpy()
    ),
    "worst first": lambda s, b, k: best(s, b, k)[::-1],
    "not in the same order": lambda s, b, k: torch.cat([s.topk(k)[0][:, None], b[:k]], 1).cpu().numpy(),
    "box stands before the score": lambda s, b, k: np.roll(best(s, b, k), -1, axis=1),
    "NumPy array": lambda s, b, k: torch.from_numpy(best(s, b, k)),
    "shape is": lambda s, b, k: best(s, b, k)[:, 1:],
    "changed its input": best_in_place,
    "raised IndexError": lambda s, b, k: s[999],
    "returns nothing": lambda s, b, k: None,
    "numbers are expected": lambda s, b, k: best(s, b, k).astype(str),
    "best to worst": lambda s, b, k: best(s, b, k)[[1, 0, *range(2, k)]],
    "not those of the k best": lambda s, b, k: best(s, b, k) * 2,
}


def picked(logits, boxes, size, k, drop=-1, share=lambda x: x.softmax(-1), best=True):
    scores, labels = share(logits)[:, :drop].max(-1)
    score, query = scores.topk(k, largest=best)
    centre, half = boxes[query, :2], boxes[query, 2:] / 2
    rows = torch.cat([centre - half, centre + half, score[:, None], labels[query, None]], 1).cpu().numpy()
    return rows * [*size, *size, 1, 1]


def boxes_one_by_one(logits, boxes, size, k):
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)
    rows = []
    for query in sorted(range(len(scores)), key=lambda each: -scores[each].item())[:k]:
        x, y, w, h = (side.item() for side in boxes[query])
        corners = [(x - w / 2) * size[0], (y - h / 2) * size[1], (x + w / 2) * size[0], (y + h / 2) * size[1]]
        rows.append([*corners, scores[query].item(), labels[query].item()])
    return rows


def boxes_of_zeroed(logits, boxes, size, k):
    rows = picked(logits, boxes, size, k)
    boxes.zero_()
    return rows


WRONG_BOXES = {
    "the host waits": boxes_one_by_one,
    "takes part": lambda x, b, s, k: picked(torch.cat([x, x[:, :1] - 99], 1), b, s, k),
    "left out before softmax": lambda x, b, s, k: picked(x[:, :-1], b, s, k, None),
    "a sigmoid is no softmax": lambda x, b, s, k: picked(x, b, s, k, share=torch.sigmoid),
    "scores are logits": lambda x, b, s, k: picked(x, b, s, k, share=lambda x: x),
    "over the queries": lambda x, b, s, k: picked(x, b, s, k, share=lambda x: x.softmax(0)),
    "worst queries": lambda x, b, s, k: picked(x, b, s, k, best=False),
    "stand worst first": lambda x, b, s, k: picked(x, b, s, k)[::-1],
    "still relative": lambda x, b, s, k: picked(x, b, (1, 1), k),
    "mixed up": lambda x, b, s, k: picked(x, b, s[::-1], k),
    "have changed places": lambda x, b, s, k: picked(x, b, s, k)[:, [0, 1, 2, 3, 5, 4]],
    "the shape is": lambda x, b, s, k: picked(x, b, s, k)[:, :4],
    "still on the GPU": lambda x, b, s, k: x,
    "on the same device": lambda x, b, s, k: picked(x, b * torch.ones(4), s, k),
    "changed its input": boxes_of_zeroed,
    "returns nothing": lambda x, b, s, k: ...,
    "not int 5": 5,
    "not those of the": lambda x, b, s, k: picked(x, b, s, k) + 7,
}  # fmt: skip


def named(module, crops, device, share=lambda x: x.softmax(-1)):
    score, label = share(module(torch.stack(crops).to(device))).max(-1)
    label, score = torch.stack([label.float(), score]).tolist()
    return label, score


def named_one_by_one(module, crops, device):
    rows = [module(crop[None].to(device))[0].softmax(0).max(0) for crop in crops]
    return [label.item() for _, label in rows], [score.item() for score, _ in rows]


def named_in_two_reads(module, crops, device):
    score, label = module(torch.stack(crops).to(device)).softmax(-1).max(-1)
    return label.cpu(), score.cpu()


WRONG_NAMES = {
    "is called": named_one_by_one,
    "waits 2 times": named_in_two_reads,
    "scores are logits": lambda m, c, d: named(m, c, d, lambda x: x),
    "over the crops": lambda m, c, d: named(m, c, d, lambda x: x.softmax(0)),
    "changed places": lambda m, c, d: named(m, c, d)[::-1],
    "the first crop is": lambda m, c, d: named(m, [c[0]] * len(c), d),
    "crops give labels": lambda m, c, d: named(m, c[:1], d),
    "two results": lambda m, c, d: named(m, c, d)[0],
    "still on the GPU": lambda m, c, d: (m(torch.stack(c).to(d)), 1),
    "on the same device": lambda m, c, d: named(m, c, "cpu"),
    "not ellipsis": ...,
}  # fmt: skip


WRONG_QUEUES = {
    "the oldest frames stay": lambda w, f, most: ([*w, f][:most], [*w, f][most:]),
    "more frames wait than may": lambda w, f, most: ([*w, f], []),
    "neither kept nor dropped": lambda w, f, most: ([*w, f][-most:], []),
    "two lists are expected": lambda w, f, most: [*w, f][-most:],
    "oldest of them first": lambda w, f, most: ([*w, f][-most:][::-1], [*w, f][:-most]),
}


def engines(cameras, fps, frame_s, most_busy):
    return math.ceil(cameras / math.floor(most_busy / (fps * frame_s) + 1e-9))


WRONG_ENGINES = {
    "no room is left": lambda c, f, s, b: math.ceil(c / math.floor(1 / (f * s))),
    "whole cameras": lambda c, f, s, b: math.ceil(c * f * s / b),
    "wrong sign": lambda c, f, s, b: math.ceil(c * f * s * b),
    "in part does not fit": lambda c, f, s, b: math.ceil(c / math.ceil(b / (f * s))),
    "round up": lambda c, f, s, b: c // math.floor(b / (f * s) + 1e-9),
    "cut in pieces": lambda c, f, s, b: c / math.floor(b / (f * s) + 1e-9),
    "one engine serves": lambda c, f, s, b: math.floor(b / (f * s) + 1e-9),
    "to the nearest": lambda c, f, s, b: round(c / math.floor(b / (f * s) + 1e-9)),
    "returns nothing": lambda c, f, s, b: None,
    "raised ZeroDivisionError": lambda c, f, s, b: c / 0,
    "whole number": lambda c, f, s, b: "3",
    "take one engine first": lambda c, f, s, b: engines(c, f, s, b) + 1,
}


RIGHT = [
    (check_normalise, normalise),
    (check_normalise, lambda image: torch.from_numpy(normalise(image))),
    (check_on_gpu, lambda net, x: torch.softmax(net(x.to("cuda", non_blocking=True)), 1).cpu()[0]),
    (check_device_time, device_time),
    (check_corners, corners),
    (check_best_boxes, solved("best_boxes")),
    (check_best_boxes, picked),
    (check_name_crops, solved("name_crops")),
    (check_name_crops, named),
    (check_launch, two_streams),
    (check_launch, launch),
    (check_filter_beside, solved("filter_beside")),
    (check_keep_memory, solved("keep_memory")),
    (check_keep_memory, without("keep_memory", "smooth.record_stream(i", "filtering.wait_stream(i")),
    (check_start_copy, solved("start_copy")),
    (check_speed_up, lambda s, f: 1 / (1 - s + s / f)),
    (check_fps, fps),
    (check_fps, lambda done, warm: np.float64(1 / kept(done, warm).mean())),
    (check_paced_latency, latency),
    (check_paced_latency, lambda began, done, rate: [d - k / rate for k, d in enumerate(done)]),
    (check_one_read, best),
    (check_fold, wrong_fold()),
    (check_fold, lambda w, m, v, g, b, e: fuse_conv_bn_weights(w, None, m, v, e, g, b)),
    (check_as_input, solved("as_input")),
    (check_name_best, name_best),
    (check_suppress, nms),
    (check_suppress, lambda b, s, limit: nms(b, s, limit).numpy()),
    (check_engines_needed, engines),
    (check_keep_newest, solved("keep_newest")),
    (check_keep_newest, lambda w, f, most: ([*w, f][-most:], [*w, f][:-most])),
    pytest.param(check_guided, KERNEL, marks=needs_compiler),
]
WRONG = [
    *((check_normalise, *case) for case in WRONG_IMAGES.items()),
    *((check_on_gpu, *case) for case in WRONG_ON_GPU.items()),
    *((check_device_time, *case) for case in WRONG_DEVICE_TIMES.items()),
    *((check_corners, *case) for case in WRONG_CORNERS.items()),
    *((check_best_boxes, *case) for case in WRONG_BOXES.items()),
    *((check_name_crops, *case) for case in WRONG_NAMES.items()),
    *((check_launch, *case) for case in WRONG_LAUNCHES),
    *((check_filter_beside, *case) for case in WRONG_FILTER_BESIDE),
    *((check_keep_memory, *case) for case in WRONG_KEEP_MEMORY),
    *((check_start_copy, *case) for case in WRONG_START_COPY),
    *((check_speed_up, *case) for case in WRONG_SPEED_UPS.items()),
    *((check_fps, *case) for case in WRONG_FPS.items()),
    *((check_paced_latency, *case) for case in WRONG_LATENCY.items()),
    *((check_fold, *case) for case in WRONG_FOLDS.items()),
    *((check_as_input, *case) for case in WRONG_INPUTS.items()),
    *((check_name_best, *case) for case in WRONG_BEST_NAMES.items()),
    *((check_suppress, *case) for case in WRONG_SUPPRESSED.items()),
    *((check_one_read, *case) for case in WRONG_ROWS.items()),
    *((check_engines_needed, *case) for case in WRONG_ENGINES.items()),
    *((check_keep_newest, *case) for case in WRONG_QUEUES.items()),
    *(pytest.param(check_guided, *case, marks=needs_compiler) for case in WRONG_KERNELS.items()),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_the_right_answer_passes(check, answer):
    assert check(answer), str(check(answer))
    assert str(check(answer)).startswith("Right: ")


@pytest.mark.parametrize(("check", "reason", "answer"), WRONG)
def test_a_plausible_mistake_is_rejected_with_its_reason(check, reason, answer, monkeypatch):
    if reason == "endless loop":
        monkeypatch.setattr(kernel_exercises, "RUN_TIMEOUT_S", 3.0)
    result = check(answer)
    assert isinstance(result, CheckResult)
    assert not result
    pattern = reason if check in (check_launch, check_guided) else re.escape(reason)
    assert re.search(pattern, str(result)), str(result)
    assert str(result).startswith("Not yet: ")


@pytest.mark.parametrize("exercise", HINTS)
def test_hints_come_in_steps_and_each_names_the_next(exercise):
    steps = len(HINTS[exercise])
    found = [hint_text(exercise, step) for step in range(1, steps + 1)]
    assert steps >= 3
    assert len(set(found)) == steps
    for step, text in enumerate(found, 1):
        assert f"{step} of {steps}" in text
        assert (f'lesson.hint("{exercise}", {step + 1})' in text) == (step < steps)


NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_a_hint_and_a_solution(path):
    cells = json.loads(path.read_text())["cells"]
    asked = ["".join(c["source"]) for c in cells if "exercise" in c["metadata"].get("tags", [])]
    checks = list(
        chain.from_iterable(re.findall(r'check_(\w+)\((?:"(\w+)", )?\w+\)', text) for text in asked)
    )
    assert len(checks) >= len(asked)
    for check, named in checks:
        assert HINTS[named or check] and solution(named or check).text


@pytest.mark.parametrize("exercise", solution_files())
def test_no_hint_and_no_notebook_holds_the_solution(exercise):
    lines = {line.strip() for line in solution(exercise).text.splitlines() if len(line.strip()) > 25}
    for text in HINTS[exercise]:
        assert not [line for line in lines if line in text]


def test_a_solution_is_folded_in_a_notebook_and_plain_elsewhere():
    found = solution("guided")
    assert found._repr_html_().startswith("<details><summary>")
    assert "&lt;" in found._repr_html_() and "open" not in found._repr_html_()[:20]
    assert str(found) == repr(found) == found.text
    with pytest.raises(UsageError, match="no exercise 'knitting'; there are "):
        solution("knitting")


def test_hints_that_do_not_exist_are_said():
    with pytest.raises(UsageError, match="no exercise 'knitting'; there are "):
        hint_text("knitting")
    for step in (0, 99, True, "1"):
        with pytest.raises(UsageError, match="hints 1 to"):
            hint_text("fps", step)
