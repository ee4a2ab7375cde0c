"""The time of an engine's operators: kinds, arithmetic and sentences."""

import pytest

from labkit.core.errors import UnavailableError
from labkit.core.types import Workload
from labkit.models.flops import gflop_per_frame
from labkit.pipelines.ladder import rung
from labkit.profiling.operators import KINDS, Kind, Operators, operators

from conftest import further  # isort: skip

LAB = Workload("lab")
PEAKS = {"fp32": 1000.0, "bf16": 1000.0, "int8": 1000.0}


@pytest.mark.parametrize("name", ["cpu_engine_fp32", *further("detr_engine_int8")])
def test_all_arithmetic_of_the_detector_is_found_in_some_kind(name):
    pytest.importorskip("openvino")
    found = operators(name, LAB, PEAKS)
    assert [kind.name for kind in found.kinds] == list(KINDS)
    assert all(kind.operators > 0 and kind.ms > 0 for kind in found.kinds)
    expected = gflop_per_frame(rung("detr_engine_bf16").prepare, LAB)
    assert sum(kind.gflop for kind in found.kinds) == pytest.approx(expected, rel=0.01)
    assert found.kinds[-1].gflop == 0
    # One unit and one frame; which is longer, a frame or its operators with their clocks, the load decides.
    assert 0.1 < sum(kind.ms for kind in found.kinds) / found.frame_ms < 10


def test_a_rung_whose_engine_does_not_tell_is_refused():
    with pytest.raises(UnavailableError, match="folded_cpu runs on eager"):
        operators("folded_cpu", LAB, PEAKS)


def made_up(peak=1000.0):
    """At 1000 GFLOP/s the arithmetic takes 40 + 30 + 10 = 80 of 125 ms."""
    kinds = (
        Kind(KINDS[0], 17, 50.0, 40.0),
        Kind(KINDS[1], 37, 50.0, 30.0),
        Kind(KINDS[2], 84, 19.8, 10.0),
        Kind(KINDS[3], 12, 0.2, 0.0),
        Kind(KINDS[4], 160, 5.0, 0.0),
    )
    return Operators("detr_engine_bf16", "bf16", kinds, 126.0, peak)


def test_the_sentences_name_the_losses_from_the_largest_on():
    lines = made_up().sentences()
    assert lines[0].endswith("would take 80.0 of the 125.0 ms in its operators: 64%.")
    assert lines[1].startswith(
        "16% of the time is lost in convolutions 1x1 (37 operators, at 60% of the peak)"
    )
    assert [line.split("%")[0] for line in lines[1:]] == ["16", "8", "8", "4"]
    assert "no products at all" in lines[-1]
    assert made_up(None).sentences() == [
        "This machine's peak in that precision is not known, so no share of it can be given."
    ]


def test_the_rows_hold_shares_that_add_up():
    rows = made_up().rows()
    for share in ("share of time", "share of arithmetic"):
        assert sum(int(row[share].rstrip("%")) for row in rows) == pytest.approx(100, abs=2)
    assert [row["of peak"] for row in rows] == ["80%", "60%", "51%", "", ""]


def test_rows_and_sentences_of_made_up_operators():
    kinds = (Kind(KINDS[0], 3, 30.0, 15.0), Kind(KINDS[4], 9, 10.0, 0.0))
    first, rest = Operators("a", "fp32", kinds, 41.0, 1000.0).rows()
    assert first["GFLOP/s"] == 500 and first["of peak"] == "50%" and first["share of time"] == "75%"
    assert rest["GFLOP/s"] == rest["of peak"] == "" and rest["share of arithmetic"] == "0%"
    told = Operators("a", "fp32", kinds, 41.0, 1000.0).sentences()
    assert "would take 15.0 of the 40.0 ms in its operators: 38%" in told[0]
    assert (
        "38% of the time is lost in convolutions larger than 1x1 (3 operators, at 50% of the peak)" in told[1]
    )
    assert "25% of the time is lost in everything else (9 operators, no products at all)" in told[2]
    assert "not known" in Operators("a", "fp32", kinds, 41.0, None).sentences()[0]
