"""A learner's predictions against what was measured."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from labkit.core.errors import UsageError
from labkit.results.format import format_number
from labkit.results.plots.style import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    Chart,
    as_caption,
    draw_interval,
    legend_above,
    listed,
    plain_log_ticks,
    set_rows,
    sheet,
    shortened,
    write_beside,
)
from labkit.results.predictions import Calibration, Outcome

LABEL_CHARACTERS = 38
MARKS: dict[str, dict[str, Any]] = {
    "prediction": {"marker": "D", "ls": "", "markersize": 6.5, "color": COLOURS[5], "markerfacecolor": PAPER},
    "measured": {"marker": "o", "ls": "", "markersize": 7, "color": COLOURS[0]},
}


def prediction_chart(calibration: Calibration) -> Chart:
    """One row per question: the prediction, and what was measured with its 95% interval.

    Raises:
        UsageError: no question has been asked yet.
    """
    outcomes = calibration.outcomes
    if not outcomes:
        raise UsageError("no question has been asked yet; a notebook's Predict step asks one")
    caption = as_caption([calibration.sentence.rstrip("."), "lines: 95% intervals"])
    with sheet("Predictions against what was measured", 1.15 * len(outcomes) + 0.6, caption) as (chart, axes):
        axes.set_xscale("log")
        for row, outcome in enumerate(outcomes):
            _row(axes, row, outcome)
        axes.axvline(1, color=FAINT, linewidth=1)
        values = [1.0, *(value for one in outcomes for value in _drawn(one))]
        low, high = min(values) / 1.25, max(values) * 1.25
        axes.set_xlim(low, high * (high / low) ** 0.3)
        plain_log_ticks(axes.xaxis, low, high, "x")
        set_rows(axes, [_label(one.question) for one in outcomes])
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("ratio (times, logarithmic)")
        legend_above(axes, [Line2D([], [], label=name, **mark) for name, mark in MARKS.items()])
        chart.alt_text = f"{calibration.sentence} {listed(map(_words, outcomes))}"
    return chart


def _label(question: str) -> str:
    """A question in three lines at most."""
    return "\n".join(textwrap.wrap(shortened(question, 3 * LABEL_CHARACTERS - 12), LABEL_CHARACTERS))


def _drawn(outcome: Outcome) -> list[float]:
    values = [outcome.expected, outcome.measured, *(outcome.interval or ())]
    return [value for value in values if value is not None and value > 0 and np.isfinite(value)]


def _row(axes: Axes, row: int, outcome: Outcome) -> None:
    if outcome.measured is not None and outcome.interval is not None:
        if outcome.interval[0] > 0:
            draw_interval(axes, outcome.interval, row)
        axes.plot(outcome.measured, row, **MARKS["measured"])
    if outcome.expected is not None:
        axes.plot(outcome.expected, row, **MARKS["prediction"])
    colour = FAINT if outcome.skipped else INK
    write_beside(axes, outcome.verdict, (max([1.0, *_drawn(outcome)]), row), 9, color=colour)


def _words(outcome: Outcome) -> str:
    measured = "not measured" if outcome.measured is None else f"measured {format_number(outcome.measured)}"
    expected = (
        "no prediction" if outcome.expected is None else f"prediction {format_number(outcome.expected)}"
    )
    return f"{outcome.question} {expected}, {measured}, {outcome.verdict}"
