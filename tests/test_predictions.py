"""Predictions: noted before, settled after, scored as they stood, skipped where nobody answered."""

import threading
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from records_made_up import made_up_comparison

from labkit.core.errors import UsageError
from labkit.lessons.predict import TOO_LATE, Question, calibration_table, form, predict
from labkit.results.plots.predicted import prediction_chart
from labkit.results.predictions import Outcome, calibration
from labkit.results.store import Prediction, Store, default_path


def stored():
    with Store(default_path()) as store:
        return store.predictions()


def comparison(rounds=11):
    return made_up_comparison(ratio=2.0, rounds=rounds)


def note(question, answer, ratio=None, ci=None):
    result = None if ratio is None else {"ratio": ratio, "ci": ci or (ratio * 0.9, ratio * 1.1)}
    return Prediction(question, (), answer, result)


def test_a_plain_answer_is_stored_and_settled(capsys):
    asked = predict("How much?", 1.5)
    assert "Noted: How much? -> 1.5 times" in capsys.readouterr().out
    assert (asked.answer, [p.answer for p in stored()]) == (1.5, [1.5])
    result = comparison()
    said = asked.score([result])
    assert "You predicted 1.5 times" in said
    assert result.sentence in said
    (kept,) = stored()
    assert kept.result["ratio"] == pytest.approx(result.ratio)
    assert kept.result["ci"] == pytest.approx(list(result.interval))


def test_without_an_answer_or_a_notebook_it_is_skipped_and_kept_as_skipped(capsys):
    asked = predict("How much?")
    assert "Skipped: How much?" in capsys.readouterr().out
    assert asked.score(comparison()).startswith("No prediction was made.")
    (outcome,) = calibration(stored()).outcomes
    assert outcome.skipped
    assert outcome.verdict == "skipped"
    assert outcome.measured is not None


@pytest.mark.parametrize("doubt", [{"foreign_cpu": 0.81}, {"ceiling": {"parts": ["infer"], "gain": 1.3}}])
def test_a_result_that_cannot_be_believed_scores_nothing_and_leaves_the_question_open(doubt):
    asked = predict("How much?", 1.5)
    doubted = replace(comparison(), settings=doubt)
    assert doubted.refuted_by in asked.score([doubted])
    assert [p.result for p in stored()] == [None]
    assert "You predicted 1.5 times" in asked.score(comparison())


def test_too_few_rounds_leave_an_interval_without_bounds():
    asked = predict("How much?", 1.5)
    asked.score(comparison(rounds=3))
    (outcome,) = calibration(stored()).outcomes
    assert outcome.interval == (0.0, np.inf)
    assert "too few" in calibration_table(calibration(stored()))["95% interval"][0]


@pytest.mark.parametrize("answer", [0, -1, float("nan"), float("inf"), "2", True])
def test_what_is_no_ratio_is_refused(answer):
    with pytest.raises(UsageError, match="ratio above 0"):
        predict("How much?", answer)
    assert stored() == []


def test_the_form_notes_skips_and_closes():
    asked = Question("How much? <b>")
    box = form(asked)
    question, row, said = box.children
    field, note_button, skip_button = row.children
    assert question.value == "How much? <b>"
    field.value = 3.5
    note_button.click()
    assert asked.answer == 3.5
    assert "3.5" in said.value
    skip_button.click()
    assert asked.answer is None
    field.value = 2.5
    note_button.click()
    asked.score(comparison())
    assert field.disabled and note_button.disabled and skip_button.disabled
    assert asked.note(9) == TOO_LATE
    (outcome,) = calibration(stored()).outcomes
    assert (outcome.expected, outcome.seen) == (2.5, False)


def test_a_form_that_nobody_answers_counts_as_skipped():
    asked = Question("How much?")
    form(asked)
    assert stored() == []
    assert "No prediction was made" in asked.score(comparison())
    assert [p.answer for p in stored()] == [None]


def test_a_button_pressed_while_the_result_comes_is_either_in_time_or_too_late():
    asked = Question("How much?")
    pressed = threading.Thread(target=lambda: asked.note(2.0))
    pressed.start()
    said = asked.score(comparison())
    pressed.join()
    assert ("You predicted 2 times" in said) == (asked.answer == 2.0)
    assert len([p for p in stored() if p.result is not None]) == 1


def test_a_kernel_shows_the_form_and_nothing_else_does(monkeypatch, capsys):
    import IPython
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": object()})())
    asked = predict("How much?")
    assert len(shown) == 1
    assert asked.answer is None
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {})())
    predict("How much?")
    assert len(shown) == 1


def test_calibration_counts_hits_factors_and_ways():
    known = calibration(
        [
            note("a", 2.0, 2.1),  # inside
            note("b", 4.0, 2.0),  # twice too high, right way
            note("c", 0.5, 2.0),  # four times too low, wrong way
            note("d", None, 3.0),
            note("e", 2.0),
        ]
    )
    assert [one.verdict for one in known.outcomes] == [
        "inside the interval", "2.00 times too high", "4.00 times too low", "skipped", "not measured yet",
    ]  # fmt: skip
    assert known.typical_factor == pytest.approx(2.0)
    assert known.tendency == pytest.approx(2.0 / 2.1)
    for part in ("1 of 3 predictions", "factor of 2.00", "2 of 3", "1 skipped", "1 not measured yet"):
        assert part in known.sentence


def test_a_prediction_made_after_a_result_is_shown_and_not_counted():
    known = calibration([note("a", None, 2.0), note("a", 2.0, 2.0)])
    (outcome,) = known.outcomes
    assert outcome.seen
    assert "after a result was known" in outcome.verdict
    assert known.settled == ()
    assert "1 made too late" in known.sentence


def test_the_first_settled_answer_counts_and_a_changed_mind_before_it_is_fine():
    (outcome,) = calibration([note("a", 9.0), note("a", 2.0, 2.1), note("a", 2.1, 2.1)]).outcomes
    assert (outcome.expected, outcome.seen) == (2.0, False)
    (outcome,) = calibration([note("a", 9.0), note("a", None, 2.1)]).outcomes
    assert outcome.skipped


def test_old_notes_of_another_kind_do_no_harm():
    known = calibration([note("a", "fast"), Prediction("b", (), 2.0, "faster"), note("c", True, 2.0)])
    assert [one.verdict for one in known.outcomes] == ["skipped", "not measured yet", "skipped"]


def test_nothing_asked_is_said():
    assert calibration([]).sentence == "No prediction has been measured yet."
    with pytest.raises(UsageError, match="no question"):
        prediction_chart(calibration([]))


def test_the_picture_shows_every_question_in_words():
    known = calibration([note("Is a < b & $c$?", 2.0, 2.1), note("b", None, 3.0), note("c", 5.0)])
    chart = prediction_chart(known)
    for outcome in known.outcomes:
        assert outcome.question in chart.alt_text
        assert outcome.verdict in chart.alt_text
    assert "b no prediction, measured 3.00, " in chart.alt_text
    assert "c prediction 5.00, not measured, " in chart.alt_text
    assert len(chart.png()) > 5000


def test_a_long_question_is_a_label_of_three_lines_at_most():
    chart = prediction_chart(calibration([note("How many times is it? " * 20, 2.0)]))
    (label,) = chart.axes[0].get_yticklabels()
    assert label.get_text().count("\n") == 2


@pytest.mark.parametrize(("expected", "hit"), [(0.9, True), (1.1, True), (0.89, False), (1.11, False)])
def test_a_prediction_on_the_edge_of_the_interval_is_right(expected, hit):
    assert Outcome("faster?", expected, 1.0, (0.9, 1.1)).hit is hit


def test_a_prediction_is_dated_once(tmp_path):
    with Store(tmp_path / "lab.sqlite") as store:
        first = store.add_prediction(Prediction("How much?", (), 2.0))
        assert datetime.fromisoformat(first.created).utcoffset() == timedelta(0)
        copied = store.add_prediction(replace(first, id=None, created="2026-11-01T00:00:00+00:00"))
        assert copied.created == "2026-11-01T00:00:00+00:00" and copied.id != first.id
        assert [each.created for each in store.predictions()] == [first.created, copied.created]
