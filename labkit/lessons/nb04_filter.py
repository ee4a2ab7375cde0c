"""Lesson 04: the guided filter in pictures, its compiled kernels in numbers, its effect on detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UnavailableError
from labkit.core.shown import Sentence, shown_table
from labkit.core.terminal import print_text
from labkit.core.types import Size
from labkit.filters.image_filters import guided_filter
from labkit.filters.launch_config import launch_plan
from labkit.filters.quality import add_noise
from labkit.filters.reference import box_mean, to_bytes
from labkit.lessons.hints import hint
from labkit.lessons.image_grid import image_grid
from labkit.lessons.kernel_exercises import check_kernel, first_half
from labkit.sources.openers import first_frame
from labkit.sources.spec import redact

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart

__all__ = [
    "check_kernel", "detection_table", "edge_profile", "first_frame", "first_half", "hint", "kernel_table",
    "smooth_pictures", "try_filter",
]  # fmt: skip


Image = NDArray[np.uint8]

BASELINE_EPS = 0.2
"""Value in the author's code, where it is compared with variances of 0-255 values."""

MEMORY_BYTES_PER_S = 4.8e12
"""Memory bandwidth of an H200, as its maker states it."""


def edge_profile(radius: int = 4, eps: float = 0.01, noise: float = 8.0) -> Chart:
    """Plot one row across a noisy edge: input, box blur, guided filter, and the author's filter.

    Args:
        radius: of all three filters, px.
        eps: of the guided filter; the author's takes 0.2 on its own scale.
        noise: standard deviation in grey levels.
    """
    from labkit.results.plots.style import FAINT, as_caption, legend_above, sheet

    image = _noisy_edge(noise)
    lines = {
        "input": image,
        "box blur": _box_blur(image, radius),
        "guided filter": guided_filter(image, radius, eps),
        "the author's filter": guided_filter(image, radius, BASELINE_EPS, version="baseline"),
    }
    about = (f"radius {radius} px", f"eps {eps:g} (author's: {BASELINE_EPS:g} on 0-255 values)",
             f"noise of {noise:g} grey levels", "drawn edge from 70 to 180")  # fmt: skip
    with sheet("One row of pixels across an edge", 7, as_caption(about)) as (chart, axes):
        for i, (name, picture) in enumerate(lines.items()):
            values = picture[len(picture) // 2, :, 0]
            style = {"color": FAINT, "linewidth": 1.0} if i == 0 else {"linewidth": 1.8}
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
        f"the author's, eps {BASELINE_EPS:g}": guided_filter(image, radius, BASELINE_EPS, version="baseline"),
    }
    height, width = image.shape[:2]
    middle = np.s_[height * 3 // 8 : height * 5 // 8, width * 3 // 8 : width * 5 // 8]
    enlarged = [picture[middle] for picture in panels.values()]
    chart = image_grid([*panels.values(), *enlarged], list(panels), columns=len(panels))
    chart.alt_text = f"A frame of {redact(source)}, in full and enlarged: " + ", ".join(panels)
    return chart


def try_filter(source: str = "photos", *, size: Size = (640, 480), noise: float = 15.0, seed: int = 0) -> Any:
    """Sliders for radius and eps; left the frame with noise, right the filter's output.

    Returns:
        A widget with `children`: the two sliders, and the picture that follows them.
    """
    import cv2
    import ipywidgets

    from labkit.live.placed import PlacedForm

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
    shown = ipywidgets.VBox([ipywidgets.HBox([radius, eps]), picture])
    return PlacedForm(shown, "Sliders of the guided filter were here; run this cell to have them again.")


def kernel_table(arch: int = 90, radius: int = 4, size: Size = (640, 480)) -> pd.DataFrame | str:
    """The guided kernels as compiled for one architecture: computed, not measured.

    Columns: launches, bytes of global memory per pixel (each array once), the time that these
    bytes take at an H200's stated 4.8 TB/s, machine instructions in the code, registers per
    thread, shared memory per block, and resident threads over the most possible.
    """
    from labkit.filters.compile import compile_plan
    from labkit.filters.launch_config import PLANNERS

    rows = []
    for file in (name for name in PLANNERS if name.startswith("guided")):
        try:
            kernels = compile_plan(launch_plan(file, (size[1], size[0], 3), radius), arch)
        except UnavailableError as error:
            return Sentence(f"The kernels cannot be compiled here: {error}")
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
    print_text(f"Computed from the code compiled for sm_{arch}, for {size[0]}x{size[1]} and radius {radius}.")
    return shown_table(rows)


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
    return to_bytes(box_mean(image / 255, radius))


def _spread(picture: Image) -> float:
    """Standard deviation in the flat parts of the drawn edge."""
    flat = picture[8:-8, :, 0].astype(float)
    return float(np.mean([flat[:, 4:20].std(), flat[:, -20:-4].std()]))


def _edge_width(picture: Image) -> int:
    """Number of columns whose mean lies between a tenth and nine tenths of the drawn step."""
    means = picture[8:-8, :, 0].mean(axis=0)
    return int(((means > 70 + 11) & (means < 180 - 11)).sum())
