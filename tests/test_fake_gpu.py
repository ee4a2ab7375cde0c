"""The GPU that is not there: that it is as strict as a real one, and what it says of the rungs."""

import dataclasses
import json
import warnings
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version

import numpy as np
import pytest
import torch

from labkit import practice
from labkit.bench.agreement import measure_agreement
from labkit.bench.session import Session
from labkit.core.errors import UnavailableError
from labkit.core.trace import recording
from labkit.core.types import Workload
from labkit.lessons.nb06_optimizations import LAUNCH_COUNTS
from labkit.models import streamed
from labkit.models.cuda_streams import CudaStreams
from labkit.models.detectors import catalogue
from labkit.models.engines.cuda_graph import CudaGraphEngine
from labkit.models.inputs import PinnedUpload
from labkit.models.networks import load_network
from labkit.pipelines.ladder import rung
from labkit.practice import GpuError
from labkit.profiling.reads import noting_reads

import count_launches  # isort: skip
from conftest import further, make_frame  # isort: skip

SIZE = (64, 48)
WORK = Workload(model_set="lab", size=SIZE, objects=5)


# It computes, and it refuses what a GPU refuses


def test_values_are_the_cpus_and_tensors_say_cuda(fake_gpu):
    x = torch.arange(6.0, device="cuda").reshape(2, 3)
    assert x.is_cuda and x.device.type == "cuda"
    conv = torch.nn.Conv2d(3, 4, 3).eval().to("cuda", torch.float16)
    assert next(conv.parameters()).is_cuda and next(conv.parameters()).dtype == torch.float16
    torch.testing.assert_close((x * 2).sum(1).cpu(), torch.tensor([6.0, 24.0]))
    x[0, 1:].fill_(7)  # through a view
    assert x.cpu().tolist() == [[0, 7, 7], [3, 4, 5]]


def test_the_host_waits_where_it_reads(fake_gpu):
    x = torch.ones(3, device="cuda")
    pinned = torch.zeros(3).pin_memory()
    for read in (
        x[0].item,
        x.tolist,
        x.cpu,
        lambda: bool(x[0] > 0),
        lambda: torch.nonzero(x),
        lambda: x.copy_(torch.ones(3)),
    ):
        before = len(fake_gpu.waits)
        read()
        assert len(fake_gpu.waits) == before + 1
    before = len(fake_gpu.waits)
    x.copy_(pinned, non_blocking=True)
    x * 2 + 1
    assert len(fake_gpu.waits) == before


def test_waits_are_told_as_cuda_tells_them(fake_gpu):
    x = torch.ones(3, device="cuda")
    with noting_reads() as reads:
        x[1].item()
    assert [(read.what, read.device) for read in reads.noted] == [("waits", "cuda")]
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchroniz"):
        x.cpu()


def test_fresh_memory_holds_rubbish(fake_gpu):
    assert torch.empty(4, device="cuda").isnan().all().cpu()
    assert torch.zeros(4, device="cuda").cpu().tolist() == [0] * 4


# Graphs


def a_gpu():
    return practice.fake_gpu(strict=True, real=False)


def captured(work):
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        out = work()
    return graph, out


def test_a_graph_repeats_its_work_on_the_same_memory(fake_gpu):
    x = torch.ones(2, 3, device="cuda")
    graph, out = captured(lambda: (x.t().reshape(6) * 2).clamp_(max=5))
    x.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device="cuda"))
    before = fake_gpu.launches
    graph.replay()
    assert fake_gpu.launches == before + 1
    assert out.cpu().tolist() == [2, 5, 4, 5, 5, 5]


def test_a_graph_makes_its_constants_anew(fake_gpu):
    graph, out = captured(lambda: torch.zeros(2, device="cuda").add_(1))
    for _ in range(3):
        graph.replay()
    assert out.tolist() == [1, 1]


def test_a_graph_begins_and_ends_by_hand(fake_gpu):
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    x = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()
    with pytest.raises(RuntimeError, match="captured on a non-default stream"):
        graph.capture_begin()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        graph.capture_begin()
        out = x * 2
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(side)
    x.fill_(4)
    graph.replay()
    assert out.tolist() == [8, 8]
    network = torch.nn.Linear(2, 2).cuda()
    assert torch.cuda.make_graphed_callables(network, (x[None],))(x[None]).shape == (1, 2)


@pytest.mark.parametrize("read", ["item", "cpu", "upload"])
def test_nothing_is_waited_for_in_a_graph(fake_gpu, read):
    x = torch.ones(1, device="cuda")
    work = {"item": x.item, "cpu": x.cpu, "upload": lambda: torch.ones(2).to("cuda")}[read]
    with pytest.raises(RuntimeError, match="capturing"):
        captured(work)


FIRST_DETECTOR, *OTHER_DETECTORS = sorted(catalogue.detectors())


@pytest.mark.parametrize("name", [FIRST_DETECTOR, *further(*OTHER_DETECTORS)])
def test_detectors_that_ask_and_upload_fit_into_a_graph(name, fake_gpu):
    """Whether sizes fit, and the sizes themselves: the same for every frame of one size."""
    side = 384 if name == "rf_detr_n" else 192
    x = torch.rand(1, 3, side, side)
    module = load_network(name, "random").module
    with torch.inference_mode():
        wanted = module(x)
    engine = CudaGraphEngine(module.to("cuda"), x, (1,), torch.float32)
    on_gpu = x.cuda()
    fake_gpu.reset()
    for _ in range(2):
        for a, b in zip(engine(on_gpu), wanted, strict=True):
            torch.testing.assert_close(a.held, b, rtol=1e-3, atol=1e-4)
    assert not fake_gpu.waits and len(fake_gpu.copies) == 0


class Asks(torch.nn.Module):
    """A network whose host reads and uploads values."""

    def __init__(self, of_the_frame):
        super().__init__()
        self.of_the_frame = of_the_frame

    def forward(self, x):
        scale = torch.tensor([2.0], device=x.device)
        scale += x.mean() if self.of_the_frame else x.new_ones(1)
        return x * scale * float(scale) if self.of_the_frame or bool(scale[0] > 0) else x


def test_what_depends_on_the_frame_is_refused_and_what_does_not_is_repeated(fake_gpu):
    x = torch.rand(2, 3)
    engine = CudaGraphEngine(Asks(False), x, (2,), torch.float32)
    for _ in range(2):
        torch.testing.assert_close(engine(x.cuda()).cpu(), 9 * x)
    with pytest.raises(UnavailableError, match="depend on the frame"):
        CudaGraphEngine(Asks(True), x, (2,), torch.float32)


# Order between streams


def test_a_stream_that_does_not_wait_races(fake_gpu):
    a, b = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(a):
        x = torch.ones(3, device="cuda")
    with (
        torch.cuda.stream(b),
        pytest.raises(GpuError, match=r"on b, add .* reads x .*, which a may still be writing"),
    ):
        x + 1
    b.wait_stream(a)
    with torch.cuda.stream(b):
        y = x + 1
    with (
        torch.cuda.stream(a),
        pytest.raises(GpuError, match=r"on a, zero_ .* overwrites x .*, which b may still use"),
    ):
        x.zero_()
    y.record_stream(a)
    torch.cuda.synchronize()
    with torch.cuda.stream(a):
        x.zero_()


@pytest.mark.parametrize("kept", [True, False])
def test_memory_is_not_freed_under_another_stream(kept):
    with nullcontext() if kept else pytest.raises(GpuError, match="freed while"), a_gpu():
        a, b = torch.cuda.Stream(), torch.cuda.Stream()
        with torch.cuda.stream(a):
            x = torch.ones(3, device="cuda")
        b.wait_stream(a)
        with torch.cuda.stream(b):
            y = x + 1
        if kept:
            x.record_stream(b)
        del x, y


def test_what_has_not_arrived_cannot_be_read(fake_gpu):
    x = torch.ones(3, device="cuda")
    host = torch.zeros(3).pin_memory()
    host.copy_(x, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    assert (host.numpy() != 1).all(), "the copy is under way"
    with pytest.raises(GpuError, match="may not have reached"):
        host + 1
    done.synchronize()
    assert (host == 1).all()
    before = len(fake_gpu.waits)
    assert torch.zeros(3).copy_(x, non_blocking=True).tolist() == [1, 1, 1]
    assert len(fake_gpu.waits) == before + 1, "CUDA itself waits where memory is not page-locked"


# The lab's own work on it


def waits_of(name, gpu, work, frames):
    session = Session(rung(name), work, frames)
    gpu.reset()
    list(session.rung.run(frames, session.prepared.net))
    return gpu.waits.by_what()


QUERIES, OBJECTS = 24, 5  # of the lab's own detector
LIBRARYS_OWN = {"a value": 2}  # transformers asks twice whether anything is padded
WAITS = {
    "resnet_cuda": {"a copy from the host": 1, "a copy to the host": 1},
    "detr_cuda": {**LIBRARYS_OWN, "a copy from the host": 1, "a copy to the host": 1},
    # a score per query; corners, score and label per object; its crop, its name and how sure that is
    "baseline_combined_cuda": {
        "a value": 2 + QUERIES + (6 + 2) * OBJECTS,
        "a copy from the host": 2 + OBJECTS,
    },
    "combined_cuda": {**LIBRARYS_OWN, "a copy from the host": 1 + OBJECTS, "a copy to the host": 2},
    "pinned_cuda": {**LIBRARYS_OWN, "a copy to the host": 2},
    "batched_cuda": {**LIBRARYS_OWN, "a copy to the host": 2},
    "slots_cuda": {"a copy to the host": 2},
    "on_device_cuda": {"a copy to the host": 1},
    "half_cuda": {"a copy to the host": 1},
    "autotuned_cuda": {"a copy to the host": 1},
    "graph_cuda": {"a copy to the host": 1},
    "box_kernels_cuda": {"a copy to the host": 1},
    "grouped_graph_cuda": {"a copy to the host": 0.5},  # of two frames
    "grouped_graph_8_cuda": {"a copy to the host": 0.5},
    "ahead_cuda": {"an event": 1},
    "filter_fused_cuda": {"a copy to the host": 1},
    "filter_graph_cuda": {"a copy to the host": 1},
}  # fmt: skip
TWINS = ("grouped_graph_8_cuda", "filter_graph_cuda", "autotuned_cuda")
"""Rungs whose code others of them run, too."""


@pytest.mark.parametrize("name", [*(name for name in WAITS if name not in TWINS), *further(*TWINS)])
def test_how_often_the_host_waits_per_frame(name, fake_gpu):
    frames = [make_frame(i, SIZE) for i in range(2)]
    if "c++" in rung(name).needs:
        pytest.importorskip("torch._inductor")
    waits = waits_of(name, fake_gpu, WORK, frames)
    assert {what: times / len(frames) for what, times in waits.items()} == WAITS[name]


@pytest.mark.usefixtures("networks_once")
@pytest.mark.parametrize("name", ["graph_cuda", *further("baseline_combined_cuda", "box_kernels_cuda")])
def test_what_the_notebook_shows_is_what_is_counted(name):
    recorded = json.loads(LAUNCH_COUNTS.read_text())
    assert set(recorded["boxes"]["5"]) == {row.name for row in count_launches.rungs()}
    here, there = count_launches.counted(rung(name), 5), recorded["boxes"]["5"][name]
    if {package: version(package) for package in recorded["versions"]} != recorded["versions"]:
        for key in ("launches", "kernels"):
            del here[key], there[key]  # another version of a library may do the same in fewer steps
    assert here == there


RINGS = {
    "streams_cuda": ("filter_fused_cuda", streamed.STREAMS),
    "staged_cuda": ("box_kernels_cuda", streamed.STAGES),
}


@pytest.mark.parametrize("name", RINGS)
def test_a_stream_per_step_waits_once_per_frame_and_at_the_end(name, fake_gpu):
    frames = [make_frame(i, SIZE) for i in range(4)]
    assert waits_of(name, fake_gpu, WORK, frames) == {"an event": 4, "a stream": len(RINGS[name][1])}


def test_the_origins_streams_race(fake_gpu):
    frames = [make_frame(i, SIZE) for i in range(2)]
    with pytest.raises(GpuError, match="may still be writing"):
        Session(rung("baseline_streams_cuda"), WORK, frames)


@pytest.mark.parametrize("depth", [2, *further(3)])
@pytest.mark.parametrize("name", RINGS)
def test_streams_with_every_wait_agree_and_do_not_race(name, depth, fake_gpu):
    frames = [make_frame(i, SIZE, seed=10 * i) for i in range(5)]
    row = rung(name)
    options = {**row.prepare.options, "depth": depth}
    row = dataclasses.replace(row, prepare=dataclasses.replace(row.prepare, options=options))
    wanted = Session(rung(RINGS[name][0]), WORK, frames).answers(frames)
    for a, b in zip(wanted.found, Session(row, WORK, frames).answers(frames).found, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=0.5)
        assert a.name == b.name and a.fine_name == b.fine_name


def answers_of(name):
    frames = [make_frame(i, SIZE) for i in range(3)]
    with a_gpu():
        return Session(rung(name), WORK, frames).answers(frames)


@pytest.mark.parametrize(("name", "later"), [(name, each) for name in RINGS for each in RINGS[name][1][1:]])
def test_streams_without_one_of_their_waits_race(name, later, monkeypatch):
    after = CudaStreams.after
    monkeypatch.setattr(CudaStreams, "after", lambda self, to, of: to == later or after(self, to, of))
    with pytest.raises(GpuError, match="race"):
        answers_of(name)


@pytest.mark.parametrize("name", RINGS)
def test_streams_keep_what_another_of_them_still_reads(name, monkeypatch):
    monkeypatch.setattr(CudaStreams, "keep", lambda self, tensor, stream: None)
    with pytest.raises(GpuError, match="freed while"):
        answers_of(name)


def test_a_ring_of_uploads_never_overwrites_what_is_under_way(fake_gpu, monkeypatch):
    frames = [make_frame(i, SIZE) for i in range(9)]
    upload = PinnedUpload("cuda", slots=2)
    on_gpu = [upload(frame.image) for frame in frames]
    for frame, x in zip(frames, on_gpu, strict=True):
        np.testing.assert_array_equal(x[0].cpu().numpy(), frame.image)
    careless = PinnedUpload("cuda", slots=2)
    monkeypatch.setattr(torch.cuda.Event, "query", lambda event: True)  # believes without asking
    careless(frames[0].image)
    careless(frames[1].image)
    with pytest.raises(GpuError, match="page-locked"):
        careless(frames[2].image)


@pytest.fixture(scope="module")
def on_the_cpu():
    """The answers of `batched_cpu` for a number of boxes."""

    @cache
    def answers(objects):
        frames = [make_frame(i, SIZE) for i in range(2)]
        work = dataclasses.replace(WORK, objects=objects)
        return Session(rung("batched_cpu"), work, frames).answers(frames)

    return answers


@pytest.mark.parametrize("objects", [0, *further(1, 100)])
@pytest.mark.parametrize(
    "name",
    ["slots_cuda", "graph_cuda", "streams_cuda", "grouped_graph_cuda",
     *further("box_kernels_cuda", "staged_cuda", "grouped_cuda")],
)  # fmt: skip
def test_any_number_of_boxes(name, objects, on_the_cpu, request):
    wanted = on_the_cpu(objects)
    request.getfixturevalue("fake_gpu")
    frames = [make_frame(i, SIZE) for i in range(2)]
    got = Session(rung(name), dataclasses.replace(WORK, objects=objects), frames).answers(frames)
    assert [len(found) for found in got.found] == [min(objects, QUERIES)] * 2
    if name != "streams_cuda":  # that one smooths
        assert (
            measure_agreement(wanted, got).share >= 0.85
        )  # half precision: the order of the last ones is luck


def test_slots_hold_every_number_of_boxes():
    from labkit.models.engines.cuda_graph import slots_for

    assert {n: slots_for(n) for n in (1, 2, 3, 5, 9, 16, 100)} == {
        1: (1,), 2: (1, 2), 3: (1, 2, 4), 5: (1, 2, 4, 8), 9: (1, 2, 4, 8, 16), 16: (1, 2, 4, 8, 16),
        100: (1, 2, 4, 8, 16),
    }  # fmt: skip


def test_a_session_tells_what_torch_held_on_the_gpu(fake_gpu):
    frames = [make_frame(0, SIZE)]
    held = [Session(rung(name), WORK, frames).gpu_peak_bytes() for name in ("batched_cpu", "graph_cuda")]
    assert held[0] is None and held[1] > 1e6


def test_spans_carry_events_of_their_own_stream(fake_gpu):
    frames = [make_frame(i, SIZE) for i in range(2)]
    session = Session(rung("graph_cuda"), WORK, frames)
    with recording() as record:
        list(session.rung.run(frames, session.prepared.net))
    spans = record.spans()
    assert [span.name for span in spans] == ["preprocess", "infer", "decode"] * 2
    assert all(span.gpu_ms is not None and span.gpu_start_ms is not None for span in spans)


def test_it_is_gone_afterwards():
    available = torch.cuda.is_available()
    with a_gpu():
        assert torch.cuda.is_available()
        torch.ones(2, device="cuda")
    assert torch.cuda.is_available() == available
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(torch.ones(2) + 1) is torch.Tensor
