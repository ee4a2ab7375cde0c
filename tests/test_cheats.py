"""Checks of exercises cannot be cheated: whatever is given is judged, by inputs that are new each time."""

import ast
import copy
import math
import random
import re

import numpy as np
import pytest
import torch
from test_exercises import CHECKS, PYTHON, cases, edited, needs_compiler

from labkit.core.errors import UsageError
from labkit.lessons import kernel_exercises
from labkit.lessons.exercise import CheckResult, Mistake, solution, solved
from labkit.lessons.kernel_exercises import EXERCISES, check_kernel, check_memory, run_case, without_comments

normalise, corners, speed_up = map(solved, ("normalise", "corners", "speed_up"))


class Sly:
    """Equal to everything, and no array."""

    def __eq__(self, other):
        return True

    __hash__ = None

    def __array__(self, *args, **kwargs):
        raise ValueError("guess")


def leaves(*given):
    raise SystemExit


def deep(*given):
    return deep(*given)


RETURNED = [
    5, ..., None, "right", [], {}, object(), True, 1 + 2j, math.nan, math.inf, [[1], [1, 2]], Sly(),
    np.zeros(3), np.zeros((0,)), torch.ones(3, requires_grad=True), ([], []), (None, None),
    b"0", {1, 2}, iter([1]), np.array(["a"]), -1.0, (torch.ones(2), Sly()),
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


def memorising(function):
    """A function, and one that gives back what the first has answered, else the same for other inputs."""
    answers = {}

    def key(given):
        return tuple(np.asarray(each).tobytes() for each in given)

    def learn(*given):
        known = key(given)
        answers[known] = copy.deepcopy(function(*given))
        return answers[known]

    def recite(*given):
        return copy.deepcopy(answers.get(key(given), next(iter(answers.values()))))

    return learn, recite


ON_THE_HOST = [each for each in PYTHON if each not in ("launch", "on_gpu", "best_boxes", "name_crops",
               "filter_beside", "keep_memory", "start_copy", "one_read", "name_best")]  # fmt: skip


@pytest.mark.parametrize("exercise", ON_THE_HOST)
def test_answers_that_were_memorised_are_rejected_and_a_seed_draws_them_again(exercise):
    check, right = CHECKS[exercise], solved(exercise)
    learn, recite = memorising(right)
    assert check(learn, seed=5)
    assert check(recite, seed=5)
    for _ in range(3):
        assert not check(recite)
    assert "seed=5" in str(check(right, seed=5))


def by_shape(image):
    pad = np.zeros((1, 3, *image.shape[:2]), np.float32)
    part = normalise(image[:32, :32])
    pad[:, :, : part.shape[2], : part.shape[3]] = part
    return pad


def calls(function, wrong, times):
    """Right for some calls, then wrong."""
    left = [times]

    def answer(*given):
        left[0] -= 1
        return function(*given) if left[0] >= 0 else wrong(*given)

    return answer


SPEED_UPS = {
    (0.3, 4.0): 1 / 0.775,
    (0.5, 2.0): 4 / 3,
    (0.9, 10.0): 1 / 0.19,
    (0.0, 5.0): 1.0,
    (1.0, 3.0): 3.0,
}
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
    ("as_input", calls(solved("as_input"), lambda image, size: solved("as_input")(image, size) * 0, 1)),
    ("suppress", calls(solved("suppress"), lambda corners, scores, limit: [0], 1)),
]


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


def same_everywhere(name, mutant, right):
    """True if two functions give the same for many inputs of the exercise's kind."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        if name == "normalise":
            given = (rng.integers(0, 256, (*rng.integers(1, 9, 2), 3), dtype=np.uint8),)
        elif name == "corners":
            box = np.round(rng.uniform(-20, 60, 4), int(rng.integers(0, 3))).astype(np.float32)
            given = (np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])]),
                     *map(int, rng.integers(1, 40, 2)))  # fmt: skip
        else:
            given = (float(rng.choice((0, 0.25, 1, rng.random()))), float(rng.lognormal(1, 1)))
        try:
            one, other = np.asarray(mutant(*given)), np.asarray(right(*given))
        except Exception:
            return False
        if one.shape != other.shape or one.dtype != other.dtype or not np.allclose(one, other, 1e-6, 1e-6):
            return False
    return True


@pytest.mark.parametrize(("name", "at_least"), [("normalise", 25), ("corners", 30), ("speed_up", 12)])
def test_mutants_of_the_solution_are_rejected(name, at_least):
    check, right = CHECKS[name], solved(name)
    rejected = 0
    for text in dict.fromkeys(python_mutants(solution(name).text)):
        scope = {}
        try:
            exec(text, scope)
        except Exception:
            continue
        if check(scope[name]):
            assert same_everywhere(name, scope[name], right), text
        else:
            rejected += 1
    assert rejected >= at_least


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
KERNEL_CHEATS = [
    *(("box_mean", answer) for answer in (5, ..., None, b"kernel", "", "...", "// ...", f"/* {BOX} */")),
    ("box_mean", solution("guided").text),
    ("box_mean", "#include <cstdlib>\n" + BOX),
    ("box_mean", edited("box_mean", "int sum = 0;", "int sum = 0; std::exit(0);")),
    ("box_mean", edited("box_mean", "int x =", "if (width > 64) return; int x =")),
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
    ("edges", edited("edges", "__syncthreads();", "// __syncthreads();")),
    ("edges", edited("edges", "__syncthreads();", "if (t < 0) __syncthreads();")),
    ("guided", edited("guided", "if (x >= width", "if (c > 0) return; if (x >= width")),
    ("guided", edited("guided", "(sum_a * image[here] + sum_b) / count", "image[here]")),
    ("guided", edited("guided", "+ 0.5f", "")),
]


@pytest.mark.parametrize(("exercise", "text"), cases(KERNEL_CHEATS))
def test_a_kernel_that_cheats_is_rejected(exercise, text):
    assert re.match(r"Not yet: .{15,}", str(check_kernel(exercise, text)))


def test_an_exercise_that_does_not_exist_is_said():
    with pytest.raises(UsageError, match="there are brighten"):
        check_kernel("knit", "")
