"""Throughput and age of frames over the number of streams, simulated and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.results.format import format_number
from labkit.results.plots.style import Chart, as_caption, legend_above, sheet


@dataclass(frozen=True)
class FleetPoint:
    """One number of streams.

    Attributes:
        streams: how many.
        predicted_fps, predicted_age_ms: of the simulation; the age is a p90.
        measured_fps, measured_age_ms: of a real fleet; None where none was run.
        single_process_fps: of one process that does the fleet's job by itself; None where none did.
    """

    streams: int
    predicted_fps: float
    predicted_age_ms: float
    measured_fps: float | None = None
    measured_age_ms: float | None = None
    single_process_fps: float | None = None


def fleet_chart(
    points: Sequence[FleetPoint],
    *,
    single_fps: float,
    age: bool = False,
    about: Sequence[str] = (),
    theme: str = "light",
) -> Chart:
    """Results per second, or their age, against the number of streams.

    Args:
        points: in rising order of streams.
        single_fps: of the best single process, drawn as a line where no point has an `single_process_fps`.
        age: draw the p90 of the results' age instead of the rate.
        about: parts of the caption: rung, weights, machine.
        theme: "light" or "dark".
    """
    what = "Age of a result (p90)" if age else "Results per second of all streams"
    with sheet(f"{what} against the number of streams", 6, theme, as_caption(list(about))) as (
        chart,
        axes,
        look,
    ):
        streams = [point.streams for point in points]
        foretold = [point.predicted_age_ms if age else point.predicted_fps for point in points]
        axes.plot(streams, foretold, marker="o", fillstyle="none", linestyle="--", label="simulated")
        seen = [
            (point.streams, value)
            for point in points
            if (value := point.measured_age_ms if age else point.measured_fps) is not None
        ]
        if seen:
            axes.plot(*zip(*seen, strict=True), marker="s", label="measured, through Ray")
        alone = [
            (p.streams, p.single_process_fps) for p in points if p.single_process_fps is not None and not age
        ]
        if alone:
            x, y = zip(*alone, strict=True)
            axes.plot(x, y, color=look.faint, linestyle=":", marker="_", label="one process, the same job")
        elif not age:
            axes.axhline(single_fps, color=look.faint, linestyle=":", label="best single process")
        axes.set_xlabel("streams (number)")
        axes.set_ylabel("age of a result, p90 (ms)" if age else "results of all streams (per second)")
        axes.set_xticks(streams)
        highest = [v for _, v in (*seen, *alone)] + ([] if age or alone else [single_fps])
        axes.set_ylim(0, 1.1 * max(*foretold, *highest))
        axes.grid(axis="y")
        legend_above(axes)
        unit = "ms" if age else "per second"
        chart.alt_text = f"{what} against the number of streams. Simulated: " + _words(
            streams, foretold, unit
        )
        if seen:
            chart.alt_text += ". Measured: " + _words([n for n, _ in seen], [v for _, v in seen], unit)
        if alone:
            chart.alt_text += ". One process: " + _words([n for n, _ in alone], [v for _, v in alone], unit)
        elif not age:
            chart.alt_text += f". Best single process: {format_number(single_fps)} {unit}"
        chart.alt_text += "."
    return chart


def _words(streams: Sequence[int], values: Sequence[float], unit: str) -> str:
    return ", ".join(f"{format_number(v)} {unit} at {n}" for n, v in zip(streams, values, strict=True))
