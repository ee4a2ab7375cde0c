"""Streams: order, errors, early ends; races shown and their absence, on a simulated GPU."""

import threading

import numpy as np
import pytest

from labkit.bench.session import Session
from labkit.core.trace import SpanRecord, hidden_share, merge_intervals, recording, span_interval_ms
from labkit.core.types import FilterStep, Workload
from labkit.lessons.simulated_streams import (
    NOTHING,
    STEPS_MS,
    TORN,
    SimulatedNet,
    one_stream,
    simulate,
    two_streams_no_wait,
)
from labkit.models.cuda_streams import Streams
from labkit.models.filter_stage import DeviceSmoothing, Filtered, host_smoothing
from labkit.models.prepare import prepare
from labkit.pipelines import prefetch
from labkit.pipelines.ladder import rung
from labkit.pipelines.multi_stream import launch, threaded
from labkit.pipelines.prefetch import ReadAhead

from conftest import TINY, further, make_frame  # isort: skip


def collect(items, into):
    for item in items:
        into.append(item)


def threads():
    return [t for t in threading.enumerate() if t.name == "labkit read ahead"]


# The thread that works ahead.


@pytest.mark.parametrize("depth", [1, 3])
def test_reading_ahead_keeps_order_and_ends(depth):
    with ReadAhead(iter(range(50)), depth) as ready:
        assert list(ready) == list(range(50))
    assert not threads()


def test_it_works_ahead_by_no_more_than_its_depth():
    asked = []
    reached = threading.Event()

    def items():
        for i in range(10):
            asked.append(i)
            if i == 3:
                reached.set()
            yield i

    with ReadAhead(items(), depth=2) as ready:
        got = iter(ready)
        assert next(got) == 0
        assert reached.wait(10)  # 0 taken, 1 and 2 wait, 3 is in hand
        assert max(asked) == 3


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone"), ReadAhead(items(), 1) as ready:
        collect(ready, got)
    assert got == [1, 2]
    assert not threads()


def test_leaving_early_ends_the_thread_and_closes_what_it_reads():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield bytearray(10)
        finally:
            closed.set()

    with ReadAhead(endless(), 2) as ready:
        next(iter(ready))
    assert closed.is_set()
    assert not threads()
    assert not ready._waiting


def test_a_source_that_hangs_is_left_behind_and_told(monkeypatch, caplog):
    hangs, reached = threading.Event(), threading.Event()

    def items():
        yield 1
        reached.set()
        hangs.wait(30)
        yield 2

    monkeypatch.setattr(prefetch, "LEAVE_S", 0.05)
    with ReadAhead(items(), 2) as ready:
        assert next(iter(ready)) == 1 and reached.wait(10)
    assert "hangs after 0.05 s and is left behind" in caplog.text
    hangs.set()
    for thread in threads():
        thread.join(10)


class Broken:
    """A net whose filter works and whose networks must not be reached."""

    def __init__(self, fails_at):
        self.fails_at, self.seen = fails_at, 0

    def smooth(self, image):
        self.seen += 1
        if self.seen == self.fails_at:
            raise ValueError("the filter broke")
        return image


def test_a_failing_filter_surfaces_in_the_consumer(frames, workload):
    net = prepare(rung("streams_cpu").prepare, workload).net
    broken = Filtered(net.inner, Broken(fails_at=3).smooth)
    results, got = threaded(frames, broken), []
    with pytest.raises(ValueError, match="the filter broke"):
        collect(results, got)
    assert [frame.index for frame, _ in got] == [0, 1]
    assert not threads()


def test_a_failing_source_surfaces_in_the_consumer(frames, workload):
    net = prepare(rung("streams_cpu").prepare, workload).net

    def source():
        yield frames[0]
        raise ConnectionError("the camera is gone")

    with pytest.raises(ConnectionError, match="camera"):
        list(threaded(source(), net))
    assert not threads()


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_closing_the_schedule_leaves_no_thread(taken, frames, workload):
    results = threaded(iter(frames), prepare(rung("streams_cpu").prepare, workload).net)
    for _ in range(taken):
        next(results)
    results.close()
    assert not threads()


def test_the_thread_works_while_the_engine_does(workload):
    """Filter of frame 1 must be able to end before frame 0 is answered: no clock is needed to see it."""
    net = prepare(rung("streams_cpu").prepare, workload).net
    ahead = threading.Event()
    calls = []

    def smooth(image):
        calls.append(1)
        if len(calls) == 2:
            ahead.set()
        return image

    infer = net.inner.detector.infer

    def patient(x):
        assert ahead.wait(20), "the second frame's filter waits for the first frame's network"
        return infer(x)

    net.inner.detector.infer = patient
    assert len(list(threaded([make_frame(0), make_frame(1)], Filtered(net.inner, smooth)))) == 2


def test_spans_of_both_threads_are_recorded(workload, frames):
    session = Session(rung("streams_cpu"), workload, frames)
    with recording() as record:
        list(rung("streams_cpu").run(frames, session.prepared.net))
    spans = record.spans()
    for name in ("filter", "preprocess", "detect", "name"):
        assert sorted(span.index for span in spans if span.name == name) == [f.index for f in frames]


# The ring, on the CPU: buffers, slots and order.


@pytest.mark.parametrize("depth", [1, 3, *further(2, 5)])
def test_the_ring_gives_the_plain_loops_answers_at_any_depth(depth):
    import dataclasses

    frames = [make_frame(i) for i in range(4)]
    work = Workload(model_set="lab", size=TINY, objects=3)

    def answers(name, **options):
        row = rung(name)
        plan = dataclasses.replace(
            row.prepare, device="cpu", engine="eager", precision="fp32",
            options={**row.prepare.options, **options},
        )  # fmt: skip
        return Session(dataclasses.replace(row, prepare=plan, needs=()), work, frames).answers(frames).found

    ring = answers("streams_cuda", depth=depth)
    for a, b in zip(answers("filter_fused_cuda"), ring, strict=True):
        np.testing.assert_array_equal(a.xyxy, b.xyxy)
        np.testing.assert_array_equal(a.score, b.score)
        assert a.fine_name == b.fine_name


def test_filters_on_the_device_stand_where_they_fit(workload):
    from labkit.core.errors import UsageError

    with pytest.raises(UsageError, match="ends in 'detr'"):
        DeviceSmoothing(FilterStep("cuda-detr", where="device"), TINY, "cpu", "fp32")
    with pytest.raises(UsageError, match="radius"):
        FilterStep("numba", radius=17)
    with pytest.raises(UsageError, match="eps"):
        FilterStep("numba", eps=0)


@pytest.mark.parametrize("version", ["opencv", "numba"])
def test_host_smoothing_is_the_reference_filter(version):
    from labkit.filters.image_filters import guided_filter

    image = make_frame(0).image
    smooth = host_smoothing(FilterStep(version, radius=3, eps=0.02), "cpu")(image)
    wanted = guided_filter(image, 3, 0.02, version="reference")
    assert np.abs(smooth.astype(int) - wanted).max() <= 1
    assert np.abs(smooth.astype(int) - image).max() > 3


@pytest.mark.parametrize("where", ["device", "input", "graph"])
def test_device_smoothing_ends_where_it_says(where):
    import torch

    from labkit.filters.image_filters import guided_filter
    from labkit.models.preprocess import DETR_INPUT, with_torch

    version = {"device": "cuda-fused", "input": "cuda-detr", "graph": "cuda-input"}[where]
    smoothing = DeviceSmoothing(FilterStep(version, where=where), TINY, "cpu", "fp32")
    image = make_frame(1).image
    wanted = guided_filter(image, version="torch")
    got = smoothing(torch.from_numpy(image)[None])
    want = with_torch(wanted, DETR_INPUT) if where != "device" else torch.from_numpy(wanted)[None]
    torch.testing.assert_close(got, want)
    out = smoothing.new_out("cpu")
    assert smoothing(torch.from_numpy(image)[None], out) is out
    torch.testing.assert_close(out, want)


# The simulated GPU.


def test_the_labs_launch_is_right_whatever_is_late():
    for depth in (1, 2, 3, 4):
        for late in (None, *STEPS_MS):
            result = simulate(launch, 10, depth=depth, delays_ms={late: 7.0} if late else None)
            assert result.right, (depth, late, result.answers)


def test_without_waits_the_race_shows_every_time():
    result = simulate(two_streams_no_wait, 6, depth=1, delays_ms={"upload": 5.0})
    assert not result.right
    assert {answer for _, answer in result.answers} & {NOTHING, TORN, 0, 1, 2, 3, 4}
    assert simulate(two_streams_no_wait, 6, depth=1, delays_ms={"upload": 5.0}) == result


@pytest.mark.parametrize("missing", [("filter", "upload"), ("infer", "filter"), ("back", "infer")])
def test_each_wait_is_needed(missing):
    class Forgetful(SimulatedNet):
        def after(self, later, earlier):
            if (later, earlier) != missing:
                super().after(later, earlier)

    from labkit.lessons.simulated_streams import numbered_frame
    from labkit.pipelines.multi_stream import ring_of_streams

    late = "copy back" if missing[1] == "back" else missing[1]
    net = Forgetful(2, delays_ms={late: 5.0})
    answers = [(f.index, a) for f, a in ring_of_streams([numbered_frame(i) for i in range(6)], net)]
    assert answers != [(i, i) for i in range(6)]


def test_overlap_raises_throughput_and_latency():
    plain, deep = simulate(one_stream, 12, depth=1), simulate(launch, 12, depth=3)
    assert plain.right and deep.right
    assert deep.total_ms < 0.75 * plain.total_ms
    assert np.median(deep.latency_ms) > np.median(plain.latency_ms)
    assert hidden_share(plain.spans, {"upload", "filter"}, {"infer"}) == 0
    assert hidden_share(deep.spans, {"upload", "filter"}, {"infer"}) > 0.7
    # the floor: the longest stream never rests, but for the first frame's way to it and the last one's home
    assert deep.total_ms == pytest.approx(12 * 1.2 + 0.3 + 0.3 + 0.1, abs=0.5)


def test_stopping_early_waits_for_what_is_under_way():
    from labkit.lessons.simulated_streams import numbered_frame
    from labkit.pipelines.multi_stream import ring_of_streams

    net = SimulatedNet(3)
    results = ring_of_streams((numbered_frame(i) for i in range(9)), net)
    next(results)
    results.close()
    assert net.now_ms >= max(step.stop_ms for step in net.steps)


# Overlap.


def span(name, start_ms, stop_ms, index=0):
    return SpanRecord(name, index, int(start_ms * 1e6), int(stop_ms * 1e6))


def test_hidden_share_is_arithmetic_on_intervals():
    spans = [
        span("copy", 0, 2),
        span("net", 1, 3),
        span("net", 2, 4),
        span("copy", 6, 8),
        span("net", 7, 7.5),
    ]
    assert hidden_share(spans, {"copy"}, {"net"}) == pytest.approx(1.5 / 4)
    assert hidden_share(spans, {"copy"}, {"nothing"}) == 0
    assert hidden_share(spans, {"nothing"}, {"net"}) is None
    assert merge_intervals([(3, 4), (0, 1), (1, 2)]) == [(0, 2), (3, 4)]


def test_the_gpus_clock_counts_where_there_is_one():
    assert span_interval_ms(SpanRecord("a", 0, 5_000_000, 6_000_000)) == (5, 6)
    assert span_interval_ms(SpanRecord("a", 0, 5_000_000, 6_000_000, 2.0, 1.0)) == (1, 3)


def test_in_order_lanes_do_nothing():
    streams = Streams()
    with streams.on("a"):
        streams.after("b", "a")
    assert streams.wait(streams.mark("a")) is None
    streams.keep(None, "a")
    streams.drain()


# The picture.


def test_a_timeline_has_a_bar_per_span_and_says_so():
    from labkit.core.errors import UsageError
    from labkit.results.plots.timeline import timeline

    result = simulate(launch, 3)
    chart = timeline(result.spans, result.rows, title="Simulated", about=("simulated",))
    assert len(chart.axes[0].patches) == 12
    assert [label.get_text() for label in chart.axes[0].get_yticklabels()] == [
        "stream upload", "stream filter", "stream infer", "stream back"
    ]  # fmt: skip
    assert "infer of frame 2 on stream infer" in chart.alt_text
    assert chart.png(dpi=40).startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="nothing to draw"):
        timeline(result.spans, {"absent": "row"})
