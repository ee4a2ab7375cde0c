"""What the notebooks call: short names for a lesson's steps.

from labkit import lesson

lesson.doctor()
outcome = lesson.measure("resnet_pil_cpu", "resnet_opencv_cpu")
lesson.tell(outcome)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.bench import Outcome, bench
from labkit.cli.screen import Screen
from labkit.learn.change import show_change
from labkit.learn.checks import check_normalise
from labkit.learn.look import look
from labkit.learn.origin import published
from labkit.measure import FULL, FULL_TURNS, QUICK, QUICK_TURNS
from labkit.pipelines import rung
from labkit.records import Comparison
from labkit.results import Prediction, Store, default_path, table
from labkit.types import Workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Forecast", "check_normalise", "doctor", "look", "measure", "origin_beside", "plot", "predict",
    "show_change", "summary", "tell",
]  # fmt: skip


def doctor() -> None:
    """Prints what this machine has, lacks, and what to do about it."""
    from labkit.doctor import examine, lines

    for line, _ in lines(examine()):
        print(line)


def measure(
    *names: str,
    source: str = "photos",
    objects: int = 5,
    size: tuple[int, int] = (640, 480),
    weights: str = "auto",
    seed: int = 0,
    full: bool = False,
) -> Outcome:
    """Measures and compares rungs; each result is stored as soon as it is there.

    Args:
        names: of rungs.
        source, objects, size, weights, seed: the workload.
        full: long runs and more rounds; else quick ones, marked as such.
    """
    workload = Workload(weights=weights, size=size, objects=objects, seed=seed)  # type: ignore[arg-type]
    with Store(default_path()) as store, Screen() as screen:
        return bench(
            [rung(name) for name in names],
            source=source,
            workload=workload,
            plan=FULL if full else QUICK,
            turns=FULL_TURNS if full else QUICK_TURNS,
            store=store,
            reporter=screen,
        )


def summary(outcome: Outcome) -> pd.DataFrame:
    """The main figures of the runs, one row per rung; empty cells had too few frames."""
    columns = ["rung", "fps", "fps_lo", "fps_hi", "p50_ms", "p90_ms", "p99_ms", "agreement",
               "share_of_limit", "noisy", "weights"]  # fmt: skip
    return table(outcome.runs)[columns].round(2)


def tell(outcome: Outcome) -> None:
    """Prints every comparison as a sentence with its interval, and what was not measured."""
    for comparison in outcome.comparisons:
        print(comparison.sentence)
    for name, why in outcome.skipped.items():
        print(f"{name} was not measured: {why}.")


def plot(outcome: Outcome, kind: str = "throughput", theme: str = "light") -> Any:
    """One picture of the runs: "throughput", "latency", "where_time_goes" or "roofline"."""
    from labkit import plots

    return getattr(plots, kind)(outcome.runs, theme=theme)


def origin_beside(outcome: Outcome, stage: int) -> pd.DataFrame:
    """What the origin published, beside what was measured here."""
    import pandas as pd

    measured = {run.rung: run for run in outcome.runs}
    rows = []
    for figure in published(stage):
        run = measured.get(figure.rung)
        rows.append(
            {
                "origin": figure.what,
                "published FPS": _range(*figure.fps),
                "rung": figure.rung,
                "FPS here": _range(*run.fps_interval) if run else "not measured",
                "agrees": run.fidelity.agreement if run and run.fidelity else None,
            }
        )
    return pd.DataFrame(rows)


@dataclass
class Forecast:
    """What a learner expects of a comparison, kept beside what came out.

    Attributes:
        question: what was asked.
        answer: the expected ratio, or None where the question was skipped.
    """

    question: str
    answer: float | None
    id: int | None = None

    def score(self, result: Comparison | Sequence[Comparison]) -> str:
        """Stores what came out and says how near the forecast was."""
        comparison = result if isinstance(result, Comparison) else result[0]
        with Store(default_path()) as store:
            if self.id is not None:
                store.settle_prediction(self.id, {"ratio": comparison.ratio, "ci": comparison.interval})
        low, high = comparison.interval
        if self.answer is None:
            return f"No forecast was made. {comparison.sentence}"
        hit = low <= self.answer <= high
        off = max(self.answer / comparison.ratio, comparison.ratio / self.answer)
        verdict = "inside the interval" if hit else f"off by a factor of {off:.2f}"
        return f"You expected {self.answer:g} times; that is {verdict}. {comparison.sentence}"


def predict(question: str, answer: float | None = None) -> Forecast:
    """Notes a forecast before the measurement; None skips the question.

    Args:
        question: e.g. "How many times faster is OpenCV than Pillow for ResNet-18?"
        answer: the expected ratio, above 0; below 1 means slower.
    """
    if answer is None:
        print(f"Skipped: {question}")
        return Forecast(question, None)
    with Store(default_path()) as store:
        saved = store.add_prediction(Prediction(question, (), float(answer)))
    print(f"Noted: {question} -> {answer:g} times")
    return Forecast(question, float(answer), saved.id)


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
