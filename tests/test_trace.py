import subprocess
import sys

import numpy as np

from labkit.core import trace
from labkit.core.trace import recording, span, tap

from conftest import make_frame  # isort: skip


def test_spans_nest_and_are_keyed_by_frame():
    with recording() as record:
        for i in (3, 4):
            with span("outer", make_frame(i)), span("inner", make_frame(i)):
                pass
    spans = record.spans()
    assert [(s.name, s.index) for s in spans] == [("inner", 3), ("outer", 3), ("inner", 4), ("outer", 4)]
    inner, outer = spans[:2]
    assert outer.start_ns <= inner.start_ns <= inner.stop_ns <= outer.stop_ns


def test_a_span_closes_when_its_body_fails():
    with recording() as record:
        try:
            with span("broken", make_frame(0)):
                raise ValueError("inside")
        except ValueError:
            pass
    assert [s.name for s in record.spans()] == ["broken"]


def test_nothing_is_kept_without_a_recording():
    with span("alone", make_frame(0)):
        tap("x", np.ones(3))
    with recording() as record:
        pass
    assert record.spans() == []
    assert record.taps == {}


def test_taps_are_kept_only_on_request_and_are_copies():
    value = np.ones(3, np.float32)
    with recording(taps=True) as record:
        tap("x", value)
        value[:] = 7
    assert record.taps["x"][0].tolist() == [1, 1, 1]


def test_an_inner_recording_hides_the_outer_one():
    with recording() as outer:
        with recording() as inner, span("a", make_frame(0)):
            pass
        with span("b", make_frame(0)):
            pass
    assert [s.name for s in inner.spans()] == ["a"]
    assert [s.name for s in outer.spans()] == ["b"]


def test_spans_emit_nvtx_ranges_of_the_same_name(monkeypatch):
    calls = []

    class Fake:
        push_range = staticmethod(lambda message, domain: calls.append(("push", message, domain)))
        pop_range = staticmethod(lambda domain: calls.append(("pop", domain)))

    monkeypatch.setattr(trace, "nvtx", Fake)
    with span("infer", make_frame(0)):
        pass
    assert calls == [("push", "infer", "labkit"), ("pop", "labkit")]


def test_works_without_nvtx():
    code = (
        "import sys; sys.modules['nvtx'] = None\n"
        "import numpy as np\n"
        "from labkit.core.trace import recording, span\n"
        "from labkit.core.types import Frame\n"
        "with recording() as r, span('a', Frame(np.zeros((2, 2, 3), np.uint8), 0, 0.0)): pass\n"
        "print(r.spans()[0].name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "a"
