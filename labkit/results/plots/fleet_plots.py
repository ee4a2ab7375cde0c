"""Throughput and age of frames over the number of streams, simulated and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.results.format import format_number
from labkit.results.plots.style import FAINT, Chart, as_caption, legend_above, sheet


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
) -> Chart:
    """Results per second, or their age, against the number of streams.

    Args:
        points: in rising order of streams.
        single_fps: of the best single process, drawn as a line where no point has an `single_process_fps`.
        age: draw the p90 of the results' age instead of the rate.
        about: parts of the caption: rung, weights, machine.
    """
    what = "Age of a result (p90)" if age else "Results per second of all streams"
    with sheet(f"{what} against the number of streams", 6, as_caption(list(about))) as (chart, axes):
        unit = "ms" if age else "per second"
        simulated = [(p.streams, p.predicted_age_ms if age else p.predicted_fps) for p in points]
        measured = [(p.streams, p.measured_age_ms if age else p.measured_fps) for p in points]
        alone = [(p.streams, None if age else p.single_process_fps) for p in points]
        dotted: dict[str, Any] = {"color": FAINT, "linestyle": ":"}
        words: list[str] = []
        highest: list[float] = []
        for name, label, found, style in (
            ("Simulated", "simulated", simulated, {"marker": "o", "fillstyle": "none", "linestyle": "--"}),
            ("Measured", "measured, through Ray", measured, {"marker": "s"}),
            ("One process", "one process, the same job", alone, {"marker": "_", **dotted}),
        ):
            known = [(n, value) for n, value in found if value is not None]
            if known:
                axes.plot(*zip(*known, strict=True), label=label, **style)
                words.append(f"{name}: " + ", ".join(f"{format_number(v)} {unit} at {n}" for n, v in known))
                highest += [value for _, value in known]
        if not age and all(value is None for _, value in alone):
            axes.axhline(single_fps, label="best single process", **dotted)
            words.append(f"Best single process: {format_number(single_fps)} {unit}")
            highest.append(single_fps)
        axes.set_xlabel("streams (number)")
        axes.set_ylabel("age of a result, p90 (ms)" if age else "results of all streams (per second)")
        axes.set_xticks([point.streams for point in points])
        axes.set_ylim(0, 1.1 * max(highest))
        axes.grid(axis="y")
        legend_above(axes)
        chart.alt_text = f"{what} against the number of streams. {'. '.join(words)}."
    return chart
