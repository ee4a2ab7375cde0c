import subprocess
import sys

import numpy as np
import pytest
import torch

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


@pytest.fixture
def slow_gpu(fake_gpu, monkeypatch):
    """The practice GPU, whose events have passed only when the host has waited for them or for later ones."""
    from labkit.practice.torch_cuda import Event

    monkeypatch.setattr(Event, "query", lambda event: fake_gpu.order.host_knows(*event._last_before))
    return fake_gpu


def spans_of(n, streams):
    """A recording of n spans on each of some streams in turn."""
    with recording() as record:
        x = torch.ones(4, device="cuda")
        for stream in streams:
            stream.wait_stream(torch.cuda.current_stream())
        for i in range(n):
            with torch.cuda.stream(streams[i % len(streams)]), span("infer", make_frame(i)):
                x * 2
    return record


def test_spans_wait_for_the_last_event_of_a_stream_and_never_for_the_device(slow_gpu):
    for streams in ([torch.cuda.current_stream()], [torch.cuda.current_stream(), torch.cuda.Stream()]):
        record = spans_of(6, streams)
        assert not record.complete()
        slow_gpu.reset()
        assert all(each.gpu_ms is not None for each in record.spans())
        assert slow_gpu.waits.by_what() == {"an event": len(streams)}
        assert record.complete()
        record.spans()
        assert len(slow_gpu.waits) == len(streams), "nothing is waited for twice"


def test_the_bars_of_the_live_view_wait_for_nothing(slow_gpu):
    from labkit.live.inference import Timing
    from labkit.live.rates import BARS, Rates

    rates, stream = Rates(), [torch.cuda.current_stream()]
    records = [spans_of(3, stream) for _ in range(BARS)]
    for record in records:
        rates.answered(Timing("half_cuda", 0.01, 0.0, 0.02, 1.0, record))
    slow_gpu.reset()
    assert rates.bars() == []
    records[BARS // 2].spans()  # somebody has waited until the GPU was so far
    slow_gpu.reset()
    bars = rates.bars()
    assert len(bars) == BARS // 2 + 1 and all(bar["spans"]["infer"] > 0 for bar in bars)
    torch.cuda.synchronize()
    slow_gpu.reset()
    assert len(rates.bars()) == BARS - len(bars)
    assert slow_gpu.waits.by_what() == {}
