"""Lesson 04: the guided filter in pictures, its kernels in numbers, and its effect on detection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UnavailableError, UsageError
from labkit.core.types import Size
from labkit.filters.emulate import diagnose, emulate_plan
from labkit.filters.filter_benchmark import time_versions
from labkit.filters.image_filters import guided_filter
from labkit.filters.kernel_source import kernel_source
from labkit.filters.launch_config import launch_plan
from labkit.filters.quality import add_noise, quality_sweep
from labkit.filters.reference import box_mean, window_counts
from labkit.lessons.exercise import Mistake, exercise_check
from labkit.lessons.hints import hint
from labkit.lessons.image_grid import image_grid
from labkit.sources.openers import first_frame

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart

__all__ = [
    "check_kernel", "denoising_table", "detection_table", "edge_profile", "filter_times", "hint",
    "kernel_table", "kernel_to_complete", "origin_eps", "smooth_pictures", "try_filter",
]  # fmt: skip


Image = NDArray[np.uint8]

ORIGIN_EPS = 0.2
"""Value in the origin's code, where it is compared with variances of 0-255 values."""

MEMORY_BYTES_PER_S = 4.8e12
"""Memory bandwidth of an H200, as its maker states it."""

MEASURES = {"psnr_db": "PSNR (dB)", "ssim": "SSIM", "edge_retention": "share of edges kept"}


def edge_profile(radius: int = 4, eps: float = 0.01, noise: float = 8.0, *, theme: str = "light") -> Chart:
    """Plot one row across a noisy edge: input, box blur, guided filter, and the origin's filter.

    Args:
        radius: of all three filters, px.
        eps: of the guided filter; the origin's takes 0.2 on its own scale.
        noise: standard deviation in grey levels.
        theme: "light" or "dark".
    """
    from labkit.results.plots.style import as_caption, legend_above, sheet

    image = _noisy_edge(noise)
    lines = {
        "input": image,
        "box blur": _box_blur(image, radius),
        "guided filter": guided_filter(image, radius, eps),
        "the origin's": guided_filter(image, radius, ORIGIN_EPS, version="baseline"),
    }
    about = (f"radius {radius} px", f"eps {eps:g} (origin's: {ORIGIN_EPS:g} on 0-255 values)",
             f"noise of {noise:g} grey levels", "drawn edge from 70 to 180")  # fmt: skip
    with sheet("One row of pixels across an edge", 7, theme, as_caption(about)) as (chart, axes, look):
        for i, (name, picture) in enumerate(lines.items()):
            values = picture[len(picture) // 2, :, 0]
            style = {"color": look.faint, "linewidth": 1.0} if i == 0 else {"linewidth": 1.8}
            axes.plot(values, label=name, linestyle=("-", "-", "-", "--")[i], **style)
        axes.set_xlabel("column (px)")
        axes.set_ylabel("grey level")
        legend_above(axes)
        chart.alt_text = "Grey levels across an edge. " + "; ".join(
            f"{name}: noise {_spread(picture):.1f} grey levels, edge {_edge_width(picture)} px wide"
            for name, picture in lines.items()
        )
    return chart


def smooth_pictures(
    source: str = "photos",
    radius: int = 4,
    eps: float = 0.01,
    *,
    noise: float = 15.0,
    size: Size = (640, 480),
    seed: int = 0,
) -> Chart:
    """Plot a frame with noise added and the output of three filters; below, the middle enlarged."""
    image = add_noise(first_frame(source, size, seed=seed).image, noise, seed)
    panels = {
        f"with noise of {noise:g} grey levels": image,
        f"box blur, radius {radius}": _box_blur(image, radius),
        f"guided, eps {eps:g}": guided_filter(image, radius, eps),
        f"the origin's, eps {ORIGIN_EPS:g}": guided_filter(image, radius, ORIGIN_EPS, version="baseline"),
    }
    height, width = image.shape[:2]
    middle = np.s_[height * 3 // 8 : height * 5 // 8, width * 3 // 8 : width * 5 // 8]
    enlarged = [picture[middle] for picture in panels.values()]
    chart = image_grid([*panels.values(), *enlarged], list(panels), columns=len(panels))
    chart.alt_text = f"A frame of {source}, in full and enlarged: " + ", ".join(panels)
    return chart


def try_filter(source: str = "photos", *, size: Size = (640, 480), noise: float = 15.0, seed: int = 0) -> Any:
    """Sliders for radius and eps; left the frame with noise, right the filter's output.

    Returns:
        A widget with `children`: the two sliders, and the picture that follows them.
    """
    import cv2
    import ipywidgets

    image = add_noise(first_frame(source, size, seed=seed).image, noise, seed)
    radius = ipywidgets.IntSlider(4, 1, 16, description="radius")
    eps = ipywidgets.FloatLogSlider(0.01, base=10, min=-5, max=0, step=0.25, description="eps")
    picture = ipywidgets.Image(format="jpeg", layout={"max_width": "100%"})

    def show(_: object = None) -> None:
        pair = np.hstack([image, guided_filter(image, radius.value, eps.value)])
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(pair, cv2.COLOR_RGB2BGR))
        picture.value = jpeg.tobytes()

    for slider in (radius, eps):
        slider.observe(show, "value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([radius, eps]), picture])


def origin_eps(source: str = "photos", radius: int = 4, *, size: Size = (640, 480)) -> pd.DataFrame:
    """Effect of eps: none in the origin's filter, all in the right one.

    Columns: the middle value of a (1 keeps a pixel, 0 replaces it by the mean), and how far the
    result is from that of the smallest eps, in grey levels on average.
    """
    import pandas as pd

    from labkit.filters.baseline_formula import coefficient_a

    image = first_frame(source, size).image
    rows = []
    for version, values, scale in (
        ("baseline", (0.1, 0.2, 0.4), 1.0),
        ("numba", (0.0001, 0.01, 0.1), 255.0**2),
    ):
        first = guided_filter(image, radius, values[0], version=version).astype(int)
        for eps in values:
            result = guided_filter(image, radius, eps, version=version)
            rows.append(
                {
                    "filter": "the origin's" if version == "baseline" else "guided",
                    "eps": eps,
                    "median a": round(float(np.median(coefficient_a(image, radius, eps * scale))), 3),
                    "change in grey levels": round(float(np.abs(result - first).mean()), 3),
                }
            )
    return pd.DataFrame(rows)


def filter_times(
    radius: int = 4, eps: float = 0.01, *, size: Size = (640, 480), rounds: int = 9, source: str = "photos"
) -> pd.DataFrame:
    """Interleaved times of the CPU versions on one frame: ms, and speed-up over the reference.

    The interval is that of the ratio (95%, over rounds); "largest difference" is in grey levels
    from the float64 reference.
    """
    return time_versions(radius, eps, size=size, rounds=rounds, source=source).table()


def kernel_table(arch: int = 90, radius: int = 4, size: Size = (640, 480)) -> pd.DataFrame | str:
    """The guided kernels as compiled for one architecture: computed, not measured.

    Columns: launches, bytes of global memory per pixel (each array once), the time that these
    bytes take at an H200's stated 4.8 TB/s, machine instructions in the code, registers per
    thread, shared memory per block, and resident threads over the most possible.
    """
    import pandas as pd

    from labkit.filters.compile import compile_plan
    from labkit.filters.launch_config import PLANNERS

    rows = []
    for file in (name for name in PLANNERS if name.startswith("guided")):
        try:
            kernels = compile_plan(launch_plan(file, (size[1], size[0], 3), radius), arch)
        except UnavailableError as error:
            return f"The kernels cannot be compiled here: {error}"
        per_pixel = sum(kernel.bytes_per_pixel for kernel in kernels)
        rows.append(
            {
                "kernel file": file,
                "launches": len(kernels),
                "bytes per pixel": round(per_pixel, 1),
                "us for the bytes": round(per_pixel * size[0] * size[1] / MEMORY_BYTES_PER_S * 1e6, 2),
                "instructions": sum(kernel.code_bytes // 16 for kernel in kernels),
                "registers": max(kernel.registers for kernel in kernels),
                "shared KiB": round(max(kernel.shared_bytes for kernel in kernels) / 1024, 1),
                "occupancy": round(min(kernel.occupancy for kernel in kernels), 2),
            }
        )
    print(f"Computed from the code compiled for sm_{arch}, for {size[0]}x{size[1]} and radius {radius}.")
    return pd.DataFrame(rows)


def denoising_table(
    source: str = "photos",
    noises: Sequence[float] = (0, 5, 10, 20),
    eps_values: Sequence[float] = (0.0001, 0.001, 0.01),
    *,
    radius: int = 4,
    measure: str = "psnr_db",
    size: Size = (640, 480),
) -> pd.DataFrame:
    """Similarity of a noisy frame to the clean one, before and after the filter.

    Args:
        source: its first frame is the clean one.
        noises: standard deviations in grey levels, one row each.
        eps_values: one column each, after one for no filter.
        radius: px.
        measure: "psnr_db", "ssim" or "edge_retention".
        size: (width, height).
    """
    import pandas as pd

    clean = first_frame(source, size).image
    rows = {}
    for noise in noises:
        noisy = add_noise(clean, noise) if noise else clean
        rows[noise] = {
            "no filter" if row.radius == 0 else f"eps {row.eps:g}": getattr(row.quality, measure)
            for row in quality_sweep(clean, noisy, (radius,), tuple(eps_values))
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").round(3)
    frame.index.name = f"noise; {MEASURES[measure]}"
    return frame


def detection_table(
    noises: Sequence[float] = (0, 50, 90), eps_values: Sequence[float] = (0.01, 0.04), *, scenes: int = 24
) -> pd.DataFrame:
    """MAP at IoU 0.5 of the lab's small models on drawn scenes with noise, with and without the filter.

    Args:
        noises: standard deviations in grey levels, one row each.
        eps_values: one column each, after one for no filter.
        scenes: number of scenes that training never saw.
    """
    import pandas as pd

    from labkit.bench.accuracy import lab_workload, score, truth_frames
    from labkit.bench.session import Session
    from labkit.core.types import Workload
    from labkit.pipelines.ladder import rung

    smooth = rung("filter_numba_cpu")
    assert smooth.prepare.filter is not None
    columns = {"no filter": rung("folded_cpu")}
    for eps in eps_values:
        step = replace(smooth.prepare.filter, eps=eps)
        columns[f"eps {eps:g}"] = replace(smooth, prepare=replace(smooth.prepare, filter=step))
    table: dict[float, dict[str, str]] = {noise: {} for noise in noises}
    frames = {noise: truth_frames(scenes, noise=noise) for noise in noises}
    for name, row in columns.items():
        session = Session(row, lab_workload(Workload()), frames[noises[0]][:1])
        for noise in noises:
            found = score(session.answers(frames[noise]), frames[noise])
            table[noise][name] = _with_interval(found["map_50"], found.get("map_50_interval"))
    out = pd.DataFrame.from_dict(table, orient="index")
    out.index.name = f"noise; mAP@0.5 on {scenes} scenes"
    return out


def _with_interval(value: float, interval: Sequence[float] | None) -> str:
    if interval is None or not np.isfinite(interval).all():
        return f"{value:.2f} (too few scenes for an interval)"
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _noisy_edge(noise: float) -> Image:
    clean = np.where(np.arange(64) < 32, 70, 180)[None, :, None] * np.ones((64, 1, 1))
    return add_noise(clean.astype(np.uint8), noise, seed=3)


def _box_blur(image: Image, radius: int) -> Image:
    from labkit.filters.reference import box_mean, to_bytes

    return to_bytes(box_mean(image / 255, radius))


def _spread(picture: Image) -> float:
    """Standard deviation in the flat parts of the drawn edge."""
    flat = picture[8:-8, :, 0].astype(float)
    return float(np.mean([flat[:, 4:20].std(), flat[:, -20:-4].std()]))


def _edge_width(picture: Image) -> int:
    """Number of columns whose mean lies between a tenth and nine tenths of the drawn step."""
    means = picture[8:-8, :, 0].mean(axis=0)
    return int(((means > 70 + 11) & (means < 180 - 11)).sum())


FILE = "guided_1_global.cu"
RADIUS, EPS = 2, 0.01
SHAPES = ((21, 37, 3), (3, 4, 1), (40, 9, 1))
"""Test images: no size is a multiple of a block, and one is smaller than a window."""

OUTSIDE = (
    "a thread reads or writes outside the image: the last blocks hang over the border, so threads "
    "beyond it must return, and windows must be clipped"
)

Floats = NDArray[np.float64]


def kernel_to_complete() -> str:
    """Source of the kernel file without the body of `apply`, which the learner writes."""
    text = kernel_source(FILE)
    start = text.index('extern "C" __global__ void apply')
    return text[: text.index("{", start) + 1] + "\n"


@exercise_check
def check_kernel(body: str) -> str:
    """Check the body of the kernel `apply`, as CUDA text.

    Each thread averages a and b over its window, clipped to the image, and writes
    mean_a * I + mean_b, rounded and saturated. The text is compiled for the CPU, run thread by
    thread, and compared with the float64 reference.
    """
    if "..." in body or not body.strip():
        raise Mistake("the body is still empty; write what each thread does")
    source = f"{kernel_to_complete()}{body}\n}}\n"
    try:
        for shape in SHAPES:
            _compare_with_reference(source, _image(shape))
        outside = _outside(source)
    except UsageError as error:
        raise Mistake(OUTSIDE if "crashed" in str(error) else str(error)) from error
    except UnavailableError as error:
        raise Mistake(f"this cannot be checked here: {error}") from error
    if outside:
        raise Mistake(outside)
    return "every grey level is that of the float64 reference, at the borders too"


def _compare_with_reference(source: str, image: Image) -> None:
    got = emulate_plan(launch_plan(FILE, image.shape, RADIUS), image, EPS, source=source)  # type: ignore[arg-type]
    right = guided_filter(image, RADIUS, EPS, version="reference")
    error = got.astype(int) - right
    if abs(error).max() > 1 or abs(error.mean()) >= 0.2:
        raise Mistake(_cause(got, image) or _outside(source) or _where(error))


def _outside(source: str) -> str:
    """A sentence if the kernel touches memory outside its arrays, else ""; "" without a sanitizer."""
    image = _image(SHAPES[0])
    made = launch_plan(FILE, image.shape, RADIUS)  # type: ignore[arg-type]
    launch = made.launches[1]
    floats = np.full(image.shape, 0.5, np.float32)
    named = {"image": image, "a": floats, "b": floats.copy(), "out": np.zeros_like(image)}
    args = [{**named, **made.scalars(EPS)}[name] for name in launch.args]
    try:
        report = diagnose(
            source, launch.kernel, args, launch.grid, launch.block, made.defines, sanitizer="address"
        )
    except UnavailableError:
        return ""
    return OUTSIDE if report else ""


def _cause(got: NDArray[Any], image: Image) -> str:
    """The well-known mistake that gives just these values; "" if none does."""
    p = image.astype(np.float64)
    mean = box_mean(p, RADIUS)
    variance = np.maximum(box_mean(p * p, RADIUS) - mean * mean, 0)
    a = variance / (variance + EPS * 255**2)
    b = (1 - a) * mean
    right = box_mean(a, RADIUS) * p + box_mean(b, RADIUS)
    for reason, values in MISTAKES.items():
        made = np.clip(values(a, b, p, right), 0, 255)
        if abs(got - np.floor(made + 0.5)).max() <= 1 and _matches(got, made):
            return reason
    if abs(got - np.floor(np.clip(right, 0, 255))).mean() < 0.02:
        return "the result is cut to a whole grey level, half a level too dark on average: add 0.5f first"
    if len(np.unique(got)) < 3 < len(np.unique(image)):
        return "the result is nearly the same everywhere; is it on the scale of 0 to 255?"
    return ""


def _matches(got: NDArray[Any], made: Floats) -> bool:
    """True if the values are those, rounded or truncated."""
    return bool(min(abs(got - np.floor(made + 0.5)).mean(), abs(got - np.floor(made)).mean()) < 0.05)


def _share(shape: tuple[int, ...]) -> Floats:
    """Pixels in each clipped window over those of a full one."""
    inside = np.outer(window_counts(shape[0], RADIUS), window_counts(shape[1], RADIUS))
    return np.asarray(inside / (2 * RADIUS + 1) ** 2)[:, :, None]


MISTAKES: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "this averages a * I + b over the window, as the origin's kernel does: a blur. The paper's "
    "result is mean(a) * I + mean(b), with the pixel's own value": lambda a, b, p, right: box_mean(
        a * p + b, RADIUS
    ),
    "this uses the pixel's own a and b; the paper averages those of all windows that the pixel "
    "lies in": lambda a, b, p, right: a * p + b,
    "at the borders the sum is divided by a full window; divide by the pixels that are really "
    "inside": lambda a, b, p, right: right * _share(p.shape),
    "the sums are never divided by the number of pixels in the window": lambda a, b, p, right: (
        right * _share(p.shape) * (2 * RADIUS + 1) ** 2
    ),
    "b is missing: mean(a) * I alone": lambda a, b, p, right: box_mean(a, RADIUS) * p,
    "this is the image itself": lambda a, b, p, right: p,
    "the window stops one pixel short of its right and lower end: use <=": lambda a, b, p, right: (
        _short_mean(a) * p + _short_mean(b)
    ),
}


def _short_mean(values: Floats) -> Floats:
    """Sums over a window without its last row and column, divided by the full count."""
    height, width = values.shape[:2]
    out = np.empty_like(values)
    for y in range(height):
        for x in range(width):
            top, left = max(y - RADIUS, 0), max(x - RADIUS, 0)
            bottom, right = min(y + RADIUS, height - 1), min(x + RADIUS, width - 1)
            count = (bottom - top + 1) * (right - left + 1)
            out[y, x] = values[top:bottom, left:right].sum(axis=(0, 1)) / count
    return out


def _where(error: NDArray[Any]) -> str:
    rows, columns = np.abs(error).max(axis=(1, 2)), np.abs(error).max(axis=(0, 2))
    inner = error[RADIUS:-RADIUS, RADIUS:-RADIUS]
    if inner.size and np.abs(inner).max() <= 1:
        return "the middle is right and the borders are not: clip the window, and count what is inside"
    y, x = int(rows.argmax()), int(columns.argmax())
    return (
        f"grey levels differ from the reference by up to {np.abs(error).max()}, most in row {y} and "
        f"column {x}; work out one pixel by hand"
    )


@lru_cache(maxsize=8)
def _image(shape: tuple[int, int, int]) -> Image:
    """Noise on a bright and a dark half: flat parts and an edge."""
    width = shape[1]
    rng = np.random.default_rng(4)
    halves = np.where(np.arange(width) < width // 2, 60, 190)[None, :, None]
    return np.clip(halves + rng.integers(-25, 26, shape), 0, 255).astype(np.uint8)
