"""Asking for a forecast before a measurement: by a small form in a notebook, by a plain value elsewhere.

Nothing waits for the learner: a notebook that runs from top to bottom skips what nobody
answered, and says so. An answer counts until the measurement is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

from labkit.core.errors import UsageError
from labkit.results.predictions import Calibration, Outcome, calibration
from labkit.results.store import Prediction, Store, default_path

if TYPE_CHECKING:
    import pandas as pd

TOO_LATE = "The result is there: it is too late for a forecast."


class Measured(Protocol):
    """What a forecast is held against: a comparison, or a pitfall."""

    @property
    def ratio(self) -> float:
        """The measured ratio."""

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval."""

    @property
    def sentence(self) -> str:
        """Both in words."""


class Forecast:
    """What a learner expects of a comparison, kept beside what came out.

    The form's buttons may be pressed on another thread while a cell runs.

    Attributes:
        question: what was asked.
        options: ratios to choose from; empty where any number will do.
    """

    def __init__(self, question: str, options: Sequence[float] = ()) -> None:
        self.question = question
        self.options = tuple(options)
        self._saved: Prediction | None = None
        self._over = False
        self._lock = threading.RLock()
        self._on_end: list[Callable[[], None]] = []

    @property
    def answer(self) -> float | None:
        """The expected ratio; None while nothing was noted, and where the question was skipped."""
        return None if self._saved is None else self._saved.answer

    @property
    def over(self) -> bool:
        """Whether the result is known, so that nothing can be noted any more."""
        return self._over

    @property
    def id(self) -> int | None:
        """Number of the stored prediction; None while nothing is stored."""
        return None if self._saved is None else self._saved.id

    def note(self, answer: float | None) -> str:
        """Stores an answer, or with None that the question was skipped; says what it did.

        Raises:
            UsageError: the answer is no ratio above 0.
        """
        if answer is not None:
            answer = _checked(answer)
        with self._lock:
            if self._over:
                return TOO_LATE
            with Store(default_path()) as store:
                self._saved = store.add_prediction(Prediction(self.question, self.options, answer))
        return (
            f"Skipped: {self.question}" if answer is None else f"Noted: {self.question} -> {answer:g} times"
        )

    def score(self, result: Measured | Sequence[Measured]) -> str:
        """Stores what came out, ends the asking, and says how near the forecast was.

        Args:
            result: a comparison, or a pitfall; of several the first, and none if nothing was measured.
        """
        results = result if isinstance(result, Sequence) else [result]
        if not results:
            return f"Nothing was measured, so nothing is scored: {self.question}"
        comparison = results[0]
        with self._lock:
            if self._saved is None:
                self.note(None)
            assert self._saved is not None and self._saved.id is not None
            self._over = True
            with Store(default_path()) as store:
                store.settle_prediction(
                    self._saved.id, {"ratio": comparison.ratio, "ci": comparison.interval}
                )
        for end in self._on_end:
            end()
        if self.answer is None:
            return f"No forecast was made. {comparison.sentence}"
        outcome = Outcome(self.question, self.answer, comparison.ratio, comparison.interval)
        return f"You expected {self.answer:g} times; that is {outcome.verdict}. {comparison.sentence}"

    def when_over(self, do: Callable[[], None]) -> None:
        """Calls `do` once the result is known."""
        self._on_end.append(do)


def predict(question: str, answer: float | None = None, *, options: Sequence[float] = ()) -> Forecast:
    """Asks for a forecast before a measurement.

    With an answer it is noted at once. Without one, a notebook shows a form with a field (or
    the options), a Note and a Skip button; elsewhere the question counts as skipped.

    Args:
        question: e.g. "How many times faster is OpenCV than Pillow for ResNet-18?"
        answer: the expected ratio, above 0; below 1 means slower.
        options: ratios to choose from instead of a free number.
    """
    forecast = Forecast(question, [_checked(option) for option in options])
    if answer is not None:
        print(forecast.note(answer))
    elif not _show_form(forecast):
        print(forecast.note(None))
    return forecast


def my_calibration() -> Calibration:
    """How the forecasts in the store fared."""
    with Store(default_path()) as store:
        return calibration(store.predictions())


def table(known: Calibration) -> pd.DataFrame:
    """One row per question: forecast, measured ratio with its interval, and how near."""
    import pandas as pd

    rows = [
        {
            "question": one.question,
            "forecast": "skipped" if one.expected is None else f"{one.expected:.3g}",
            "measured": "" if one.measured is None else f"{one.measured:.2f}",
            "95% interval": _interval(one.interval),
            "outcome": one.verdict,
        }
        for one in known.outcomes
    ]
    return pd.DataFrame(rows, columns=["question", "forecast", "measured", "95% interval", "outcome"])


def form(forecast: Forecast) -> Any:
    """The widget that asks: a field or a choice, Note, Skip, and a line that says what happened."""
    import ipywidgets as widgets

    style = {"description_width": "initial"}
    field: Any
    if forecast.options:
        choices = [(f"{option:g} times", option) for option in forecast.options]
        field = widgets.Dropdown(options=choices, description="Your forecast (times)", style=style)
    else:
        field = widgets.BoundedFloatText(
            value=1.0, min=0.01, max=10_000, step=0.1, description="Your forecast (times)", style=style
        )
    note = widgets.Button(description="Note", tooltip="Keep this forecast; the last one noted counts")
    skip = widgets.Button(description="Skip", tooltip="Make no forecast")
    said = widgets.Label(value="1 means no difference. Nothing noted yet.")
    note.on_click(lambda _: _say(said, lambda: forecast.note(field.value)))
    skip.on_click(lambda _: _say(said, lambda: forecast.note(None)))

    def close() -> None:
        for part in (field, note, skip):
            part.disabled = True
        said.value = "The result is there: nothing can be noted any more."

    forecast.when_over(close)
    question = widgets.Label(value=forecast.question)  # a label shows text as it stands
    return widgets.VBox([question, widgets.HBox([field, note, skip]), said])


def _say(said: Any, do: Callable[[], str]) -> None:
    from labkit.core.errors import LabError

    try:
        said.value = do()
    except LabError as error:
        said.value = str(error)


def _show_form(forecast: Forecast) -> bool:
    """Shows the form where a notebook's kernel runs; whether it did."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    if shell is None or getattr(shell, "kernel", None) is None:
        return False
    try:
        from IPython.display import display

        asked = form(forecast)
    except ImportError:
        return False
    display(asked)
    return True


def _checked(answer: Any) -> float:
    if (
        isinstance(answer, bool)
        or not isinstance(answer, int | float)
        or not (isfinite(answer) and answer > 0)
    ):
        raise UsageError(f"a forecast is a ratio above 0, such as 1.2 (below 1 means slower), not {answer!r}")
    return float(answer)


def _interval(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"{low:.2f} to {high:.2f}" if isfinite(high) else "too few rounds"
