"""The roofline: points where their work and bytes put them, roofs where the machine's peaks are."""

import numpy as np
import pytest
from records_made_up import made_up_run

from labkit.core import requirements
from labkit.core.errors import UsageError
from labkit.core.types import Workload
from labkit.models.flops import mb_per_frame, parameters
from labkit.pipelines.ladder import rung
from labkit.results.plots.roofline import intensity, roofline

LIMIT = {
    "gflop_per_frame": 10.0,
    "mb_per_frame": 20.0,
    "precision": "fp32",
    "peak_gflops": 500.0,
    "peaks": {"fp32": 500.0, "bf16": 900.0, "copy_gb_s": 50.0},
}


def run(name="a rung", **other):
    return made_up_run(name, limit={**LIMIT, **other})


def test_a_point_stands_at_its_work_per_byte_and_per_second():
    one = run()
    assert intensity(one) == 500.0
    (axes,) = roofline([one]).axes
    (point,) = (line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()))
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((500.0, 10 * one.fps))


def test_the_roofs_meet_where_memory_and_arithmetic_are_even():
    (axes,) = roofline([run()]).axes
    slope, fp32, bf16 = axes.lines[:3]
    np.testing.assert_allclose(slope.get_ydata() / slope.get_xdata(), 50.0)
    assert slope.get_ydata()[-1] == 900.0
    for roof, peak in ((fp32, 500.0), (bf16, 900.0)):
        assert roof.get_ydata() == pytest.approx([peak, peak])
        assert roof.get_xdata()[0] == pytest.approx(peak / 50.0)


def test_nobody_is_above_the_roof_unseen_and_the_legend_has_the_order_of_the_points():
    slow, quick = run("slow"), run("quick", gflop_per_frame=11.0, precision="bf16", peak_gflops=900.0)
    chart = roofline([slow, quick])
    (axes,) = chart.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.split()[0] for label in labels] == ["quick", "slow", "computes", "computes"]
    low, high = axes.get_ylim()
    assert low < 10 * slow.fps < high
    assert high > 900
    assert "50.0 GB/s" in chart.alt_text
    assert "500 FLOP per byte" in chart.alt_text


def test_runs_without_bytes_have_no_place():
    with pytest.raises(UsageError, match="none of the 1 runs"):
        roofline([made_up_run()])


def test_the_least_bytes_of_a_frame_by_hand(monkeypatch):
    monkeypatch.setattr(requirements, "_openvino_has_bf16", lambda: True)
    work, lab = Workload("lab"), ("lab_detr", "lab_resnet")
    frame = 3 * 640 * 480
    both = sum(map(parameters, lab))
    assert mb_per_frame(rung("combined_cpu").prepare, work) == pytest.approx((4 * both + frame) / 1e6)
    assert mb_per_frame(rung("cpu_engine_bf16").prepare, work) == pytest.approx((2 * both + frame) / 1e6)
    monkeypatch.setattr(requirements, "_openvino_has_bf16", lambda: False)
    assert mb_per_frame(rung("cpu_engine_bf16").prepare, work) == pytest.approx((4 * both + frame) / 1e6)
    assert mb_per_frame(rung("grouped_cpu").prepare, work) == pytest.approx((both + frame) / 1e6)
    detector = 4 * parameters("lab_detr")
    assert mb_per_frame(rung("detr_pil_cpu").prepare, work) == pytest.approx((detector + frame) / 1e6)
