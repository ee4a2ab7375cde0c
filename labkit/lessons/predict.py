"""Predictions before a measurement: a small form in a notebook, a plain value elsewhere.

Nothing waits for the learner: a notebook that runs from top to bottom skips what nobody
answered, and says so. An answer counts until the measurement is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from labkit.core.errors import LabError, UsageError
from labkit.core.shown import Sentence, shown_table
from labkit.core.stats import format_interval
from labkit.core.terminal import print_text
from labkit.results.predictions import Calibration, Outcome, calibration
from labkit.results.store import Prediction, Store, default_path

if TYPE_CHECKING:
    import pandas as pd

    from labkit.lessons.pitfalls.pitfall import PitfallResult
    from labkit.results.records import Comparison

    Measured = Comparison | PitfallResult

TOO_LATE = "The result is there: it is too late for a prediction."


class Question:
    """A question about a ratio, the learner's prediction, and its comparison with the result.

    The form's buttons may be pressed on another thread while a cell runs.

    Attributes:
        text: the question.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._saved: Prediction | None = None
        self._over = False
        self._lock = threading.RLock()
        self._on_end: list[Callable[[], None]] = []

    @property
    def answer(self) -> float | None:
        """The predicted ratio; None while nothing was noted, and where the question was skipped."""
        return None if self._saved is None else self._saved.answer

    def note(self, answer: float | None) -> str:
        """Store an answer, or with None that the question was skipped; returns a confirmation.

        Raises:
            UsageError: the answer is not a ratio above 0.
        """
        if answer is not None:
            number = isinstance(answer, int | float) and not isinstance(answer, bool)
            if not (number and isfinite(answer) and answer > 0):
                raise UsageError(
                    f"a prediction is a ratio above 0, such as 1.2 (below 1 means slower), not {answer!r}"
                )
            answer = float(answer)
        with self._lock:
            if self._over:
                return TOO_LATE
            with Store(default_path()) as store:
                self._saved = store.add_prediction(Prediction(self.text, (), answer))
        return f"Skipped: {self.text}" if answer is None else f"Noted: {self.text} -> {answer:g} times"

    def score(self, result: Measured | Sequence[Measured]) -> Sentence:
        """Store the result, close the question, and compare the prediction with the result.

        A result that cannot be believed is told with the reason, and leaves the question open.

        Args:
            result: a comparison, or a pitfall's result; of several the first, none if nothing was measured.
        """
        if not (results := result if isinstance(result, Sequence) else [result]):
            return Sentence(f"Nothing was measured, so nothing is scored: {self.text}")
        measured = results[0]
        if getattr(measured, "refuted_by", ""):
            return Sentence(f"Cannot tell, so nothing is scored; measure it again. {measured.sentence}")
        with self._lock:
            if self._saved is None:
                self.note(None)
            assert self._saved is not None and self._saved.id is not None
            self._over = True
            with Store(default_path()) as store:
                store.settle_prediction(self._saved.id, {"ratio": measured.ratio, "ci": measured.interval})
        for end in self._on_end:
            end()
        if self.answer is None:
            return Sentence(f"No prediction was made. {measured.sentence}")
        outcome = Outcome(self.text, self.answer, measured.ratio, measured.interval)
        return Sentence(
            f"You predicted {self.answer:g} times; that is {outcome.verdict}. {measured.sentence}"
        )

    def on_end(self, do: Callable[[], None]) -> None:
        """Call `do` once the result is known."""
        self._on_end.append(do)


def predict(question: str, answer: float | None = None) -> Question:
    """Ask for a prediction before a measurement.

    With an answer it is noted at once. Without one, a notebook shows a form with a field, a Note
    and a Skip button; elsewhere the question counts as skipped.

    Args:
        question: e.g. "How many times faster is OpenCV than Pillow for ResNet-18?"
        answer: the predicted ratio, above 0; below 1 means slower.
    """
    asked = Question(question)
    if answer is not None:
        print_text(asked.note(answer))
    elif not _show_form(asked):
        print_text(asked.note(None))
    return asked


def show_calibration() -> Any:
    """Display a summary of all predictions in the store and a table of them, and plot them."""
    from IPython.display import display

    from labkit.results.plots.predicted import prediction_chart

    with Store(default_path(), read_only=True) as store:
        known = calibration(store.predictions())
    display(known.sentence)
    if not known.outcomes:
        return None
    display(calibration_table(known))
    return prediction_chart(known)


def calibration_table(known: Calibration) -> pd.DataFrame:
    """One row per question: prediction, measured ratio with its interval, and the outcome."""
    rows = [
        {
            "question": one.question,
            "prediction": "skipped" if one.expected is None else f"{one.expected:.3g}",
            "measured": "" if one.measured is None else f"{one.measured:.2f}",
            "95% interval": "" if one.interval is None else format_interval(one.interval),
            "outcome": one.verdict,
        }
        for one in known.outcomes
    ]
    return shown_table(rows)


def form(asked: Question) -> Any:
    """Widget with a field, a Note and a Skip button, and a line of status."""
    import ipywidgets as widgets

    field = widgets.BoundedFloatText(
        value=1.0, min=0.01, max=10_000, step=0.1, description="Your prediction (times)",
        style={"description_width": "initial"},
    )  # fmt: skip
    note = widgets.Button(description="Note", tooltip="Keep this prediction; the last one noted counts")
    skip = widgets.Button(description="Skip", tooltip="Make no prediction")
    status = widgets.Label(value="1 means no difference. Nothing noted yet.")

    def keep(answer: float | None) -> None:
        try:
            status.value = asked.note(answer)
        except LabError as error:
            status.value = str(error)

    note.on_click(lambda _: keep(field.value))
    skip.on_click(lambda _: keep(None))

    def close() -> None:
        for part in (field, note, skip):
            part.disabled = True
        status.value = "The result is there: nothing can be noted any more."

    asked.on_end(close)
    question = widgets.Label(value=asked.text)  # a label shows text as it stands
    return widgets.VBox([question, widgets.HBox([field, note, skip]), status])


def _show_form(asked: Question) -> bool:
    """Show the form where a notebook's kernel runs; returns True if it did."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return False
    if getattr(get_ipython(), "kernel", None) is None:
        return False
    from labkit.live.placed import PlacedForm

    later = f"Your prediction was asked here: {asked.text} Run this cell to be asked again."
    display(PlacedForm(form(asked), later))
    return True
