"""The exercises of notebook 07: the right answers pass, plausible mistakes are named, hints lead on."""

import json
import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from labkit.core.errors import UsageError
from labkit.lessons.hints import HINTS, hint_text
from labkit.lessons.nb07_pitfalls import check_fps, check_paced_latency

SOLUTIONS = Path(__file__).parent / "solutions"


def fps(done_s, warm):
    began_s = done_s[warm - 1] if warm else 0.0
    return (len(done_s) - warm) / (done_s[-1] - began_s)


def kept(done_s, warm):
    return np.diff(done_s, prepend=0.0)[warm:]


def spoiling_fps(done_s, warm):
    done_s -= done_s[0]
    return 1.0


WRONG_FPS = {
    "mean of rates, which forgets": lambda done, warm: np.mean(1 / kept(done, warm)),
    "mean of rates, with the warm-up": lambda done, warm: np.mean(1 / np.diff(done, prepend=0.0)),
    "median frame": lambda done, warm: 1 / np.median(kept(done, warm)),
    "best frame": lambda done, warm: 1 / kept(done, warm).min(),
    "seconds per frame": lambda done, warm: kept(done, warm).mean(),
    "warm-up frames are in it": lambda done, warm: len(done) / done[-1],
    "but not their time": lambda done, warm: (len(done) - warm) / done[-1],
    "but its frames are counted": lambda done, warm: len(done) / (done[-1] - (done[warm - 1] if warm else 0)),
    "one frame too few": lambda done, warm: (len(done) - warm - 1) / kept(done, warm).sum(),
    "that frame's own time": lambda done, warm: (len(done) - warm) / (done[-1] - done[warm]),
    "left out altogether": lambda done, warm: (len(done) - warm - 1) / (done[-1] - done[warm]),
    "per millisecond": lambda done, warm: fps(done, warm) / 1e3,
    "ZeroDivisionError": lambda done, warm: (len(done) - warm) / float(done[-1] - done[warm - 1]),
    "off by up to": lambda done, warm: fps(done, warm) + 1,
    "one number": lambda done, warm: 1 / kept(done, warm),
    "returns nothing": lambda done, warm: None,
    "NaN or infinity": lambda done, warm: float("inf"),
    "numbers are wanted": lambda done, warm: "fast",
    "changed the times": spoiling_fps,
    "IndexError": lambda done, warm: done[len(done)],
}


def latency(began_s, done_s, rate):
    return done_s - np.arange(len(done_s)) / rate


def spoiling_latency(began_s, done_s, rate):
    done_s -= np.arange(len(done_s)) / rate
    return done_s


WRONG_LATENCY = {
    "coordinated omission": lambda began, done, rate: done - began,
    "queued, without the work": lambda began, done, rate: began - np.arange(len(done)) / rate,
    "between results": lambda began, done, rate: np.diff(done, prepend=0.0),
    "not after one period": lambda began, done, rate: done - np.arange(1, len(done) + 1) / rate,
    "you multiplied": lambda began, done, rate: done - np.arange(len(done)) * rate,
    "not from when the loop began": lambda began, done, rate: latency(began, done, rate) - began[0],
    "sign is turned": lambda began, done, rate: -latency(began, done, rate),
    "milliseconds": lambda began, done, rate: 1e3 * latency(began, done, rate),
    "it begins when it was due": lambda began, done, rate: done,
    "one latency per frame": lambda began, done, rate: latency(began, done, rate).mean(),
    "off by up to": lambda began, done, rate: np.minimum(latency(began, done, rate), 0.2),
    "changed the times": spoiling_latency,
    "returns nothing": lambda began, done, rate: ...,
    "TypeError": lambda began, done: done,
}


def test_right_answers_pass_however_they_are_written():
    assert check_fps(fps)
    assert check_fps(lambda done, warm: np.float64(1 / kept(done, warm).mean()))
    assert check_paced_latency(latency)
    assert check_paced_latency(lambda began, done, rate: [d - k / rate for k, d in enumerate(done)])


@pytest.mark.parametrize("reason", WRONG_FPS)
def test_a_wrong_rate_is_rejected_with_its_reason(reason):
    checked = check_fps(WRONG_FPS[reason])
    assert not checked
    assert reason in checked.reason


@pytest.mark.parametrize("reason", WRONG_LATENCY)
def test_a_wrong_latency_is_rejected_with_its_reason(reason):
    checked = check_paced_latency(WRONG_LATENCY[reason])
    assert not checked
    assert reason in checked.reason


@pytest.mark.parametrize("exercise", HINTS)
def test_hints_come_in_steps_and_each_names_the_next(exercise):
    steps = len(HINTS[exercise])
    told = [hint_text(exercise, step) for step in range(1, steps + 1)]
    assert steps >= 3
    assert len(set(told)) == steps
    for step, text in enumerate(told, 1):
        assert f"{step} of {steps}" in text
        assert (f'lesson.hint("{exercise}", {step + 1})' in text) == (step < steps)


@pytest.mark.parametrize("path", sorted(SOLUTIONS.rglob("*.py")), ids=lambda p: p.parent.name)
def test_every_exercise_names_its_first_hint_and_no_hint_is_the_solution(path):
    notebook = json.loads((SOLUTIONS.parents[1] / "notebooks" / f"{path.parent.name}.ipynb").read_text())
    text = "".join(chain.from_iterable(cell["source"] for cell in notebook["cells"]))
    told = re.findall(r'lesson\.hint\("(\w+)"(?:, 1)?\)', text)
    assert told
    lines = {line.strip() for line in path.read_text().splitlines() if len(line.strip()) > 25}
    for exercise in told:
        for text in HINTS[exercise]:
            assert not [line for line in lines if line in text]


def test_hints_that_do_not_exist_are_said():
    with pytest.raises(UsageError, match="there are normalise"):
        hint_text("knitting")
    for step in (0, 99, True, "1"):
        with pytest.raises(UsageError, match="hints 1 to"):
            hint_text("fps", step)
