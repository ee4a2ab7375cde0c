"""The museum: on a simulated clock each exhibit's error is known exactly; on this machine it runs."""

import os
import subprocess
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

from labkit.bench.load import Clock
from labkit.core.errors import ResultsError, UsageError, WorkerError
from labkit.core.types import Frame
from labkit.lessons.pitfalls import averages, busy_machine, devices, loads, observer, pacing
from labkit.lessons.pitfalls.child import Child
from labkit.lessons.pitfalls.observer import GOAL_US, span_cost_us
from labkit.lessons.pitfalls.picture import picture
from labkit.lessons.pitfalls.pitfall import Stand, crops_in, jpeg
from labkit.lessons.pitfalls.recorded import read_recorded, recorded_or_skipped, write_recorded
from labkit.lessons.pitfalls.registry import EXHIBITS, case, table, visit
from labkit.lessons.pitfalls.result import Exhibit, size_of
from labkit.lessons.pitfalls.span_cost import SpanCost, span_cost

from conftest import make_frame  # isort: skip

FAST = {"rounds": 5, "per_round": 30}


class Simulated:
    """A clock that stands still until someone works or sleeps."""

    def __init__(self):
        self.t = 50.0

    def pass_(self, seconds):
        self.t += seconds

    @property
    def clock(self):
        return Clock(lambda: self.t, self.pass_)

    def stand(self, seconds=0.02, *, stall_s=0.2, **options):
        """Frames take `seconds` each, every thirtieth `stall_s`; an image's edges as its size."""
        return Stand(
            [make_frame(0, (64, 48))],
            clock=self.clock,
            task=lambda frame: self.pass_(stall_s if frame.index % 30 == 29 else seconds),
            edges=lambda image: self.pass_(image.size * 1e-6),
            **{**FAST, **options},
        )


def test_a_mean_of_rates_is_a_quarter_too_high_in_the_origins_own_case():
    exhibit = averages.averaged_rates(Simulated().stand())
    assert exhibit.right == pytest.approx(30 / (29 * 0.02 + 0.2))  # 38.5
    assert exhibit.wrong == pytest.approx((29 * 50 + 5) / 30)  # 48.5
    assert exhibit.error == pytest.approx(0.26, abs=0.005)


def test_the_best_of_n_leaves_out_what_happens_to_others():
    simulated = Simulated()
    spent = iter([0.01, 0.02, 0.03] * 100)
    stand = Stand(
        [make_frame(0)], clock=simulated.clock, task=lambda frame: simulated.pass_(next(spent)), **FAST
    )
    exhibit = averages.best_of_n(stand)
    assert (exhibit.wrong, exhibit.right) == (pytest.approx(100), pytest.approx(50))


def test_an_empty_first_pass_counts_as_ten_million_frames_a_second_here():
    exhibit = averages.empty_first_loop(Simulated().stand())
    assert exhibit.right == pytest.approx(50)
    assert exhibit.wrong == pytest.approx((1 / averages.TICK_S + 29 * 50) / 30)


def test_what_is_left_out_of_the_timer_is_missing_in_the_figure(monkeypatch):
    simulated = Simulated()
    stand = simulated.stand(stall_s=0.02)
    monkeypatch.setattr(averages, "jpeg", lambda image: simulated.pass_(0.03))
    exhibit = averages.left_out(stand)
    assert (exhibit.wrong, exhibit.right) == (pytest.approx(50), pytest.approx(20))


def test_one_run_against_itself_shows_a_gain_that_is_not_there():
    simulated = Simulated()
    noise = np.random.default_rng(3)
    stand = Stand(
        [make_frame(0)],
        clock=simulated.clock,
        task=lambda frame: simulated.pass_(0.01 * noise.lognormal(0, 0.5)),
        rounds=40,
        per_round=8,
    )
    exhibit = averages.one_run(stand)
    assert exhibit.wrong > 1.1
    assert exhibit.right == pytest.approx(1, abs=0.15)
    quiet = averages.one_run(Simulated().stand())
    assert quiet.wrong == quiet.right == pytest.approx(1)


def test_a_smaller_input_looks_like_a_gain():
    exhibit = loads.unlike_workloads(Simulated().stand())
    assert exhibit.right == pytest.approx(1)
    assert exhibit.wrong == pytest.approx(64 * 48 / (40 * 40))


def test_the_origins_two_input_sizes():
    assert loads.shrunk(np.zeros((480, 640, 3), np.uint8)).shape == (400, 400, 3)


def test_a_stall_is_one_slow_frame_or_a_queue_of_late_ones():
    exhibit = pacing.coordinated_omission(Simulated().stand(0.001, stall_s=0.001), fps=100.0, stall_s=0.5)
    assert exhibit.wrong == pytest.approx(1.0)
    done = np.concatenate([np.arange(20) * 0.01 + 0.001, 0.701 + 0.001 * np.arange(64)])
    done[20:] = np.maximum(done[20:], np.arange(20, 84) * 0.01 + 0.001)
    assert exhibit.right == pytest.approx(np.percentile(done - np.arange(84) / 100, 90) * 1e3, rel=1e-6)
    assert exhibit.right > 300


def test_paced_frames_are_not_taken_before_they_are_due():
    simulated = Simulated()
    frames = [Frame(make_frame(0).image, i, 0.0) for i in range(5)]
    began, done = pacing.paced(frames, lambda frame: simulated.pass_(0.01), 10.0, 0.0, simulated.clock)
    assert began == pytest.approx(np.arange(5) / 10)
    assert pacing.due_latency(done, 10.0) == pytest.approx(np.full(5, 0.01))


class Lazy:
    """A device that works only when waited for, so that the order of things is known."""

    def submit(self, function, *given):
        return type("Order", (), {"result": staticmethod(lambda: function(*given))})()


@contextmanager
def lazy():
    yield Lazy()


def test_orders_are_not_work():
    simulated = Simulated()
    exhibit = devices.not_synchronised(simulated.stand(), lazy)
    per_frame = 64 * 48 * 3 * 1e-6
    assert exhibit.right == pytest.approx(1 / per_frame)
    assert exhibit.wrong == pytest.approx(30 / averages.TICK_S)


def test_waiting_after_every_frame_forbids_the_device_to_work_meanwhile():
    """The device of this test is busy until a known time; who waits for it moves on to that time."""
    simulated = Simulated()

    class Device:
        free = 0.0

        def submit(self, function, *given):
            self.free = ready = max(self.free, simulated.t) + 0.02
            return type("Order", (), {"result": lambda _: simulated.pass_(max(0.0, ready - simulated.t))})()

    @contextmanager
    def device():
        yield Device()

    stand = Stand(
        [make_frame(0)],
        clock=simulated.clock,
        host=lambda image: simulated.pass_(0.01),
        rounds=5,
        per_round=50,
    )
    exhibit = devices.waited_too_often(stand, device)
    assert exhibit.wrong == pytest.approx(1 / 0.03)
    assert exhibit.right == pytest.approx(50 / (0.01 + 50 * 0.02))


def command(process):
    """A process's command line; none of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_real_neighbours_come_and_go():
    with busy_machine.neighbours(2):
        spinning = [child for child in psutil.Process().children() if "while True" in command(child)]
        assert len(spinning) == 2
    assert not [child for child in spinning if child.is_running()]


def test_a_neighbour_slows_exactly_the_wrong_side():
    simulated = Simulated()
    beside = []

    @contextmanager
    def neighbour():
        beside.append(1)
        yield
        beside.pop()

    stand = Stand(
        [make_frame(0)],
        clock=simulated.clock,
        task=lambda frame: simulated.pass_(0.02 if beside else 0.01),
        **FAST,
    )
    exhibit = busy_machine.busy_neighbour(stand, neighbour)
    assert (exhibit.wrong, exhibit.right) == (pytest.approx(50), pytest.approx(100))


def test_the_child_waits_as_it_is_told_and_leaves_nothing(monkeypatch):
    started = []
    real = subprocess.Popen

    def popen(*given, **options):
        started.append(options["env"])
        return real(*given, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with Child([make_frame(0)], busy_machine.PEACE) as child:
        times = child.times(3)
        folder, process = child._folder.name, child._process
    assert times.shape == (3,)
    assert (times > 0).all()
    assert process.poll() is not None
    assert not os.path.exists(folder)
    with Child([make_frame(0)], None):
        pass
    assert started[0]["OMP_WAIT_POLICY"] == "passive"
    assert "OMP_WAIT_POLICY" not in started[1]


def test_a_child_that_dies_is_said():
    with Child([make_frame(0)], busy_machine.PEACE) as child:
        child._process.kill()
        with pytest.raises(WorkerError, match="process failed"):
            child.times(1)


def test_pools_and_cold_starts_use_the_children(monkeypatch):
    class Told:
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

    monkeypatch.setattr(busy_machine, "Child", Told)
    pools = busy_machine.fighting_pools(Simulated().stand())
    assert (pools.wrong, pools.right) == (pytest.approx(20), pytest.approx(100))
    cold = busy_machine.no_warm_up(Simulated().stand())
    assert (cold.wrong, cold.right) == (pytest.approx(100 / 3), pytest.approx(100))


def test_the_cost_of_the_spans_of_a_frame_is_bounded():
    """The goal is 50 us a frame; ten times that would be a mistake in the code, on any machine."""
    cost = min(span_cost_us(300) for _ in range(3))
    assert 0 < cost < 10 * GOAL_US
    assert 0 < min(span_cost_us(300, recorded=False) for _ in range(3)) < 10 * GOAL_US


def test_an_observers_cost_is_added_to_the_same_frames():
    simulated = Simulated()
    stand = Stand([make_frame(0)], clock=simulated.clock, task=lambda frame: simulated.pass_(0.01), **FAST)
    exhibit = observer._added(stand, "a", lambda: 500.0, wrong_way="b", explanation="c")
    assert (exhibit.wrong, exhibit.right) == (pytest.approx(10.5), pytest.approx(10))


def test_an_observer_beside_is_on_for_the_wrong_side_only():
    simulated = Simulated()
    on = []

    @contextmanager
    def watching(*_):
        on.append(1)
        yield
        on.pop()

    stand = Stand(
        [make_frame(0)],
        clock=simulated.clock,
        task=lambda frame: simulated.pass_(0.03 if on else 0.01),
        **FAST,
    )
    exhibit = observer.view_on(stand, watching)
    assert (exhibit.wrong, exhibit.right) == (pytest.approx(30), pytest.approx(10))


def test_the_painting_thread_and_the_profiler_end(frames):
    import sys
    import threading

    with observer.painting(Stand(frames)):
        assert any(thread.name == "labkit-exhibit-view" for thread in threading.enumerate())
    assert not any(thread.name == "labkit-exhibit-view" for thread in threading.enumerate())
    with observer.python_profiler():
        pass
    assert sys.getprofile() is None


def test_real_memory_and_zeros(frames):
    """No figure is judged here: only that there are some, and that memory is let go."""
    stand = Stand(frames, rounds=2, per_round=6)
    for exhibit in (
        loads.hot_cache(stand, 2**20), loads.page_faults(stand, 2**20), loads.fed_zeros(stand)
    ):  # fmt: skip
        assert len(exhibit.wrong_rounds) == 2
        assert exhibit.skipped is None


def test_the_crowd_comes_once_in_thirty_frames():
    assert [i for i in range(90) if crops_in(i) == 40] == [29, 59, 89]
    assert jpeg(np.zeros((8, 8, 3), np.uint8))[:2].tolist() == [0xFF, 0xD8]


def test_the_museum_holds_every_mistake_once():
    keys = [each.key for each in EXHIBITS]
    assert len(keys) == len(set(keys)) == 21
    with pytest.raises(UsageError, match="mean_of_rates"):
        case("knitting")


def test_a_visit_runs_on_this_machine_and_says_where(monkeypatch):
    heard = []
    exhibits = visit(
        "mean_of_rates", "gpu_not_synchronised", "spans",
        source="scenes", size=(160, 128), rounds=5, per_round=6, progress=heard.append,
    )  # fmt: skip
    assert heard == ["mean_of_rates", "gpu_not_synchronised", "spans"]
    assert all("cores" in exhibit.machine for exhibit in exhibits)
    shown = table(exhibits)
    assert list(shown.index) == [exhibit.name for exhibit in exhibits]
    assert "%" in exhibits[0].sentence or "times" in exhibits[0].sentence


def exhibit(name="a", wrong=(12.0,) * 6, right=(10.0,) * 6, **other):
    words = {"unit": "ms", "wrong_way": "w", "right_way": "r", "explanation": "e"}
    return Exhibit(name, **words, wrong_rounds=np.array(wrong), right_rounds=np.array(right), **other)


def test_an_exhibit_tells_its_error_with_its_interval():
    one = exhibit()
    assert one.error == pytest.approx(0.2)
    assert "12 instead of 10 ms, 20.0% too high" in one.sentence
    uneven = exhibit(wrong=(12, 30, 11, 100, 9), right=(10, 10, 10, 10, 10))
    assert (uneven.wrong, uneven.right, uneven.ratio) == (12, 10, 1.2)
    drifting = exhibit(wrong=(20, 60, 30), right=(10, 20, 30))  # ratios 2, 3, 1: the first round is told
    assert (drifting.wrong, drifting.right, drifting.ratio) == (20, 10, 2)
    assert "6 rounds" in one.sentence
    assert "no error could be shown" in exhibit(wrong=(9, 11, 10, 9.5, 10.5, 10)).sentence
    assert "too few for an interval" in exhibit(wrong=(12,) * 3, right=(10,) * 3).sentence
    assert size_of(0.25) == "4 times too low"
    assert size_of(0.9) == "10.0% too low"


def test_an_exhibit_without_figures_says_why_and_one_with_nonsense_is_refused():
    skipped = exhibit(wrong=(), right=(), skipped="there is no GPU")
    assert "not shown here: there is no GPU" in skipped.sentence
    assert table([skipped])["error"].iloc[0] == "not shown here"
    zeros, nothing, unequal = {"wrong": (0.0,) * 6}, {"wrong": (), "right": ()}, {"wrong": (1.0,)}
    for wrong in (zeros, nothing, unequal, {"wrong": (np.nan,) * 6}, {"skipped": "x"}):
        with pytest.raises(UsageError):
            exhibit(**wrong)


def test_recorded_exhibits_are_marked_and_survive_the_file(tmp_path):
    path = tmp_path / "recorded.json"
    write_recorded([exhibit("on a GPU", machine="a GPU"), exhibit("b", (), (), skipped="x")], path)
    (kept,) = read_recorded(path)
    assert kept.wrong_rounds.tolist() == [12.0] * 6
    about = exhibit("on a GPU", (), (), skipped="no figures yet")
    shown = recorded_or_skipped(about, "needs a GPU", path)
    assert shown.recorded
    assert "recorded on a GPU" in shown.sentence
    absent = recorded_or_skipped(about, "needs a GPU", tmp_path / "none.json")
    assert "needs a GPU" in absent.skipped
    path.write_text('[{"name": 3}]')
    with pytest.raises(ResultsError, match="no recorded exhibits"):
        read_recorded(path)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_shows_each_exhibit_and_names_what_is_missing(theme):
    exhibits = [
        exhibit("high", machine="here"),
        exhibit("low", (0.1,) * 6, machine="here"),
        exhibit("far", (9e6,) * 3, (1.0,) * 3, machine="here"),
        exhibit("away", recorded=True, machine="there"),
        exhibit("absent", (), (), skipped="no GPU"),
    ]
    chart = picture(exhibits, theme=theme)
    for part in ("high: 20.0% too high", "low: 100 times too low", "away"):
        assert part in chart.alt_text
    text = " ".join(text.get_text() for text in chart.texts)
    assert "absent" in text
    assert "there" in text
    assert len(chart.png()) > 5000
    with pytest.raises(UsageError, match="no exhibit has figures"):
        picture(exhibits[4:])


@pytest.mark.slow
def test_every_exhibit_runs_here():
    """The whole museum with small figures; errors are as large as this machine makes them."""
    exhibits = visit(source="scenes", size=(160, 128), rounds=2, per_round=8)
    assert len(exhibits) == len(EXHIBITS)
    assert all(one.skipped is None or "GPU" in one.skipped for one in exhibits)


def test_the_cost_of_spans_is_told_with_its_spread():
    told = SpanCost((9.0, 7.0, 8.0), (1.0, 1.0, 2.0)).sentence
    assert "cost 8.0 us of it while recorded (7.0 to 9.0 over 3 rounds) and 1.0 us otherwise" in told
    assert "within the goal" in told
    assert "above the goal" in SpanCost((90.0,), (1.0,)).sentence
    measured = span_cost(2)
    assert len(measured.recorded_us) == len(measured.alone_us) == 2
    assert min(*measured.recorded_us, *measured.alone_us) > 0


def test_the_exhibits_of_a_gpu_run_on_one_that_is_pretended(pretended):
    stand = Stand([make_frame(i, (64, 48)) for i in range(4)], rounds=2, per_round=3)
    for show in (devices.gpu_not_synchronised, devices.gpu_waited_too_often):
        shown = show(stand)
        assert shown.skipped is None
        assert len(shown.wrong_rounds) == len(shown.right_rounds) == 2
    turns = 2 + 1  # and a warm-up
    assert pretended.waits.count("a value") == turns * stand.per_round * 100
    assert pretended.waits.count("a copy to the host") == turns
