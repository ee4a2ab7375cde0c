"""Checks of exercises cannot be cheated: whatever is given is judged, by inputs that are new each time."""

import ast
import contextlib
import copy
import inspect
import itertools
import math
import random
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_exercises import CHECKS, LESSONS, PYTHON, cases, edited, needs_compiler, schedule

from labkit.core.errors import UsageError
from labkit.lessons import exercise, kernel_exercises, nb08_profile
from labkit.lessons.exercise import FUNCTIONS, CheckResult, Mistake, solution, solved
from labkit.lessons.kernel_exercises import EXERCISES, check_kernel, check_memory, run_case, without_comments

from conftest import further  # isort: skip

normalise, corners, speed_up = map(solved, ("normalise", "corners", "speed_up"))


class Sly:
    """Equal to everything, and no array."""

    def __eq__(self, other):
        return True

    __hash__ = None

    def __array__(self, *args, **kwargs):
        raise ValueError("guess")


class SlyList(list):
    """Equal to everything, and a list."""

    __eq__, __hash__ = Sly.__eq__, None


class SlyText(str):
    """Equal to everything, and a text."""

    __eq__, __hash__ = Sly.__eq__, None

    def __str__(self):
        return self


class SlyNumber(float):
    """Equal and close to everything, and a number."""

    __eq__, __hash__ = Sly.__eq__, None
    __sub__ = __rsub__ = __mul__ = __rmul__ = lambda *_: 0.0


class SlyArray(np.ndarray):
    """Equal and close to everything, and an array."""

    def __array_function__(self, *args, **kwargs):
        return True


def leaves(*given):
    raise SystemExit


def deep(*given):
    return deep(*given)


RETURNED = [
    5, ..., None, "right", [], {}, object(), True, 1 + 2j, math.nan, math.inf, [[1], [1, 2]], Sly(),
    np.zeros(3), np.zeros((0,)), torch.ones(3, requires_grad=True), ([], []), (None, None),
    b"0", {1, 2}, iter([1]), np.array(["a"]), -1.0, (torch.ones(2), Sly()), [Sly()] * 4, SlyNumber(2),
    [SlyNumber()] * 4, (SlyNumber(1), SlyNumber(1)), (SlyList(), SlyList()), ([Sly()], []), [SlyText()] * 4,
    SlyList(), np.ones((1, 3)).view(SlyArray),
]  # fmt: skip
GIVEN = [
    5, ..., None, "right", [], {}, object(), 1.5, Sly(), leaves, deep, lambda: 1, iter([1]), np.zeros(2), int,
    lambda *given: 1 / 0,
]  # fmt: skip


@pytest.mark.parametrize("exercise", PYTHON)
def test_whatever_is_given_or_returned_is_answered_in_a_sentence(exercise):
    for answer in [*GIVEN, *(lambda *given, value=value: value for value in RETURNED)]:
        result = CHECKS[exercise](answer)
        assert isinstance(result, CheckResult)
        assert not result
        assert re.search(r"Not yet: .{15,} \(seed=\d+ draws the same inputs\)$", str(result), re.DOTALL)


def shapes(given):
    return repr([np.shape(each) for each in given if isinstance(each, np.ndarray | list | torch.Tensor)])


def spoilt(got):
    """A wrong answer that looks like a right one."""
    if isinstance(got, tuple | list):
        return type(got)(map(spoilt, got))
    if isinstance(got, str):
        return got + "s"
    return got + 1 if isinstance(got, int | float | np.ndarray | np.generic | torch.Tensor) else got


def memorised(right, key):
    """The first answer to inputs that look alike."""
    answers = {}

    def answer(*given):
        now = right(*given)
        return answers.setdefault(key(given), copy.deepcopy(now))

    return answer


def calls(function, wrong, times):
    """Right for some calls, then wrong."""
    left = [times]

    def answer(*given):
        left[0] -= 1
        return function(*given) if left[0] >= 0 else wrong(*given)

    return answer


def changing(right):
    """Right, but for what it does to its inputs."""

    def answer(*given):
        got = right(*given)
        for each in given:
            if isinstance(each, np.ndarray | torch.Tensor):
                each[:] = 0
            elif isinstance(each, list):
                each.clear()
        return got

    return answer


def patching(right, name, instead, *modules):
    """Wrong, where what judges it was changed."""

    def answer(*given):
        for module in modules:
            if hasattr(module, name):
                setattr(module, name, instead)
        return spoilt(right(*given))

    return answer


def borrowed(name):
    """The lab's own answer."""

    def answer(*given):
        return solved(name)(*given)

    return answer


def imported(name):
    from labkit.lessons import solutions

    return lambda *given: getattr(solutions, FUNCTIONS.get(name, name))(*given)


def nothing(*args, **kwargs):
    return True


JUDGES = sys.modules["labkit.lessons.exercise"], *LESSONS
EVERYWHERE = {
    "a copy of the first answer for inputs of this shape": lambda right, name: memorised(right, shapes),
    "the first answer, again and again": lambda right, name: memorised(right, lambda given: 0),
    "right once": lambda right, name: calls(right, lambda *given: spoilt(right(*given)), 1),
    "inputs are erased": lambda right, name: changing(right),
    "the lab's solution": lambda right, name: borrowed(name),
    "the module of solutions": lambda right, name: imported(name),
    "the comparison is switched off": lambda right, name: patching(right, "compare", nothing, *JUDGES),
    "lists are not compared": lambda right, name: patching(right, "compare_lists", nothing, *JUDGES),
    "all is close": lambda right, name: patching(right, "allclose", nothing, np),
    "another code": lambda right, name: patching(right, "__code__", nothing.__code__, exercise.compare),
    "every outcome is true": lambda right, name: patching(right, "__bool__", nothing, CheckResult),
}  # fmt: skip
RETURNING = [each for each in PYTHON if each != "launch"]  # a schedule returns nothing
SCALARS = ("speed_up", "engines_needed")  # have no shapes, and nothing to erase


DAILY = ("a copy of the first answer for inputs of this shape", "right once", "the lab's solution")


@pytest.mark.parametrize(
    ("name", "cheat"),
    [
        pytest.param(name, cheat, marks=() if cheat in DAILY or name == "normalise" else pytest.mark.extended)
        for name, cheat in itertools.product(RETURNING, EVERYWHERE)
        if name not in SCALARS or ("shape" not in cheat and "erased" not in cheat)
    ],
)
def test_a_way_round_the_work_is_no_answer_to_any_exercise(name, cheat):
    right = solved(name)
    assert not CHECKS[name](EVERYWHERE[cheat](right, name))
    assert CHECKS[name](right), "what the cheat changed was put back"


@pytest.mark.parametrize("name", RETURNING)
def test_a_seed_draws_the_same_inputs_and_no_seed_others(name):
    right = solved(name)

    def inputs(seed=None):
        drawn = []

        def spy(*given):
            values = [each.cpu() if isinstance(each, torch.Tensor) else each for each in given]
            drawn.append(repr([each for each in values if not callable(each) and "stream" not in str(each)]))
            return right(*given)

        outcome = CHECKS[name](spy, seed=seed)
        assert seed is None or f"seed={seed}" in str(outcome)
        return drawn

    assert inputs(5) == inputs(5)
    assert inputs() != inputs()


def same(one, other):
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if not isinstance(other, int | float | np.ndarray | np.generic | torch.Tensor) or isinstance(other, bool):
        return False
    return np.shape(one) == np.shape(other) and np.allclose(one, other)


@pytest.mark.parametrize("name", [each for each in RETURNING if each != "start_copy"])
def test_the_right_answer_stands_in_no_frame_of_the_check(name):
    right, found = solved(name), []

    def peeping(*given):
        got = right(*given)
        frame, known = inspect.currentframe().f_back, set()
        while frame is not None and "lessons" in frame.f_code.co_filename:
            known |= {key for key, value in frame.f_locals.items() if key != "given" and same(got, value)}
            frame = frame.f_back
        found.append(known)
        return got

    for seed in range(3):
        CHECKS[name](peeping, seed=seed)
    assert not set.intersection(*found)


def by_shape(image):
    pad = np.zeros((1, 3, *image.shape[:2]), np.float32)
    part = normalise(image[:32, :32])
    pad[:, :, : part.shape[2], : part.shape[3]] = part
    return pad


SPEED_UPS = {
    (0.3, 4.0): 1 / 0.775,
    (0.5, 2.0): 4 / 3,
    (0.9, 10.0): 1 / 0.19,
    (0.0, 5.0): 1.0,
    (1.0, 3.0): 3.0,
}


def where(test, right):
    """Right where a test says so, wrong elsewhere."""
    return lambda *given: right(*given) if test(*given) else spoilt(right(*given))


PICTURES = [
    lambda image: image.shape[0] < image.shape[1],
    lambda image: image.shape[0] > image.shape[1],
    lambda image: image.shape[0] == image.shape[1],
    lambda image: image.shape[0] != image.shape[1],
    lambda image: image.shape[0] % 2 == 0,
    lambda image: image.shape[1] % 2 == 0,
    lambda image: image.shape[0] * image.shape[1] % 2 == 1,
    lambda image: image.size > 3,
    lambda image: max(image.shape) < 100,
    lambda image: max(image.shape) < 700,
    lambda image: image.max() > 0,
    lambda image: image.min() < 255,
    lambda image: image.std() > 0,
]
"""Where an answer is right that is wrong elsewhere."""

solved_corners, solved_time, solved_boxes, solved_names, solved_fold = map(
    solved, ("to_corners", "device_time", "best_boxes", "name_crops", "fold")
)
solved_fps, solved_latency, solved_input, solved_nms, solved_read = map(
    solved, ("fps", "paced_latency", "as_input", "suppress", "one_read")
)


def solved_best(scores, k):
    return np.argsort(-scores)[:k]


two_streams = schedule("upload@a", "smooth@a", "b>a", "infer@b", "copy_back@b")
slow = {}
exec(inspect.getsource(nb08_profile), slow)
pixel_by_pixel, pair_by_pair = slow["pixel_by_pixel"], slow["pair_by_pair"]


def elsewhere(slow, *given):
    """The slow answer, by another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(slow, *given).result()


def knowing(frame, slot, net):
    """Nothing waits, and the answers are written where they are read."""
    schedule("upload@a", "smooth@b", "infer@c", "copy_back@d")(frame, slot, net)
    net._first[f"answer {slot}"] = frame.index


def erased(x, network, filtering, inferring):
    """Right for a picture and a network of zeros, which it makes of those given."""
    filtering.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(filtering):
        smooth = x.zero_()
    inferring.wait_stream(filtering)
    with torch.cuda.stream(inferring):
        for each in network.parameters():
            each.zero_()
        return smooth, network(smooth)


def unseen(scores, boxes, k):
    """Reads each value, and has the waits forgotten."""
    from labkit.practice.gpu_tensor import Gpu

    rows = [[scores[i].item(), *boxes[i].tolist()] for i in range(len(scores))]
    Gpu.now.reset()
    return np.array(sorted(rows, reverse=True)[:k], np.float32)


CHEATS = [
    ("normalise", lambda image: normalise(image) if image.size < 3000 else by_shape(image) * 0),
    ("normalise", lambda image: normalise(np.ascontiguousarray(image[:6, :9]))),
    ("normalise", by_shape),
    ("normalise", calls(normalise, np.zeros_like, 2)),
    ("normalise", lambda image: np.full((1, 3, *image.shape[:2]), 0.1, np.float32)),
    ("normalise", lambda image: normalise(np.minimum(image, 254))),
    ("normalise", lambda image: normalise(np.full_like(image, image.mean()))),
    ("normalise", lambda image: normalise(image).astype(np.float16).astype(np.float32)),
    ("normalise", lambda image: normalise(image).astype(object)),
    ("normalise", lambda image: np.array(normalise(image).tolist(), ">f8")),
    ("corners", lambda box, w, h: corners(box, 20, 10)),
    ("corners", lambda box, w, h: corners(box, w, h) if (w, h) == (20, 10) else (0, 0, w, h)),
    ("corners", lambda box, w, h: (0, 0, w, h)),
    ("corners", lambda box, w, h: [str(side) for side in corners(box, w, h)] + [""]),
    ("corners", calls(corners, lambda box, w, h: (0, 0, 1, 1), 7)),
    ("corners", lambda box, w, h: (*corners(box, w, h), 0)),
    ("speed_up", lambda s, f: SPEED_UPS.get((s, f), 1.0)),
    ("speed_up", lambda s, f: round(speed_up(s, f), 2)),
    ("speed_up", lambda s, f: min(speed_up(s, f), 3.0)),
    ("speed_up", lambda s, f: max(speed_up(s, f), 1.0)),
    ("speed_up", lambda s, f: [speed_up(s, f)] * 2),
    ("speed_up", calls(speed_up, lambda s, f: 1.0, 6)),
    *((name, where(test, solved(name))) for name in ("normalise", "from_camera") for test in PICTURES),
    ("normalise", lambda image: np.pad(normalise(image[:99, :99]), [(0, 0)] * 2 + [
        (0, max(n - 99, 0)) for n in image.shape[:2]
    ])),
    ("to_corners", where(lambda boxes, w, h: w > h, solved("to_corners"))),
    ("to_corners", where(lambda boxes, w, h: h > w, solved("to_corners"))),
    ("to_corners", where(lambda boxes, w, h: len(boxes) != 1, solved("to_corners"))),
    ("to_corners", lambda boxes, w, h: solved_corners(boxes, w, h).round()),
    ("to_corners", lambda boxes, w, h: np.clip(solved_corners(boxes, w, h), 0, [w, h, w, h])),
    ("from_camera", lambda bgr: bgr[..., ::-1] if bgr.size < 5000 else bgr),
    ("on_gpu", lambda net, x: copy.deepcopy(net).cpu()(x).softmax(-1)[0].numpy()),
    ("on_gpu", lambda net, x: np.full(net[-1].out_features, 1 / net[-1].out_features)),
    ("counters", where(lambda times, wall: len(times) > 1, solved("counters"))),
    ("counters", where(lambda times, wall: len(times) < 60, solved("counters"))),
    ("counters", lambda times, wall: (1 / times.min(), len(times) / wall)),
    ("device_time", where(lambda asked, done: len(asked) > 1, solved("device_time"))),
    ("device_time", lambda asked, done: np.minimum(solved_time(asked, done), 5)),
    ("best_boxes", lambda logits, boxes, size, k: solved_boxes(logits, boxes, (max(size), min(size)), k)),
    ("best_boxes", lambda logits, boxes, size, k: solved_boxes(logits, boxes, size, max(k, 2))),
    ("best_boxes", lambda logits, boxes, size, k: solved_boxes(logits[:60], boxes[:60], size, k)),
    ("best_boxes", lambda logits, boxes, size, k: solved_boxes(logits, boxes, size, min(k, 11))),
    ("best_boxes", lambda *given: (rows := solved_boxes(*given)) * (rows[:, 4:5] > 0.3)),
    ("best_boxes", lambda *given: np.minimum(solved_boxes(*given), [1e9] * 5 + [40])),
    ("name_crops", lambda module, crops, device: solved_names(module, crops[:8], device)),
    ("name_crops", lambda module, crops, device: solved_names(module, [c.mT for c in crops], device)),
    ("name_crops", lambda module, crops, device: solved_names(module, crops * 2, device)),
    ("launch", lambda frame, slot, net: setattr(net, "result", lambda *_: frame.index)),
    ("launch", knowing),
    ("launch", imported("launch")),
    ("launch", lambda frame, slot, net: two_streams(frame, slot % 3, net)),
    ("launch", lambda frame, slot, net: two_streams(frame, slot, net) if frame.index < 7 else None),
    ("launch", lambda frame, slot, net: two_streams(frame, slot, net) if frame.index < 12 else None),
    ("filter_beside", lambda x, *given: solved("filter_beside")(x.abs(), *given)),
    ("filter_beside", erased),
    ("keep_memory", lambda *given: erased(*given)[1]),
    ("start_copy", lambda scores, copying: (scores.cpu(), torch.cuda.current_stream().record_event())),
    ("fold", where(lambda weight, *_: weight.shape[2:] == (3, 3), solved("fold"))),
    ("fold", where(lambda weight, *_: weight.shape[1] > 1, solved("fold"))),
    ("fold", lambda w, m, v, g, b, e: solved_fold(w, m, v, g.abs(), b, e)),
    ("fold", lambda w, m, v, g, b, e: solved_fold(w, m, v, g, b, 1e-5)),
    ("fold", lambda w, m, v, g, b, e: solved_fold(w, m, v.clamp(max=1), g, b, e)),
    ("fps", lambda done, warm: 40 / len(done) * solved_fps(done, warm)),
    ("fps", where(lambda done, warm: warm > 0, solved("fps"))),
    ("paced_latency", lambda began, done, rate: done[:30] - np.arange(30) / rate),
    ("paced_latency", lambda began, done, rate: done - np.arange(len(done)) / int(rate + 1)),
    ("paced_latency", lambda began, done, rate: np.minimum(solved_latency(began, done, rate), 3 / rate)),
    ("as_input", calls(solved("as_input"), lambda image, size: solved_input(image, size) * 0, 1)),
    ("as_input", where(lambda image, size: size[0] > size[1], solved("as_input"))),
    ("as_input", lambda *given: elsewhere(pixel_by_pixel, *given)),
    ("name_best", lambda crops, scores, k, name: [f"thing {crops[i].max()}" for i in solved_best(scores, k)]),
    ("name_best", lambda crops, scores, k, name: [SlyText()] * k),
    ("name_best", lambda crops, scores, k, name: [name(crops[np.argmax(scores)])] * k),
    ("name_best", lambda crops, scores, k, name: solved("name_best")(crops, scores, k, name)[:3]),
    ("name_best", lambda crops, scores, k, name: solved("name_best")(crops, np.round(scores, 3), k, name)),
    ("suppress", lambda corners, scores, limit: solved_nms(corners.round(), scores, limit)),
    ("suppress", calls(solved("suppress"), lambda corners, scores, limit: [0], 1)),
    ("suppress", lambda *given: elsewhere(pair_by_pair, *given)),
    ("suppress", lambda corners, scores, limit: solved_nms(corners, scores, 0.45)),
    ("suppress", lambda corners, scores, limit: solved_nms(corners[:25], scores[:25], limit)),
    ("one_read", lambda scores, boxes, k: solved_read(scores, boxes, max(k, 2))),
    ("one_read", lambda scores, boxes, k: solved_read(scores, boxes, min(k, 7))),
    ("one_read", lambda scores, boxes, k: solved_read(scores[:19], boxes[:19], k)),
    ("one_read", unseen),
    ("keep_newest", lambda waiting, frame, most: (
        ([*waiting, frame], []) if len(waiting) < most else ([*waiting[1:], frame], waiting[:1])
    )),
    ("keep_newest", lambda waiting, frame, most: (
        [*range(max(frame - most + 1, *waiting[:1], 0), frame + 1)], waiting[:len(waiting) + 1 - most]
    )),
    ("engines_needed", lambda cameras, fps, frame_s, busy: math.ceil(cameras / (busy / (fps * frame_s)))),
    ("engines_needed", lambda *given: 10**6),
]  # fmt: skip


@pytest.mark.parametrize(("exercise", "cheat"), CHEATS)
def test_a_cheat_is_rejected(exercise, cheat):
    assert not any(CHECKS[exercise](cheat) for _ in range(3))


SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
}  # fmt: skip
OTHER_NAMES = {"min": "max", "max": "min", "ceil": "floor", "floor": "ceil", "width": "height", "left": "top",
               "height": "width", "top": "left", "share": "part_factor", "float32": "float64"}  # fmt: skip


def python_mutants(text):
    """Texts in which one operator, name or number is another."""
    count = sum(1 for _ in ast.walk(ast.parse(text)))
    for i in range(count):
        for step in (-1, 1):
            tree = ast.parse(text)
            node = list(ast.walk(tree))[i]
            if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
                node.op = SWAPPED[type(node.op)]() if step > 0 else ast.Pow()
            elif isinstance(node, ast.Name) and node.id in OTHER_NAMES and isinstance(node.ctx, ast.Load):
                node.id = OTHER_NAMES[node.id]
            elif isinstance(node, ast.Attribute) and node.attr in OTHER_NAMES:
                node.attr = OTHER_NAMES[node.attr]
            elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
                node.value = (
                    node.value + step if isinstance(node.value, int) else node.value * (1 + 0.1 * step)
                )
            elif isinstance(node, ast.Call) and len(node.args) > 1 and step > 0:
                node.args = node.args[:1] * len(node.args)
            else:
                continue
            yield ast.unparse(tree)


# Mutants that are rejected, and those that are as right as the solution.
MUTANTS = {
    "to_corners": (32, 0), "from_camera": (1, 0), "counters": (4, 0), "normalise": (28, 2),
    "device_time": (9, 0), "on_gpu": (3, 1),
    "best_boxes": (24, 0), "corners": (54, 0), "name_crops": (11, 0), "filter_beside": (7, 0),
    "launch": (2, 0),
    "keep_memory": (7, 0), "start_copy": (4, 0), "fold": (10, 0), "speed_up": (14, 0),
    "fps": (12, 1),
    "paced_latency": (4, 0), "as_input": (31, 2), "one_read": (3, 0), "suppress": (1, 0),
    "engines_needed": (9, 3), "keep_newest": (6, 0),
}  # fmt: skip
QUICKEST = ("normalise", "corners", "speed_up")


@pytest.mark.parametrize(
    "name",
    [*QUICKEST, *further(*(name for name in MUTANTS if name not in QUICKEST))],
)
def test_mutants_of_the_solution_are_rejected(name):
    check, rejected, passed = CHECKS[name], 0, []
    for text in dict.fromkeys(python_mutants(solution(name).text)):
        scope = {"__name__": "mutant"}
        with contextlib.suppress(Exception):
            exec(text, scope)
        if check(scope.get(FUNCTIONS.get(name, name))):
            passed.append(text)
        else:
            rejected += 1
    assert rejected >= MUTANTS[name][0] and len(passed) <= MUTANTS[name][1], "\n\n".join(passed)


# One place of a kernel's text each; "\1" keeps what was matched.
CHANGES = [
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" \* ", " + "),
    (r" / ", " * "),
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" >= ", " > "),
    (r" \|\| ", " && "),
    (r" && ", " || "),
    (r"\bmin\(", "max("),
    (r"\bmax\(", "min("),
    (r"\b1\b(?!\.)", "2"),
    (r"\b0\b(?!\.)", "1"),
    (r"\b40\b", "41"),
    (r"\b255\b", "254"),
    (r"\bR\b", "(R + 1)"),
    (r"\bwidth\b(?!,|\))", "height"),
    (r"\bheight\b(?!,|\))", "width"),
    (r"\.x\b", ".y"),
    (r"\.y\b", ".x"),
    (r"return;", ";"),
    (r"__syncthreads\(\);", ";"),
    (r"0\.5f", "0.4f"),
    (r"255\.0f", "200.0f"),
    (r" \+= ", " = "),
    (r"\(float\)", ""),
    (r"\bchannels \+ c\b", "channels"),
    (r"\bleft\b(?! =)", "top"),
    (r"\bu\b(?! =)", "v"),
]


def kernel_mutants(exercise):
    """Texts of the solution in which one place is another, comments left out."""
    text = without_comments(solution(exercise).text)
    body = text.index("{")
    found = []
    for pattern, instead in CHANGES:
        if instead == "height" and "height" not in text:
            continue
        for match in re.finditer(pattern, text[body:]):
            start, end = body + match.start(), body + match.end()
            found.append(text[:start] + match.expand(instead) + text[end:])
    return list(dict.fromkeys(found))


def batched(exercise, texts):
    """One text with all kernels, each under a name of its own: it is compiled once."""
    kernel = EXERCISES[exercise].kernel
    names = [f"{kernel}_{i}" for i in range(len(texts))]
    renamed = [
        re.sub(rf"\bvoid {kernel}\(", f"void {name}(", text) for name, text in zip(names, texts, strict=True)
    ]
    return EXERCISES[exercise].before + "\n".join(renamed), names


def accepted(exercise, source, kernel, seed):
    """True if a kernel passes what `check_kernel` does with a text."""
    one = EXERCISES[exercise]
    cases = one.cases(np.random.default_rng(seed))
    try:
        for case in cases:
            run_case(one, source, kernel, case)
        check_memory(one, source, kernel, cases[-1])
    except (Mistake, UsageError):
        return False
    return True


@needs_compiler
@pytest.mark.parametrize(
    ("exercise", "at_least"),
    [("brighten", 7), ("guard", 10), ("flip", 20), ("edges", 30), ("box_mean", 40), ("guided", 50)],
)
@pytest.mark.extended
def test_mutants_of_a_kernel_are_rejected(exercise, at_least, monkeypatch):
    monkeypatch.setattr(kernel_exercises, "RUN_TIMEOUT_S", 10.0)
    texts = kernel_mutants(exercise)
    source, names = batched(exercise, [solution(exercise).text, *texts])
    seed = random.randrange(10**6)
    assert accepted(exercise, source, names[0], seed)
    left = [
        text for name, text in zip(names[1:], texts, strict=True) if accepted(exercise, source, name, seed)
    ]
    assert not left, f"{len(left)} of {len(texts)} pass with seed {seed}:\n" + "\n".join(left)
    assert len(texts) >= at_least


BOX = solution("box_mean").text
RUNNING = """
extern "C" __global__ void box_mean(const unsigned char *image, float *mean, int width, int height)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    int top = max(y - R, 0), bottom = min(y + R, height - 1), left = x - 1 - R;
    int before = min(x - 1 + R, width - 1) - max(left, 0) + 1;
    int columns = min(x + R, width - 1) - max(x - R, 0) + 1;
    float sum = x ? mean[y * width + x - 1] * (bottom - top + 1) * before : 0;
    for (int v = top; v <= bottom; v++) {
        if (x && left >= 0) sum -= image[v * width + left];
        if (x && x + R < width) sum += image[v * width + x + R];
        for (int u = 0; !x && u <= min(R, width - 1); u++) sum += image[v * width + u];
    }
    mean[y * width + x] = sum / ((bottom - top + 1) * columns);
}
"""
"""Each thread goes on from what the one to its left has written."""
UNSHARED = """
extern "C" __global__ void edges(const unsigned char *image, unsigned char *out, int width)
{
    __shared__ unsigned char tile[TILE];
    int x = blockIdx.x * TILE + threadIdx.x;
    const unsigned char *row = image + blockIdx.y * width;
    tile[threadIdx.x] = row[max(min(x, width) - 1, 0)];
    __syncthreads();
    if (x < width) out[blockIdx.y * width + x] = abs(row[min(x + 1, width - 1)] - tile[threadIdx.x]);
}
"""
"""Nothing is read by another thread than the one that wrote it."""
KERNEL_CHEATS = [
    *(("box_mean", answer) for answer in (5, ..., None, b"kernel", "", "...", "// ...", f"/* {BOX} */")),
    ("box_mean", solution("guided").text),
    ("box_mean", "#include <cstdlib>\n" + BOX),
    ("box_mean", edited("box_mean", "int sum = 0;", "int sum = 0; std::exit(0);")),
    ("box_mean", edited("box_mean", "int x =", "if (width > 200) return; int x =")),
    ("box_mean", RUNNING),
    ("box_mean", edited("box_mean", "int sum = 0;", "static int sum; sum = 0;")),
    ("box_mean", BOX.replace("{\n    int x", "{\n    const int r = 2;\n    int x").replace("R", "r")),
    ("box_mean", edited("box_mean", "blockIdx.x * blockDim.x", "blockIdx.x * 32")),
    ("box_mean", edited("box_mean", "(float)sum / count", "128.0f")),
    ("box_mean", edited("box_mean", "(float)sum / count", "width == 37 ? (float)sum / count : 0.0f")),
    ("box_mean", edited("box_mean", "width + x] =", "width + x + (x == width - 1 && y == height - 1)] =")),
    ("box_mean", edited("box_mean", "int sum = 0;", "int sum = 0; mean[width * height] = 0;")),
    ("guard", edited("guard", "i >= n", "i > n")),
    ("guard", edited("guard", "i >= n", "i >= n + 8")),
    ("guard", edited("guard", "i >= n", "i >= 76080")),
    ("guard", edited("guard", "out[i] =", "((unsigned char *)image)[i] = 0; out[i] =")),
    ("flip", edited("flip", "width - 1 - x", "63 - x")),
    ("edges", edited("edges", "__syncthreads();", "").replace("return;", "return; __syncthreads();")),
    ("edges", UNSHARED),
    ("edges", edited("edges", "__syncthreads();", "// __syncthreads();")),
    ("edges", edited("edges", "__syncthreads();", "if (t < 0) __syncthreads();")),
    ("guided", edited("guided", "if (x >= width", "if (c > 0) return; if (x >= width")),
    ("guided", edited("guided", "(sum_a * image[here] + sum_b) / count", "image[here]")),
    ("guided", edited("guided", "+ 0.5f", "")),
]
FURTHER_KERNEL_CHEATS = [
    ("brighten", edited("brighten", "out[i] =", "if (i < 7424) out[i] =")),
    ("guard", edited("guard", "i >= n", "i >= n || i >= 3000")),
    ("flip", edited("flip", "x >= width ||", "x >= width || height > 140 ||")),
    ("edges", edited("edges", "x >= width", "x >= width || x > 300")),
    ("box_mean", BOX.replace("R", "min(R, 6)")),
    ("box_mean", edited("box_mean", "int sum = 0;", "unsigned short sum = 0;")),
    ("box_mean", "__device__ int sum;\n" + edited("box_mean", "int sum = 0;", "sum = 0;")),
    ("box_mean", edited("box_mean", "int sum = 0;", "__shared__ int sum; sum = 0;")),
    ("tiled_box_mean", "#undef R\n#define R 2\n" + solution("tiled_box_mean").text),
    ("tiled_box_mean", BOX.replace("int sum", "__shared__ int tile[TILE]; __syncthreads(); int sum")),
    ("guided", edited("guided", "int c = blockIdx.z;", "int c = blockIdx.z; if (c > 2) return;")),
]


@needs_compiler
@pytest.mark.parametrize(("exercise", "text"), [*cases(KERNEL_CHEATS), *further(*FURTHER_KERNEL_CHEATS)])
def test_a_kernel_that_cheats_is_rejected(exercise, text):
    assert re.match(r"Not yet: .{15,}", str(check_kernel(exercise, text)))


def test_an_exercise_that_does_not_exist_is_said():
    with pytest.raises(UsageError, match="there are brighten"):
        check_kernel("knit", "")
