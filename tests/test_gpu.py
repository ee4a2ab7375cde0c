"""What only a GPU can show; `make gpu-check` runs these on a machine that has one."""

import dataclasses

import numpy as np
import pytest
import torch

from labkit.errors import UnavailableError
from labkit.filters import guided_filter
from labkit.filters.origin_way import guided_in_managed_memory
from labkit.measure.fidelity import fidelity
from labkit.measure.session import Session
from labkit.models.faults import faults_explained
from labkit.models.lanes import written_late
from labkit.models.streamed import LANES
from labkit.needs import missing
from labkit.overlap import hidden_share
from labkit.pipelines import LADDER, rung
from labkit.trace import recording
from labkit.types import Workload

from conftest import make_frame  # isort: skip

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with a working driver"),
]
SIZE = (640, 480)
WORK = Workload(weights="random", size=SIZE, objects=5)
CUDA_RUNGS = [
    pytest.param(
        row, id=row.name, marks=pytest.mark.skipif(bool(missing(row.needs)), reason=str(missing(row.needs)))
    )
    for row in LADDER
    if "cuda" in row.needs
]


def on_gpu(test):
    for mark in needs_gpu:
        test = mark(test)
    return test


@on_gpu
@pytest.mark.parametrize("row", CUDA_RUNGS)
def test_a_gpu_rung_agrees_with_its_reference(row):
    frames = [make_frame(i, SIZE) for i in range(3)]
    wanted = Session(rung(row.reference), WORK, frames).answers(frames)
    got = Session(row, WORK, frames).answers(frames)
    result = fidelity(wanted, got)
    assert result.nan_count == 0
    if row.prepare.precision == "fp32":
        assert result.agreement >= 0.99
    else:  # of two queries nearly alike rounding decides which one wins, not how high the best scores are
        for a, b in zip(wanted.found, got.found, strict=True):
            np.testing.assert_allclose(np.sort(a.score), np.sort(b.score), atol=0.02)
    if row.prepare.precision == "fp32" and row.prepare.form == "parts":
        # torch shrinks crops in another way than OpenCV
        assert result.relative_error < (0.05 if row.prepare.preprocess == "torch" else 5e-3)


@on_gpu
@pytest.mark.parametrize("name", ["on_device_cuda", "half_cuda", "graph_cuda"])
def test_at_most_one_host_sync_per_frame(name):
    frames = [make_frame(i, SIZE) for i in range(4)]
    session = Session(rung(name), WORK, frames)
    net = session.prepared.net
    x = net.preprocess(frames[0].image)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        packed = net.infer(net.preprocess(frames[1].image))  # upload, both networks, packing: no wait
        with pytest.raises(RuntimeError, match="synchroniz"):
            net.decode(packed, SIZE)  # the one copy back is the one wait
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.is_cuda


@on_gpu
def test_frames_in_flight_do_not_mix():
    frames = [make_frame(i, SIZE, seed=i * 10) for i in range(8)]
    net = Session(rung("graph_cuda"), WORK, frames).prepared.net
    ahead = rung("ahead_cuda").run(frames, net)
    for (_, a), (_, b) in zip(rung("graph_cuda").run(frames, net), ahead, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-3)


CYCLES = 100_000_000  # some 50 ms


@on_gpu
@pytest.mark.parametrize("name", ["filter_device_cuda", "filter_fused_cuda"])
def test_the_filter_on_the_device_waits_for_nothing(name):
    frames = [make_frame(i, SIZE) for i in range(2)]
    net = Session(rung(name), WORK, frames).prepared.net
    net.inner.infer(net.smooth(net.inner.preprocess(frames[0].image)))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        net.inner.infer(net.smooth(net.inner.preprocess(frames[1].image)))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_the_origins_streams_race_when_preprocessing_is_late():
    frames = [make_frame(i, SIZE, seed=i * 10) for i in range(3)]
    session = Session(rung("origin_streams_cuda"), WORK, frames)
    wanted = Session(rung("filter_origin_cuda"), WORK, frames).answers(frames)
    assert fidelity(wanted, session.answers(frames)).agreement >= 0.99  # luck, and it mostly holds
    detector = session.prepared.net.inner.detector
    detector.preprocess = written_late(detector.preprocess, CYCLES)
    assert fidelity(wanted, session.answers(frames)).relative_error > 0.05


@on_gpu
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("depth", [2, 3])
def test_streams_are_right_whatever_is_late(lane, depth):
    row = rung("streams_cuda")
    options = {**row.prepare.options, "depth": depth}
    row = dataclasses.replace(row, prepare=dataclasses.replace(row.prepare, options=options))
    frames = [make_frame(i, SIZE, seed=i * 10) for i in range(7)]
    wanted = Session(rung("filter_fused_cuda"), WORK, frames).answers(frames)
    session = Session(row, WORK, frames)
    session.prepared.net.lanes.delay_cycles = {lane: CYCLES}
    got = session.answers(frames)
    for a, b in zip(wanted.found, got.found, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1)
        np.testing.assert_allclose(a.score, b.score, atol=0.01)
    del session.prepared.net.lanes.delay_cycles[lane]
    again = session.answers(frames)  # and memory that a late stream still read was not handed out
    for a, b in zip(wanted.found, again.found, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1)


@on_gpu
def test_upload_and_filter_hide_behind_the_networks():
    frames = [make_frame(i % 8, SIZE) for i in range(40)]
    for name, at_least in (("streams_cuda", 0.5), ("filter_fused_cuda", 0.0)):
        session = Session(rung(name), WORK, frames)
        list(session.rung.run(frames, session.prepared.net))
        with recording() as record:
            list(session.rung.run(frames, session.prepared.net))
        hidden = hidden_share(record.spans(), {"upload", "preprocess", "filter"}, {"infer"})
        assert hidden >= at_least
        if not at_least:
            assert hidden < 0.05  # one stream: nothing overlaps


@on_gpu
def test_the_origins_way_gives_the_right_filter():
    image = make_frame(0, SIZE).image
    got = guided_in_managed_memory("guided_1_global.cu", image, 4, 0.01)
    wanted = guided_filter(image, version="reference")
    assert np.abs(got.astype(int) - wanted).max() <= 1


@on_gpu
def test_running_out_of_memory_is_told():
    with pytest.raises(UnavailableError, match="memory ran out"), faults_explained("a test"):
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


def test_gpu_faults_become_sentences():
    with pytest.raises(UnavailableError, match=r"bench: the GPU's memory ran out"), faults_explained("bench"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(UnavailableError, match="restart the kernel"), faults_explained("bench"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")
    with pytest.raises(RuntimeError, match="other"), faults_explained("bench"):
        raise RuntimeError("other")
