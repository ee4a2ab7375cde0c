"""What only a GPU can show; `make gpu-check` runs these on a machine that has one."""

import dataclasses

import numpy as np
import pytest
import torch

from labkit.bench.agreement import measure_agreement
from labkit.bench.session import Session
from labkit.core.errors import UnavailableError
from labkit.core.requirements import unmet_requirement
from labkit.core.trace import hidden_share, recording
from labkit.core.types import Workload
from labkit.filters.cuda_managed import guided_in_managed_memory
from labkit.filters.image_filters import guided_filter
from labkit.models.cuda_errors import explain_cuda_errors
from labkit.models.streamed import STREAMS
from labkit.pipelines.ladder import LADDER, rung
from labkit.practice.gpu_tensor import Gpu

from conftest import TINY, make_frame  # isort: skip

SIZE = (640, 480)
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with a working driver"),
]


def on_gpu(test):
    for mark in needs_gpu:
        test = mark(test)
    return test


@dataclasses.dataclass(frozen=True)
class Machine:
    """A GPU, and what to run on it.

    Attributes:
        gpu: the fake one, or None for the real one.
    """

    work: Workload
    gpu: Gpu | None = None

    def frames(self, n, seed=0):
        return [make_frame(i, self.work.size, seed * i) for i in range(n)]

    def session(self, row, frames):
        return Session(rung(row) if isinstance(row, str) else row, self.work, frames)

    def reference(self, name):
        """Frames, and the answers to them of a rung that many others are compared with."""
        frames = self.frames(2 if self.gpu else 3)
        if (self.work, name) not in KNOWN:
            KNOWN[self.work, name] = self.session(name, frames).answers(frames)
        return frames, KNOWN[self.work, name]


KNOWN = {}
REAL = Machine(Workload(weights="random", size=SIZE, objects=5))


@pytest.fixture(
    params=[pytest.param("real", marks=needs_gpu), pytest.param("fake_gpu", marks=pytest.mark.extended)]
)
def machine(request):
    """The real GPU with the real work, and a fake one with little."""
    if request.param == "real":
        return REAL
    fake_gpu = request.getfixturevalue("fake_gpu")
    return Machine(Workload(model_set="lab", size=TINY, objects=5), fake_gpu)


CUDA_RUNGS = [row for row in LADDER if "cuda" in row.needs]
RACES = "baseline_streams_cuda"  # on purpose: what it answers is luck


def skip_what_is_missing(row, machine):
    needs = row.needs
    if machine.gpu is not None:
        needs = tuple(set(needs) - {"cuda", "cupy"})
        if row.name == RACES:
            pytest.skip("the fake GPU tells of the race, in a test of its own")
    if unmet_requirement(needs):
        pytest.skip(unmet_requirement(needs))


@pytest.mark.parametrize("row", CUDA_RUNGS, ids=lambda row: row.name)
def test_a_gpu_rung_agrees_with_its_reference(row, machine, monkeypatch):
    skip_what_is_missing(row, machine)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as shipped, convolutions round to it
    frames, wanted = machine.reference(row.reference)
    got = machine.session(row, frames).answers(frames)
    result = measure_agreement(wanted, got)
    assert result.nan_count == 0
    if row.prepare.precision == "fp32":
        assert result.share >= 0.99
    else:  # of two queries nearly alike rounding decides which one wins, not how high the best scores are
        for a, b in zip(wanted.found, got.found, strict=True):
            np.testing.assert_allclose(np.sort(a.score), np.sort(b.score), atol=0.02)
    if row.prepare.precision == "fp32" and row.prepare.form == "parts":
        # torch shrinks crops in another way than OpenCV
        assert result.relative_error < (0.05 if row.prepare.preprocess == "torch" else 1e-3)


@pytest.mark.parametrize("name", ["on_device_cuda", "half_cuda", "graph_cuda"])
def test_at_most_one_host_sync_per_frame(name, machine):
    frames = machine.frames(2)
    net = machine.session(name, frames).prepared.net
    x = net.preprocess(frames[0].image)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        packed = net.infer(net.preprocess(frames[1].image))  # upload, both networks, packing: no wait
        with pytest.raises(RuntimeError, match="synchroniz"):
            net.decode(packed, machine.work.size)  # the one copy back is the one wait
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.is_cuda


def test_frames_in_flight_do_not_mix(machine):
    frames = machine.frames(8, seed=10)
    net = machine.session("graph_cuda", frames).prepared.net
    ahead = rung("ahead_cuda").run(frames, net)
    for (_, a), (_, b) in zip(rung("graph_cuda").run(frames, net), ahead, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-3)


CYCLES = 100_000_000  # some 50 ms


@pytest.mark.parametrize("name", ["filter_device_cuda", "filter_fused_cuda"])
def test_the_filter_on_the_device_waits_for_nothing(name, machine):
    frames = machine.frames(2)
    net = machine.session(name, frames).prepared.net
    net.inner.infer(net.smooth(net.inner.preprocess(frames[0].image)))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        net.inner.infer(net.smooth(net.inner.preprocess(frames[1].image)))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def written_late(make, cycles):
    """`make`, whose result is zeros for `cycles` GPU clock cycles before its values arrive.

    Whoever reads it without waiting reads zeros: a race that usually goes well is made to go wrong.
    """

    def late(*args):
        values = make(*args)
        out = torch.zeros_like(values)
        torch.cuda.current_stream().synchronize()  # the zeros are there, whoever looks
        torch.cuda._sleep(cycles)
        return out.copy_(values)

    return late


@on_gpu
def test_the_origins_streams_race_when_preprocessing_is_late():
    frames = REAL.frames(3, seed=10)
    session = REAL.session(RACES, frames)
    wanted = REAL.session("filter_baseline_cuda", frames).answers(frames)
    assert measure_agreement(wanted, session.answers(frames)).share >= 0.99  # luck, and it mostly holds
    detector = session.prepared.net.inner.detector
    detector.preprocess = written_late(detector.preprocess, CYCLES)
    assert measure_agreement(wanted, session.answers(frames)).relative_error > 0.05


def streams_of(depth):
    row = rung("streams_cuda")
    options = {**row.prepare.options, "depth": depth}
    return dataclasses.replace(row, prepare=dataclasses.replace(row.prepare, options=options))


@on_gpu
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("depth", [2, 3])
def test_streams_are_right_whatever_is_late(stream, depth):
    frames = REAL.frames(7, seed=10)
    wanted = REAL.session("filter_fused_cuda", frames).answers(frames)
    session = REAL.session(streams_of(depth), frames)
    session.prepared.net.streams.delay_cycles = {stream: CYCLES}
    got = session.answers(frames)
    for a, b in zip(wanted.found, got.found, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1)
        np.testing.assert_allclose(a.score, b.score, atol=0.01)
    del session.prepared.net.streams.delay_cycles[stream]
    again = session.answers(frames)  # and memory that a late stream still read was not handed out
    for a, b in zip(wanted.found, again.found, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1)


@on_gpu
def test_upload_and_filter_hide_behind_the_networks():
    frames = [make_frame(i % 8, SIZE) for i in range(40)]
    for name, at_least in (("streams_cuda", 0.5), ("filter_fused_cuda", 0.0)):
        session = REAL.session(name, frames)
        list(session.rung.run(frames, session.prepared.net))
        with recording() as record:
            list(session.rung.run(frames, session.prepared.net))
        hidden = hidden_share(record.spans(), {"upload", "preprocess", "filter"}, {"infer"})
        assert hidden >= at_least
        if not at_least:
            assert hidden < 0.05  # one stream: nothing overlaps


def test_the_origins_way_gives_the_right_filter(machine):
    image = machine.frames(1)[0].image
    got = guided_in_managed_memory("guided_1_global.cu", image, 4, 0.01)
    wanted = guided_filter(image, version="reference")
    assert np.abs(got.astype(int) - wanted).max() <= 1


@on_gpu
def test_fp32_as_shipped_rounds_convolutions_and_finds_the_same():
    frames, wanted = REAL.reference("baseline_combined_cpu")
    assert torch.backends.cudnn.allow_tf32
    result = measure_agreement(wanted, REAL.session("batched_cuda", frames).answers(frames))
    assert result.share >= 0.99
    assert 1e-6 < result.relative_error < 2e-2


@on_gpu
def test_running_out_of_memory_is_told():
    with pytest.raises(UnavailableError, match="memory ran out"), explain_cuda_errors("a test"):
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


def test_gpu_faults_become_sentences():
    with (
        pytest.raises(UnavailableError, match=r"bench: the GPU's memory ran out"),
        explain_cuda_errors("bench"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    for words in ("CUDA error: out of memory", "cudaErrorMemoryAllocation: out of memory"):
        with pytest.raises(UnavailableError, match="memory ran out"), explain_cuda_errors("bench"):
            raise RuntimeError(words)
    with pytest.raises(UnavailableError, match="want of memory"), explain_cuda_errors("bench"):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")
    with pytest.raises(MemoryError), explain_cuda_errors("bench"):
        raise MemoryError("the host's, which is none of a GPU's business")
    with pytest.raises(UnavailableError, match="restart the kernel"), explain_cuda_errors("bench"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")
    with pytest.raises(RuntimeError, match="other"), explain_cuda_errors("bench"):
        raise RuntimeError("other")
