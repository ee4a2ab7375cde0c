"""Checks of exercises cannot be cheated: whatever is given is judged, by inputs that are new each time."""

import ast
import copy
import math
import random
import re
import shutil

import numpy as np
import pytest
import torch

from labkit.core.errors import UsageError
from labkit.lessons import kernel_exercises
from labkit.lessons.exercise import CheckResult, Mistake, solution
from labkit.lessons.kernel_exercises import EXERCISES, check_kernel, check_memory, run_case, without_comments
from labkit.lessons.nb01_cpu_baseline import check_normalise
from labkit.lessons.nb03_combined_models import check_best_boxes, check_corners, check_name_crops
from labkit.lessons.nb06_optimizations import check_speed_up

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run kernels on the CPU")


def from_solution(name):
    """The function that a solution defines."""
    scope = {}
    exec(solution(name).text, scope)
    return scope[name]


normalise, corners, speed_up = map(from_solution, ("normalise", "corners", "speed_up"))
PYTHON = {
    "normalise": (check_normalise, normalise),
    "corners": (check_corners, corners),
    "speed_up": (check_speed_up, speed_up),
}
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


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
    np.zeros(3), np.zeros((0,)), torch.ones(3, requires_grad=True),
    b"0", {1, 2}, iter([1]), np.array(["a"]), -1.0,
]  # fmt: skip
GIVEN = [
    5,
    ...,
    None,
    "right",
    [],
    {},
    object(),
    1.5,
    Sly(),
    leaves,
    deep,
    lambda: 1,
    iter([1]),
    np.zeros(2),
    int,
]


@pytest.mark.parametrize(
    "check", [*(check for check, _ in PYTHON.values()), check_best_boxes, check_name_crops]
)
def test_whatever_is_given_or_returned_is_answered_in_a_sentence(check):
    for answer in [*GIVEN, *(lambda *given, value=value: value for value in RETURNED)]:
        result = check(answer)
        assert isinstance(result, CheckResult)
        assert not result
        assert re.search(r"Not yet: .{15,} \(seed=\d+ draws the same inputs\)$", str(result), re.DOTALL)


def memorising(function):
    """A function, and one that gives back what the first has answered, else zeros."""
    answers = {}

    def key(given):
        return tuple(np.asarray(each).tobytes() for each in given)

    def learn(*given):
        answers[key(given)] = copy.deepcopy(function(*given))
        return answers[key(given)]

    def recite(*given):
        known = answers.get(key(given))
        return np.zeros_like(next(iter(answers.values()))) if known is None else known

    return learn, recite


@pytest.mark.parametrize("name", PYTHON)
def test_answers_that_were_memorised_are_rejected_and_a_seed_draws_them_again(name):
    check, right = PYTHON[name]
    learn, recite = memorising(right)
    assert check(learn, seed=5)
    assert check(recite, seed=5)
    for _ in range(3):
        assert not check(recite)
    assert "seed=5" in str(check(right, seed=5))
    assert str(check(right)) != str(check(right))


def small_only(image):
    return normalise(image) if image.size < 3000 else np.zeros((1, 3, *image.shape[:2]), np.float32)


def cropped(image):
    return normalise(np.ascontiguousarray(image[:6, :9]))


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
    (check_normalise, small_only), (check_normalise, cropped), (check_normalise, by_shape),
    (check_normalise, calls(normalise, np.zeros_like, 2)),
    (check_normalise, lambda image: np.full((1, 3, *image.shape[:2]), 0.1, np.float32)),
    (check_normalise, lambda image: normalise(np.minimum(image, 254))),
    (check_normalise, lambda image: normalise(np.full_like(image, image.mean()))),
    (check_normalise, lambda image: normalise(image).astype(np.float16).astype(np.float32)),
    (check_normalise, lambda image: normalise(image).astype(object)),
    (check_normalise, lambda image: np.array(normalise(image).tolist(), ">f8")),
    (check_corners, lambda box, w, h: corners(box, 20, 10)),
    (check_corners, lambda box, w, h: corners(box, w, h) if (w, h) == (20, 10) else (0, 0, w, h)),
    (check_corners, lambda box, w, h: (0, 0, w, h)),
    (check_corners, lambda box, w, h: [str(side) for side in corners(box, w, h)] + [""]),
    (check_corners, calls(corners, lambda box, w, h: (0, 0, 1, 1), 7)),
    (check_corners, lambda box, w, h: (*corners(box, w, h), 0)),
    (check_speed_up, lambda s, f: SPEED_UPS.get((s, f), 1.0)),
    (check_speed_up, lambda s, f: round(speed_up(s, f), 2)),
    (check_speed_up, lambda s, f: min(speed_up(s, f), 3.0)),
    (check_speed_up, lambda s, f: max(speed_up(s, f), 1.0)),
    (check_speed_up, lambda s, f: [speed_up(s, f)] * 2),
    (check_speed_up, calls(speed_up, lambda s, f: 1.0, 6)),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(CHEATS)))
def test_a_cheat_is_rejected(i):
    check, cheat = CHEATS[i]
    assert not any(check(cheat) for _ in range(3))


WRITTEN_OTHERWISE = [
    (check_normalise, lambda image: torch.from_numpy(normalise(image))),
    (
        check_normalise,
        lambda image: np.moveaxis((np.float32(image) / 255 - MEAN) / STD, 2, 0)[None].astype("f4"),
    ),
    (
        check_normalise,
        lambda image: (
            (image.transpose(2, 0, 1)[None] / np.float32(255) - np.float32(MEAN)[:, None, None])
            / np.float32(STD)[:, None, None]
        ),
    ),
    (
        check_normalise,
        lambda image: np.stack([(image[..., c] / 255 - MEAN[c]) / STD[c] for c in range(3)])[None].astype(
            np.float32
        ),
    ),
    (
        check_normalise,
        lambda image: (
            torch.from_numpy(image)
            .permute(2, 0, 1)[None]
            .div(255)
            .sub(torch.tensor(MEAN, dtype=torch.float32)[:, None, None])
            .div(torch.tensor(STD, dtype=torch.float32)[:, None, None])
        ),
    ),
    (check_corners, lambda box, w, h: np.array(corners(box, w, h))),
    (check_corners, lambda box, w, h: [float(side) for side in corners(box, w, h)]),
    (check_corners, lambda box, w, h: torch.tensor(corners(box, w, h))),
    (
        check_corners,
        lambda box, w, h: (
            left := int(np.clip(np.floor(box[0]), 0, w - 1)),
            top := int(np.clip(np.floor(box[1]), 0, h - 1)),
            int(np.clip(np.ceil(box[2]), left + 1, w)),
            int(np.clip(np.ceil(box[3]), top + 1, h)),
        ),
    ),
    (check_speed_up, lambda s, f: f / (f * (1 - s) + s)),
    (check_speed_up, lambda s, f: np.float64(1 / ((1 - s) + s / f))),
    (check_speed_up, lambda s, f: torch.tensor((1 - s + s / f) ** -1, dtype=torch.float64)),
]


@pytest.mark.parametrize("i", range(len(WRITTEN_OTHERWISE)))
def test_a_right_answer_passes_however_it_is_written(i):
    check, answer = WRITTEN_OTHERWISE[i]
    for _ in range(5):
        assert check(answer), str(check(answer))


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


@pytest.mark.parametrize("name", PYTHON)
def test_mutants_of_the_solution_are_rejected(name):
    check, right = PYTHON[name]
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
    assert rejected >= {"normalise": 25, "corners": 30, "speed_up": 12}[name]


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
@pytest.mark.parametrize("exercise", ["brighten", "guard", "flip", "edges", "box_mean", "guided"])
@pytest.mark.extended
def test_mutants_of_a_kernel_are_rejected(exercise, monkeypatch):
    monkeypatch.setattr(kernel_exercises, "RUN_TIMEOUT_S", 10.0)
    texts = kernel_mutants(exercise)
    source, names = batched(exercise, [solution(exercise).text, *texts])
    seed = random.randrange(10**6)
    assert accepted(exercise, source, names[0], seed)
    left = [
        text for name, text in zip(names[1:], texts, strict=True) if accepted(exercise, source, name, seed)
    ]
    assert not left, f"{len(left)} of {len(texts)} pass with seed {seed}:\n" + "\n".join(left)
    assert (
        len(texts)
        >= {"brighten": 7, "guard": 10, "flip": 20, "edges": 30, "box_mean": 40, "guided": 50}[exercise]
    )


BOX, GUIDED, EDGES = (solution(name).text for name in ("box_mean", "guided", "edges"))
GUARD, FLIP = solution("guard").text, solution("flip").text


def edited(text, *changes):
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


KERNEL_CHEATS = [
    ("box_mean", 5),
    ("box_mean", ...),
    ("box_mean", None),
    ("box_mean", b"kernel"),
    ("box_mean", ""),
    ("box_mean", "..."),
    ("box_mean", "// ..."),
    ("box_mean", f"/* {BOX} */"),
    ("box_mean", GUIDED),
    ("box_mean", "#include <cstdlib>\n" + BOX),
    ("box_mean", edited(BOX, ("int sum = 0;", "int sum = 0; std::exit(0);"))),
    ("box_mean", edited(BOX, ("int x =", "if (width > 64) return; int x ="))),
    (
        "box_mean",
        edited(BOX, ("{\n    int x", "{\n    const int r = 2;\n    int x"), ("- R", "- r"), ("+ R", "+ r")),
    ),
    (
        "box_mean",
        edited(
            BOX, ("blockIdx.x * blockDim.x", "blockIdx.x * 32"), ("blockIdx.y * blockDim.y", "blockIdx.y * 8")
        ),
    ),
    ("box_mean", edited(BOX, ("(float)sum / count", "128.0f"))),
    ("box_mean", edited(BOX, ("(float)sum / count", "width == 37 ? (float)sum / count : 0.0f"))),
    (
        "box_mean",
        edited(BOX, ("mean[y * width + x] =", "mean[y * width + x + (x == width - 1 && y == height - 1)] =")),
    ),
    ("box_mean", edited(BOX, ("int sum = 0;", "int sum = 0; mean[width * height] = 0;"))),
    ("guard", edited(GUARD, ("i >= n", "i > n"))),
    ("guard", edited(GUARD, ("i >= n", "i >= n + 8"))),
    ("guard", edited(GUARD, ("i >= n", "i >= 76080"))),
    ("guard", edited(GUARD, ("out[i] =", "((unsigned char *)image)[i] = 0; out[i] ="))),
    ("flip", edited(FLIP, ("width - 1 - x", "63 - x"))),
    (
        "edges",
        edited(
            EDGES,
            (
                "abs(tile[t + 2] - tile[t])",
                "abs(row[min(x + 1, width - 1)] - row[max(x - 1, 0)] + 0 * tile[t])",
            ),
            ("__syncthreads();", "// __syncthreads();"),
        ),
    ),
    ("edges", edited(EDGES, ("__syncthreads();", "if (t < 0) __syncthreads();"))),
    ("guided", edited(GUIDED, ("if (x >= width", "if (c > 0) return; if (x >= width"))),
    ("guided", edited(GUIDED, ("(sum_a * image[here] + sum_b) / count", "image[here]"))),
    ("guided", edited(GUIDED, ("+ 0.5f", ""))),
]


@needs_compiler
@pytest.mark.parametrize("i", range(len(KERNEL_CHEATS)))
def test_a_kernel_that_cheats_is_rejected(i):
    exercise, text = KERNEL_CHEATS[i]
    result = check_kernel(exercise, text)
    assert not result
    assert re.match(r"Not yet: .{15,}", str(result))


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
KERNELS_OTHERWISE = [
    ("box_mean", INSIDE),
    ("box_mean", edited(INSIDE, ("float sum = 0", "double sum = 0"))),
    (
        "box_mean",
        "__device__ int first(int x) { return max(x - R, 0); }\n"
        + edited(BOX, ("max(x - R, 0)", "first(x)"), ("max(y - R, 0)", "first(y)")),
    ),
    ("box_mean", "/* ... */\n" + BOX),
    (
        "brighten",
        edited(
            GUARD,
            (", int n", ""),
            ("    if (i >= n) return;", "    "),
            ("min(image[i] + 40, 255)", "image[i] > 215 ? 255 : image[i] + 40"),
        ),
    ),
    ("guard", edited(GUARD, ("if (i >= n) return;", "if (i < n)"))),
    (
        "flip",
        edited(
            FLIP,
            (
                "out[y * width + x] = image[y * width + width - 1 - x]",
                "out[(y + 1) * width - 1 - x] = image[y * width + x]",
            ),
        ),
    ),
    ("edges", edited(EDGES, ("if (t == TILE - 1) tile[TILE + 1]", "else if (t == TILE - 1) tile[t + 2]"))),
    ("guided", edited(GUIDED, ("float sum_a = 0.0f, sum_b = 0.0f", "double sum_a = 0, sum_b = 0"))),
    (
        "guided",
        edited(
            GUIDED, ("fminf(fmaxf(q, 0.0f), 255.0f) + 0.5f", "q < 0 ? 0.0f : q > 254.5f ? 255.0f : q + 0.5f")
        ),
    ),
]


@needs_compiler
@pytest.mark.parametrize("i", range(len(KERNELS_OTHERWISE)))
def test_a_right_kernel_passes_however_it_is_written(i):
    exercise, text = KERNELS_OTHERWISE[i]
    assert check_kernel(exercise, text), str(check_kernel(exercise, text))


def test_an_exercise_that_does_not_exist_is_said():
    with pytest.raises(UsageError, match="there are brighten"):
        check_kernel("knit", "")
