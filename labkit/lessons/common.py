"""What the notebooks call: short names for a lesson's steps.

from labkit.lessons import common as lesson

lesson.doctor()
outcome = lesson.measure("resnet_pil_cpu", "resnet_opencv_cpu")
lesson.tell(outcome)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.bench.progress import Screen
from labkit.bench.run import bench
from labkit.core.errors import LabError
from labkit.core.files import results_folder
from labkit.core.types import Workload
from labkit.lessons.hints import hint
from labkit.lessons.nb01_cpu_baseline import check_normalise
from labkit.lessons.nb02_gpu_move import check_device_time
from labkit.lessons.nb03_combined_models import check_corners, inside_detr
from labkit.lessons.nb04_filter import check_kernel, kernel_to_complete
from labkit.lessons.nb05_streams import check_launch
from labkit.lessons.nb06_optimizations import check_speed_up, launch_counts
from labkit.lessons.nb07_pitfalls import check_fps, check_paced_latency, span_cost
from labkit.lessons.nb09_fleet import (
    check_engines,
    many_cameras,
    plot_fleet,
    run_fleet,
    service_table,
    service_times,
    simulated_beside_measured,
    simulated_fleets,
    simulation_error,
)
from labkit.lessons.pitfalls.pitfall_plot import plot_pitfalls
from labkit.lessons.pitfalls.registry import pitfall_table, run_pitfalls
from labkit.lessons.predict import predict, show_calibration
from labkit.lessons.published import published_beside
from labkit.lessons.show_frame import show_detections
from labkit.lessons.source_diff import path_to, show_change
from labkit.pipelines.ladder import rung
from labkit.results.exports import import_reference
from labkit.results.result_set import ResultSet
from labkit.results.table import table

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ceilings",
    "check_corners",
    "check_device_time",
    "check_engines",
    "check_fps",
    "check_kernel",
    "check_launch",
    "check_normalise",
    "check_paced_latency",
    "check_speed_up",
    "cost_of_boxes",
    "doctor",
    "hint",
    "inside_detr",
    "kernel_to_complete",
    "launch_counts",
    "many_cameras",
    "measure",
    "operators",
    "path_to",
    "pitfall_table",
    "plot",
    "plot_fleet",
    "plot_pitfalls",
    "predict",
    "published_beside",
    "recorded",
    "recorded_gpu",
    "run_fleet",
    "run_pitfalls",
    "service_table",
    "service_times",
    "show_calibration",
    "show_change",
    "show_detections",
    "simulated_beside_measured",
    "simulated_fleets",
    "simulation_error",
    "span_cost",
    "summary",
    "tell",
    "waterfall",
]  # fmt: skip


def doctor() -> None:
    """Prints what this machine has, lacks, and what to do about it."""
    from labkit.bench.doctor import examine, lines

    for line, _ in lines(examine()):
        print(line)


def measure(
    *names: str,
    source: str = "photos",
    objects: int = 5,
    size: tuple[int, int] = (640, 480),
    weights: str = "auto",
    model_set: str = "full",
    seed: int = 0,
    full: bool = False,
    turns: bool = True,
    screen: Screen | None = None,
) -> ResultSet:
    """Measures and compares rungs; each result is stored as soon as it is there.

    Args:
        names: of rungs.
        source, objects, size, weights, model_set, seed: the workload.
        full: long runs and more rounds; else quick ones, marked as such.
        turns: also compare the rungs in turns.
        screen: where progress is shown; for several calls that belong together.
    """
    return bench(
        *names, source=source, size=size, objects=objects, model_set=model_set, weights=weights, seed=seed,
        quick=not full, compare=turns, progress=screen,
    )  # fmt: skip


def summary(outcome: ResultSet) -> pd.DataFrame:
    """The main figures of the runs, one row per rung; empty cells had too few frames."""
    columns = ["rung", "fps", "fps_lo", "fps_hi", "p50_ms", "p90_ms", "p99_ms", "agreement",
               "share_of_limit", "noisy", "weights"]  # fmt: skip
    return table(outcome.runs)[columns].round(2)


def tell(outcome: ResultSet) -> None:
    """Prints every comparison as a sentence with its interval, and what was not measured."""
    for comparison in outcome.comparisons:
        print(comparison.sentence)
    for name, why in outcome.skipped.items():
        print(f"{name} was not measured: {why}.")


def plot(outcome: ResultSet, kind: str = "throughput", theme: str = "light") -> Any:
    """One picture of the runs: "throughput", "latency", "where_time_goes", "share_of_peak", "roofline"."""
    from labkit.results.plots.save import CHARTS

    return CHARTS[kind](outcome.runs, theme=theme)


def cost_of_boxes(
    *names: str, counts: Sequence[int] = (1, 5, 15), theme: str = "light", **options: Any
) -> Any:
    """Measures rungs with different numbers of boxes and plots the time per frame.

    Args:
        names: of rungs of the combined task.
        counts: boxes per frame.
        theme: of the plot.
        options: as for `measure`.
    """
    from labkit.results.plots.by_boxes import cost_of_boxes

    with Screen() as screen:
        options |= {"turns": False, "screen": screen}
        runs = [run for n in counts for run in measure(*names, objects=n, **options).runs]
    return cost_of_boxes(runs, theme=theme) if runs else "nothing could be measured here"


def waterfall(outcome: ResultSet, theme: str = "light") -> Any:
    """The gain of each rung over the one that it changes, and what it could have been, as a figure."""
    from labkit.results.plots.speedup import waterfall

    steps = [c for c in outcome.comparisons if rung(c.b).changes == c.a]
    return waterfall(steps, runs=outcome.runs, theme=theme) if steps else "nothing was compared here"


def ceilings(outcome: ResultSet) -> pd.DataFrame:
    """Amdahl's ceiling of each part of each rung: the gain if that part took no time at all."""
    import pandas as pd

    rows = []
    for run in outcome.runs:
        frame_s = run.wall_s / run.n_frames
        for name, seconds in run.spans_s.items():
            share = float(np.nansum(seconds)) / run.wall_s
            rows.append(
                {
                    "rung": run.rung,
                    "part": name,
                    "ms per frame": round(share * frame_s * 1e3, 2),
                    "share of the frame": round(share, 3),
                    "ceiling": round(1 / max(1e-9, 1 - share), 2),
                }
            )
    return pd.DataFrame(rows)


def operators(
    name: str,
    outcome: ResultSet | None = None,
    *,
    model_set: str = "full",
    weights: str = "auto",
    size: tuple[int, int] = (640, 480),
) -> pd.DataFrame | str:
    """Where the time of an engine's detector goes by kind of operator; prints what keeps it from the peak.

    Args:
        name: of a rung that runs on OpenVINO.
        outcome: of a benchmark that has measured this machine's peaks; None measures them now.
        model_set, weights, size: as for `measure`.
    """
    import pandas as pd

    from labkit.profiling.operators import operators as count

    peaks = (
        next((run.limit["peaks"] for run in outcome.runs if "peaks" in run.limit), None) if outcome else None
    )
    try:
        found = count(name, Workload(model_set, weights, size), peaks)  # type: ignore[arg-type]
    except LabError as error:
        return f"Not measured here: {error}."
    for sentence in found.sentences():
        print(sentence)
    return pd.DataFrame(found.rows())


def recorded(stage: int | None = None) -> pd.DataFrame | str:
    """Runs recorded on other machines, with machine and date; they ship with the project."""
    runs = [
        run
        for folder in sorted(results_folder().glob("reference/*"))
        if (folder / "runs.parquet").is_file()
        for run in import_reference(folder)
        if stage in (None, run.stage) or run.settings.get("device") == "cuda"
    ]
    if not runs:
        return "No recorded run of this kind ships with the project yet."
    columns = ["machine", "created", "rung", "fps", "fps_lo", "fps_hi", "p50_ms", "agreement", "weights"]
    return table(runs)[columns].round(2)


def recorded_gpu() -> pd.DataFrame | str:
    """Recorded runs of GPU rungs, or a sentence where there is none."""
    runs = recorded()
    if isinstance(runs, str):
        return "No recorded run on a GPU ships with the project yet."
    on_gpu = runs[runs["rung"].str.endswith("_cuda")]
    return on_gpu if len(on_gpu) else "No recorded run on a GPU ships with the project yet."
