"""Figures as files: SVG with words for those who cannot see it, and PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import matplotlib as mpl

from labkit.core.errors import UsageError
from labkit.core.files import write_atomic
from labkit.results.plots.breakdown import latency, throughput, where_time_goes
from labkit.results.plots.roofline import has_ceiling, roofline
from labkit.results.plots.speedup import waterfall
from labkit.results.plots.style import Chart, plain
from labkit.results.plots.tradeoffs import share_of_peak, speed_accuracy
from labkit.results.records import Comparison, Run

CHARTS: dict[str, Callable[..., Chart]] = {
    "throughput": throughput,
    "latency": latency,
    "where_time_goes": where_time_goes,
    "share_of_peak": share_of_peak,
    "roofline": roofline,
    "speed_accuracy": speed_accuracy,
}
"""Charts of a sequence of runs, by name."""


def save(chart: Chart, path_stem: Path | str) -> list[Path]:
    """Writes `<stem>.svg` and `<stem>.png`, each whole; returns both paths."""
    stem = Path(path_stem)
    return [save_picture(chart, stem.with_name(stem.name + ending)) for ending in (".svg", ".png")]


def save_picture(chart: Chart, path: Path) -> Path:
    """Writes a chart in the format that the path's ending names, whole; returns the path.

    Raises:
        UsageError: the ending is neither .png nor .svg.
        ResultsError: the file cannot be written.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"a picture is .png or .svg, not {path}; name one of these endings")
    return write_atomic(path, chart.png() if path.suffix.lower() == ".png" else svg_text(chart))


def svg_text(chart: Chart) -> str:
    """The chart as SVG text with its title and description; the same bytes for the same chart."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": chart.title, "svg.fonttype": "path"}):
        chart.savefig(buffer, format="svg", facecolor=chart.get_facecolor(), metadata={"Date": None})
    title, description = (escape(plain(text)) for text in (chart.title, chart.alt_text))
    words = f'<title id="title">{title}</title><desc id="desc">{description}</desc>'
    return re.sub(
        r"<svg ([^>]*)>",
        lambda m: f'<svg role="img" aria-labelledby="title desc" {m[1]}>\n {words}',
        buffer.getvalue(),
        count=1,
    )


def save_all(runs: Sequence[Run], comparisons: Sequence[Comparison], folder: Path | str) -> list[Path]:
    """Draws and saves whatever these results allow; returns the files written."""
    charts = overview(runs, comparisons)
    return [path for name, chart in charts for path in save(chart, Path(folder) / name)]


def overview(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[tuple[str, Chart]]:
    """The charts over all results that these allow, each with a name fit for a file."""
    timed = [run for run in runs if run.n_frames]
    timed = [run for run in timed if run.scenario == "closed"] or timed
    changes = {run.rung: run.settings.get("changes") for run in runs}
    steps = [each for each in comparisons if changes.get(each.b) == each.a] or comparisons
    wanted = {
        "throughput": bool(timed),
        "latency": bool(timed),
        "where_time_goes": any(run.spans_s for run in timed),
        "share_of_peak": any(run.share_of_limit for run in timed),
        "roofline": any(map(has_ceiling, timed)),
    }
    drawn = {name: CHARTS[name](timed) for name, possible in wanted.items() if possible}
    if comparisons:
        drawn["gains"] = waterfall(steps, runs=timed)
    for work, alike in _by_work(timed).items():
        drawn[f"speed_accuracy_{work}"] = speed_accuracy(alike)
    order = ("throughput", "gains", "latency", "where_time_goes", "speed", "share_of_peak", "roofline")
    return sorted(drawn.items(), key=lambda each: [each[0].startswith(name) for name in order].index(True))


def _by_work(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of the same task, whose accuracies mean the same; tasks with two runs or more."""
    works: dict[str, list[Run]] = {}
    for run in runs:
        if run.agreed is not None:
            task = run.settings.get("preparation", {}).get("task", "all")
            on = "_photographs" if run.accuracy.get("on") == "photographs" else ""
            works.setdefault(f"{task}{on}", []).append(run)
    return {work: alike for work, alike in works.items() if len(alike) > 1}
