"""Benchmark of fleets: steady state, CPU usage, the single-process baseline, and how they are shown."""

import multiprocessing
import time

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from labkit.core.errors import LabError, SourceError
from labkit.core.types import Workload
from labkit.fleet.benchmark import fleet_benchmark
from labkit.fleet.benchmark import single_process as single_process_module
from labkit.fleet.benchmark.fleet_benchmark import DRIVER, RAY, CpuUsage
from labkit.fleet.benchmark.rounds import Rounds, run_rounds
from labkit.fleet.benchmark.single_process import WARM_FRAMES, SingleProcess
from labkit.fleet.benchmark.steady_state import FleetResults, rate
from labkit.fleet.fleet_plan import Plan
from labkit.fleet.queueing import ServiceTime, SimulationResult
from labkit.fleet.streams import Counts
from labkit.lessons import nb09_fleet

pytest.importorskip("ray")

from fleet_pipelines import CHEAP, CHEAP_GROUPS, open_nothing, open_slow  # isort: skip
from test_fleet import SMALL, WORKLOAD, cluster_of_two, film, grey, two_nodes  # noqa: F401  # isort: skip


def results(*streams):
    """Results at the given times of each stream, each a tenth of a second old."""
    done_s = np.concatenate([np.asarray(times, float) for times in streams])
    whose = np.concatenate([np.full(len(times), i) for i, times in enumerate(streams)])
    order = np.argsort(done_s, kind="stable")
    return FleetResults(done_s[order], np.full(len(done_s), 0.1), whose[order])


# Steady state


def test_steady_keeps_the_time_in_which_all_streams_run():
    first, second = np.arange(0, 10, 0.5), np.arange(3, 14, 0.5)
    steady = results(first, second).steady(settle_s=1.0)
    assert (steady.done_s[0], steady.done_s[-1]) == (4.0, 9.5)
    assert steady.fps == pytest.approx(4.0)
    assert results(first).fps == pytest.approx(2.0)


def test_streams_that_never_ran_together_are_an_error():
    with pytest.raises(LabError, match="2 streams did not run together"):
        results([0, 1, 2], [5, 6, 7]).steady(0.5)
    with pytest.raises(LabError, match="0 streams"):
        FleetResults(np.empty(0), np.empty(0), np.empty(0, np.int64)).steady(0.5)


def test_the_rate_is_measured_from_group_to_group():
    groups = np.repeat(np.arange(0, 2, 0.4), 4) + np.tile([0, 0.001, 0.002, 0.003], 5)
    assert rate(groups) == pytest.approx(10.0)


def test_a_high_percentile_needs_enough_results():
    few, many = results(np.arange(60)), results(np.arange(64))
    assert few.age_ms(50) == pytest.approx(100)
    assert few.age_ms(90) is None
    assert many.age_ms(90) == pytest.approx(100)


# CPU usage


def test_cpu_usage_is_measured_by_kind():
    cpu_usage = CpuUsage()
    assert cpu_usage.cores() == {}
    cpu_usage.sample()
    until_s = time.process_time() + 0.2
    while time.process_time() < until_s:
        sum(range(1000))
    cpu_usage.sample()
    assert 0 < cpu_usage.cores()[DRIVER] <= psutil.cpu_count()


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        (["ray::Engine.run"], "engines"), (["ray::Readers.take"], "readers"),
        (["ray::A.append"], RAY),
        (["/usr/bin/raylet", "--head"], RAY), ([], RAY),
    ],
)  # fmt: skip
def test_processes_are_classified_by_title(title, kind, monkeypatch):
    process = psutil.Process()
    monkeypatch.setattr(process, "cmdline", lambda: title)
    assert fleet_benchmark._kind(process) == kind


# The single-process baseline


@pytest.mark.parametrize("rung", [CHEAP, CHEAP_GROUPS], ids=lambda rung: rung.name)
def test_a_single_process_reads_in_turn_and_writes_the_parts_of_a_fleet(tmp_path, monkeypatch, rung):
    films = [film(tmp_path / "a.avi", 9), film(tmp_path / "b.avi", 30, first=30)]
    plan = Plan(tuple(films), rung, WORKLOAD, out=tmp_path / "out")
    monkeypatch.setitem(single_process_module._ready, "net", 0.005)
    done_s = single_process_module._process_streams(plan, 0.5)
    assert (np.diff(done_s) >= 0).all()
    assert done_s[-1] - done_s[0] < 30
    rows = []
    for folder in sorted((tmp_path / "out").iterdir()):
        (part,) = folder.glob("part-*.parquet")
        rows.append(pq.read_table(part).to_pylist())
        assert [row["frame"] for row in rows[-1]] == list(range(len(rows[-1])))
    assert abs(len(rows[0]) - len(rows[1])) <= 1  # in turn
    assert len(rows[0]) + len(rows[1]) == len(done_s) + WARM_FRAMES
    for row in rows[0]:
        assert abs(int(row["name"][0]) - grey(row["frame"] % 9)) < 2  # the film began anew at its end
    for row in rows[1]:
        assert abs(int(row["name"][0]) - grey(30 + row["frame"] % 30)) < 2


def test_a_single_process_is_measured_several_times(tmp_path):
    spec = film(tmp_path / "a.avi", 20)
    plan = Plan((spec,), CHEAP, WORKLOAD, open_net=open_slow)  # which takes 0.05 s for each frame
    with SingleProcess(plan) as process:
        assert 0 < process.measure_fps(plan, 0.5) <= 20
        missing = Plan((str(tmp_path / "no.avi"),), CHEAP, WORKLOAD, open_net=open_slow)
        with pytest.raises(SourceError, match="no file"):
            process.measure_fps(missing, 0.5)
        assert 0 < process.measure_fps(plan, 0.2) <= 20  # one missing file is not the end
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


@pytest.mark.extended
def test_a_fleet_is_compared_with_a_single_process(cluster_of_two, tmp_path):  # noqa: F811
    plan = Plan((film(tmp_path / "a.avi", 90),), CHEAP, WORKLOAD, fps=20.0, open_net=open_nothing)
    done = run_rounds(plan, (2,), seconds=1.5)
    assert set(done.fleets) == set(done.single_process_fps) == {2}
    assert set(done.fleets[2].stream) == {0, 1}
    assert 0 < done.shares[2] < 1.5
    assert done.single_process_fps[2] > 40  # at its own pace, not at the films'


@pytest.mark.extended
def test_streams_that_cannot_be_measured_are_reported(cluster_of_two, tmp_path):  # noqa: F811
    missing, reported = str(tmp_path / "missing.avi"), []
    done = run_rounds(
        Plan((missing,), CHEAP, WORKLOAD, fps=20.0, open_net=open_nothing), (1,), 1.0, reported.append
    )
    assert (done.fleets, done.single_process_fps) == ({}, {})
    assert "1 streams could not be measured" in reported[0] and "no file" in reported[0]


def test_rounds_are_summarised_by_median_and_interval():
    def measured(fps, cores):
        return fleet_benchmark._Round(results(np.arange(0, 70 / fps, 1 / fps)), Counts(100, 70, 30, 0), cores)

    shares = (0.9, 0.95, 0.94, 1.0, 0.96)
    rounds = [(measured(share * 20.0, {"engines": 1.8} if i else {}), 20.0) for i, share in enumerate(shares)]
    summary = fleet_benchmark._summary(1, rounds)
    assert summary["share_of_single"] == pytest.approx(0.95, rel=0.01)
    low, high = summary["share_interval"]
    assert 0.88 < low < 0.95 < high < 1.03
    assert (summary["offered"], summary["processed"], summary["dropped"]) == (500, 350, 150)
    assert summary["cores_used"] == {"engines": 1.8}
    assert summary["age_p90_ms"] == pytest.approx(100)
    assert summary["extra_ms_per_frame"] == pytest.approx(1e3 * (1 / 19 - 1 / 20), rel=0.05)
    too_few = fleet_benchmark._summary(1, rounds[:3])
    assert "share_interval" not in too_few and len(too_few["rounds_fps"]) == 3


class Paced:
    """A fake of the single process with a given rate at each measurement."""

    def __init__(self, *rates):
        self.rates = iter(rates)

    def measure_fps(self, plan, seconds):
        return next(self.rates)


def test_a_fleet_is_measured_between_two_single_process_runs(monkeypatch):
    plans = {n: Plan(("photos",) * n, CHEAP, WORKLOAD, seconds=1.0) for n in (1, 2)}
    seen = iter([20.0, 20.0, LabError("busy"), 20.0])

    def fleet(plan):
        found = next(seen)
        if isinstance(found, LabError):
            raise found
        return fleet_benchmark._Round(results(np.arange(0, 4, 1 / found)), Counts(), {})

    monkeypatch.setattr(fleet_benchmark, "_measure_fleet", fleet)
    reported = []
    summaries = fleet_benchmark._interleaved(Paced(20.0, 30.0, 10.0, 30.0), plans, 0.5, 2, reported.append)
    assert sorted(single for each in summaries for _, single in each["rounds_fps"]) == [20.0, 20.0, 25.0]
    assert any("could not be measured: busy" in line for line in reported)


# Tables and charts


MEASURED = nb09_fleet.Measured(
    "grouped_cpu", Workload(size=SMALL), "photos", {1: (0.01, 0.01)}, ServiceTime(0.0, 0.01), 100.0, 5e4,
    300.0, "made up, 2 cores", "shipped",
)  # fmt: skip


def simulated(fps):
    return SimulationResult(fps, np.array([fps]), np.full(100, 0.05), 0.0, 0.5, 1.0)


def test_simulation_fleet_and_single_process_are_compared():
    predicted = {1: simulated(30.0), 4: simulated(95.0), 8: simulated(95.0)}
    fleets = {1: results(np.arange(0, 4, 1 / 30)), 4: results(*[np.arange(0, 4, 0.05)] * 4)}
    done = Rounds(30.0, {1: fleets[1], 4: fleets[4]}, {1: 90.0, 4: 88.0, 8: 88.0})
    assert done.shares[1] == pytest.approx(1.0)  # all that one stream offers
    assert done.shares[4] == pytest.approx(fleets[4].fps / 88)
    table = nb09_fleet.simulated_beside_measured(predicted, done).set_index("streams")
    assert table.loc[1, "measured FPS"] == 30.0
    assert table.loc[4, "one process FPS"] == 88.0
    assert table.loc[4, "measured age p90 ms"] == 100
    assert np.isnan(table.loc[8, "measured FPS"])
    alone = nb09_fleet.simulated_beside_measured(predicted)
    assert not [name for name in alone if "measured" in name or "one process" in name]
    words = nb09_fleet.simulation_error(MEASURED, predicted, done)
    assert f"{100 * done.shares[4]:.0f} to 100%" in words and "at 4 streams" in words and "100.0 per" in words
    nothing = Rounds(30.0, {}, {})
    assert "unchecked" in nb09_fleet.simulation_error(MEASURED, predicted, nothing)


def test_a_machine_serves_no_more_cameras_than_a_fleet_was_measured_to(monkeypatch):
    said = []
    monkeypatch.setattr("IPython.display.display", said.append)
    done = Rounds(30.0, {4: results(*[np.arange(0, 4, 0.1)] * 4)}, {4: 88.0})  # 40 results per second
    by_simulation = nb09_fleet.many_cameras(MEASURED, (1000,))
    by_fleet = nb09_fleet.many_cameras(MEASURED, (1000,), done=done)
    assert by_fleet["machines"][0] == 1000 / (40 / 5)
    assert by_simulation["machines"][0] < by_fleet["machines"][0]
    assert "by the simulation, 8 by the best fleet measured here (40 results per second)" in said[1]
    slow = Rounds(30.0, {1: results(np.arange(0, 4, 0.5))}, {1: 88.0})
    assert nb09_fleet.many_cameras(MEASURED, (1000,), done=slow).empty and "loosen" in said[-1]


@pytest.mark.parametrize("age", [False, True])
def test_the_chart_shows_the_measurements(age):
    predicted = {1: simulated(30.0), 4: simulated(95.0)}
    done = Rounds(30.0, {1: results(np.arange(0, 4, 1 / 30))}, {1: 90.0})
    chart = nb09_fleet.plot_fleet(MEASURED, predicted, done, age=age)
    lines = {line.get_label(): list(line.get_ydata()) for line in chart.axes[0].get_lines()}
    assert lines["measured, through Ray"] == pytest.approx([100.0 if age else 30.0])
    assert ("one process, the same job" in lines) is not age
    assert "best single process" not in lines
    bare = nb09_fleet.plot_fleet(MEASURED, predicted)
    assert "best single process" in {line.get_label() for line in bare.axes[0].get_lines()}
