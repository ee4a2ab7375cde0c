"""Pitfalls: on a simulated clock each error is known exactly; on this machine each one runs."""

import contextlib
import os
import signal
import sys
import threading
from contextlib import contextmanager
from functools import partial
from itertools import cycle

import numpy as np
import psutil
import pytest

from labkit.bench.timing import Clock
from labkit.core.errors import UsageError, WorkerError
from labkit.core.types import Frame
from labkit.lessons.pitfalls import async_device, averages, busy_machine, overhead, workloads
from labkit.lessons.pitfalls.child_process import PASSIVE, ChildProcess
from labkit.lessons.pitfalls.pitfall import Pitfall, PitfallResult, size_of
from labkit.lessons.pitfalls.pitfall_plot import plot_pitfalls
from labkit.lessons.pitfalls.registry import GROUPS, PITFALLS, named, pitfall_table, run_pitfalls
from labkit.lessons.pitfalls.setup import Setup, crops_in, jpeg

from conftest import make_frame  # isort: skip


class Simulated:
    """A clock that stands still until someone works or sleeps."""

    def __init__(self):
        self.t = 50.0

    def advance(self, seconds):
        self.t += seconds

    def setup(self, task, **options):
        """`task(frame)` gives the seconds that a frame takes; an image's edges take as long as its size."""
        return Setup(
            [make_frame(0, (64, 48))],
            clock=Clock(lambda: self.t, self.advance),
            task=lambda frame: self.advance(task(frame)),
            edges=lambda image: self.advance(image.size * 1e-6),
            **{"rounds": 5, "per_round": 30, **options},
        )

    def usual(self, seconds=0.02, stall_s=0.2):
        """Frames take `seconds` each, every thirtieth `stall_s`."""
        return self.setup(lambda frame: stall_s if frame.index % 30 == 29 else seconds)


def test_a_mean_of_rates_is_a_quarter_too_high_in_the_origins_own_case():
    result = averages.averaged_rates.run(Simulated().usual())
    assert result.right == pytest.approx(30 / (29 * 0.02 + 0.2))  # 38.5
    assert result.wrong == pytest.approx((29 * 50 + 5) / 30)  # 48.5
    assert result.ratio == pytest.approx(1.26, abs=0.005)


def test_the_best_of_n_ignores_slow_frames():
    spent = iter([0.01, 0.02, 0.03] * 100)
    result = averages.best_of_n.run(Simulated().setup(lambda frame: next(spent)))
    assert (result.wrong, result.right) == (pytest.approx(100), pytest.approx(50))


def test_an_empty_first_pass_counts_as_ten_million_frames_a_second():
    result = averages.empty_first_loop.run(Simulated().usual())
    assert result.right == pytest.approx(50)
    assert result.wrong == pytest.approx((1 / averages.TICK_S + 29 * 50) / 30)


def test_time_outside_the_timer_is_missing_in_the_figure(monkeypatch):
    simulated = Simulated()
    monkeypatch.setattr(averages, "jpeg", lambda image: simulated.advance(0.03))
    result = averages.left_out.run(simulated.usual(stall_s=0.02))
    assert (result.wrong, result.right) == (pytest.approx(50), pytest.approx(20))


def test_one_run_against_itself_shows_a_gain_that_is_not_there():
    noise = np.random.default_rng(3)
    noisy = Simulated().setup(lambda frame: 0.01 * noise.lognormal(0, 0.5), rounds=40, per_round=8)
    result = averages.one_run.run(noisy)
    assert result.wrong > 1.1
    assert result.right == pytest.approx(1, abs=0.15)
    quiet = averages.one_run.run(Simulated().usual())
    assert quiet.wrong == quiet.right == pytest.approx(1)


def test_a_smaller_input_looks_like_a_gain():
    result = workloads.unlike_workloads.run(Simulated().usual())
    assert result.right == pytest.approx(1)
    assert result.wrong == pytest.approx(64 * 48 / (40 * 40))
    assert workloads.shrunk(np.zeros((480, 640, 3), np.uint8)).shape == (400, 400, 3)


def test_work_after_a_nap_takes_longer_than_work_that_never_stops():
    simulated, ended = Simulated(), [50.0]

    def work(frame):
        seconds = 0.012 if simulated.t - ended[-1] > 0.01 else 0.01
        ended.append(simulated.t + seconds)
        return seconds

    result = workloads.never_napping.run(simulated.setup(work, per_round=40))
    assert (result.wrong, result.right) == (pytest.approx(10), pytest.approx(12))


def test_a_stall_is_one_slow_frame_or_a_queue_of_late_ones():
    result = averages.coordinated_omission.run(Simulated().usual(0.001, 0.001), fps=100.0, stall_s=0.5)
    assert result.wrong == pytest.approx(1.0)
    done = np.concatenate([np.arange(20) * 0.01 + 0.001, 0.701 + 0.001 * np.arange(64)])
    done[20:] = np.maximum(done[20:], np.arange(20, 84) * 0.01 + 0.001)
    assert result.right == pytest.approx(np.percentile(done - np.arange(84) / 100, 90) * 1e3, rel=1e-6)
    assert result.right > 300


def test_paced_frames_are_not_taken_before_they_are_due():
    setup = Simulated().usual(0.01)
    frames = [Frame(make_frame(0).image, i, 0.0) for i in range(5)]
    began, done = averages.paced(frames, setup.task, 10.0, 0.0, setup.clock)
    assert began == pytest.approx(np.arange(5) / 10)
    assert done == pytest.approx(np.arange(5) / 10 + 0.01)


@contextmanager
def device(submit):
    """A device with the given `submit(function, *given)`, which returns its `result()`."""
    order = staticmethod(lambda *given: type("Order", (), {"result": staticmethod(submit(*given))})())
    yield type("Device", (), {"submit": order})()


def test_queueing_is_not_working():
    """The device of this test works only when waited for, so that the order of things is known."""
    setup = Simulated().usual()
    result = async_device.not_synchronised.run(setup, device=partial(device, partial))
    assert result.right == pytest.approx(1 / (64 * 48 * 3 * 1e-6))
    assert result.wrong == pytest.approx(30 / averages.TICK_S)


def test_synchronising_after_every_frame_forbids_the_device_to_work_meanwhile():
    """The device of this test is busy until a known time; who waits for it moves on to that time."""
    simulated, free = Simulated(), [0.0]

    def submit(function, *given):
        free.append(max(free[-1], simulated.t) + 0.02)
        return lambda ready=free[-1]: simulated.advance(max(0.0, ready - simulated.t))

    setup = simulated.setup(None, host=lambda image: simulated.advance(0.01), per_round=50)
    result = async_device.synchronised_too_often.run(setup, device=partial(device, submit))
    assert result.wrong == pytest.approx(1 / 0.03)
    assert result.right == pytest.approx(50 / (0.01 + 50 * 0.02))


def command(process):
    """A process's command line; none of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_spinning_processes_come_and_go():
    with busy_machine.spinning_processes(2):
        spinning = [child for child in psutil.Process().children() if busy_machine.SPIN in command(child)]
        assert len(spinning) == 2
    assert not [child for child in spinning if child.is_running()]


@pytest.mark.parametrize(
    ("pitfall", "option", "figures"),
    [(busy_machine.busy_neighbour, "load", (50, 100)), (overhead.view_overhead, "view", (20, 10))],
)
def test_a_disturbance_slows_exactly_the_wrong_side(pitfall, option, figures):
    on = []

    @contextmanager
    def disturbance(*_):
        on.append(1)
        yield
        on.pop()

    setup = Simulated().setup(lambda frame: 0.02 if on else 0.01)
    result = pitfall.run(setup, **{option: disturbance})
    assert (result.wrong, result.right) == (pytest.approx(figures[0]), pytest.approx(figures[1]))


def test_a_child_process_waits_as_it_is_asked_and_ends(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with ChildProcess([make_frame(0)], PASSIVE) as child:
        times = child.times(3)
        assert child._process.call(60, os.getenv, "OMP_WAIT_POLICY") == "passive"
        pid = child._process.call(60, os.getpid)
    assert times.shape == (3,)
    assert (times > 0).all()
    assert not psutil.pid_exists(pid)
    with ChildProcess([make_frame(0)], None) as child:
        assert child._process.call(60, os.getenv, "OMP_WAIT_POLICY") is None
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_a_child_process_that_dies_is_reported():
    with ChildProcess([make_frame(0)], PASSIVE) as child:
        child.times(1)
        os.kill(child._process.call(60, os.getpid), signal.SIGKILL)
        with pytest.raises(WorkerError, match="process died"):
            child.times(1)


def test_luck_of_a_process_is_no_effect_of_its_thread_pools(monkeypatch):
    """A network's place in memory lasts as long as its process, and makes it slower or faster."""
    luck = cycle([1.0, 1.2, 1.2, 1.0, 1.1, 1.15])

    class Child(contextlib.nullcontext):
        def __init__(self, frames, waiting):
            super().__init__(self)
            self.frame_s = 0.01 * next(luck)

        def times(self, n):
            return np.full(n, self.frame_s)

    monkeypatch.setattr(busy_machine, "ChildProcess", Child)
    pools = busy_machine.fighting_pools.run(Simulated().usual())
    low, high = pools.interval
    assert low < 1 < high and "no significant error" in pools.sentence


def test_thread_pools_and_cold_starts_use_child_processes(monkeypatch):
    class Child:
        def __init__(self, frames, waiting):
            self.slow = 0.05 if waiting is None else 0.01
            self.done = 0

        def times(self, n):
            """Fifteen cold frames, three times as slow as the others."""
            cold = np.arange(self.done, self.done + n) < 15
            self.done += n
            return self.slow * np.where(cold, 3.0, 1.0)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(busy_machine, "ChildProcess", Child)
    pools = busy_machine.fighting_pools.run(Simulated().usual())
    assert (pools.wrong, pools.right) == (pytest.approx(20), pytest.approx(100))
    cold = busy_machine.no_warm_up.run(Simulated().usual())
    assert (cold.wrong, cold.right) == (pytest.approx(100 / 3), pytest.approx(100))


@pytest.mark.parametrize("recorded", [True, False])
def test_the_cost_of_the_spans_of_a_frame_is_bounded(recorded):
    """The goal is 50 us a frame; ten times that would be a mistake in the code, on any machine."""
    assert 0 < min(overhead.span_cost_us(300, recorded=recorded) for _ in range(3)) < 10 * overhead.GOAL_US


def test_a_small_cost_is_added_to_the_same_frames():
    pairs = list(overhead.added(Simulated().usual(0.01, 0.01), lambda: 500.0))
    assert pairs == [pytest.approx((10.5, 10))] * 5


def test_the_encoding_thread_and_the_profiler_end(frames):
    def running():
        return any(thread.name == "labkit-pitfall-view" for thread in threading.enumerate())

    with overhead.encoding_thread(Setup(frames)):
        assert running()
    assert not running()
    list(overhead.profiler_overhead.measure(Setup(frames, rounds=1, per_round=2)))
    assert sys.getprofile() is None


def test_real_memory_and_zeros(frames):
    """Only that there are figures, and that memory is let go."""
    setup = Setup(frames, rounds=2, per_round=6)
    for pitfall, options in (
        (workloads.hot_cache, {"big_bytes": 2**20}),
        (workloads.page_faults, {"big_bytes": 2**20}),
        (workloads.fed_zeros, {}),
    ):
        assert len(pitfall.run(setup, **options).wrong_rounds) == 2


def test_the_crowd_comes_once_in_thirty_frames():
    assert [i for i in range(90) if crops_in(i) == 40] == [29, 59, 89]
    assert jpeg(np.zeros((8, 8, 3), np.uint8))[:2].tolist() == [0xFF, 0xD8]


def test_every_pitfall_is_listed_once():
    assert len(PITFALLS) == sum(len(group) for group in GROUPS.values()) == 22
    with pytest.raises(UsageError, match=r"averaged_rates.*groups arithmetic"):
        named("knitting")


def test_pitfalls_run_on_this_machine_and_name_it():
    shown = []
    names = ("averaged_rates", "gpu_not_synchronised", "span_overhead")
    results = run_pitfalls(
        *names, source="scenes", size=(160, 128), rounds=5, per_round=6, progress=shown.append
    )  # fmt: skip
    assert shown == results
    assert [result.pitfall.key for result in results] == list(names)
    assert all("cores" in result.machine for result in results if result.skipped is None)
    assert list(pitfall_table(results).index) == [result.name for result in results]
    assert "wrong: mean of 1 / t over the frames" in str(results[0])
    assert "The original code keeps the last 30 rates" in str(results[0])


def result(name="a", wrong=(12.0,) * 6, right=(10.0,) * 6, **other):
    about = Pitfall(name.replace(" ", "_"), name, "ms", "w", "r", "e", lambda setup: ())
    return PitfallResult(about, np.array(wrong), np.array(right), **other)


def test_a_result_states_its_error_with_its_interval():
    one = result()
    assert one.ratio == pytest.approx(1.2)
    assert "12 instead of 10 ms, 20.0% too high (ratio 1.20, 95% CI 1.20-1.20, n = 6)" in one.sentence
    uneven = result(wrong=(12, 30, 11, 100, 9), right=(10, 10, 10, 10, 10))
    assert (uneven.wrong, uneven.right, uneven.ratio) == (12, 10, 1.2)
    drifting = result(wrong=(20, 60, 30), right=(10, 20, 30))  # ratios 2, 3, 1: the first round is shown
    assert (drifting.wrong, drifting.right, drifting.ratio) == (20, 10, 2)
    assert "no significant error" in result(wrong=(9, 11, 10, 9.5, 10.5, 10)).sentence
    assert "too few rounds for an interval" in result(wrong=(12,) * 3, right=(10,) * 3).sentence
    assert size_of(0.25) == "4 times too low"
    assert size_of(0.9) == "10.0% too low"


def test_a_result_without_figures_says_why_and_one_with_nonsense_is_refused():
    skipped = result(wrong=(), right=(), skipped="needs a GPU")
    assert "not measured here: it needs a GPU" in skipped.sentence
    assert pitfall_table([skipped])["error"].iloc[0] == "not measured here"
    zeros, nothing, unequal = {"wrong": (0.0,) * 6}, {"wrong": (), "right": ()}, {"wrong": (1.0,)}
    for wrong in (zeros, nothing, unequal, {"wrong": (np.nan,) * 6}, {"skipped": "x"}):
        with pytest.raises(UsageError):
            result(**wrong)
    with pytest.raises(UsageError, match="at least one frame"):
        Setup([])


def test_the_plot_shows_each_pitfall_and_names_what_is_missing():
    results = [
        result("high", machine="here"),
        result("low", (0.1,) * 6, machine="here"),
        result("far", (9e6,) * 3, (1.0,) * 3, machine="here"),
        result("absent", (), (), skipped="no GPU"),
    ]
    chart = plot_pitfalls(results)
    for part in ("high: 20.0% too high", "low: 100 times too low"):
        assert part in chart.alt_text
    text = " ".join(text.get_text() for text in chart.texts)
    assert "absent" in text
    assert "here" in text
    assert len(chart.png()) > 5000
    with pytest.raises(UsageError, match="no pitfall has figures"):
        plot_pitfalls(results[3:])


@pytest.mark.slow
def test_every_pitfall_runs_here():
    """All of them with small figures; errors are as large as this machine makes them."""
    results = run_pitfalls(source="scenes", size=(160, 128), rounds=2, per_round=8)
    assert len(results) == len(PITFALLS)
    assert all(one.skipped is None or "GPU" in one.skipped for one in results)


def test_the_cost_of_spans_is_stated_with_its_spread():
    sentence = overhead.SpanCost((9.0, 7.0, 8.0), (1.0, 1.0, 2.0)).sentence
    assert "cost 8.0 us of it while recorded (7.0 to 9.0 over 3 rounds) and 1.0 us otherwise" in sentence
    assert "within the goal" in sentence
    assert "above the goal" in overhead.SpanCost((90.0,), (1.0,)).sentence
    measured = overhead.span_cost(2)
    assert len(measured.recorded_us) == len(measured.alone_us) == 2
    assert min(*measured.recorded_us, *measured.alone_us) > 0


def test_the_gpu_pitfalls_run_on_a_fake_gpu(fake_gpu):
    setup = Setup([make_frame(i, (64, 48)) for i in range(4)], rounds=2, per_round=3)
    for pitfall in (async_device.gpu_not_synchronised, async_device.gpu_synchronised_too_often):
        measured = pitfall.run(setup)
        assert measured.skipped is None
        assert len(measured.wrong_rounds) == len(measured.right_rounds) == 2
    rounds = 2 + 1  # and a warm-up
    assert fake_gpu.waits.by_what()["a value"] == rounds * setup.per_round * 100
    assert fake_gpu.waits.by_what()["a copy to the host"] == rounds
