"""The live view without a browser: player, view and their stand-ins."""

import ast
import gc
import io
import json
import os
import re
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labkit.bench import run as run_module
from labkit.bench.plan import Plan
from labkit.bench.run import run_benchmark
from labkit.core import lock
from labkit.core.errors import ResultsError, SourceError, SourceLost, UsageError
from labkit.core.requirements import unmet_requirement
from labkit.core.types import Detections, Frame, Workload
from labkit.filters.image_filters import edge_filter, guided_filter
from labkit.live import encode as encode_module
from labkit.live import fallback as fallback_module
from labkit.live import inference as inference_module
from labkit.live import player as player_module
from labkit.live import reader as reader_module
from labkit.live import settings as settings_module
from labkit.live import start as start_module
from labkit.live import static_view as static_module
from labkit.live import view as view_module
from labkit.live.browser_camera import (
    CAMERA_ERRORS,
    BrowserCamera,
    PageClock,
    browser_source,
    describe_camera_error,
)
from labkit.live.encode import Recorder, annotate_shot, describe_detections
from labkit.live.inference import Answer, Ready, Tape, prepare_rungs
from labkit.live.player import STOP_S, PreviewFilter, Shot
from labkit.live.reader import LatestFrame
from labkit.live.settings import LIVE_RUNGS, WHOLE_FRAME_RUNGS, LiveSettings, choices
from labkit.live.start import live, make_view, replace_current
from labkit.live.static_view import show_stills
from labkit.live.view import View
from labkit.models.packaged_weights import PACKAGED, packaged_file
from labkit.pipelines.ladder import OWN_RUNGS, rung
from labkit.pipelines.own_loop import own_rung
from labkit.results.store import Store
from labkit.sources.camera_list import CameraInfo

from conftest import make_frame  # isort: skip
from live_fakes import (  # isort: skip
    SIZE, FakePage, Gate, Pushed, boxes, player_of, preparing, rung_of, shown_on, started, stop_all, ticking,
    until_the_end, view_of, wait_for,
)  # fmt: skip

psutil = pytest.importorskip("psutil")


def live_threads():
    return [t for t in threading.enumerate() if t.name.startswith("labkit live")]


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    stop_all()
    left = not wait_for(lambda: not live_threads()) and live_threads()
    for handover in (reader_module._owners, inference_module._users):
        handover._owners = []  # the next test waits for nothing that this one left
    assert not left


@pytest.fixture
def page():
    return FakePage()


@pytest.fixture
def running(page, tmp_path):
    return shown_on(page, folder=tmp_path)


# Slots and tapes.


def test_the_newest_frame_replaces_the_one_before():
    slot = LatestFrame()
    slot.put(make_frame(1))
    slot.put(make_frame(2))
    assert slot.newer_than(0).index == 2
    assert slot.newer_than(2, timeout_s=0) is None
    slot.close()
    assert slot.newer_than(-1) is None


def test_a_tape_gives_every_reader_the_same_frames():
    frames = iter([make_frame(i) for i in range(5)])
    tape = Tape(lambda: next(frames, None), readers=2)
    a, b = tape.frames(0), tape.frames(1)
    taken = [next(a).index, next(a).index, next(b).index, next(a).index, next(b).index]
    assert taken == [0, 1, 0, 2, 1]
    assert [f.index for f in b] == [2, 3, 4]
    assert [f.index for f in a] == [3, 4]


# The player.


def test_inference_takes_the_newest_frame_and_skips_what_is_older():
    feed, gate = Pushed(), Gate(is_open=False)
    player = started(lambda size: feed.source(), prepare=preparing(a=gate))
    feed.push(0)
    assert wait_for(lambda: len(gate.seen) == 1)
    for value in range(1, 6):
        feed.push(value)
        assert wait_for(lambda value=value: player.latest_shot().frame.image[0, 0, 0] == value)
    gate.permits.release()
    assert wait_for(lambda: len(gate.seen) == 2)
    assert [frame.image[0, 0, 0] for frame in gate.seen] == [0, 5]
    summary = player.summary()
    assert summary["dropped"] == 5  # six came, one is answered
    gate.is_open = True
    gate.permits.release()


def test_the_shown_picture_is_newer_than_the_boxes_on_it():
    feed, gate = Pushed(), Gate(is_open=False)
    player = started(lambda size: feed.source(), prepare=preparing(a=gate))
    feed.push(1)
    gate.permits.release()
    assert wait_for(lambda: (shot := player.latest_shot()) is not None and shot.answers[0] is not None)
    feed.push(2)
    assert wait_for(lambda: player.latest_shot().frame.image[0, 0, 0] == 2)
    assert player.latest_shot().answers[0].frame.image[0, 0, 0] == 1
    gate.permits.release(5)


@pytest.mark.parametrize("second", ["b", "ahead"])
def test_two_rungs_see_the_same_frames(second):
    nets = {"a": Gate(), second: Gate()}
    player = started(second=second, prepare=preparing(**nets))
    assert wait_for(lambda: len(nets["a"].seen) > 5)
    player.stop()
    assert player.wait_until_ended(30)
    first, other = ([f.index for f in net.seen] for net in nets.values())
    together = min(len(first), len(other))
    assert together >= 5
    assert first[:together] == other[:together]
    assert first == sorted(set(first))


def test_a_stop_is_quick_even_inside_a_long_detection():
    gate = Gate(is_open=False)
    player = started(prepare=preparing(a=gate))
    assert wait_for(lambda: gate.seen)
    began = time.perf_counter()
    ended = player.stop()
    took_s = time.perf_counter() - began
    assert not ended
    assert player.ending
    assert took_s < STOP_S + 10  # the figure itself is measured elsewhere; this catches a wait for the net
    gate.permits.release()
    assert player.wait_until_ended(30)


def test_the_next_owner_opens_the_camera_after_the_last_has_let_go():
    events = []

    class Watched(Pushed):
        def close(self):
            if not self.closed.is_set():
                time.sleep(0.05)
                events.append("closed")
            super().close()

    def open_it(size):
        events.append("opened")
        return Watched(every_s=0.004).source()

    for _ in range(3):
        player = player_of(open_it)
        player.start()
        assert wait_for(lambda: player.latest_shot() is not None)  # noqa: B023
        player.stop()
    assert wait_for(lambda: not live_threads())
    assert events == ["opened", "closed"] * 3


def test_a_failing_rung_is_named_and_the_picture_goes_on():
    player = started(rung="broken")
    assert wait_for(lambda: "in succession" in player.status()["fault"])
    assert "the engine broke" in player.status()["fault"]
    index = player.latest_shot().frame.index
    assert wait_for(lambda: player.latest_shot(after=index) is not None)
    time.sleep(0.5)
    assert 2 <= player.summary()["failed"] < 12  # counted, and tried again ever more seldom


def test_a_source_that_cannot_be_opened_says_why():
    def refuse(size):
        raise SourceError("there is no webcam 7")

    player = started(refuse)
    assert wait_for(lambda: player.status()["state"] == "failed")
    assert player.status()["message"] == "there is no webcam 7"


def test_a_lost_source_is_reported_and_comes_back():
    class Shaky(Pushed):
        def take(self):
            if self.captured == 3:
                self.captured += 1
                raise SourceLost("it is being reconnected")
            return super().take()

    states = []
    player = started(lambda size: Shaky(every_s=0.02).source())
    assert wait_for(lambda: states.append(player.status()["state"]) or "lost" in states)
    assert wait_for(lambda: player.status()["state"] == "running")


def test_changing_the_rung_while_running(monkeypatch):
    from labkit.pipelines import ladder as ladder_module

    monkeypatch.setattr(ladder_module, "rung", lambda name: None)
    player = started()
    assert wait_for(lambda: player.rates.inferred.get("a"))
    index = player.latest_shot().frame.index
    player.change({"rung": "b", "threshold": 0.2})
    assert wait_for(lambda: player.rates.inferred.get("b"))
    assert player.latest_shot().frame.index > index  # the camera was never let go
    assert player.settings.threshold == 0.2
    player.change({"size": [32, 24]})
    assert wait_for(lambda: (shot := player.latest_shot()) is not None and shot.frame.size == (32, 24))
    assert wait_for(lambda: player.latest_shot().answers[0] is not None)
    assert player.latest_shot().answers[0].found.frame_size == (32, 24)


def test_figures_add_up():
    player = started(prepare=preparing(a=Gate()))
    assert wait_for(lambda: player.rates.inferred.get("a", 0) >= 20)
    player.rates.painted(0.05)
    first = player.summary()
    assert wait_for(lambda: player.rates.inferred.get("a", 0) >= 60)
    second = player.summary()
    assert first["fps"]["offered"] is None  # one look is no rate
    assert second["fps"]["captured"] > 20
    assert second["age_ms"] == pytest.approx(50)
    assert second["camera_bound"]  # this network needs no time at all
    assert second["rungs"]["a"]["took_ms"] < second["rungs"]["a"]["age_ms"] + 5
    assert {"infer"} == {name for bar in player.rates.bars() for name in bar["spans"]}


def test_each_frame_of_a_pass_has_its_share_of_the_time():
    player = started(rung="grouped")
    assert wait_for(lambda: player.rates.inferred.get("grouped", 0) >= 8)
    timings = player.rates.recent()[:8]
    assert [each.frames for each in timings] == [4] * 8
    assert all(each.took_s >= 0.01 for each in timings)
    assert all(timings[0].spans_ms() == each.spans_ms() for each in timings[:4])
    assert 10 <= timings[0].spans_ms()["infer"] <= 1e3 * timings[0].took_s + 0.1
    assert player.summary()["rungs"]["grouped"]["took_ms"] >= 10


def test_what_is_counted_holds_no_pictures():
    def pictures():
        gc.collect()
        return sum(type(thing) is Frame for thing in gc.get_objects())

    before, net = pictures(), Gate()
    net.seen = deque(maxlen=1)
    player = started(prepare=preparing(a=net))
    assert wait_for(lambda: player.rates.inferred.get("a", 0) > 100)
    assert len(player.rates.recent()) > 100
    assert pictures() - before < 20


def test_a_paced_recording_offers_frames_at_its_own_rate():
    class Still(Pushed):
        live, fps = False, 100.0

        def take(self):
            return self._taken(1)

    player = started(lambda size: Still().source())
    assert wait_for(lambda: player.latest_shot() is not None)
    began, first = time.perf_counter(), player._reader.offered
    assert wait_for(lambda: player._reader.offered >= first + 30)
    rate = 30 / (time.perf_counter() - began)
    assert rate <= 115  # it never runs ahead; how far behind depends on the machine


def test_a_recording_of_variable_rate_is_shown_by_its_own_times(monkeypatch):
    at_s = [0.0, 0.04, 0.4, 1.2, 1.21]

    class Recording(Pushed):
        live, fps, length = False, 25.0, len(at_s)

        def take(self):
            self.captured += 1
            if self.captured > len(at_s):
                return None
            return replace(self._taken(1), time_s=at_s[self.captured - 1])

    due = []
    monkeypatch.setattr(
        reader_module.Reader, "_wait_until", lambda self, due_s, period_s: due.append(due_s) or due_s
    )
    started(lambda size: Recording().source())
    assert wait_for(lambda: len(due) == len(at_s))
    assert np.diff(due) == pytest.approx(np.diff(at_s))


def test_a_running_view_is_announced_to_benchmarks():
    player = player_of()
    assert lock.lock_holder() is None
    player.start()
    assert lock.lock_holder() == f"a live view (process {os.getpid()})"
    player.stop()
    assert lock.lock_holder() is None


@pytest.mark.extended
def test_a_benchmark_beside_a_view_is_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "cached_peaks", lambda *_: {})  # they take long to measure
    work = Workload(weights="random", size=(64, 48), objects=1)
    plan = Plan(seconds=0.1, min_frames=2, warm_frames=1, warm_s=0, warm_limit_s=1, quick=True)
    player = started()
    with Store(tmp_path / "lab.sqlite") as store:
        outcome = run_benchmark(
            [rung("resnet_linear_cpu")], workload=work, plan=plan, rounds=None, store=store
        )
        stored = store.runs()
    player.stop()
    assert len(outcome.runs) == 1 == len(stored)
    assert stored[0].noisy
    assert f"a live view (process {os.getpid()}) was running" in stored[0].noise


def test_a_view_beside_a_benchmark_says_what_it_does(page):
    view = view_of(page)
    with lock.machine_lock("a benchmark"):
        view.start()
        assert "a benchmark (process" in page.states[-1]["note"]
        assert "disturbs" in page.states[-1]["note"]
        view.stop()
    view.start()
    assert page.states[-1]["note"] == ""


def test_notes_of_dead_processes_count_as_none(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "labkit" / "busy"
    folder.mkdir(parents=True)
    began_s = psutil.Process().create_time()
    (folder / "1.json").write_text(json.dumps({"purpose": "x", "pid": 2**22 + 1, "began_s": 1.0}))
    (folder / "2.json").write_text(json.dumps({"purpose": "x", "pid": os.getpid(), "began_s": began_s - 99}))
    (folder / "3.json").write_text("{half")
    with monkeypatch.context() as patch:  # a folder that became another user's
        patch.setattr(Path, "unlink", Mock(side_effect=PermissionError))
        assert lock.lock_holder() is None
    assert lock.lock_holder() is None
    assert [path.name for path in folder.iterdir()] == ["3.json"]


# The filter.


def test_a_frame_is_filtered_once_for_picture_and_detection():
    calls, compiled = [], threading.Event()

    def smooth(image, settings):
        assert compiled.wait(30)
        calls.append((image.shape, settings.radius))
        return np.full_like(image, 7)

    preview_filter, frame = PreviewFilter(smooth), make_frame(1)
    wanted = LiveSettings(filter="guided", radius=3, eps=0.1)
    assert preview_filter.apply(frame, wanted) is frame  # it passes while the filter is compiled
    assert preview_filter.compiling("guided")
    assert not preview_filter.compiling("none"), "who has left it need not wait for it"
    compiled.set()
    assert wait_for(lambda: not preview_filter.compiling("guided"))
    first = preview_filter.apply(frame, wanted)
    assert first is preview_filter.apply(frame, wanted)
    assert (first.image == 7).all()
    assert first.index == frame.index and first.t_s == frame.t_s
    assert calls[1:] == [(frame.image.shape, 3)]
    assert preview_filter.apply(frame, LiveSettings()) is frame


def test_a_filter_that_does_not_work_is_named():
    def smooth(image, settings):
        raise RuntimeError("no compiler")

    preview_filter = PreviewFilter(smooth)
    preview_filter.apply(make_frame(0), LiveSettings(filter="guided"))
    assert wait_for(lambda: "no compiler" in preview_filter.trouble("guided"))
    assert not preview_filter.compiling("guided")
    assert not preview_filter.trouble("edges"), "another one may work"


# Settings.


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5}, {"threshold": float("nan")}, {"radius": 0}, {"radius": 2.5}, {"eps": 0},
        {"size": (8, 8)}, {"model_set": "huge"}, {"filter": "blur"}, {"mirror": 1}, {"objects": 0},
        {"objects": 2.5}, {"rung": "a", "second": "a"},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        LiveSettings(**wrong)


@pytest.mark.parametrize("wrong", [{"rung": "no_such"}, {"rung": None}, {"second": "x"}, {"colour": 1},
                                   {"size": "big"}, {"weights": "random"}, {"classes": "cup"},
                                   {"classes": [1]}])  # fmt: skip
def test_pages_cannot_set_what_is_not_there(wrong):
    with pytest.raises(UsageError):
        LiveSettings().changed(wrong)


@pytest.fixture
def weights_here(monkeypatch):
    """Says which models are pretrained here: none until it is called."""

    def are(*models):
        monkeypatch.setattr(
            "labkit.models.weights.have_pretrained", lambda wanted: set(wanted) <= set(models)
        )
        packaged = "file" if PACKAGED in models else None
        monkeypatch.setattr(settings_module, "packaged_file", lambda: packaged)

    are()
    return are


BOTH = ("detr_r50", "resnet18")


@pytest.mark.parametrize(
    ("here", "source", "asked", "wanted"),
    [
        (BOTH, "photos", {}, {"model_set": "full"}),
        (BOTH, "scenes", {}, {"model_set": "lab"}),
        ((), "scenes", {}, {"model_set": "lab"}),
        ((PACKAGED,), "scenes", {}, {"model_set": "lab"}),
        ((), "webcam", {}, {"model_set": "lab", "stand_in": True}),
        ((), "photos", {"model_set": "lab"}, {"model_set": "lab"}),
        ((), "photos", {"weights": "random"}, {"model_set": "full", "weights": "random"}),
        ((PACKAGED,), "photos", {}, {"model_set": "full", "classifier": PACKAGED, "rung": "whole"}),
        ((PACKAGED,), "photos", {"classifier": PACKAGED}, {"model_set": "full", "rung": "whole"}),
        ((PACKAGED,), "photos", {"rung": "resnet_pil_cpu"}, {"classifier": PACKAGED}),
        (("resnet18",), "photos", {"rung": "resnet_pil_cpu"}, {"model_set": "full"}),
        ((PACKAGED,), "photos", {"rung": "combined_cpu"}, {"model_set": "lab", "stand_in": True}),
        ((PACKAGED,), "photos", {"rung": "resnet_pil_cpu", "second": "folded_cpu"}, {"stand_in": True}),
        ((*BOTH, PACKAGED), "clip.mp4", {}, {"model_set": "full"}),
    ],
)
def test_names_come_from_models_that_know_such_pictures(weights_here, here, source, asked, wanted):
    weights_here(*here)
    known = LiveSettings(**asked).resolved(source)
    expected = {"stand_in": False, "classifier": None, **asked, **wanted}
    rungs = WHOLE_FRAME_RUNGS if expected.get("rung") == "whole" else LIVE_RUNGS
    if expected.pop("rung", "whole") not in asked.values():
        assert known.rung in rungs
        assert all(unmet_requirement(rung(name).needs) for name in rungs[: rungs.index(known.rung)])
    assert {name: getattr(known, name) for name in expected} == expected


def test_a_rung_is_compared_with_another_one():
    best = LiveSettings(model_set="lab").resolved("scenes").rung
    assert LiveSettings(model_set="lab", second=best).resolved("scenes").rung != best
    assert all(rung(name).prepare.filter is None for name in LIVE_RUNGS)  # the view has its own


def test_names_that_mean_nothing_are_left_out_and_shown_when_asked_for(weights_here):
    player = player_of(rung="resnet_linear_cpu", prepare=prepare_rungs)
    player.asked = player.settings = LiveSettings(rung="resnet_linear_cpu", size=SIZE)
    player.start()
    lab = {"model_set": "lab"}
    for source, change, named in (
        ("photos", {}, 0),
        ("scenes", {}, 1),
        ("webcam", {}, 0),
        ("webcam", lab, 1),
    ):
        player.switch(ticking, source)
        player.change(change)

        def as_wanted(named=named):
            shot, lines = player.latest_shot(), player.status()["weights"]
            if shot is None or shot.answers[0] is None or not lines:
                return False
            told = "nothing is named here" not in lines[0]
            return (shot.answers[0].found.name != ("object",)) == told == named

        assert wait_for(as_wanted), (source, change)


@pytest.mark.parametrize(("weights", "named"), [("auto", False), ("random", True)])
def test_random_weights_name_nothing_unless_they_were_asked_for(weights_here, weights, named):
    asked = LiveSettings(rung="resnet_linear_cpu", size=SIZE, classifier="resnet18", weights=weights)
    ready = prepare_rungs(asked.resolved("photos"), lambda line: None)
    (_, found), *_ = ready.rungs[0].run([make_frame(0, SIZE)], ready.nets[0])
    assert (found.name != ("object",)) == named
    assert "names mean nothing" in ready.weights[0]


def test_of_the_models_of_both_rungs_one_thing_is_said_once():
    both = LiveSettings(rung="combined_cpu", second="resnet_opencv_cpu", size=SIZE, model_set="lab")
    (said,) = prepare_rungs(both, lambda line: None).weights
    assert said.startswith("lab_detr + lab_resnet: trained on the drawn things of scenes alone; of")


@pytest.mark.skipif(packaged_file() is None, reason="needs the extra offline")
def test_photographs_get_true_names_where_only_a_package_knows_them(weights_here, tmp_path):
    skimage_data = pytest.importorskip("skimage.data")
    weights_here(PACKAGED)
    for name, names in (("chelsea", ("tabby", "tiger cat", "Egyptian cat")), ("coffee", ("espresso", "cup"))):
        path = tmp_path / f"{name}.png"
        Image.fromarray(getattr(skimage_data, name)()).save(path)
        (caption,) = live(path, threshold=0.0, stills=1).captions
        assert any(each in caption for each in names), caption
        assert "efficientnet_lite0: pretrained weights" in caption


def test_a_hub_that_does_not_answer_holds_up_no_page(weights_here, monkeypatch, page):
    answering = threading.Event()
    monkeypatch.setattr("labkit.models.weights.have_pretrained", lambda models: answering.wait(20))
    view = view_of(page)
    view.player.asked = view.player.settings = LiveSettings(size=SIZE)
    page.say("hello", visible=True)
    view.start()
    assert wait_for(lambda: page.frames)  # the picture is there meanwhile
    began = time.perf_counter()
    page.say("set", settings={"threshold": 0.7})
    page.say("stop")
    assert time.perf_counter() - began < 15 and not view.running  # the answer comes after 20 s
    answering.set()
    assert view.player.wait_until_ended(30)
    assert view.player.settings.threshold == 0.7


# The view and a page.


def test_frames_reach_a_page_and_count_as_displayed(running, page):
    assert wait_for(lambda: len(page.frames) >= 10)
    numbers = [frame["n"] for frame in page.frames]
    assert numbers == sorted(set(numbers))
    picture = Image.open(io.BytesIO(page.jpegs[-1]))
    assert picture.size == SIZE and picture.format == "JPEG"
    assert running.player.rates.displayed >= 9
    assert wait_for(lambda: page.stats and page.stats[-1]["rungs"])
    assert page.stats[-1]["found"] == ["cup 0.90"]
    assert page.states[-1]["weights"] == ["made up"]


def test_the_display_keeps_to_thirty_frames_per_second(running, page):
    assert wait_for(lambda: len(page.frames) >= 1)
    began, first = time.perf_counter(), len(page.frames)
    assert wait_for(lambda: len(page.frames) >= first + 30)
    assert (len(page.frames) - first) / (time.perf_counter() - began) < 36  # 250 come from the camera


def test_a_page_that_never_acknowledges_gets_two_frames(running, page):
    page.acks = page.pongs = False
    before = running.connection.sent
    inferred = running.player.rates.inferred
    assert wait_for(lambda: running.connection.in_flight == 2)
    done = inferred.get("a", 0)
    assert wait_for(lambda: inferred["a"] > done + 20)  # the measurement goes on
    assert running.connection.sent <= before + 3
    assert running.connection.most_in_flight <= 2


def test_a_hidden_page_pauses_the_display_and_not_the_measurement(running, page):
    assert wait_for(lambda: page.frames)
    page.say("seen", visible=False)
    sent = running.connection.sent
    done = running.player.rates.inferred.get("a", 0)
    assert wait_for(lambda: running.player.rates.inferred.get("a", 0) > done + 30)
    assert running.connection.sent <= sent + 1
    page.say("seen", visible=True)
    assert wait_for(lambda: running.connection.sent > sent + 2)


def test_a_page_whose_word_that_it_is_visible_was_lost_is_shown_pictures(page):
    view = view_of(page)
    page.say("hello", visible=False)  # its panel came later, and the message about that never did
    view.start()
    assert wait_for(lambda: view.player.rates.inferred.get("a", 0) > 5) and not page.frames
    page.told = {"visible": True}
    assert wait_for(lambda: len(page.frames) > 2)
    page.told = {"visible": False}
    assert wait_for(lambda: not view.connection.ready())


def test_the_camera_is_free_when_the_page_says_goodbye(running, page):
    assert wait_for(lambda: page.frames)
    page.say("bye")
    assert not running.running
    assert "no page" in page.states[-1]["note"]
    page.say("hello", visible=True)  # a page that is loaded again goes on where it was
    assert running.running


def test_a_silent_page_frees_the_camera_and_its_return_takes_it_again(running, page):
    assert wait_for(lambda: page.frames)
    page.pongs = page.acks = False
    assert wait_for(lambda: not running.running, 30)
    assert wait_for(lambda: not live_threads())
    page.pongs = page.acks = True
    page.say("pong", n=0, after=0, clock_ms=0.0)
    assert wait_for(lambda: running.running)


def test_a_stop_stays_a_stop_whatever_the_page_says_then(running, page):
    page.say("stop")
    assert not running.running
    page.say("seen", visible=True)
    page.say("bye")
    page.say("hello", visible=True)
    assert not running.running
    assert page.states[-1]["state"] == "stopped"
    page.say("start")
    assert running.running


def test_silence_that_nobody_could_hear_proves_nothing(page):
    view = view_of(page, reachable=lambda: False)
    page.say("hello", visible=True)
    page.pongs = page.acks = False
    view.start()
    end = time.perf_counter() + 2.5
    assert not wait_for(lambda: not view.running, end - time.perf_counter())
    assert view.connection.most_in_flight <= 2


def test_without_any_page_the_last_resort_is_taken_and_then_it_stops(monkeypatch):
    monkeypatch.setattr(view_module, "NOBODY_S", 0.3)
    calls = []
    view = view_of(FakePage(pongs=False))
    view.on_nobody = lambda: calls.append(1)
    view.start()
    assert wait_for(lambda: not view.running, 10)
    assert calls == [1]


@pytest.mark.parametrize(
    "message",
    [
        None, [], {}, {"type": "hello"}, {"page": "p"}, {"page": "p", "type": "explode"},
        {"page": "p", "type": ["hello"]}, {"page": "p", "type": "ack"},
        {"page": "p", "type": "ack", "n": "1"},
        {"page": "p", "type": "ack", "n": float("inf")}, {"page": "p", "type": "set", "settings": 3},
        {"page": "p", "type": "set", "settings": {"threshold": "<b>"}}, {"page": "p", "type": "snapshot"},
        {"page": "p", "type": "record", "on": True}, {"page": "p", "type": "ack", "n": 10**400},
        {"page": "p", "type": "set", "settings": {"threshold": 10**400}},
        {"page": "p", "type": "set", "settings": {"size": [float("inf"), 3]}},
        {"page": "p", "type": "set", "settings": {"size": [10**400, 3]}}, {"page": "p", "type": "source"},
    ],
)  # fmt: skip
def test_messages_that_make_no_sense_are_answered_and_change_nothing(page, message):
    view = view_of(page)
    before = view.player.settings
    view.receive(message)
    assert page.states[-1]["note"]
    assert view.player.settings == before
    assert not view.running


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400)
    | st.sampled_from(["auto", "full", "lab", "guided", "x" * 100_000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
KINDS = ("hello", "seen", "pong", "ack", "step", "pause", "set", "snapshot", "record", "picture", "trouble")
SETTINGS = ("rung", "second", "model_set", "size", "threshold", "objects", "classes", "mirror", "filter",
            "radius", "eps", "weights", "other")  # fmt: skip
messages = anything | st.fixed_dictionaries(
    {"page": st.just("p") | anything, "type": st.sampled_from(KINDS) | anything},
    optional={
        **dict.fromkeys(("n", "after", "clock_ms", "age_ms", "captured_ms", "offered", "name"), anything),
        "on": st.just(False),
        "settings": anything | st.dictionaries(st.sampled_from(SETTINGS), anything, max_size=3),
    },
)


@pytest.fixture(scope="module")
def fuzzed_view(tmp_path_factory):
    fuzzed = FakePage()
    return view_of(fuzzed, folder=tmp_path_factory.mktemp("live")), fuzzed


@given(messages, st.lists(st.binary(max_size=50), max_size=2))
@settings(max_examples=400)
def test_no_message_raises_or_leaves_nonsense(fuzzed_view, message, buffers):
    view, page = fuzzed_view
    view.receive(message, buffers)
    assert len(view.note) <= 1000
    json.dumps(view.player.settings.describe(), allow_nan=False)
    assert len(json.dumps(page.states[-1:])) < 100_000


def test_a_flood_of_messages_or_pages_is_not_listened_to(page, monkeypatch):
    view = view_of(page)
    view.receive({"page": "p", "type": "hello"})
    heard = []
    monkeypatch.setattr(view, "_wake", lambda: heard.append(1))
    for _ in range(5000):
        view.receive({"page": "p", "type": "seen", "visible": True})
    assert 0 < len(heard) <= 2 * 1000  # where a second begins within
    for number in range(500):
        view.receive({"page": f"page {number}", "type": "hello"})
    assert view.connection.pages <= 64
    states = len(page.states)
    for _ in range(100):
        view.receive({"page": "p", "type": "nonsense"})
    assert len(page.states) <= states + 1


def test_a_message_is_small(page):
    view = view_of(page)
    for wrong in ([0] * 10_000, [[[[[[[[]]]]]]]], "x" * 10_000, float("nan"), b"bytes"):
        view.receive({"page": "p", "type": "set", "settings": {"classes": wrong}})
        assert "a message of a page" in view.note
        view.note = ""
    view.receive({"page": "p", "type": "picture", "n": 1}, [b"a", b"b"])
    assert "one buffer" in view.note


def test_a_picture_and_a_recording_are_kept(running, page, tmp_path, usual_umask):
    import cv2

    assert wait_for(lambda: page.frames)
    page.say("snapshot")
    kept = tmp_path / page.states[-1]["note"].removeprefix("kept as ")
    assert Image.open(kept).size == SIZE
    assert os.name != "posix" or kept.stat().st_mode & 0o777 == 0o600
    page.say("record", on=True)
    assert page.states[-1]["recording"]
    sent = running.connection.sent
    assert wait_for(lambda: running.connection.sent > sent + 15)
    page.say("record", on=False)
    path = page.states[-1]["note"].removeprefix("recorded to ").split(" (")[0]
    assert os.name != "posix" or os.stat(path).st_mode & 0o777 == 0o600
    film = cv2.VideoCapture(path)
    frames = 0
    while film.read()[0]:
        frames += 1
    film.release()
    assert frames >= 12


def test_a_recording_lasts_as_long_as_what_it_shows(tmp_path, monkeypatch):
    import cv2

    clock = iter([10.0, 10.5, 12.0])
    recorder = Recorder(tmp_path, SIZE)
    monkeypatch.setattr(encode_module.time, "perf_counter", lambda: next(clock, 12.0))
    for value in (0, 100, 200):
        recorder.add(np.full((SIZE[1], SIZE[0], 3), value, np.uint8))
    recorder.close()
    film = cv2.VideoCapture(str(recorder.path))
    levels = []
    while (read := film.read())[0]:
        levels.append(int(read[1].mean()))
    film.release()
    assert len(levels) == 61  # 2 s at 30 per second, and the first


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_recording_on_a_disk_that_fills_up_says_so(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder = Recorder(tmp_path, SIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        for value in range(20):
            recorder.add(np.full((SIZE[1], SIZE[0], 3), value, np.uint8))
        assert "nothing was recorded" in recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*.mp4"))


def test_a_recording_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="LABKIT_HOME"):
        Recorder(tmp_path / "file" / "sub", SIZE)


def test_credentials_are_in_no_message(page):
    address = "http://anna:secret@127.0.0.1:9/stream?token=s3cr3t"
    view = until_the_end(make_view(address, LiveSettings(rung="a", model_set="lab"), page.send))
    page.view = view
    page.say("hello", visible=True)
    view.start()
    assert wait_for(lambda: page.states[-1]["state"] == "failed", 10)
    view.close()
    told = json.dumps([page.states, page.stats])
    assert "127.0.0.1:9/stream" in told
    assert "secret" not in told and "anna" not in told and "s3cr3t" not in told


def test_pictures_that_cannot_be_shown_stop_the_view_and_say_why(page, monkeypatch):
    def fails(shot, settings):
        raise ValueError("no memory for a picture")

    monkeypatch.setattr(view_module, "annotate_shot", fails)
    view = shown_on(page)
    assert wait_for(lambda: not view.running)
    assert wait_for(lambda: "no memory for a picture" in page.states[-1]["note"])


def test_a_compared_picture_is_as_wide_as_both_and_carries_both_answers(page):
    def naming(name):
        def schedule(frames, net):
            for frame in frames:
                yield frame, boxes(frame.size, name)

        return schedule

    def prepare(settings, report):
        return Ready(
            tuple(rung_of(name, naming(name)) for name in settings.rungs), (None, None), ("made up",)
        )

    shown_on(page, player=player_of(second="b", prepare=prepare))
    assert wait_for(lambda: page.stats and page.stats[-1]["found"] == ["a 0.90", "b 0.90"])
    picture = np.asarray(Image.open(io.BytesIO(page.jpegs[-1])))
    assert picture.shape == (SIZE[1], 2 * SIZE[0], 3)
    left, right = picture[:, : SIZE[0]], picture[:, SIZE[0] :]
    for half in (left, right):  # a box in a colour on a frame that is grey
        assert int(np.ptp(half[1:4].astype(int), axis=2).max()) > 60


def test_two_pages_share_a_view_and_the_slower_one_is_not_flooded(running, page):
    other = FakePage("other", acks=False)
    other.view = running
    first_send = running._send

    def to_both(message, buffers):
        other.send(message, buffers)
        first_send(message, buffers)

    running._send = to_both
    other.say("hello", visible=True)
    assert wait_for(lambda: running.connection.in_flight == 2)
    sent = running.connection.sent
    assert not wait_for(lambda: running.connection.sent > sent + 2, 0.5)
    other.say("bye")
    assert wait_for(lambda: running.connection.sent > sent + 5)


# The browser's camera.


def picture(value, size=SIZE):
    out = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(out, "JPEG")
    return out.getvalue()


def test_the_newest_picture_of_the_browser_wins_and_the_rest_is_counted():
    camera = BrowserCamera()
    for value in (10, 20, 30):
        camera.deliver(picture(value), 1.0 + value, offered=value // 2)
    taken = camera.take()
    assert abs(int(taken.image[0, 0, 0]) - 30) <= 2
    assert taken.t_s == 31.0
    assert camera.captured == 15 and camera.dropped == 14
    camera.close()
    assert camera.take() is None


def test_damaged_and_oversized_pictures_are_refused():
    camera = BrowserCamera()
    camera.deliver(b"\xff\xd8 nonsense", 1.0, 1)
    with pytest.raises(SourceLost, match="damaged"):
        camera.take()
    for wrong in (b"", bytes(9_000_000)):
        with pytest.raises(SourceError):
            camera.deliver(wrong, 1.0, 1)


def test_a_trouble_of_the_page_reaches_who_waits():
    camera = BrowserCamera()
    waiting = threading.Thread(target=lambda: camera.fail(describe_camera_error("NotAllowedError")))
    waiting.start()
    with pytest.raises(SourceLost, match="allow it"):
        camera.take()
    waiting.join()


def test_each_trouble_has_a_sentence_of_its_own_with_what_to_do():
    sentences = [describe_camera_error(name) for name in CAMERA_ERRORS]
    assert len(set(sentences)) == len(CAMERA_ERRORS) >= 6
    assert all(any(word in s for word in ("then", "open", "choose", "press")) for s in sentences)
    assert "Weird" in describe_camera_error("WeirdError")


@pytest.mark.parametrize("offset_s", [-5000.0, 0.0, 1234.5])
def test_the_clock_of_a_page_is_translated_within_half_the_quickest_round_trip(offset_s):
    clock = PageClock()
    shortest = 0.004
    for n, ask in enumerate(np.arange(0, 10, 0.5)):
        there, back = (0.003, 0.001) if n == 7 else (0.08, 0.002)  # the way there is the slow one
        clock.answered(ask, ask + there + offset_s, ask + there + back)
    assert abs(clock.here(20.0 + offset_s, now_s=99.0) - 20.0) <= shortest / 2
    assert clock.here(500.0 + offset_s, now_s=99.0) == 99.0


def test_each_page_has_a_clock_of_its_own(page):
    view = view_of(page)
    for name, ahead_s in (("before", 5000.0), ("after a reload", -3.0)):
        page.name, page.ahead_s = name, ahead_s
        page.say("hello", visible=True)
        for _ in range(5):
            view._ping(time.perf_counter())
        now_s = time.perf_counter()
        assert abs(view.clock.here(now_s + ahead_s, now_s + 60) - now_s) < 0.5
        page.say("bye")


def test_ages_by_the_clock_of_another_page_than_the_cameras_do_not_count(running, page):
    assert wait_for(lambda: page.frames)
    page.acks = False
    running.receive({"type": "hello", "page": "other", "visible": True})
    seen = len(page.frames)
    assert wait_for(lambda: len(page.frames) > seen)
    for frame in page.frames[-2:]:
        running.receive({"type": "ack", "page": "other", "n": frame["n"], "painted": True, "age_ms": 1e6})
    assert max(age for _, age in running.player.rates._ages) < 100


def test_the_next_page_lends_its_camera_when_the_first_one_leaves(tmp_path):
    page, holder = FakePage("first"), []
    player = player_of(browser_source(lambda feed: setattr(holder[0], "camera", feed)), source_name="browser")
    view = until_the_end(View(player, page.send, folder=tmp_path))
    page.view = view
    holder.append(view)
    page.say("hello", visible=True)
    view.receive({"type": "hello", "page": "second", "visible": True})
    view.start()
    assert page.states[-1]["camera"] == "first"
    assert wait_for(lambda: view.camera is not None)
    view.receive(
        {"type": "picture", "page": "second", "n": 1, "captured_ms": 1.0, "offered": 1}, [picture(9)]
    )
    assert view.camera.captured == 0  # one camera at a time
    page.pongs = False
    page.say("bye")
    view.receive({"type": "seen", "page": "second", "visible": True})
    assert wait_for(lambda: page.states[-1]["camera"] == "second")
    view.receive(
        {"type": "picture", "page": "second", "n": 2, "captured_ms": 2.0, "offered": 2}, [picture(9)]
    )
    assert view.camera.captured == 2


def test_pictures_of_a_page_become_frames_with_its_time(tmp_path):
    page, holder = FakePage(), []
    player = player_of(browser_source(lambda feed: setattr(holder[0], "camera", feed)))
    view = view_of(page, player=player, folder=tmp_path)
    holder.append(view)
    page.say("hello", visible=True)
    view.start()
    assert wait_for(lambda: view.camera is not None)
    for n in range(1, 6):
        page.say("picture", [picture(40 * n)], n=n, captured_ms=1000.0 + n, offered=2 * n)
        assert wait_for(lambda n=n: page.frames and page.frames[-1]["captured_ms"] == 1000.0 + n)
        page.say("ack", n=page.frames[-1]["n"], painted=True, age_ms=70)
    assert [message["n"] for message in page.taken] == [1, 2, 3, 4, 5]
    assert all(message["page"] == "page" for message in page.taken)
    page.say("trouble", name="ended")
    assert wait_for(lambda: player.status()["state"] == "lost")
    assert "unplugged" in player.status()["message"]


# Names are text.


def test_the_page_never_sets_markup():
    from pathlib import Path

    script = (Path(view_module.__file__).parent / "live.js").read_text()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in script


# What hangs, fails or pauses.


class Hangs(Pushed):
    """A camera that neither gives a picture nor lets go until the test says so."""

    def __init__(self):
        super().__init__()
        self.letting_go = threading.Event()

    def take(self):
        self.letting_go.wait(20)

    def close(self):
        self.letting_go.wait(20)


def test_a_hung_source_is_left_behind_and_the_next_one_opens(monkeypatch):
    monkeypatch.setattr(reader_module._owners, "patience_s", 0.3)
    hung = Hangs()
    first = player_of(lambda size: hung.source(), source_name="http://slow")
    first.start()
    assert wait_for(lambda: first._reader._source is not None)
    began = time.perf_counter()
    first.stop()
    assert time.perf_counter() - began < 15  # not even its closing, of 20 s, is waited for
    for _ in range(2):  # the second one does not hear of it again
        second = player_of()
        second.start()
        assert wait_for(lambda: second.latest_shot() is not None)  # noqa: B023
        told = second.status()["message"]
        second.stop()
        assert second.wait_until_ended(30)
        assert ("http://slow hangs and was left behind" in told) == (_ == 0)
    hung.letting_go.set()
    assert first.wait_until_ended(30)


def test_a_closing_that_hangs_is_waited_for_until_a_deadline(monkeypatch):
    monkeypatch.setattr(reader_module._owners, "patience_s", 0.3)
    letting_go = threading.Event()

    class ClosesNever(Pushed):
        def close(self):
            self.closed.set()
            letting_go.wait(20)

    first = player_of(lambda size: ClosesNever(every_s=0.004).source(), source_name="http://stuck")
    first.start()
    assert wait_for(lambda: first.latest_shot() is not None)
    assert not first.stop()  # it has not let go
    assert wait_for(lambda: not [t for t in live_threads() if t.name == "labkit live reader"], 5)
    assert first.ending
    second = player_of()
    second.start()
    assert wait_for(lambda: second.latest_shot() is not None)
    assert "http://stuck hangs and was left behind" in second.status()["message"]
    second.stop()
    letting_go.set()
    assert first.wait_until_ended(30)


@pytest.mark.parametrize("where", ["open", "give a picture"])
def test_a_source_that_hangs_is_told_while_it_does(monkeypatch, where):
    monkeypatch.setattr(reader_module, "HANGS_S", 0.3)
    letting_go = threading.Event()

    class StandsStill(Pushed):
        def take(self):
            return None if self.captured and letting_go.wait(20) else super().take()

    def opened(size):
        if where == "open":
            letting_go.wait(20)
        return StandsStill(every_s=0.004).source()

    player = started(opened, source_name="/mnt/dead/clip.mp4")
    wanted = f"/mnt/dead/clip.mp4 did not {where} within 0.3 s and hangs; choose another source"
    assert wait_for(lambda: player.status()["message"] == wanted)
    letting_go.set()
    player.stop()
    assert player.wait_until_ended(30)


def test_a_recording_whose_disk_hangs_holds_up_nothing_else(running, page, monkeypatch):
    letting_go = threading.Event()

    class Stuck(Recorder):
        def close(self):
            letting_go.wait(20)
            return super().close()

    monkeypatch.setattr(view_module, "Recorder", Stuck)
    assert wait_for(lambda: page.frames)
    page.say("record", on=True)
    sent = running.connection.sent
    assert wait_for(lambda: running.connection.sent > sent + 5)
    ending = threading.Thread(target=page.say, args=("record",), kwargs={"on": False})
    ending.start()
    began = time.perf_counter()
    page.say("set", settings={"mirror": True})
    page.say("stop")
    assert time.perf_counter() - began < 15 and not running.running  # the writing takes 20 s
    letting_go.set()
    ending.join(30)
    assert "recorded to" in running.note


def test_an_opening_that_hangs_is_left_behind_too(monkeypatch):
    monkeypatch.setattr(reader_module._owners, "patience_s", 0.3)
    asked, letting_go = threading.Event(), threading.Event()

    def drips(size):
        asked.set()
        letting_go.wait(20)
        raise SourceError("too late")

    player = started(drips, source_name="http://drips")
    assert asked.wait(30)
    player.switch(ticking, "photos")  # as the page's menu does
    assert wait_for(lambda: player.latest_shot() is not None)
    assert "http://drips hangs" in player.status()["message"]
    letting_go.set()
    player.stop()
    assert player.wait_until_ended(30)


def test_a_detection_that_hangs_is_left_behind(monkeypatch):
    monkeypatch.setattr(inference_module._users, "patience_s", 0.3)
    stuck = Gate(is_open=False)
    first = player_of(prepare=preparing(a=stuck))
    first.start()
    assert wait_for(lambda: stuck.seen)
    first.stop()
    second = player_of()
    second.start()
    assert wait_for(lambda: second.rates.inferred.get("a"))
    second.stop()
    stuck.permits.release()
    assert first.wait_until_ended(30)


def test_a_frame_with_nan_is_a_failed_frame_and_detection_goes_on():
    def schedule(frames, net):
        for frame in frames:
            found = boxes(frame.size)
            if frame.index % 3 == 0:  # as a network that overflows in half precision
                found = replace(found, xyxy=found.xyxy * np.float32("nan"))
            yield frame, found

    prepare = lambda settings, report: Ready((rung_of("a", schedule),), (None,), ("made up",))  # noqa: E731
    player = started(prepare=prepare)
    assert wait_for(lambda: player.summary()["failed"] >= 3 and player.rates.inferred.get("a", 0) >= 6)
    faults = set()
    assert wait_for(lambda: faults.add(player.status()["fault"]) or len(faults) > 1)
    assert any("NaN" in fault for fault in faults) and "" in faults  # told, and over at the next answer


def test_a_loop_that_ends_of_itself_is_told():
    def once(frames, net):
        frame = next(iter(frames))
        yield frame, boxes(frame.size)

    prepare = lambda settings, report: Ready((rung_of("a", once),), (None,), ("made up",))  # noqa: E731
    player = started(prepare=prepare)
    assert wait_for(lambda: "its loop has ended" in player.status()["fault"])


@pytest.mark.parametrize("live_source", [True, False])
def test_a_pause_holds_the_picture_and_a_step_moves_it_by_one(live_source):
    class Camera(Pushed):
        live, fps = live_source, 200.0

    camera = Camera(every_s=0.004)
    player = started(lambda size: camera.source())
    assert wait_for(lambda: player.latest_shot() is not None)
    player.pause(True)
    time.sleep(0.1)  # the frame that was on its way
    held = player.latest_shot().frame.index
    taken = camera.captured
    time.sleep(0.1)
    assert player.latest_shot().frame.index == held
    assert player.status()["state"] == "paused"
    assert (camera.captured > taken) == live_source  # a film stands still, a camera goes on unseen
    for n in (1, 2):
        player.step()
        assert wait_for(lambda n=n: player.latest_shot().frame.index == held + n)
    assert wait_for(lambda: player.latest_shot().answers[0].frame.index == held + 2)  # with its own boxes
    player.pause(False)
    assert wait_for(lambda: player.latest_shot().frame.index > held + 10)


def test_a_paused_picture_is_painted_anew_when_its_settings_change(running, page):
    assert wait_for(lambda: page.frames)
    page.say("pause", on=True)
    time.sleep(0.2)
    before = len(page.frames)
    assert not wait_for(lambda: len(page.frames) > before + 1, 0.3)
    page.say("set", settings={"threshold": 0.99})
    assert wait_for(lambda: len(page.frames) > before)
    assert page.states[-1]["state"] == "paused"


def test_the_source_is_changed_from_the_page(page, tmp_path):
    opened = []

    def open_named(name):
        opened.append(name)
        return ticking

    view = shown_on(page, folder=tmp_path, open_named=open_named)
    assert wait_for(lambda: page.frames)
    assert {"photos", "scenes", "browser"} <= {each["spec"] for each in page.states[-1]["sources"]}
    page.say("source", spec=" rtsp://anna:secret@host/cam ")
    assert opened == ["rtsp://anna:secret@host/cam"]
    assert "host/cam" in page.states[-1]["source"] and "secret" not in json.dumps(page.states)
    seen = len(page.frames)
    assert wait_for(lambda: len(page.frames) > seen + 3)
    page.say("stop")
    page.say("source", spec="photos")  # whoever chooses a source wants to see it
    assert view.running
    page.say("source", spec=7)
    assert "a source is a name" in page.states[-1]["note"]


def test_a_camera_that_is_not_there_leads_to_the_browsers(page, monkeypatch):
    monkeypatch.setattr(player_module, "prepare_rungs", lambda settings, *_: preparing()(settings, None))
    view = until_the_end(
        make_view("webcam:77", LiveSettings(rung="lut_cpu", model_set="lab", size=SIZE), page.send)
    )
    page.view = view
    page.say("hello", visible=True)
    view.start()
    assert wait_for(lambda: page.states[-1]["state"] == "failed")
    assert '"browser"' in page.states[-1]["message"]


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Cameras that the system lists, as devices in `tmp_path`."""
    listed = []
    monkeypatch.setattr(settings_module, "list_cameras", lambda: listed)
    monkeypatch.setattr(settings_module, "DEVICES", tmp_path)
    monkeypatch.setattr(settings_module, "LOOK_S", 0.0)
    monkeypatch.setattr(settings_module, "_cameras", settings_module._Cameras())
    return listed


def offered():
    return {each["spec"]: each["title"] for each in settings_module.known_sources()}


def test_the_machines_cameras_are_offered_by_name(system, tmp_path):
    system += [
        CameraInfo(0, "Lab Cam 4K", (((3840, 2160), 30.0), ((640, 480), 60.0))),
        CameraInfo(10, "Loop"),
    ]
    assert wait_for(lambda: "webcam:0" in offered())
    assert offered()["webcam:0"] == "Lab Cam 4K (webcam:0), 3840x2160 at 30 FPS"
    assert offered()["webcam:10"] == "Loop (webcam:10)"
    assert list(offered()) == ["browser", "webcam:0", "webcam:10", "photos", "scenes", "closeups"]
    system.clear()
    (tmp_path / "video0").touch()  # what is plugged in has changed
    assert wait_for(lambda: list(offered())[1] == "webcam")


def test_a_camera_driver_that_hangs_holds_up_no_page(system, monkeypatch):
    letting_go = threading.Event()
    monkeypatch.setattr(settings_module, "list_cameras", lambda: letting_go.wait(20) and [])
    began = time.perf_counter()
    for _ in range(3):
        assert "webcam" in offered()
    assert time.perf_counter() - began < 15  # the driver hangs for 20 s
    assert sum(thread.name == "labkit live cameras" for thread in threading.enumerate()) == 1
    letting_go.set()


# What is drawn.


def shot_of(*names):
    size = (64, 48)
    count = len(names)
    left = np.linspace(2, 40, count)
    xyxy = np.stack([left, np.full(count, 20.0), left + 10, np.full(count, 40.0)], axis=1)
    found = Detections(
        xyxy.astype(np.float32), np.full(count, 0.9, np.float32), np.arange(count), names, size
    )
    frame = Frame(np.tile(np.linspace(0, 90, 64, dtype=np.uint8)[None, :, None], (48, 1, 3)), 0, 0.0)
    return Shot(frame, (Answer(frame, found, None),))


def test_a_mirrored_picture_has_its_boxes_in_the_mirror_and_its_names_not():
    shot = shot_of("cup", "dog")
    plain = annotate_shot(shot, LiveSettings())
    mirrored = annotate_shot(shot, LiveSettings(mirror=True))
    rows = slice(24, 38)  # below the names
    assert np.array_equal(mirrored[rows], plain[rows, ::-1])
    assert not np.array_equal(mirrored[:20], plain[:20, ::-1])


def test_only_the_chosen_classes_are_drawn_and_described():
    shot = shot_of("cup", "dog")
    only = LiveSettings(classes=("dog",))
    assert describe_detections(shot, only) == ["dog 0.90"]
    assert (annotate_shot(shot, only) != annotate_shot(shot, LiveSettings())).any()
    assert describe_detections(shot, LiveSettings()) == ["cup 0.90, dog 0.90"]
    assert describe_detections(shot, LiveSettings(threshold=0.95)) == [""]
    assert describe_detections(replace(shot, answers=(None,)), LiveSettings()) == ["no answer yet"]


def test_each_filter_of_the_menu_filters():
    rng = np.random.default_rng(0)
    frame = Frame(rng.integers(0, 256, (48, 64, 3), np.uint8), 0, 0.0)
    preview = PreviewFilter()
    wanted = {"guided": guided_filter(frame.image, 3, 0.1), "edges": edge_filter(frame.image)}
    for name, image in wanted.items():
        settings = LiveSettings(filter=name, radius=3, eps=0.1)
        assert wait_for(lambda: preview.apply(frame, settings) is not frame, 60)  # noqa: B023
        assert np.array_equal(preview.apply(frame, settings).image, image)


def test_the_number_of_boxes_is_part_of_the_networks(monkeypatch):
    seen = []

    def prepare(settings, report):
        seen.append(settings.objects)
        return preparing()(settings, report)

    player = started(prepare=prepare)
    assert wait_for(lambda: player.rates.inferred.get("a"))
    player.change({"objects": 2})
    assert wait_for(lambda: seen == [5, 2])
    player.change({"mirror": True})
    assert wait_for(lambda: player.rates.inferred.get("a"))
    player.stop()
    assert seen == [5, 2]


def test_the_menu_of_rungs_knows_their_stages_and_a_learners_own_loop(monkeypatch):
    monkeypatch.setitem(OWN_RUNGS, "my_loop", rung_of("my_loop"))
    offered = choices(LiveSettings(rung="my_loop", second="lut_cpu", objects=7))
    assert offered["rungs"][0] == {
        "name": "my_loop",
        "about": "a stand-in",
        "stage": None,
        "unavailable": None,
    }
    stages = [each["stage"] for each in offered["rungs"][1:]]
    assert len(set(stages)) > 3 and stages == sorted(stages)
    assert 7 in offered["objects"]


# Without a browser.


def test_a_script_gets_still_pictures(usual_umask):
    stills = live("photos", rung="resnet_linear_cpu", size=(160, 120), model_set="lab", stills=2)
    assert len(stills.captions) == 2 == len(stills.paths)
    for path in stills.paths:
        assert Image.open(path).size == (160, 120)
        assert os.name != "posix" or path.stat().st_mode & 0o777 == 0o600
    assert "resnet_linear_cpu" in repr(stills)


def cold(frames):
    """Its first frames take long, as if something was compiled."""
    for n, frame in enumerate(frames):
        time.sleep(0.4 if n < 2 else 0.002)
        yield frame, boxes(frame.size)


@pytest.mark.parametrize("own", [False, True])
def test_the_caption_of_a_still_has_the_time_of_a_rung_that_is_warm(own, monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setitem(OWN_RUNGS, "cold", None)  # not there any more once this is over
    shown = own_rung(cold) if own else rung_of("cold", lambda frames, net: cold(frames))
    player = player_of(rung="cold", prepare=lambda settings, report: Ready((shown,), (None,), ()))
    (caption,) = show_stills("made up", player, 1).captions
    took_ms, n = re.fullmatch(
        r"cold: cup 0\.90 \(([\d.]+) ms, median of (\d+) frames after 3 to warm up\)", caption
    ).groups()
    assert float(took_ms) < 100 and int(n) >= 7


def test_a_still_of_a_slow_rung_says_how_few_frames_its_time_is_of(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setattr(static_module, "TIMED_S", 0.0)
    (alone,) = show_stills("made up", player_of(prepare=preparing(a=Gate())), 1).captions
    assert re.search(r" ms, (the first frame, not warmed up|median of \d+ frames? after \d to warm)", alone)
    timings = [SimpleNamespace(took_s=s, frames=4) for s in (0.5, 0.02)]
    assert static_module._median_of(timings) == "20 ms per frame, median of 1 pass after 1 to warm up"
    assert static_module._median_of(timings[:1]) == "500 ms per frame, the first pass, not warmed up"


def test_a_script_cannot_use_the_browsers_camera():
    with pytest.raises(UsageError, match="notebook in a browser"):
        live("browser")
    with pytest.raises(SourceError, match="no file or folder"):
        live("no-such-film.mp4", rung="resnet_linear_cpu", model_set="lab")
    with pytest.raises(UsageError, match="did you mean"):
        live(rung="resnet_linear")


@pytest.fixture
def cell(monkeypatch):
    """`live()` as in a notebook cell, with a made-up camera; `cell.opened` lists what it opened."""
    pytest.importorskip("anywidget")
    monkeypatch.setattr(start_module, "has_front_end", lambda: True)
    opened = []

    def open_it(source, size, **_):
        opened.append(Pushed(every_s=0.004))
        return opened[-1].source(size)

    monkeypatch.setattr("labkit.sources.openers.open_source", open_it)
    monkeypatch.setattr(player_module, "prepare_rungs", lambda settings, *_: preparing()(settings, None))
    monkeypatch.setattr(fallback_module, "place_for_fallback", lambda widget: None)

    def run():
        return live("photos", rung="lut_cpu", model_set="lab", size=SIZE)

    run.opened = opened
    yield run
    replace_current(None)


def test_a_view_is_replaced_and_not_added_to(cell):
    first = cell()
    assert wait_for(lambda: first.view.player.latest_shot() is not None)
    second = cell()
    assert not first.view.running
    assert second.view.running
    assert wait_for(lambda: second.view.player.latest_shot() is not None)
    assert cell.opened[0].closed.is_set() and not cell.opened[1].closed.is_set()
    state = second.get_state()
    assert not [key for key, value in state.items() if isinstance(value, bytes | memoryview)]
    second.close()
    assert cell.opened[1].closed.is_set()


@pytest.mark.extended
def test_a_cell_that_is_run_a_hundred_times_leaves_nothing_behind(cell):
    from ipywidgets.widgets.widget import _instances

    process = psutil.Process()
    children = {*process.children()}  # of tests before it

    def run_again():
        widget = cell()
        assert wait_for(lambda: widget.view.player.rates.inferred)
        widget.view.receive({"type": "hello", "page": "p", "visible": True})
        assert sum(not feed.closed.is_set() for feed in cell.opened) == 1  # one owner of the camera

    def left():
        replace_current(None)
        assert wait_for(lambda: not live_threads())
        gc.collect()
        return threading.active_count(), process.num_fds(), len(_instances)

    for _ in range(10):
        run_again()
    before, memory = left(), process.memory_info().rss
    for _ in range(90):
        run_again()
    after = left()
    assert all(n <= b for n, b in zip(after, before, strict=True)), (before, after)
    assert process.memory_info().rss - memory < 20e6
    assert {*process.children()} <= children
    assert lock.lock_holder() is None


def test_without_the_javascript_plain_pictures_are_shown(monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets")
    from labkit.live.fallback import PlainWidget

    made = []

    def make(send):
        page = FakePage()
        made.append(view_of(page, player=player_of()))
        made[0]._send = send
        return made[0]

    widget = PlainWidget(make)
    widget.start()
    image = next(child for child in widget.children if isinstance(child, ipywidgets.Image))
    assert wait_for(lambda: bytes(image.value[:2]) == b"\xff\xd8")
    assert made[0].player.rates.displayed == 0  # nobody knows
    widget.close()
    assert not made[0].running


def test_a_notebook_without_a_browser_shows_stills(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    wishes = "rung='resnet_linear_cpu', size=(160, 120), model_set='lab', stills=2"
    cell = f"from labkit.live.start import live\nlive({wishes})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = notebook.cells[0].outputs
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 2
    assert "resnet_linear_cpu" in outputs[-1]["data"]["text/plain"]
    assert "widgets" not in notebook.metadata


HEARS = """
import threading, time
from pathlib import Path
from labkit.live.widget import LiveWidget

class Hears:
    def receive(self, message, buffers):
        Path({path!r}).write_text(message["word"])

widget = LiveWidget(lambda send: Hears())
def display():
    while True:
        widget.send({{"type": "ping"}})
        time.sleep(0.01)
comm_id = widget.comm.comm_id
"""


def test_a_page_is_heard_while_a_cell_runs_and_the_view_sends(tmp_path):
    start_new_kernel = pytest.importorskip("jupyter_client.manager").start_new_kernel

    heard = tmp_path / "heard.txt"
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        asked = {"id": "comm_id"}
        made = client.execute(HEARS.format(path=str(heard)), user_expressions=asked, reply=True, timeout=60)
        comm_id = ast.literal_eval(made["content"]["user_expressions"]["id"]["data"]["text/plain"])
        request = client.session.msg("create_subshell_request")
        client.control_channel.send(request)
        subshell = client.control_channel.get_msg(timeout=30)["content"]["subshell_id"]
        client.execute("threading.Thread(target=display, daemon=True).start()\ntime.sleep(60)")
        status = None
        while status != "busy":
            status = client.get_iopub_msg(timeout=30)["content"].get("execution_state")
        while client.get_iopub_msg(timeout=30)["msg_type"] != "comm_msg":
            pass  # the view sends now
        said = {"method": "custom", "content": {"word": "hello"}}
        message = client.session.msg("comm_msg", {"comm_id": comm_id, "data": said})
        message["header"]["subshell_id"] = subshell
        client.shell_channel.send(message)
        assert wait_for(lambda: heard.exists() and heard.read_text() == "hello")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
