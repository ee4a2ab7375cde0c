"""Simulation of a fleet, compared with closed forms."""

import numpy as np
import pytest

from labkit.core.errors import UsageError
from labkit.fleet.queueing import FleetModel, ServiceTime, deployments, max_streams, simulate


@pytest.mark.parametrize("transfer_s", [0.0, 0.005])
def test_a_camera_slower_than_the_engine_loses_no_frame(transfer_s):
    out = simulate(FleetModel(1, fps=10, transfer_s=transfer_s), ServiceTime(0.02, 0.01), seconds=20)
    assert out.fps == pytest.approx(10, rel=0.02)
    assert out.dropped == pytest.approx(0, abs=0.02)
    np.testing.assert_allclose(out.age_s, 0.03 + transfer_s, atol=1e-9)
    assert out.utilization == pytest.approx(0.3, rel=0.02)


def test_a_saturated_engine_runs_at_its_service_rate_and_is_fair():
    service = ServiceTime(0.01, 0.04)  # 50 ms alone, 42.5 ms per frame in fours
    for batch, fps in ((1, 1 / 0.05), (4, 4 / 0.17)):
        out = simulate(FleetModel(8, fps=30, batch=batch), service, seconds=60)
        assert out.fps == pytest.approx(fps, rel=0.01)
        assert out.utilization == pytest.approx(1, abs=0.01)
        assert np.ptp(out.fps_per_stream) < 0.1 * out.fps_per_stream.mean()
        assert out.dropped == pytest.approx(1 - fps / 240, abs=0.01)
        assert out.mean_batch == batch


def test_batching_trades_age_for_throughput():
    service = ServiceTime(0.03, 0.01)
    one, eight = (simulate(FleetModel(8, fps=30, batch=k), service, seconds=60) for k in (1, 8))
    assert eight.fps > 1.5 * one.fps
    assert eight.age_ms(50) > service.mean_s(1) * 1e3
    assert np.all(eight.age_s >= service.mean_s(1))


def test_a_deadline_makes_batches_larger_and_frames_older():
    service = ServiceTime(0.005, 0.001)
    now, later = (
        simulate(FleetModel(4, fps=5, batch=4, deadline_s=d), service, seconds=60) for d in (0, 0.1)
    )
    assert later.mean_batch > now.mean_batch
    assert later.age_ms(50) > now.age_ms(50)
    assert later.fps == pytest.approx(20, rel=0.02)


def test_two_engines_double_the_throughput():
    service = ServiceTime(0.0, 0.1)
    one, two = (simulate(FleetModel(8, fps=30, engines=n), service, seconds=60) for n in (1, 2))
    assert two.fps == pytest.approx(2 * one.fps, rel=0.02)


def test_the_same_arguments_give_the_same_result():
    service = ServiceTime(0.0, 0.03, (0.9, 1.0, 1.3))
    first, again = (simulate(FleetModel(3), service, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.age_s, again.age_s)
    assert first.age_ms(90) > first.age_ms(50)


def test_a_service_time_is_fitted_to_measured_batches():
    service = ServiceTime.fitted({n: [0.02 + 0.005 * n] * 5 for n in (1, 2, 4)})
    assert (service.base_s, service.per_frame_s) == pytest.approx((0.02, 0.005))
    assert ServiceTime.fitted({2: [0.1, 0.1]}).mean_s(1) == pytest.approx(0.05)
    falling = ServiceTime.fitted({1: [0.05], 4: [0.04]})
    assert falling.per_frame_s == 0 and falling.mean_s(8) > 0
    steep = ServiceTime.fitted({1: [0.01], 4: [0.08]})  # the line would meet the axis below 0
    assert steep.base_s == 0 and steep.mean_s(1) > 0
    with pytest.raises(UsageError, match="no measured batch"):
        ServiceTime.fitted({})


def test_max_streams_meets_age_and_rate():
    service = ServiceTime(0.0, 0.01)  # 100 frames per second
    fleet = FleetModel(1, fps=10, transfer_s=0.0)
    fit = max_streams(fleet, service, age_ms=1000, fps=10)
    assert 9 <= fit <= 11
    tighter = max_streams(fleet, service, age_ms=30, fps=10)
    assert 1 <= tighter < fit
    assert max_streams(fleet, service, age_ms=5, fps=10) == 0


def test_deployments_differ_in_engines_and_network_load():
    numbers = {"fps": 10, "jpeg_bytes": 50_000, "result_bytes": 500}
    found = deployments(10_000, 20, motion_share=0.1, **numbers)
    assert [engines for _, engines, _ in found] == [500, 50, 0]
    assert [mbit_s for *_, mbit_s in found] == pytest.approx([40_000, 4_000, 400])
    with pytest.raises(UsageError, match="no engine serves"):
        deployments(10, 0, motion_share=0.1, **numbers)
    with pytest.raises(UsageError, match="motion_share"):
        deployments(10, 1, motion_share=0.0, **numbers)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (FleetModel, {"streams": 0}, "at least one stream"), (FleetModel, {"streams": 1, "fps": 0}, "fps"),
        (FleetModel, {"streams": 1, "deadline_s": -1}, "times"),
        (ServiceTime, {"base_s": 0.0, "per_frame_s": 0.0}, "takes time"),
    ],
)  # fmt: skip
def test_impossible_parameters_are_refused(kind, wrong, message):
    with pytest.raises(UsageError, match=message):
        kind(**wrong)
