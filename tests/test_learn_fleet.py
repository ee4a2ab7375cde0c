"""The exercise of notebook 09: its check knows the right answer and the plausible wrong ones."""

import math

import pytest

from labkit.lessons.nb09_fleet import check_engines


def right(cameras, fps, frame_s, most_busy):
    return math.ceil(cameras / math.floor(most_busy / (fps * frame_s) + 1e-9))


def test_the_right_answer_is_right():
    assert check_engines(right)


WRONG = {
    "no room is left": lambda c, f, s, b: math.ceil(c / math.floor(1 / (f * s))),
    "whole cameras": lambda c, f, s, b: math.ceil(c * f * s / b),
    "wrong sign": lambda c, f, s, b: math.ceil(c * f * s * b),
    "in part does not fit": lambda c, f, s, b: math.ceil(c / math.ceil(b / (f * s))),
    "round up": lambda c, f, s, b: c // math.floor(b / (f * s) + 1e-9),
    "cut in pieces": lambda c, f, s, b: c / math.floor(b / (f * s) + 1e-9),
    "one engine serves": lambda c, f, s, b: math.floor(b / (f * s) + 1e-9),
    "to the nearest": lambda c, f, s, b: round(c / math.floor(b / (f * s) + 1e-9)),
    "returns nothing": lambda c, f, s, b: None,
    "raised ZeroDivisionError": lambda c, f, s, b: c / 0,
    "whole number": lambda c, f, s, b: "3",
    "take one engine first": lambda c, f, s, b: right(c, f, s, b) + 1,
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_answer_is_told_why(words):
    checked = check_engines(WRONG[words])
    assert not checked
    assert words in checked.reason
