"""Exercises in CUDA: kernels that a learner writes, run thread by thread on the CPU and checked.

Each call draws images, sizes, blocks and window radii anew. An answer is the kernel's whole text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UnavailableError, UsageError
from labkit.filters.emulate import diagnose, emulate_launch
from labkit.filters.kernel_source import kernel_names, kernel_source
from labkit.filters.reference import box_mean, window_counts
from labkit.lessons.exercise import CheckResult, Mistake, Rng, exercise_check

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]

RUN_TIMEOUT_S = 20.0
SPARE = 256
"""Values behind the result, which no thread may touch."""

HOST_ONLY = re.compile(r"#\s*include|\bstd\s*::|\bcuda_on_cpu\b|\basm\b|\bmain\b")
OUTSIDE = (
    "a thread reads or writes outside the image: the last blocks hang over the border, so threads "
    "beyond it must return, and windows must be clipped"
)
RACE = (
    "a thread reads shared memory that another one may not have written yet: __syncthreads() belongs "
    "between writing and reading, where every thread of the block comes by"
)
COMMON = (
    "threads write to the same variable at the same time: what is __shared__, static or declared outside "
    "the kernel is there once for all of them; give each thread a variable of its own"
)
ALONE = (
    "the result is right although no thread reads what another one has put into shared memory: load each "
    "value into it once, and let all threads of the block read it there"
)


@dataclass(frozen=True)
class Case:
    """One launch of a learner's kernel.

    Attributes:
        args: in the kernel's order, None in the place of the result.
        right: the result, unrounded.
        grid, block: of the launch.
        mistakes: well-known wrong results, by what is wrong.
        defines: macros, such as R.
    """

    args: tuple[Any, ...]
    right: Floats
    grid: tuple[int, ...]
    block: tuple[int, ...]
    mistakes: Mapping[str, Floats]
    defines: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelExercise:
    """A kernel to write.

    Attributes:
        kernel: name of the `__global__` function.
        cases: draws launches; the last one also runs under the sanitizer.
        dtype: of the result.
        before: text that stands before the learner's.
        shared: the kernel has to use shared memory.
    """

    kernel: str
    cases: Callable[[Rng], list[Case]]
    dtype: str = "uint8"
    before: str = ""
    shared: bool = False


def check_kernel(exercise: str, text: str, *, seed: int | None = None) -> CheckResult:
    """Check a kernel, the whole text from `extern "C" __global__ void` on.

    Args:
        exercise: a name in `EXERCISES`, e.g. "box_mean".
        text: CUDA.
        seed: draws the same images and sizes again; None draws new ones.

    Raises:
        UsageError: there is no such exercise.
    """
    if exercise not in EXERCISES:
        raise UsageError(f"there is no kernel {exercise!r} to write; there are {', '.join(EXERCISES)}")
    return _check((exercise, text), seed=seed)


@exercise_check
def _check(answer: tuple[str, Any], rng: Rng) -> str:
    name, text = answer
    exercise = EXERCISES[name]
    if not isinstance(text, str):
        raise Mistake(f"give the kernel's text, a str, not {type(text).__name__}")
    code = without_comments(text)
    if exercise.kernel not in kernel_names(code):
        found = ", ".join(kernel_names(code)) or "none"
        raise Mistake(
            f'the text has to hold extern "C" __global__ void {exercise.kernel}(...); its kernels: {found}'
        )
    if host := HOST_ONLY.search(code):
        raise Mistake(f"{host[0]!r} belongs to programs on the host; a kernel has no use for it")
    if exercise.shared and ("__shared__" not in code or "__syncthreads" not in code):
        raise Mistake(
            "the values go through shared memory here: an array declared __shared__, and __syncthreads() "
            "between writing and reading it"
        )
    try:
        cases = exercise.cases(rng)
        for case in cases:
            run_case(exercise, exercise.before + code, exercise.kernel, case)
        common = _has_common_memory(code)
        check_memory(exercise, exercise.before + code, exercise.kernel, cases[-1], common=common)
    except UsageError as error:
        raise Mistake(OUTSIDE if "crashed" in str(error) else str(error)) from error
    except UnavailableError as error:
        raise Mistake(f"this cannot be checked here: {error}") from error
    return "every value is right, at the borders too, and no thread leaves its memory"


def without_comments(text: str) -> str:
    """CUDA text with its comments blanked out; lines keep their numbers."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)


def run_case(exercise: KernelExercise, source: str, kernel: str, case: Case) -> None:
    """Run one launch and compare its result.

    Raises:
        Mistake: the result is not right, or memory beside it was changed.
        UsageError: as `emulate_launch`.
    """
    memory = _leftovers(case.right.size + SPARE, exercise.dtype)
    before = memory.copy()
    args = [
        memory if arg is None else np.copy(arg) if isinstance(arg, np.ndarray) else arg for arg in case.args
    ]
    emulate_launch(source, kernel, args, case.grid, case.block, case.defines, timeout_s=RUN_TIMEOUT_S)
    for given, arg in zip(case.args, args, strict=True):
        if isinstance(given, np.ndarray) and not np.array_equal(given, arg):
            raise Mistake("your kernel writes into its input, which other threads still read")
    got = memory[: case.right.size].reshape(case.right.shape)
    if not np.array_equal(memory[got.size :], before[got.size :]):
        raise Mistake(OUTSIDE)
    if not _agrees(got, case.right):
        raise Mistake(_cause(got, before[: got.size].reshape(got.shape), case))


def _has_common_memory(code: str) -> bool:
    """True where variables exist once for several threads: shared, static, or declared outside braces."""
    outside, inner = code, ""
    while outside != inner:
        inner, outside = outside, re.sub(r"\{[^{}]*\}", "", outside)
    return ";" in outside or re.search(r"__shared__|\bstatic\b", code) is not None


def check_memory(
    exercise: KernelExercise, source: str, kernel: str, case: Case, *, common: bool = False
) -> None:
    """Run one launch under sanitizers of the compiler; a machine without one passes.

    Args:
        common: threads have variables in common, as in exercises with shared memory: races are looked for.

    Raises:
        Mistake: a thread leaves the arrays, threads race for variables that they have in common, or
            shared memory is to be used and none of them reads from it what another one wrote.
    """
    out = _leftovers(case.right.size, exercise.dtype)
    args = [out if arg is None else arg for arg in case.args]
    launch = (source, kernel, args, case.grid, case.block, case.defines)
    with suppress(UnavailableError):
        if diagnose(*launch, sanitizer="address"):
            raise Mistake(OUTSIDE)
    with suppress(UnavailableError):
        if (exercise.shared or common) and diagnose(*launch, sanitizer="thread"):
            raise Mistake(RACE if exercise.shared else COMMON)
    if exercise.shared and _is_right_alone(exercise, source, kernel, case):
        raise Mistake(ALONE)


def _is_right_alone(exercise: KernelExercise, source: str, kernel: str, case: Case) -> bool:
    """True if the result is right also where each thread has shared memory of its own."""
    alone = replace(case, defines={**case.defines, "__shared__": "static thread_local"})
    with suppress(Mistake, UsageError):
        run_case(exercise, source, kernel, alone)
        return True
    return False


def _leftovers(size: int, dtype: str) -> NDArray[Any]:
    """Random values where a GPU would have leftovers: a kernel must write what it returns."""
    return np.random.default_rng().integers(0, 256, size).astype(dtype)


def _agrees(got: NDArray[Any], right: Floats) -> bool:
    """True where bytes are the right values rounded, and floats the right values."""
    if got.dtype == np.float32:
        return bool(np.allclose(got, right, rtol=1e-5, atol=1e-3))
    # float32 sums may round a value that lies half-way to the other side
    halfway = np.abs(right - np.floor(right) - 0.5) < 2e-3
    return bool(np.all((got == np.floor(right + 0.5)) | (halfway & (np.abs(got - right) < 0.51))))


def _cause(got: NDArray[Any], before: NDArray[Any], case: Case) -> str:
    """The well-known mistake that gives just these values, or where they differ."""
    for reason, values in case.mistakes.items():
        if _agrees(got, values) and not _agrees(values.astype(got.dtype), case.right):
            return reason
    near_level = np.abs(case.right - np.round(case.right)) < 2e-3  # float32 may fall to either side
    cut = (got == np.floor(case.right)) | (near_level & (np.abs(got - case.right) < 1.01))
    if got.dtype == np.uint8 and np.all(cut):
        return "the result is cut to a whole grey level, half a level too dark on average: add 0.5f first"
    right = np.floor(case.right + 0.5) if got.dtype == np.uint8 else case.right
    wrong = ~np.isclose(got, right, rtol=1e-5, atol=1e-3)
    untouched = wrong & (got == before)
    if untouched.mean() > 0.9 * wrong.mean():
        return f"{untouched.sum()} of {got.size} values are never written; does every value have its thread?"
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    named = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column", "channel"), where, strict=False))
    named = f"place {where[0]}" if got.ndim == 1 else named
    return (
        f"{wrong.sum()} of {got.size} values are wrong; at {named} of {got.shape} it gives {got[where]:g}, "
        f"right is {case.right[where]:.4g}"
    )


def _noise(rng: Rng, shape: Sequence[int]) -> Image:
    """Noise on a bright and a dark half: flat parts, an edge, and both ends of the range."""
    halves = np.where(np.arange(shape[1] if len(shape) > 1 else shape[0]) % 64 < 32, 60, 190)
    halves = halves.reshape(1, -1, *[1] * (len(shape) - 2)) if len(shape) > 1 else halves
    image = halves + rng.normal(0, 40, shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _sizes(rng: Rng) -> list[tuple[int, int]]:
    """(height, width) px: an ordinary one, one below a window, a row or a column, and a whole picture."""
    thin = (1, int(rng.integers(2, 90)))
    return [
        (int(rng.integers(17, 40)), int(rng.integers(41, 70))),
        (int(rng.integers(1, 4)), int(rng.integers(1, 5))),
        thin if rng.random() < 0.5 else thin[::-1],
        (int(rng.integers(200, 400)), int(rng.integers(641, 800))),
        (int(rng.integers(9, 30)), int(rng.integers(9, 50))),
    ]


def _blocks(rng: Rng) -> list[tuple[int, int]]:
    """A block for each of `_sizes`, all different: the ordinary image and the whole picture have several."""
    narrow = ((32, 8), (16, 16), (8, 4), (5, 7))
    blocks = [narrow[i] for i in rng.permutation(len(narrow))]
    blocks.insert(int(rng.integers(1, 5)), (64, 2))
    return blocks


def _grid(shape: Sequence[int], block: tuple[int, int]) -> tuple[int, ...]:
    return -(-shape[1] // block[0]), -(-shape[0] // block[1]), *shape[2:]


def _brightened(image: Image) -> tuple[Floats, dict[str, Floats]]:
    bright = image + 40.0
    return np.minimum(bright, 255), {
        "values above 215 wrap round to black: a byte ends at 255, so limit the sum to it first": (
            bright % 256
        ),
        "this is the image itself": image.astype(float),
    }


def _map_cases(rng: Rng) -> list[Case]:
    cases = []
    for warps, least in zip(rng.choice(np.arange(2, 9), 4, replace=False), (2, 5000, 2, 2), strict=True):
        blocks, threads = int(rng.integers(least, least + 28)), int(warps) * 32
        image = _noise(rng, (blocks * threads,))
        right, mistakes = _brightened(image)
        first = np.arange(image.size) < threads
        mistakes[
            "only the first block writes: threadIdx.x counts within a block, so add blockIdx.x * blockDim.x"
        ] = np.where(first, right, np.nan)
        cases.append(Case((image, None), right, (blocks,), (threads,), mistakes))
    return cases


def _guard_cases(rng: Rng) -> list[Case]:
    cases = []
    numbers = (*rng.integers(1, 3000, 3), rng.integers(10**5, 10**6), int(rng.integers(1, 30)) * 64 + 1)
    for n, warps in zip(numbers, rng.choice(np.arange(2, 9), 5, replace=False), strict=True):
        threads = int(warps) * 32
        image = _noise(rng, (int(n),))
        right, mistakes = _brightened(image)
        cases.append(Case((image, None, int(n)), right, (-(-int(n) // threads),), (threads,), mistakes))
    return cases


def _flip_cases(rng: Rng) -> list[Case]:
    cases = []
    for size, block in zip(_sizes(rng), _blocks(rng), strict=True):
        image = _noise(rng, size)
        mistakes = {
            "this is the image itself": image,
            "it is turned upside down; left and right change places here": image[::-1],
            "it is turned by half a turn: only the columns change places": image[::-1, ::-1],
            "each row is moved by one pixel: the last column is width - 1": np.roll(
                image[:, ::-1].ravel(), 1
            ).reshape(size),
        }
        right = image[:, ::-1].astype(float)
        wrong = {reason: values.astype(float) for reason, values in mistakes.items()}
        cases.append(Case((image, None, size[1], size[0]), right, _grid(size, block), block, wrong))
    return cases


def _edge_cases(rng: Rng) -> list[Case]:
    cases = []
    for tile, most in zip(rng.choice((32, 48, 64, 96), 2, replace=False), (3, 24), strict=True):
        for width in (
            int(tile * rng.integers(most - 2, most)) + int(rng.integers(1, tile)),
            int(tile),
            int(rng.integers(1, 9)),
        ):
            image = _noise(rng, (int(rng.integers(2, 10)), width))
            padded = np.pad(image.astype(float), ((0, 0), (1, 1)), mode="edge")
            right = np.abs(padded[:, 2:] - padded[:, :-2])
            columns = np.arange(width)
            seam = (columns % tile == 0) | (columns % tile == tile - 1)
            mistakes = {
                "the difference has lost its sign to a byte: take abs() of it": (
                    padded[:, 2:] - padded[:, :-2]
                )
                % 256,
                "this is the image itself": image.astype(float),
                "the seams between the blocks are wrong: who loads tile[0] and tile[TILE + 1]?": np.where(
                    seam & (columns > 0) & (columns < width - 1), np.nan, right
                ),
            }
            grid = (-(-width // int(tile)), image.shape[0])
            cases.append(Case((image, None, width), right, grid, (int(tile),), mistakes, {"TILE": int(tile)}))
    return [*cases[1:], cases[0]]


def _box_cases(rng: Rng) -> list[Case]:
    cases, radii = [], [int(rng.integers(1, 7)), int(rng.integers(8, 11))]
    for i, (size, block) in enumerate(zip(_sizes(rng), _blocks(rng), strict=True)):
        image = _noise(rng, size)
        if size[0] > 80:  # the largest sum of a window
            image[:40, :40] = 255
        cases.append(_box_case(image, radii[i % 2], block, {}))
    return cases


def _tiled_box_cases(rng: Rng) -> list[Case]:
    cases = []
    radii = rng.choice(np.arange(1, 6), 2, replace=False).tolist()
    for tile, radius in zip(rng.choice((8, 12, 16), 2, replace=False), radii, strict=True):
        block = (int(tile), int(tile))
        for size in (rng.integers(tile + 1, 3 * tile, 2), rng.integers(1, 6, 2)):
            cases.append(_box_case(_noise(rng, tuple(size)), radius, block, {"TILE": int(tile)}))
    return [*cases[1:], cases[0]]


def _box_case(image: Image, radius: int, block: tuple[int, int], defines: Mapping[str, int]) -> Case:
    p = image.astype(float)
    right = box_mean(p, radius)
    mistakes = {
        **_window_mistakes(right, _short_mean(p, radius), p, radius),
        "this is only a mean along the row": _row_mean(p, radius),
        "this is only a mean along the column": _row_mean(p.T, radius).T,
        "the division is one of whole numbers, which drops the fraction: make one side of it a float": (
            np.floor(right)
        ),
    }
    args = (image, None, image.shape[1], image.shape[0])
    return Case(args, right, _grid(image.shape, block), block, mistakes, {"R": radius, **defines})


def _window_mistakes(right: Floats, short: Floats, image: Floats, radius: int) -> dict[str, Floats]:
    """Wrong sums over a window; `short` is the result without the window's last row and column."""
    inside = np.outer(*(window_counts(side, radius) for side in right.shape[:2]))
    count = inside.reshape(*right.shape[:2], *[1] * (right.ndim - 2))
    full = (2 * radius + 1) ** 2
    return {
        "at the borders the sum is divided by a full window; divide by the pixels that are really "
        "inside": right * count / full,
        "the sums are never divided by the number of pixels in the window": right * count,
        "this is the image itself; the window reaches R pixels to each side": image,
        "the window stops one pixel short of its right and lower end: use <=": short,
    }


def _guided_cases(rng: Rng) -> list[Case]:
    cases = []
    radii = [int(rng.integers(7, 10)), int(rng.integers(1, 7))]
    eps = (255 * rng.uniform(0.05, 0.3)) ** 2
    for i, (size, block) in enumerate(zip(_sizes(rng), _blocks(rng), strict=True)):
        image, radius = _noise(rng, (*size, (3, 1, 4)[i % 3])), radii[i % 2]
        if size[0] > 80:  # flat parts at both ends of the range, wider than two windows
            image[:40, :40], image[-40:, -40:] = 255, 0
        p = image.astype(float)
        mean = box_mean(p, radius)
        variance = np.maximum(box_mean(p * p, radius) - mean * mean, 0)
        a = (variance / (variance + eps)).astype(np.float32)
        b = ((1 - a) * mean).astype(np.float32)
        right, mistakes = _applied(a.astype(float), b.astype(float), p, radius)
        args = (image, a, b, None, size[1], size[0], image.shape[2])
        cases.append(Case(args, right, _grid(image.shape, block), block, mistakes, {"R": radius}))
    return cases


def _applied(a: Floats, b: Floats, p: Floats, radius: int) -> tuple[Floats, dict[str, Floats]]:
    """The guided filter's result from its coefficients, and what well-known mistakes make of it."""
    right = box_mean(a, radius) * p + box_mean(b, radius)
    short = _short_mean(a, radius) * p + _short_mean(b, radius)
    mistakes = {
        "this averages a * I + b over the window, as the author's kernel does: a blur. The paper's "
        "result is mean(a) * I + mean(b), with the pixel's own value": box_mean(a * p + b, radius),
        "this uses the pixel's own a and b; the paper averages those of all windows that the pixel lies in": (
            a * p + b
        ),
        "b is missing: mean(a) * I alone": box_mean(a, radius) * p,
        **_window_mistakes(right, short, p, radius),
    }
    rounded = {}
    for reason, values in mistakes.items():
        rounded[reason] = np.clip(values, 0, 255)
        rounded[f"{reason} (and add 0.5f before it becomes a byte)"] = np.floor(np.clip(values, 0, 255))
    return np.clip(right, 0, 255), rounded


def _row_mean(values: Floats, radius: int) -> Floats:
    """Mean along the second axis, windows clipped."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    at = np.arange(values.shape[1])
    low, high = np.maximum(at - radius, 0), np.minimum(at + radius + 1, len(at))
    return np.asarray((sums[:, high] - sums[:, low]) / (high - low))


def _short_mean(values: Floats, radius: int) -> Floats:
    """Sums over a window without its last row and column, divided by the full count."""
    height, width = values.shape[:2]
    sums = np.zeros((height + 1, width + 1, *values.shape[2:]))
    sums[1:, 1:] = values.cumsum(0).cumsum(1)
    y, x = np.arange(height), np.arange(width)
    top, bottom = np.maximum(y - radius, 0), np.minimum(y + radius, height - 1)
    left, right = np.maximum(x - radius, 0), np.minimum(x + radius, width - 1)
    count = np.outer(bottom - top + 1, right - left + 1).reshape(height, width, *[1] * (values.ndim - 2))
    short = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    return np.asarray(short / count)


def first_half() -> str:
    """CUDA text of `coefficients`, the guided filter's first launch, up to where `apply` begins."""
    text = kernel_source("guided_1_global.cu")
    return text[: text.index('extern "C" __global__ void apply')]


EXERCISES = {
    "brighten": KernelExercise("brighten", _map_cases),
    "guard": KernelExercise("brighten", _guard_cases),
    "flip": KernelExercise("flip", _flip_cases),
    "edges": KernelExercise("edges", _edge_cases, shared=True),
    "box_mean": KernelExercise("box_mean", _box_cases, dtype="float32"),
    "tiled_box_mean": KernelExercise("box_mean", _tiled_box_cases, dtype="float32", shared=True),
    "guided": KernelExercise("apply", _guided_cases, before=without_comments(first_half())),
}
