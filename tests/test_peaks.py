"""A machine's peak, kept from one point of a sweep to the next."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit.bench import peaks
from labkit.bench.peaks import CACHE_S, NOISY_CACHE_S, cached_peaks, measure_peaks
from labkit.core.errors import LabError
from labkit.core.types import Workload
from labkit.fleet.sweep.node_task import measure_point
from labkit.fleet.sweep.point import Point


class Counted:
    """Stands in for measuring; tells how often, and another figure each time."""

    def __init__(self):
        self.devices = []
        self.doubt = ""

    def __call__(self, device, tries, report):
        self.devices.append(device)
        if self.doubt:
            report(self.doubt)
        return {"fp32": 100.0 + len(self.devices)}


@pytest.fixture
def measure(monkeypatch):
    counted = Counted()
    monkeypatch.setattr(peaks, "measure_peaks", counted)
    return counted


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "labkit" / "peaks"


def test_a_peak_is_measured_once_per_device(cache, measure):
    assert [cached_peaks("cpu") for _ in range(3)] == [{"fp32": 101.0}] * 3
    assert cached_peaks("cuda") == {"fp32": 102.0}
    assert measure.devices == ["cpu", "cuda"]
    assert len(list(cache.iterdir())) == 2


def test_a_peak_that_was_disturbed_is_measured_again(monkeypatch):
    rates = iter([{"fp32": 90.0, "copy": 9.0}, {"fp32": 200.0, "copy": 5.0}, {"fp32": 150.0, "copy": 6.0}])
    doubts = iter([("others",), (), ("others",)])
    monkeypatch.setattr(peaks.NoiseMonitor, "disturbances", lambda self: next(doubts))
    monkeypatch.setattr(peaks, "_in_fresh_process", lambda device: (next(rates), ""))
    heard: list[str] = []
    assert measure_peaks("cpu", 3, heard.append) == {"fp32": 200.0, "copy": 9.0}
    assert heard == []
    assert measure_peaks("cpu", 1, heard.append) == {"fp32": 150.0, "copy": 6.0}
    assert heard == ["this machine's peak may be higher than measured: others"]


def test_a_doubtful_peak_is_told_and_kept_for_less_long(cache, measure):
    measure.doubt, heard = "others", []
    assert cached_peaks("cpu", report=heard.append) == {"fp32": 101.0}
    assert heard == ["others"]
    (path,) = cache.iterdir()
    kept = json.loads(path.read_text())
    assert kept["doubted"]
    path.write_text(json.dumps({**kept, "unix_s": time.time() - NOISY_CACHE_S / 2}))
    assert cached_peaks("cpu") == {"fp32": 101.0}


def test_another_start_of_the_machine_or_other_software_measures_again(monkeypatch, measure):
    cached_peaks("cpu")
    monkeypatch.setattr(peaks, "_boot", lambda: "another start")
    assert cached_peaks("cpu") == {"fp32": 102.0}
    monkeypatch.setattr(peaks, "fingerprint", lambda: {"versions": {"torch": "0"}})
    assert cached_peaks("cpu") == {"fp32": 103.0}


@pytest.mark.parametrize(
    "left",
    [
        json.dumps({"unix_s": time.time() - CACHE_S - 60, "doubted": False, "peaks": {"fp32": 1.0}}),
        json.dumps({"unix_s": time.time() - NOISY_CACHE_S - 60, "doubted": True, "peaks": {"fp32": 1.0}}),
        json.dumps({"unix_s": time.time() + 3600, "doubted": False, "peaks": {"fp32": 1.0}}),
        json.dumps({"unix_s": time.time(), "doubted": False, "peaks": [1.0]}),
        json.dumps({"peaks": {"fp32": 1.0}}), json.dumps([1]), "{half", "",
    ],
    ids=["old", "old and doubted", "from the future", "no peaks", "no time", "not ours", "half", "empty"],
)  # fmt: skip
def test_what_is_old_or_broken_does_not_count(cache, measure, left):
    cached_peaks("cpu")
    (path,) = cache.iterdir()
    path.write_text(left)
    assert cached_peaks("cpu") == {"fp32": 102.0}
    assert cached_peaks("cpu") == {"fp32": 102.0}


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(cache, measure):
    Path(cache.parent).mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert cached_peaks("cpu") == {"fp32": 101.0}
    assert cached_peaks("cpu") == {"fp32": 102.0}


def test_points_of_one_machine_share_its_peak(in_process, measure):
    workload = Workload(model_set="lab", size=(64, 48))
    point = Point("resnet_linear_cpu", "scenes", workload, seconds=0.2, quick=True)
    peaks = [measure_point(point).limit["peak_gflops"] for _ in range(2)]
    assert peaks == [101.0, 101.0]
    assert measure.devices == ["cpu"]


def test_the_best_time_is_that_of_one_call(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(peaks, "SECONDS", 1.0)
    took = iter((9.0, 0.5, 0.25, 0.5))  # the first one warms up
    assert peaks._best_on_cpu(lambda: now.__setitem__(0, now[0] + next(took))) == 0.25


@pytest.mark.parametrize(("gflops", "sides"), [(100.0, [32, 256]), (0.001, [32])], ids=["fast", "slow"])
def test_a_product_that_would_take_a_minute_is_measured_smaller(monkeypatch, gflops, sides):
    multiplied = []

    def rate_of(dtype, n, device):
        multiplied.append(n)
        return gflops

    monkeypatch.setitem(peaks.SIDES, "cpu", {"fp32": 256, "bf16": 256, "int8": 256})
    monkeypatch.setattr(peaks, "_product_rate", rate_of)
    monkeypatch.setattr(peaks, "_convolution_rate", lambda dtype, device, **_: 7.0)
    assert peaks._measurements("cpu")["bf16"]() == max(gflops, 7.0)
    assert multiplied == sides


# On a GPU


def test_a_gpus_peaks_are_timed_with_events_over_many_launches(fake_gpu, monkeypatch):
    monkeypatch.setitem(peaks.SIDES, "cuda", dict.fromkeys(("fp32", "bf16", "fp16"), 64))
    monkeypatch.setitem(peaks.COPIED_BYTES, "cuda", 4096)
    monkeypatch.setattr(peaks, "EVENT_MS", 0.2)
    monkeypatch.setattr(peaks, "SECONDS", 0.001)
    monkeypatch.setattr(peaks, "_convolution_rate", lambda dtype, device, **_: 0.0)
    found = dict(peaks._peaks("cuda"))
    assert list(found) == ["fp32", "bf16", "fp16", "copy_gb_s"]
    assert all(rate > 0 for rate in found.values())
    waits = fake_gpu.waits.by_what()
    assert set(waits) == {"an event"}, "nothing waits for the whole device"
    assert fake_gpu.launches > 10 * waits["an event"], "many launches for each wait"


def test_a_gpus_peaks_fit_into_1_gib(fake_gpu, monkeypatch):
    monkeypatch.setattr(peaks, "_best", lambda work, device: 1e-3)
    fake_gpu.reset_peak_memory_stats()
    assert len(dict(peaks._peaks("cuda"))) == 4
    assert 2**28 < fake_gpu.max_memory_allocated() < 2**30


def test_a_peak_that_fails_is_left_out_and_named(monkeypatch):
    def fails():
        raise RuntimeError("CUDA error: not supported\nmore lines")

    def absent():
        raise ImportError("no openvino")

    work = {"fp32": lambda: 5.0, "bf16": fails, "int8": absent, "copy_gb_s": lambda: 7.0}
    monkeypatch.setattr(peaks, "_measurements", lambda device: work)
    measured = peaks._peaks("cpu")
    assert [next(measured), next(measured)] == [("fp32", 5.0), ("copy_gb_s", 7.0)]
    with pytest.raises(LabError, match=r"bf16: CUDA error: not supported$"):
        next(measured)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("import os; os.abort()", "could be measured"),
        ("raise RuntimeError('CUDA error: launch failed')", "CUDA error: launch failed"),
        ("import time; time.sleep(60)", "longer than 2 s"),
    ],
    ids=["crash", "error", "hang"],
)
def test_what_was_measured_before_a_failure_counts(monkeypatch, end, words):
    code = f"print('a library speaks'); print('[\"fp32\", 5.0]', flush=True); {end}"
    monkeypatch.setattr(peaks, "child_command", lambda *given: [sys.executable, "-c", code])
    monkeypatch.setattr(peaks, "TIMEOUT_S", 2)
    heard: list[str] = []
    assert measure_peaks("cuda", 3, heard.append) == {"fp32": 5.0}
    (line,) = heard
    assert words in line


def test_the_work_behind_a_peak_is_what_torch_counts(monkeypatch):
    counted = []

    def in_one_second(work, device):
        with FlopCounterMode(display=False) as counter:
            work()
        counted.append(counter.get_total_flops() / 1e9)
        return 1.0

    monkeypatch.setattr(peaks, "_best", in_one_second)
    rates = [
        peaks._product_rate(torch.float32, 24, "cpu"),
        peaks._convolution_rate(torch.float32, "cpu", side=6),
    ]
    assert rates == pytest.approx(counted) and all(counted)


@pytest.mark.parametrize("kind", ["MatMul", "Convolution"])
def test_the_8_bit_work_behind_a_peak_is_what_its_operations_do(kind, monkeypatch):
    openvino = pytest.importorskip("openvino")
    counted = []

    def takes_s(result, parameter):
        for node in openvino.Model([result], [parameter]).get_ops():
            if node.get_type_name() == kind:
                weights = node.get_input_shape(1)
                per_output = weights[:1] if kind == "MatMul" else weights[1:]
                counted.append(2 * math.prod(node.output(0).shape) * math.prod(per_output) / 1e9)
                found = 1.0
            elif node.get_type_name() in ("MatMul", "Convolution"):
                found = math.inf
        return found

    monkeypatch.setattr(peaks, "_openvino_s", takes_s)
    assert peaks._int8_peak(16) == pytest.approx(sum(counted)) and len(counted) == 2
