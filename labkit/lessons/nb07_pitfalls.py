"""What the notebooks call about honest numbers: the museum, hints, and how forecasts fared."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.lessons.hints import hint_text
from labkit.lessons.pitfalls import span_cost as spans
from labkit.lessons.pitfalls.picture import picture
from labkit.lessons.pitfalls.registry import table, visit
from labkit.lessons.pitfalls.result import Exhibit
from labkit.lessons.predict import my_calibration
from labkit.lessons.predict import table as forecasts_table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 100


def calibration(theme: str = "light") -> Any:
    """Prints how the forecasts of the walk fared; shows them in a table and as a picture."""
    from IPython.display import display

    from labkit.results.plots.predicted import forecasts

    known = my_calibration()
    print(known.sentence)
    if not known.outcomes:
        return None
    display(forecasts_table(known))
    return forecasts(known, theme=theme)


def hint(exercise: str, step: int = 1) -> None:
    """Prints a hint for an exercise; each step says more than the one before."""
    print(hint_text(exercise, step))


def museum(
    *keys: str,
    source: str = "photos",
    size: tuple[int, int] = (640, 480),
    rounds: int = 7,
    seed: int = 0,
) -> list[Exhibit]:
    """Runs exhibits of the museum and tells, for each, the size of the error and where it comes from.

    Args:
        keys: of exhibits or rooms; none names all.
        source, size, seed: of the frames.
        rounds: how often each figure is taken; 5 or more give an interval.
    """
    exhibits = visit(*keys, source=source, size=size, rounds=rounds, seed=seed)
    for exhibit in exhibits:
        print(*_told(exhibit), sep="\n", end="\n\n")
    return exhibits


def _told(exhibit: Exhibit) -> list[str]:
    origin = [f"The origin {exhibit.origin}."] if exhibit.origin else []
    lines = [exhibit.explanation, *origin]
    return [
        *textwrap.wrap(exhibit.sentence, COLUMNS),
        *textwrap.wrap(f"wrong: {exhibit.wrong_way}", COLUMNS, initial_indent="  ", subsequent_indent="    "),
        *textwrap.wrap(f"right: {exhibit.right_way}", COLUMNS, initial_indent="  ", subsequent_indent="    "),
        *(
            part
            for line in lines
            for part in textwrap.wrap(line, COLUMNS, initial_indent="  ", subsequent_indent="  ")
        ),
    ]


def museum_table(exhibits: Sequence[Exhibit]) -> pd.DataFrame:
    """The exhibits as a table: both figures, the error, and the interval of their ratio."""
    return table(exhibits)


def museum_picture(exhibits: Sequence[Exhibit], theme: str = "light") -> Any:
    """The exhibits in one picture."""
    return picture(exhibits, theme=theme)


def span_cost() -> None:
    """Prints what the spans of a frame cost here, with a recording open and without."""
    print(spans.span_cost().sentence)
