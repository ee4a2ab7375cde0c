"""Exercises: right answers pass however they are written, plausible mistakes are named, hints lead on."""

import inspect
import json
import math
import re
import shutil
from collections import Counter
from functools import partial
from importlib import import_module
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
from labkit.lessons.exercise import FUNCTIONS, CheckResult, solution, solutions, solved
from labkit.lessons.hints import HINTS, hint
from labkit.lessons.kernel_exercises import EXERCISES, check_kernel
from labkit.lessons.simulated_streams import one_stream, two_streams_no_wait
from labkit.pipelines.multi_stream import launch

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run kernels on the CPU")
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

LESSONS = [
    import_module(f"labkit.lessons.{path.stem}")
    for path in sorted(Path(kernel_exercises.__file__).parent.glob("nb*.py"))
]
PYTHON = {
    name.removeprefix("check_"): getattr(lesson, name)
    for lesson in LESSONS
    for name in getattr(lesson, "__all__", ())
    if name.startswith("check_") and name != "check_kernel"
}
"""Checks of the exercises in Python, by name."""
CHECKS = PYTHON | {exercise: partial(check_kernel, exercise) for exercise in EXERCISES}
SEEN = {"np": np, "torch": torch, "cv2": cv2, "math": math, "nms": nms}
exec(inspect.getsource(nb08_profile), SEEN)  # slow functions of the learner's own


def edited(exercise, old, new):
    """The solution of an exercise with a piece of its text changed: a function, or CUDA."""
    text = solution(exercise).text
    assert old in text
    text = text.replace(old, new)
    if exercise in EXERCISES:
        return text
    space = dict(SEEN)
    exec(text, space)
    return space[FUNCTIONS.get(exercise, exercise)]


def returning(exercise, what):
    """The solution of an exercise with another expression after its return."""
    return edited(exercise, solution(exercise).text.rpartition("    return ")[2], what)


# Exercise -> reason -> the piece of the solution's text that is changed, and into what.
EDITS = {
    "to_corners": {
        "still shares": ("np.asarray(boxes) * [width, height, width, height]", "np.asarray(boxes)"),
        "swapped": ("[width, height, width, height]", "[height, width, height, width]"),
        "still centre": ("cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2", "cx, cy, w, h"),
        "upper left corner": ("cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2", "cx, cy, cx + w, cy + h"),
        "a whole width": (" / 2", ""),
        "the shape is": (", axis=1", ""),
        "off by up to": ("cx - w / 2", "cx - w / 3"),
    },
    "normalise": {
        "BGR": ("image / 255", "image[..., ::-1] / 255"),
        "255": ("image / 255", "image"),
        "mean and std are missing": ("(image / 255 - MEAN) / STD", "image / 255"),
        "nothing is divided by std": (" / STD", ""),
        "batch dimension": ("[None]", ""),
        "channels come first": (".transpose(2, 0, 1)", ""),
        "height and width": ("transpose(2, 0, 1)", "transpose(2, 1, 0)"),
        "float32": ("astype(np.float32)", "astype(float)"),
        "not reshape": ("transpose(2, 0, 1)[None]", "reshape(1, 3, *image.shape[:2])"),
        "changed its input": ("    return", "    image[:] = 0\n    return"),
        "compare one pixel": ("/ STD", "/ STD + 0.01"),
    },
    "on_gpu": {
        "Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor)": ('x.to("cuda")', "x"),
        "Use Tensor.cpu() to copy": (".cpu().numpy()", ""),
        "those are the network's logits": (".softmax(-1)", ""),
        "the shape is (1, ": ("[0]", ""),
        "not the network back": ('net(x.to("cuda"))', "net.cpu()(x)"),
    },
    "best_boxes": {
        "the host waits 2 times": ("    rows =", "    score[0].item()\n    rows ="),
        "takes part": ("[:, :-1]", ""),
        "left out before softmax": ("logits.softmax(-1)[:, :-1]", "logits[:, :-1].softmax(-1)"),
        "a sigmoid is no softmax": ("logits.softmax(-1)", "logits.sigmoid()"),
        "scores are logits": ("logits.softmax(-1)", "logits"),
        "over the queries": ("softmax(-1)", "softmax(0)"),
        "worst queries": ("topk(k)", "topk(k, largest=False)"),
        "stand worst first": ("return rows", "return rows[::-1]"),
        "still relative": ("*= [*size, *size]", "*= 1"),
        "mixed up": ("[*size, *size]", "[*size[::-1], *size[::-1]]"),
        "have changed places": ("score[:, None], labels[query, None]", "labels[query, None], score[:, None]"),
        "the shape is": ("return rows", "return rows[:, :4]"),
        "still on the GPU": ("return rows", "return logits"),
        "on the same device": ("boxes[query, :2]", "boxes[query, :2].cpu()"),
        "changed its input": ("    return rows", "    boxes.zero_()\n    return rows"),
        "not those of the": ("return rows", "return rows + 7"),
    },
    "name_crops": {
        "is called": ("module(x)", "torch.cat([module(each[None]) for each in x])"),
        "waits 2 times": (
            "torch.stack([label.float(), score]).cpu().numpy()",
            "[label.cpu().numpy(), score.cpu().numpy()]",
        ),
        "scores are logits": (".softmax(-1)", ""),
        "over the crops": ("softmax(-1)", "softmax(0)"),
        "changed places": ("rows[0].astype(int), rows[1]", "rows[1], rows[0]"),
        "the first crop is": ("torch.stack(crops)", "torch.stack([crops[0]] * len(crops))"),
        "expected is labels": ("torch.stack(crops)", "torch.stack(crops[:1])"),
        "two results": ("return rows[0].astype(int), rows[1]", "return rows"),
        "still on the GPU": ("return rows[0].astype(int), rows[1]", "return label, score"),
        "on the same device": ("to(device, non_blocking=True)", "cpu()"),
    },
    "filter_beside": {
        "reads x": ("filtering.wait_stream(torch.cuda.current_stream())", ""),
        "reads smooth": ("inferring.wait_stream(filtering)", ""),
        "Put inferring.wait_stream": ("inferring.wait", "filtering.wait"),
        "the host waits for everything": (
            "filtering.wait_stream(torch.cuda.current_stream())",
            "torch.cuda.synchronize()",
        ),
        "the host waits for a stream": ("inferring.wait_stream(", "(lambda s: s.synchronize())("),
        "nothing runs on the stream filtering": (
            "    filtering.wait",
            "    return x, network(x)\n    filtering.wait",
        ),
        "off by up to": ("avg_pool2d(x, 5", "avg_pool2d(x * 2, 5"),
        "the shape is": ("padding=2", "padding=1"),
        "scores are expected, in this order": ("return smooth, scores", "return [smooth, scores, x]"),
    },
    "keep_memory": {
        "was freed while": ("smooth.record_stream(inferring)", ""),
        "freed while": ("record_stream(inferring)", "record_stream(filtering)"),
        "a tensor is expected, not str": ("return scores", "return 'scores'"),
    },
    "start_copy": {
        "reads scores": ("copying.wait_stream(torch.cuda.current_stream())", ""),
        "may not have reached": ("copying.record", "torch.cuda.current_stream().record"),
        "the host waits for a copy to the host": (", pin_memory=True", ""),
        "waits for a copy to the host": ("non_blocking=True", "non_blocking=False"),
        "nothing was copied": ("host.copy_(scores, non_blocking=True)", "pass"),
        "torch.cuda.Event, not int": ("copying.record_event()", "3"),
    },
    "fold": {
        "the weight is unchanged": ("weight * scale[:, None, None, None]", "weight"),
        "divide by its square root": ("weight * scale[", "weight * (gamma / var)["),
        "eps is missing": ("weight * scale[", "weight * (gamma / var.sqrt())["),
        "gamma is missing": ("weight * scale[", "weight * (scale / gamma)["),
        "the weight is wrong": ("weight * scale[", "3 * weight * scale["),
        "the mean that it subtracts is missing": ("beta - mean * scale", "beta"),
        "the mean is scaled": ("beta - mean * scale", "beta - mean"),
        "sign of the mean": ("beta - mean", "beta + mean"),
        "beta is missing": ("beta - mean * scale", "-mean * scale"),
        "the bias is not": ("beta - mean * scale", "7 * beta"),
        "one bias per output": ("beta - mean * scale", "0"),
        "two things": (", beta - mean * scale", ""),
    },
    "as_input": {
        "of the slow one's CPU time": (
            "    small",
            "    return pixel_by_pixel(image, size)\n    small",
        ),
        "a size is (width, height)": ("transpose(2, 0, 1)", "transpose(2, 1, 0)"),
        "the shape is": ("[None]", ""),
        "float32, not float64": ("[None]", "[None].double()"),
        "mean and std are missing": ("(small / np.float32(255) - MEAN) / STD", "small / np.float32(255)"),
        "BGR": ("cv2.resize(image,", "cv2.resize(image[..., ::-1].copy(),"),
        "other values": ("/ STD", "/ STD + 1"),
    },
    "name_best": {
        "the classifier was called": ("    return", "    crops, name = [*map(name, crops)], str\n    return"),
        "the first k queries": ("for i in best", "for i in range(k)"),
        "the worst queries": ("-np.asarray", "np.asarray"),
        "worst first": ("for i in best", "for i in best[::-1]"),
        "all queries are named": ("[:k]", ""),
    },
    "one_read": {
        "the host waits 2 times": ("    return", "    score[0].item()\n    return"),
        "raised TypeError: can't convert": (".cpu().numpy()", ".numpy()"),
        "the first k queries": ("score[:, None], boxes[query]", "scores[:k, None], boxes[:k]"),
        "worst queries": ("topk(k)", "topk(k, largest=False)"),
        "worst first": (".numpy()", ".numpy()[::-1]"),
        "not in the same order": ("boxes[query]", "boxes[:k]"),
        "box stands before the score": ("score[:, None], boxes[query]", "boxes[query], score[:, None]"),
        "NumPy array": (".numpy()", ""),
        "still on the GPU": (".cpu().numpy()", ""),
        "score, then box": (".numpy()", ".numpy()[:, 1:]"),
        "changed its input": ("    return", "    scores.zero_()\n    return"),
        "raised IndexError": ("scores.topk(k)", "scores[999]"),
        "numbers are expected": (".numpy()", ".numpy().astype(str)"),
        "not the rows of the k best": (".numpy()", ".numpy() * 2"),
    },
    "guided": {
        "a blur": ("sum_a += a[there];", "sum_b += a[there] * image[there]; sum_a = 0;"),
        "half a level too dark": (" + 0.5f);", ");"),
        "own a and b": ("(sum_a * image[here] + sum_b) / count", "a[here] * image[here] + b[here]"),
        "divided by a full window": (
            "(right - left + 1) * (bottom - top + 1)",
            "(2 * R + 1) * (2 * R + 1)",
        ),
        "never divided": ("/ count", ""),
        "b is missing": (" + sum_b) /", ") /"),
        "use <=": (" <= ", " < "),
        "reads or writes outside": ("    if (x >= width || y >= height) return;\n", ""),
        "does not compile": ("float count", "flaot count"),
        "endless loop": ("v++", "v += 0"),
        "never written": ("    if (x >=", "    return; if (x >="),
        "values are wrong; at row": (" + sum_b) /", " + 1.1f * sum_b) /"),
        "image itself": ("fminf(fmaxf(q, 0.0f), 255.0f) + 0.5f", "image[here]"),
    },
}  # fmt: skip

KEPT = "np.diff(done_s, prepend=0.0)[warm:]"
DUE = "np.arange(len(done_s))"
# Exercise -> reason -> what is returned instead.
RETURNED = {
    "from_camera": {
        "nothing was changed": "bgr",
        "upside down": "bgr[::-1]",
        "left and right": "bgr[:, ::-1]",
        "green is first": "bgr[..., [1, 2, 0]]",
        "green and blue have changed places": "bgr[..., [2, 0, 1]]",
        "only the order": "255 - bgr",
        "became float64": "bgr[..., ::-1] / 1",
    },
    "counters": {
        "have changed places": "len(per_frame_s) / wall_s, np.mean(1 / per_frame_s)",
        "both are throughput": "[len(per_frame_s) / wall_s] * 2",
        "both are a mean of rates": "[np.mean(1 / per_frame_s)] * 2",
        "the first is frames over their time": "1 / np.mean(per_frame_s), len(per_frame_s) / wall_s",
        "leaves out the waiting": "np.mean(1 / per_frame_s), len(per_frame_s) / np.sum(per_frame_s)",
        "the rate of one frame": "np.mean(1 / per_frame_s), 1 / wall_s",
        "two numbers": "np.mean(1 / per_frame_s)",
        "off by": "np.mean(1 / per_frame_s) + 1, len(per_frame_s) / wall_s",
    },
    "device_time": {
        "wait in the queue": "done_s - asked_s",
        "counts idling": "np.diff(done_s, prepend=asked_s[0])",
        "when the host asked": "np.diff(asked_s, prepend=asked_s[0])",
        "when each frame was done": "done_s",
        "mean of all": "np.full(len(done_s), (done_s[-1] - asked_s[0]) / len(done_s))",
        "one value per frame": "(done_s - began_s)[:-1]",
        "when could it begin": "done_s - began_s + 1",
    },
    "corners": {
        "it gives (2, 3, 8, 9)": "tuple(int(side) for side in box)",
        "it gives (2, 4, 8, 9)": "tuple(round(float(side)) for side in box)",
        "leaves the 20x10 frame": "*map(math.floor, box[:2]), *map(math.ceil, box[2:])",
        "for a box without area it gives": "left, top, *np.minimum(np.ceil(box[2:]), [width, height])",
        "it gives (0, 0, 10, 12)": "left, top, min(right, height), max(bottom, math.ceil(box[3]))",
        "four whole numbers": "tuple(float(side) + 0.5 for side in box)",
        "four whole numbers are expected, not list": "[str(side) for side in (left, top, right, bottom)]",
        "AttributeError": "box.nosuch",
    },
    "speed_up": {
        "inverse": "1 - share + share / part_factor",
        "times add up": "1 - share + share * part_factor",
        "ceiling": "1 / max(1e-12, 1 - share)",
        "not the whole": "part_factor",
        "old time as 1": "1 + share",
    },
    "fps": {
        "mean of rates, which forgets": f"np.mean(1 / {KEPT})",
        "mean of rates, with the warm-up": "np.mean(1 / np.diff(done_s, prepend=0.0))",
        "median frame": f"1 / np.median({KEPT})",
        "best frame": f"1 / {KEPT}.min()",
        "seconds per frame": f"{KEPT}.mean()",
        "warm-up frames are in it": "len(done_s) / done_s[-1]",
        "but not their time": "(len(done_s) - warm) / done_s[-1]",
        "but its frames are counted": "len(done_s) / (done_s[-1] - began_s)",
        "one frame too few": f"(len(done_s) - warm - 1) / {KEPT}.sum()",
        "that frame's own time": "(len(done_s) - warm) / (done_s[-1] - done_s[warm])",
        "left out altogether": "(len(done_s) - warm - 1) / (done_s[-1] - done_s[warm])",
        "per millisecond": "(len(done_s) - warm) / (done_s[-1] - began_s) / 1e3",
        "ZeroDivisionError": "(len(done_s) - warm) / float(done_s[-1] - done_s[warm - 1])",
        "off by up to": "(len(done_s) - warm) / (done_s[-1] - began_s) + 1",
        "expected is one number": f"1 / {KEPT}",
        "NaN or infinity": "float('inf')",
        "numbers are expected": "'fast'",
        "changed its input": "done_s.sort() or done_s.fill(1) or 1.0",
        "IndexError": "done_s[len(done_s)]",
    },
    "paced_latency": {
        "coordinated omission": "done_s - began_s",
        "queued, without the work": f"began_s - {DUE} / fps",
        "between results": "np.diff(done_s, prepend=0.0)",
        "not after one period": f"done_s - (1 + {DUE}) / fps",
        "you multiplied": f"done_s - {DUE} * fps",
        "not from when the loop began": f"done_s - {DUE} / fps - began_s[0]",
        "sign is turned": f"{DUE} / fps - done_s",
        "milliseconds": f"1e3 * (done_s - {DUE} / fps)",
        "it begins when it was due": "done_s",
        "one latency per frame": f"(done_s - {DUE} / fps).mean()",
        "off by up to": f"np.minimum(done_s - {DUE} / fps, 0.1)",
    },
    "as_input": {"a tensor is expected": "'picture'"},
    "name_best": {"of the best queries, best first": "[]", "names are expected, not int": "5"},
    "suppress": {
        "of the slow one's CPU time": "pair_by_pair(corners, scores, limit)",
        "all boxes are kept": "range(len(corners))",
        "none is dropped": "scores.argsort(descending=True)",
        "worst first": "nms(corners, scores, limit).flip(0)",
        "the worst box": "nms(corners, -scores, limit)",
        "0 boxes are kept": "[]",
        "indices of boxes": "3.5",
        "indices of boxes are expected": "nms(corners, scores, limit) + 0.5",
    },
    "one_read": {
        "waits 2 times": "np.column_stack([score.cpu().numpy(), boxes[query].cpu().numpy()])",
        "the host waits": "np.array([[s.item(), *b.tolist()] for s, b in zip(score, boxes[query])])",
    },
    "fold": {"numbers are expected": "'weight', 'bias'"},
    "keep_newest": {
        "the oldest frames stay": "waiting[:most], waiting[most:]",
        "more frames wait than may": "waiting, []",
        "neither kept nor dropped": "waiting[too_many:], []",
        "two lists are expected": "waiting[too_many:]",
        "oldest of them first": "waiting[too_many:][::-1], waiting[:too_many]",
    },
    "engines_needed": {
        "no room is left": "math.ceil(cameras / math.floor(1 / (fps * frame_s)))",
        "whole cameras fit one": "math.ceil(cameras * fps * frame_s / most_busy)",
        "wrong sign": "math.ceil(cameras * fps * frame_s * most_busy)",
        "in part does not fit": "math.ceil(cameras / math.ceil(most_busy / (fps * frame_s)))",
        "round up": "cameras // per_engine",
        "cut in pieces": "cameras / per_engine",
        "one engine serves": "per_engine",
        "to the nearest": "round(cameras / per_engine)",
        "whole number": "[3]",
        "numbers are expected": "'3'",
        "take one engine first": "math.ceil(cameras / per_engine) + 1",
    },
}


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
NAMED = ("infer@infer", "copy_back@infer")
two_streams = schedule(*PREPARE, "b>a", *INFER)


def slot_zero_for_all(frame, slot, net):
    two_streams(frame, 0, net)


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
    ("'other', which gets no step; there are 'a', 'b'", schedule(*PREPARE, "other>a", *INFER)),
    (
        "'prepare', which gets no step; did you mean 'prepares'",
        schedule("upload@prepares", "smooth@prepares", "infer>prepare", *NAMED),
    ),
    (
        "'infer' and 'infers' meant to be one",
        schedule(*PREPARE, "infer>a", "infer@infer", "copy_back@infers"),
    ),
]
WRONG = [
    *(
        (exercise, re.escape(reason), edited(exercise, *change))
        for exercise, changes in EDITS.items()
        for reason, change in changes.items()
    ),
    *(
        (exercise, re.escape(reason), returning(exercise, what))
        for exercise, answers in RETURNED.items()
        for reason, what in answers.items()
    ),
    *(("launch", pattern, answer) for pattern, answer in WRONG_LAUNCHES),
]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
INSIDE = """
extern "C" __global__ void box_mean(const unsigned char *image, float *mean, int width, int height)
{
    // what of windows that hang over the border ... ?
    int i = blockIdx.x * blockDim.x + threadIdx.x, j = blockIdx.y * blockDim.y + threadIdx.y, n = 0;
    if (i < width && j < height) {
        float sum = 0;
        for (int dy = -R; dy <= R; ++dy)
            for (int dx = -R; dx <= R; ++dx) {
                if (i + dx < 0 || i + dx >= width || j + dy < 0 || j + dy >= height) continue;
                sum += image[(j + dy) * width + i + dx];
                n++;
            }
        mean[j * width + i] = sum / n;
    }
}
"""
normalise, corners, speed_up = map(solved, ("normalise", "corners", "speed_up"))
RIGHT = [
    *((exercise, solved(exercise)) for exercise in PYTHON),
    *((exercise, solution(exercise).text) for exercise in EXERCISES),
    ("normalise", lambda image: torch.from_numpy(normalise(image))),
    ("normalise", lambda image: np.moveaxis((np.float32(image) / 255 - MEAN) / STD, 2, 0)[None].astype("f4")),
    ("normalise", lambda image: np.float32([[(image[..., c] / 255 - MEAN[c]) / STD[c] for c in range(3)]])),
    ("normalise", lambda image: (
        torch.from_numpy(image).permute(2, 0, 1)[None].div(255).sub(torch.tensor(MEAN).float()[:, None, None])
        .div(torch.tensor(STD).float()[:, None, None])
    )),
    ("on_gpu", lambda net, x: torch.softmax(net(x.to("cuda", non_blocking=True)), 1).cpu()[0]),
    ("device_time", lambda asked, done: [
        end - max(begin, *done[:k][-1:]) if k else end - begin
        for k, (begin, end) in enumerate(zip(asked, done, strict=True))
    ]),
    ("corners", lambda box, w, h: np.array(corners(box, w, h))),
    ("corners", lambda box, w, h: [float(side) for side in corners(box, w, h)]),
    ("corners", lambda box, w, h: torch.tensor(corners(box, w, h))),
    ("launch", two_streams),
    ("launch", launch),
    ("keep_memory", edited("keep_memory", "smooth.record_stream(i", "filtering.wait_stream(i")),
    ("speed_up", lambda s, f: f / (f * (1 - s) + s)),
    ("speed_up", lambda s, f: np.float64(speed_up(s, f))),
    ("speed_up", lambda s, f: torch.tensor((1 - s + s / f) ** -1, dtype=torch.float64)),
    ("fps", lambda done, warm: np.float64(1 / np.diff(done, prepend=0.0)[warm:].mean())),
    ("paced_latency", lambda began, done, rate: [d - k / rate for k, d in enumerate(done)]),
    ("fold", lambda w, m, v, g, b, e: fuse_conv_bn_weights(w, None, m, v, e, g, b)),
    ("suppress", lambda b, s, limit: nms(b, s, limit).numpy()),
    ("keep_newest", lambda w, f, most: ([*w, f][-most:], [*w, f][:-most])),
    ("box_mean", INSIDE),
    ("box_mean", INSIDE.replace("float sum = 0", "double sum = 0")),
    ("box_mean", "__device__ int first(int x) { return max(x - R, 0); }\n"
     + edited("box_mean", "max(x - R, 0)", "first(x)").replace("max(y - R, 0)", "first(y)")),
    ("box_mean", "/* ... */\n" + solution("box_mean").text),
    ("brighten", edited("brighten", "min(image[i] + 40, 255)", "image[i] > 215 ? 255 : image[i] + 40")),
    ("guard", edited("guard", "if (i >= n) return;", "if (i < n)")),
    ("flip", edited("flip", "out[y * width + x] = image[y * width + width - 1 - x]",
                    "out[(y + 1) * width - 1 - x] = image[y * width + x]")),
    ("edges", edited("edges", "if (t == TILE - 1) tile[TILE + 1]", "else if (t == TILE - 1) tile[t + 2]")),
    ("guided", edited("guided", "float sum_a = 0.0f, sum_b = 0.0f", "double sum_a = 0, sum_b = 0")),
    ("guided", edited("guided", "fminf(fmaxf(q, 0.0f), 255.0f) + 0.5f",
                      "q < 0 ? 0.0f : q > 254.5f ? 255.0f : q + 0.5f")),
]  # fmt: skip


def cases(rows):
    """Rows as parameters; kernels are skipped where there is no compiler."""
    return [pytest.param(*row, marks=needs_compiler if row[0] in EXERCISES else ()) for row in rows]


def first_two(rows):
    """Two answers to each exercise now, and the others by `make test-all`."""
    seen: Counter[str] = Counter()
    chosen = []
    for case in cases(rows):
        seen[case.values[0]] += 1
        more = [pytest.mark.extended] if seen[case.values[0]] > 2 else []
        chosen.append(pytest.param(*case.values, marks=[*case.marks, *more]))
    return chosen


@pytest.mark.parametrize(("exercise", "answer"), first_two(RIGHT))
def test_a_right_answer_passes_however_it_is_written(exercise, answer):
    for _ in range(1 if exercise in EXERCISES else 4):
        result = CHECKS[exercise](answer)
        assert str(result).startswith("Right: "), str(result)


@pytest.mark.parametrize("seed", [7115, 14134])
def test_no_order_hangs_on_the_rounding_of_equal_scores(seed):
    outcome = CHECKS["best_boxes"](solved("best_boxes"), seed=seed)
    assert outcome, outcome.reason


@pytest.mark.slow
@pytest.mark.parametrize("exercise", PYTHON)
def test_a_right_answer_passes_whatever_is_drawn(exercise):
    for _ in range(500):
        outcome = CHECKS[exercise](solved(exercise))
        assert outcome, outcome.reason


@pytest.mark.parametrize(("exercise", "reason", "answer"), cases(WRONG))
def test_a_plausible_mistake_is_rejected_with_its_reason(exercise, reason, answer, monkeypatch):
    if reason == re.escape("endless loop"):
        monkeypatch.setattr(kernel_exercises, "RUN_TIMEOUT_S", 3.0)
    result = CHECKS[exercise](answer)
    assert isinstance(result, CheckResult)
    assert not result
    assert re.match(f"Not yet: .*({reason})", str(result), re.DOTALL), str(result)


@pytest.mark.parametrize("exercise", HINTS)
def test_hints_come_in_steps_and_each_names_the_next(exercise):
    steps = len(HINTS[exercise])
    found = [hint(exercise, step) for step in range(1, steps + 1)]
    assert steps >= 3
    assert len(set(found)) == steps
    for step, text in enumerate(found, 1):
        assert f"{step} of {steps}" in text
        assert (f'lesson.hint("{exercise}", {step + 1})' in text) == (step < steps)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_a_check_a_hint_and_a_solution(path):
    cells = json.loads(path.read_text())["cells"]
    asked = ["".join(c["source"]) for c in cells if "exercise" in c["metadata"].get("tags", [])]
    checks = list(
        chain.from_iterable(re.findall(r'check_(\w+)\((?:"(\w+)", )?\w+\)', text) for text in asked)
    )
    assert len(checks) >= len(asked)
    for check, named in checks:
        assert CHECKS[named or check] and HINTS[named or check] and solution(named or check).text


@pytest.mark.parametrize("exercise", solutions())
def test_no_hint_holds_the_solution(exercise):
    lines = {line.strip() for line in solution(exercise).text.splitlines() if len(line.strip()) > 25}
    for text in HINTS[exercise]:
        assert not [line for line in lines if line in text]


def test_a_solution_stands_alone_is_folded_in_a_notebook_and_plain_elsewhere():
    found = solution("guided")
    assert found._repr_html_().startswith("<details><summary>")
    assert "&lt;" in found._repr_html_() and "open" not in found._repr_html_()[:20]
    assert str(found) == repr(found) == found.text
    assert solution("best_boxes").text.startswith("import torch\n\n\ndef best_boxes(")
    assert solution("as_input").text.startswith("import cv2\nimport numpy as np\nimport torch\n\nMEAN = ")
    assert set(solutions()) == set(CHECKS) == set(HINTS)
    with pytest.raises(UsageError, match="no exercise 'knitting'; there are "):
        solution("knitting")


@pytest.mark.parametrize("exercise", PYTHON)
def test_what_is_no_function_is_told(exercise):
    assert "give the function itself to the check, not int 3" in str(CHECKS[exercise](3))


def test_an_exception_is_told_with_the_learners_own_line():
    def speed_up(share, part_factor):
        return np.reshape(share, (part_factor, 3))  # NumPy's own lines are left out

    assert ": return np.reshape(share, (part_factor, 3))" in str(CHECKS["speed_up"](speed_up))


def test_hints_that_do_not_exist_are_said():
    with pytest.raises(UsageError, match="no exercise 'knitting'; there are "):
        hint("knitting")
    for step in (0, 99, True, "1"):
        with pytest.raises(UsageError, match="hints 1 to"):
            hint("fps", step)
