"""Camera fleets: exactly-once accounting across deaths of actors and nodes; independent streams."""

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from labkit.core.errors import LabError, UnavailableError, UsageError
from labkit.core.types import Detections, Frame, Workload
from labkit.fleet import stream_reader, stream_recorder
from labkit.fleet.actors import round_robin
from labkit.fleet.fleet_plan import Plan, Summary, with_group
from labkit.fleet.stream_reader import Reader, Readers
from labkit.fleet.stream_recorder import Recorder, folder_name
from labkit.fleet.streams import (
    CapturedFrame,
    Counts,
    EndOfStream,
    FrameResult,
    Ledger,
    NoFrame,
    Stream,
)
from labkit.pipelines.ladder import rung

ray = pytest.importorskip("ray")

from fleet_pipelines import (  # noqa: E402  # isort: skip
    CHEAP, CHEAP_GROUPS, TOUCHY, open_in_another_precision, open_nothing, open_slow,
)  # fmt: skip

SMALL = (64, 48)
WORKLOAD = Workload(model_set="lab", size=SMALL)
PATIENCE_S = 120


def grey(index):
    return 20 + 3 * (index % 70)


def film(path, n, fps=20.0, first=0, level=grey):
    """Write n frames of a grey level that encodes their index: 20, 23, 26, ... and again from 20."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, SMALL)
    for i in range(first, first + n):
        writer.write(np.full((SMALL[1], SMALL[0], 3), level(i), np.uint8))
    writer.release()
    return str(path)


def result_of(index, number, reader="r", age_s=0.01):
    found = Detections.empty(SMALL)
    return FrameResult(index, reader, number, 1000.0, 1000.0 + index, age_s, "e", found)


# Accounting, without actors


def test_every_frame_is_dropped_failed_or_processed():
    ledger = Ledger().with_result(result_of(0, 1)).with_result(result_of(3, 2))
    assert ledger.counts == Counts(4, 2, 2, 0)  # 1 and 2 were never handed out
    ledger = ledger.with_result(result_of(9, 5))  # numbers 3 and 4 were handed out and never answered
    assert ledger.counts == Counts(10, 3, 5, 2)
    ledger = ledger.with_result(result_of(20, 2, reader="another"))  # its number 1 failed
    assert ledger.counts == Counts(21, 4, 14, 3)
    ledger = ledger.with_end(EndOfStream(30, "another", 4, "over"))
    assert ledger.counts == Counts(30, 4, 21, 5)


def test_a_result_that_is_not_newer_is_refused():
    ledger = Ledger().with_result(result_of(5, 1))
    assert ledger.with_result(result_of(5, 1)) is None
    assert ledger.with_result(result_of(4, 2)) is None


def test_miscounted_frames_are_an_error():
    with pytest.raises(LabError, match="miscounted"):
        Counts(3, 1, 1, 0)


def test_a_stream_does_not_show_its_password():
    spec = "rtsp://me:secret@camera.example/1"
    stream = Stream(0, spec, "rtsp://***@camera.example/1", SMALL)
    assert "secret" not in repr(stream) + folder_name(stream)


# The reader, in this process


def takes_of(reader, every=lambda take: None):
    after, seen = -1, []
    while True:
        reply = reader.take(after)
        if isinstance(reply, EndOfStream):
            return seen, reply
        if isinstance(reply, CapturedFrame):
            after = reply.index
            seen.append(reply)
            every(reply)


def test_a_recording_plays_at_its_rate_to_its_end(tmp_path):
    spec = film(tmp_path / "a.avi", 12, fps=25)
    begun_s = time.monotonic()
    seen, end = takes_of(Reader(Stream(0, spec, spec, SMALL)))
    assert time.monotonic() - begun_s >= 11 / 25
    assert end.offered == 12 and not end.failed
    assert end.taken == len(seen) == seen[-1].number
    assert [take.number for take in seen] == list(range(1, len(seen) + 1))
    for take in seen:
        assert abs(take.image.mean() - grey(take.index)) < 1.5
        assert take.captured_unix_s == pytest.approx(take.began_unix_s + take.index / 25)


def test_a_restarted_reader_continues_where_a_camera_would_be(tmp_path):
    spec = film(tmp_path / "a.avi", 40, fps=20)
    began_unix_s = time.time() - 1.0  # twenty frames ago, in another life
    first = Reader(Stream(0, spec, spec, SMALL)).take(15, began_unix_s)
    assert first.index >= 19
    assert first.began_unix_s == began_unix_s
    assert abs(first.image.mean() - grey(first.index)) < 1.5


def test_a_time_limit_ends_a_recording_early(tmp_path):
    spec = film(tmp_path / "a.avi", 60, fps=30)
    _, end = takes_of(Reader(Stream(0, spec, spec, SMALL, seconds=0.5)))
    assert end.offered == 15
    assert "0.5 s" in end.why


class Slow:
    """A recording of which 50 frames can be read in a second."""

    live, fps, note, delivered = False, None, "", 0

    def __enter__(self):
        return self

    def __exit__(self, *error): ...

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(0.02)
        self.delivered += 1
        return Frame(np.zeros((SMALL[1], SMALL[0], 3), np.uint8), self.delivered - 1, 0.0)

    def skip(self, n):
        for _ in range(n):
            next(self)


def test_a_source_slower_than_its_rate_is_seen_all_the_same(monkeypatch):
    monkeypatch.setattr(stream_reader, "open_source", lambda *args, **options: Slow())
    seen, end = takes_of(Reader(Stream(0, "slow", "slow", SMALL, fps=100, seconds=0.4)))
    assert len(seen) >= 3 and seen[-1].index >= 15
    assert end.offered == 40


def test_read_errors_are_sentences_without_credentials():
    spec = "http://me:secret@127.0.0.1:9/cam"
    _, end = takes_of(Reader(Stream(0, spec, "http://***@127.0.0.1:9/cam", SMALL)))
    assert end.failed
    assert "127.0.0.1" in end.why and "secret" not in end.why


def test_a_source_opens_before_the_first_request_and_plays_from_it(tmp_path):
    spec = film(tmp_path / "a.avi", 3, fps=50)
    reader = Reader(Stream(0, spec, spec, SMALL))
    reader.ready()
    Path(spec).unlink()  # it could not be opened any more
    time.sleep(0.2)  # more than the film lasts
    seen, end = takes_of(reader)
    assert seen[0].index == 0
    assert end.offered == 3
    missing = Reader(Stream(0, spec, spec, SMALL))
    missing.ready()
    assert missing.take().failed


def test_stop_ends_a_waiting_request(tmp_path):
    spec = film(tmp_path / "a.avi", 3, fps=0.2)
    reader = Reader(Stream(0, spec, spec, SMALL))
    assert reader.take().index == 0
    timer = threading.Timer(0.2, reader.stop)
    timer.start()
    replies = [reader.take(0), reader.take(0)]
    assert any(isinstance(reply, EndOfStream) for reply in replies)
    assert all(isinstance(reply, EndOfStream | NoFrame) for reply in replies)
    end = reader.stop()
    assert (end.offered, end.taken) == (1, 1)


# The recorder, in this process


def rows_in(folder):
    parts = sorted(folder.rglob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()], parts


def recorder_of(folder, **changes):
    return Recorder(Stream(0, "a.avi", "a.avi", SMALL), folder, **{"period_s": 3600, **changes})


def test_a_recorder_takes_each_result_once_and_writes_parts(tmp_path):
    recorder = recorder_of(tmp_path, period_s=1e-9)
    recorder.append([result_of(0, 1), result_of(1, 2)])
    recorder.append([result_of(1, 2)])
    recorder.append([result_of(9, 6)])
    recorder.close(EndOfStream(11, "r", 6, "over"))
    recorder.append([result_of(12, 8)])  # of a reader that was started again in vain
    recorder.close(EndOfStream(15, "r", 8, "again"))
    state = recorder.state()
    assert (state.counts, state.ended) == (Counts(11, 3, 5, 3), "over")
    rows, parts = rows_in(tmp_path)
    assert [row["frame"] for row in rows] == [0, 1, 9]
    assert [part.name for part in parts] == ["part-000000.parquet", "part-000001.parquet"]
    account = json.loads((tmp_path / "account.json").read_text())
    assert account == {"ended": "over", "failed": False,
                       "counts": {"offered": 11, "processed": 3, "dropped": 5, "failed": 3}}  # fmt: skip


def test_rows_hold_boxes(tmp_path):
    found = Detections(
        np.array([[1, 2, 30, 40], [0, 0, 5, 5]], np.float32), np.array([0.9, 0.5], np.float32),
        np.array([3, 1]), ("cup", "disc"), SMALL, np.array([7, 8]), np.array([0.8, 0.7], np.float32),
        ("red cup", "blue disc"),
    )  # fmt: skip
    recorder = recorder_of(tmp_path, facts={"weights": "shipped"})
    recorder.append([FrameResult(0, "r", 1, 0.0, 1.5e9, 0.02, "e", found, 0.44), result_of(1, 2)])
    recorder.close(EndOfStream(2, "r", 2, "over"))
    rows, _ = rows_in(tmp_path)
    assert rows[0]["name"] == ["cup", "disc"] and rows[0]["fine_name"] == ["red cup", "blue disc"]
    assert (rows[0]["x_min"], rows[0]["y_max"]) == ([1, 0], [40, 5])
    assert rows[0]["captured_utc"].timestamp() == 1.5e9
    assert (rows[0]["time_s"], rows[1]["time_s"]) == (0.44, None)
    assert rows[0]["age_ms"] == pytest.approx(20)
    assert (rows[1]["boxes"], rows[1]["name"], rows[1]["fine_name"]) == (0, [], None)


def test_results_that_cannot_be_written_are_processed_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_recorder, "MAX_ROWS", 2)
    place = tmp_path / "taken"
    place.write_text("a file where the folder should be")
    recorder = recorder_of(place, period_s=1e-9)
    recorder.append([result_of(i, i + 1) for i in range(5)])
    state = recorder.state()
    assert (state.counts.processed, state.unsaved, state.failed) == (5, 3, False)
    assert "cannot write" in state.note
    place.unlink()  # now there is room, for the last two
    recorder.append([result_of(5, 6)])
    assert (recorder.state().unsaved, recorder.state().note) == (3, "")
    assert [row["frame"] for row in rows_in(place)[0]] == [3, 4, 5]
    shutil.rmtree(place)
    place.write_text("again")
    recorder.append([result_of(6, 7), result_of(7, 8)])
    recorder.close(EndOfStream(9, "r", 8, "over"))
    state = recorder.state()
    assert state.counts == Counts(9, 8, 1, 0)
    assert (state.unsaved, state.ended, state.failed) == (5, "over", False)
    assert Summary((state,), 1.0, place).unsaved == [f"5 results of a.avi: {state.note}"]


# Actors shared by streams


def test_streams_are_distributed_round_robin():
    assert round_robin("abcde", 8) == [["a", "b", "c", "d", "e"]]
    assert round_robin("abcde", 2) == [["a", "d"], ["b", "e"], ["c"]]
    assert round_robin("abcde", 8, 2) == [["a", "c", "e"], ["b", "d"]]  # a hand for each machine
    assert round_robin("ab", 8, 5) == [["a"], ["b"]]
    assert round_robin("", 8, 2) == []


def test_readers_in_one_process_are_called_by_stream(tmp_path):
    films = [film(tmp_path / "a.avi", 3), film(tmp_path / "b.avi", 4, first=30)]
    readers = Readers([Stream(i, spec, spec, SMALL) for i, spec in enumerate(films)])
    readers.ready()
    first, second = (readers.call(i, "take", -1, None) for i in range(2))
    assert abs(first.image.mean() - grey(0)) < 1.5
    assert abs(second.image.mean() - grey(30)) < 1.5
    assert readers.call(0, "stop").why == "it was stopped"
    while not isinstance(reply := readers.call(1, "take", second.index, None), EndOfStream):
        second = reply
    assert reply.offered == 4 and not reply.failed


# Fleets, on Ray


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster on this machine; tests may add a second node and remove it."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # the nodes import the cheap pipelines
        patch.setenv("RAY_health_check_period_ms", "300")  # a node that is gone is noticed in a second
        patch.setenv("RAY_health_check_failure_threshold", "4")
        head = {"num_cpus": 3, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def cluster_of_two(two_nodes):
    from labkit.fleet.cluster import cluster

    with cluster(two_nodes.address):
        yield two_nodes


def run_fleet(plan, at_each=lambda fleet, states: None, report=lambda line: None):
    """Run a fleet to its end; calls `at_each` with every state on the way."""
    from labkit.fleet.run_fleet import Fleet

    until_s = time.monotonic() + PATIENCE_S
    with Fleet(plan, report) as fleet:
        for states in fleet.states(every_s=0.1):
            at_each(fleet, states)
            assert time.monotonic() < until_s, states
        return fleet.summary()


def plan_of(sources, out, **changes):
    changes = {"rung": CHEAP, "open_net": open_nothing, "period_s": 0.3, **changes}
    return Plan(sources=tuple(sources), workload=WORKLOAD, out=out, **changes)


def assert_rows_are_right(summary, lengths):
    """Assert that rows are in order, unique, as many as were processed, and each of its own frame."""
    folders = sorted(path for path in summary.folder.iterdir() if path.is_dir())
    for state in summary.streams:
        counts = state.counts
        assert counts.offered == counts.processed + counts.dropped + counts.failed
        assert counts.offered == lengths[state.position]
        rows, _ = rows_in(folders[state.position]) if counts.processed else ([], [])
        index = [row["frame"] for row in rows]
        assert len(index) == counts.processed
        assert index == sorted(set(index))
        for row in rows:
            assert abs(int(row["name"][0]) - grey(row["frame"])) < 2


def test_streams_run_in_parallel_and_every_frame_is_accounted_for(cluster_of_two, tmp_path):
    films = [film(tmp_path / f"{name}.avi", n) for name, n in (("a", 60), ("b", 15), ("c", 60))]
    films.append(str(tmp_path / "missing.avi"))
    told = []
    plan = plan_of(films, tmp_path / "out", rung=CHEAP_GROUPS, engines=2, open_net=open_in_another_precision)
    summary = run_fleet(plan, report=told.append)
    assert "cheap_groups: float32: no bfloat16 here" in told
    a, b, c, missing = summary.streams
    assert_rows_are_right(summary, [60, 15, 60, 0])
    assert "there is no file" in missing.ended and missing.failed
    assert all(state.ended == "the recording is over" for state in (a, b, c))
    assert a.parts > 1  # one per 0.3 s
    assert a.counts.failed == b.counts.failed == c.counts.failed == 0


def once(condition, act):
    """A callback that calls `act` at the first state for which `condition` holds."""
    done = []

    def at_each(fleet, states):
        if not done and condition(states):
            done.append(True)
            act(fleet)

    return at_each, done


def half_way(states):
    return all(state.counts.processed >= 8 for state in states)


@pytest.mark.extended
def test_killed_actors_restart_with_their_streams(cluster_of_two, tmp_path):
    films = [film(tmp_path / f"{name}.avi", 400) for name in "abc"]
    victims = ["engines", "readers"]

    def kill(fleet, states):
        """Kill one actor after another, each once all streams have progressed for a while."""
        goal = 8 * (3 - len(victims)) + sum(state.restarts for state in states)
        if victims and all(state.counts.processed >= goal for state in states):
            victim = getattr(fleet, victims.pop(0))[0]
            ray.kill(getattr(victim, "actor", victim), no_restart=False)
        elif not victims and all(state.counts.processed > 60 for state in states):
            fleet.stop()

    summary = run_fleet(plan_of(films, tmp_path / "out"), kill)
    assert not victims
    assert_rows_are_right(summary, [state.counts.offered for state in summary.streams])
    assert not any(state.failed for state in summary.streams)
    assert all(state.restarts == 2 for state in summary.streams)  # an engine, and a process of readers


@pytest.mark.extended
def test_readers_that_died_together_restart_in_a_process_each(cluster_of_two, tmp_path):
    films = [film(tmp_path / f"{name}.avi", 900) for name in "abc"]
    since = []

    def kill(fleet, states):
        done = [state.counts.processed for state in states]
        others_went_on = since and all(done[i] > since[-1][i] + 15 for i in (0, 2))
        if not since and min(done) >= 8:
            assert len({reader.actor for reader in fleet.readers}) == 1
            ray.kill(fleet.readers[0].actor, no_restart=True)
            since.append(done)
        elif len(since) == 1 and others_went_on and done[1] > since[0][1] + 15:
            assert len({reader.actor for reader in fleet.readers}) == 3
            ray.kill(fleet.readers[1].actor, no_restart=True)
            since.append(done)
        elif len(since) == 2 and others_went_on and states[1].ended:
            fleet.stop()

    summary = run_fleet(plan_of(films, tmp_path / "out"), kill)
    assert len(since) == 2
    assert_rows_are_right(summary, [state.counts.offered for state in summary.streams])
    first, second, third = summary.streams
    assert second.failed and "its reader died too often" in second.ended
    assert first.ended == third.ended == "it was stopped"


@pytest.mark.extended
def test_a_lost_node_ends_no_stream(cluster_of_two, tmp_path):
    films = [film(tmp_path / f"{name}.avi", 1800) for name in "abc"]
    second = cluster_of_two.add_node(num_cpus=3, object_store_memory=80 * 2**20)
    cluster_of_two.wait_for_nodes()
    at_removal = []

    def remove(fleet, states):
        done = [state.counts.processed for state in states]
        if not at_removal and min(done) >= 8:
            cluster_of_two.remove_node(second, allow_graceful=False)
            at_removal.extend(done)
            return
        went_on = bool(at_removal) and all(map(lambda now, then: now > then + 20, done, at_removal))
        if went_on and any(state.restarts for state in states):  # it ran a part of the fleet
            fleet.stop()

    summary = run_fleet(plan_of(films, tmp_path / "out", engines=2), remove)
    assert at_removal
    assert_rows_are_right(summary, [state.counts.offered for state in summary.streams])
    assert all(state.ended == "it was stopped" for state in summary.streams)


@pytest.mark.extended
def test_a_lost_node_costs_a_batch_no_row(cluster_of_two, tmp_path):
    from labkit.fleet.batch.run_batch import process
    from labkit.fleet.batch.videos import Batch, scan_folder

    (tmp_path / "videos").mkdir()
    for name in "ab":
        film(tmp_path / "videos" / f"{name}.avi", 70)
    second = cluster_of_two.add_node(num_cpus=3, object_store_memory=80 * 2**20)
    cluster_of_two.wait_for_nodes()
    removed = []

    def remove(share, text):
        if not removed and share > 0.1:
            cluster_of_two.remove_node(second, allow_graceful=False)
            removed.append(share)

    batch = Batch(tmp_path / "videos", tmp_path / "out", CHEAP, WORKLOAD, 8, engines=4, open_net=open_slow)
    done = process(batch, scan_folder(batch), remove)
    assert removed and removed[0] < 1
    assert (done.frames, done.faults) == (140, ())
    for name in "ab":
        parts = sorted((tmp_path / "out" / f"{name}.avi").glob("segment-*.parquet"))
        rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
        assert [row["frame"] for row in rows] == list(range(70))
        assert all(abs(int(row["name"][0]) - grey(row["frame"])) < 2 for row in rows)


@pytest.mark.extended
def test_a_reader_restarted_after_stop_is_stopped_too(cluster_of_two, tmp_path):
    films = [film(tmp_path / f"{name}.avi", 900) for name in "ab"]

    def stop_and_kill(fleet):
        fleet.stop()
        ray.kill(fleet.readers[0].actor, no_restart=False)

    at_each, done = once(half_way, stop_and_kill)
    summary = run_fleet(plan_of(films, tmp_path / "out", open_net=open_slow), at_each)
    assert done
    assert all(state.counts.offered < 600 for state in summary.streams)
    assert_rows_are_right(summary, [state.counts.offered for state in summary.streams])


def hang(frames, net):
    for frame in frames:
        time.sleep(3600 if frame.image.max() > 0 else 0)  # the warm-up's frames are black
        yield frame, Detections.empty(frame.size)


def open_impatient(rung, workload):
    from labkit.fleet import inference_engine

    inference_engine.PASS_S = 1.0
    return None, {}


@pytest.mark.extended
def test_networks_that_hang_or_die_again_and_again_end_their_streams(cluster_of_two, tmp_path):
    films = [film(tmp_path / "a.avi", 900)]
    stuck = replace(CHEAP, run=hang)
    (state,) = run_fleet(plan_of(films, None, rung=stuck, open_net=open_impatient)).streams
    assert state.failed and "gave no result for 1 s" in state.ended
    killed = []

    def kill(fleet, states):
        if states[0].counts.processed > 8 * (len(killed) + 1):
            killed.append(fleet.engines[0])
            ray.kill(fleet.engines[0], no_restart=False)

    (state,) = run_fleet(plan_of(films, None, restarts=1), kill).streams
    assert state.failed and "its engine died too often" in state.ended
    assert len(set(killed)) == 2 and state.restarts == 1


@pytest.mark.extended
def test_engines_may_use_every_core(cluster_of_two, tmp_path):
    films = [film(tmp_path / f"{name}.avi", 10) for name in "abc"]
    summary = run_fleet(plan_of(films, tmp_path / "out", engines=3))  # of the 3 that there are
    assert_rows_are_right(summary, [10, 10, 10])


@pytest.mark.extended
def test_a_failing_network_costs_the_frames_it_held(cluster_of_two, tmp_path):
    too_bright = {"level": lambda i: 60 if i < 12 else 220}  # and stays so, however slow the machine
    films = [film(tmp_path / f"{name}.avi", 600, **too_bright) for name in "ab"]
    summary = run_fleet(plan_of(films, tmp_path / "out", rung=TOUCHY))
    for state in summary.streams:
        assert state.failed and "too bright" in state.ended
        assert state.counts.failed >= 1
        assert state.counts.offered == sum(state.counts.row()[1:])


@pytest.mark.extended
def test_stop_closes_every_account(cluster_of_two, tmp_path):
    films = [film(tmp_path / f"{name}.avi", 400) for name in "abc"]
    at_each, done = once(half_way, lambda fleet: fleet.stop())
    summary = run_fleet(plan_of(films, tmp_path / "out", open_net=open_slow), at_each)
    assert done
    assert all(state.ended == "it was stopped" for state in summary.streams)
    assert all(0 < state.counts.offered < 400 for state in summary.streams)
    assert_rows_are_right(summary, [state.counts.offered for state in summary.streams])


@pytest.mark.extended
def test_a_fleet_runs_a_real_rung(cluster_of_two, tmp_path):
    changes = {"rung": rung("resnet_linear_cpu"), "open_net": None, "seconds": 2.0, "fps": 10}
    plan = plan_of(["scenes", "photos"], tmp_path / "out", **changes)
    summary = run_fleet(plan)
    for state in summary.streams:
        assert state.counts.offered == 20
        assert 0 < state.counts.processed <= 20
    weights = json.loads((summary.folder / "fleet.json").read_text())["networks"]["weights"]
    assert weights == "shipped" or "lab" in str(weights)


def test_unavailable_networks_are_reported_at_once(cluster_of_two, tmp_path):
    with pytest.raises(UnavailableError, match="GPU"):
        run_fleet(plan_of(["scenes"], tmp_path / "out", rung=rung("resnet_cuda"), open_net=None))


@pytest.mark.extended
def test_a_folder_that_cannot_be_written_costs_no_frame(cluster_of_two, tmp_path):
    (tmp_path / "out").write_text("a file")
    summary = run_fleet(plan_of([film(tmp_path / "a.avi", 10)], tmp_path / "out"))
    assert summary.counts.offered == 10 and summary.counts.processed > 0
    assert summary.folder is None and "cannot create" in summary.unsaved[0]


def test_group_size_is_set_for_rungs_with_groups_only():
    assert with_group(rung("grouped_cpu"), 2).prepare.options["frames"] == 2
    with pytest.raises(UsageError, match="one frame at a time"):
        with_group(rung("batched_cpu"), 2)


def test_more_engines_than_streams_are_refused():
    with pytest.raises(UsageError, match="from 1 to 1 engines"):
        Plan(sources=("scenes",), rung=CHEAP, workload=WORKLOAD, engines=2)


# The command line


def test_the_table_fits_eighty_columns_and_escapes_markup():
    from rich.console import Console

    from labkit.cli.cmd_fleet import table
    from labkit.fleet.streams import StreamState

    name = "rtsp://***@[red]camera.example:8554/a/very/long/path/to/a/stream.sdp"
    counts = Counts(1234567, 1000000, 234560, 7)
    states = [StreamState(i, name, counts, 1234.5, (1234.5, 5678.9), 99, ended="over") for i in range(2)]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(states))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 4
    assert "1234567" in lines[1] and "2469134" in lines[3] and "stream.sdp" in lines[1]


def test_fleet_command(tmp_path, capsys, monkeypatch):
    from labkit.cli.main import main

    spec = film(tmp_path / "a.avi", 20, fps=10)
    ray.shutdown()
    with pytest.raises(SystemExit) as end:
        main([
            "fleet", spec, str(tmp_path / "missing.mp4"), "--rung", "resnet_linear_cpu", "--model-set", "lab",
            "--size", "64x48", "--out", str(tmp_path / "out"),
        ])  # fmt: skip
    assert not end.value.code
    out = capsys.readouterr().out
    assert "of 20 frames" in out
    assert "there is no file" in " ".join(out.split())
    assert max(map(len, out.splitlines()[:4])) <= 80
    assert len(list(tmp_path.glob("out/*/000-*/part-*.parquet"))) == 1
    assert not ray.is_initialized()


def test_fleet_command_refuses_an_unknown_rung(tmp_path, capsys):
    from labkit.cli.main import main

    assert main(["fleet", str(tmp_path / "no.mp4"), "--rung", "nonsense"]) == UsageError.exit_code
    assert "no rung named" in capsys.readouterr().err
