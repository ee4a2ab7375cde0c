"""Batches of recordings: every frame's row exactly once across kills and resumed runs."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import films
import numpy as np
import pytest

from labkit.core.errors import LabError, SourceError, UnavailableError, UsageError, WeightsError
from labkit.core.types import Workload
from labkit.fleet.batch import videos
from labkit.fleet.batch.segments import END_OF_VIDEO, decode_segments
from labkit.fleet.batch.videos import Batch, scan_folder
from labkit.pipelines.ladder import rung

ray = pytest.importorskip("ray")

from fleet_pipelines import CHEAP, CHEAP_GROUPS, TOUCHY, open_nothing  # noqa: E402  # isort: skip
from test_fleet import SMALL, WORKLOAD, film, grey  # noqa: E402  # isort: skip

PATIENCE_S = 90


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "videos"
    (made / "below").mkdir(parents=True)
    film(made / "a.avi", 70)
    film(made / "below" / "b.avi", 33, first=20)
    return made


@pytest.fixture(scope="module")
def ray_here():
    from labkit.fleet.cluster import cluster

    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import the cheap pipelines
        with cluster(object_store_bytes=100 * 2**20) as started:
            yield started


def batch_of(folder, out, **changes):
    changes = {"rung": CHEAP, "open_net": open_nothing, "segment": 8, **changes}
    return Batch(folder=folder, out=out, workload=WORKLOAD, **changes)


def run(batch):
    from labkit.fleet.batch.run_batch import process

    return process(batch, scan_folder(batch))


def rows_of(out, video):
    import pyarrow.parquet as pq

    parts = sorted((out / video).glob("segment-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def assert_whole(out, video, n, first=0):
    rows = rows_of(out, video)
    assert [row["frame"] for row in rows] == list(range(n))
    for row in rows:
        assert abs(int(row["name"][0]) - grey(first + row["frame"])) < 2


def tables(spec, parts=(), segment=8):
    import pyarrow as pa

    row = {"video": "a.avi", "path": str(spec), "stamp": [1, 2], "parts": list(parts)}
    return [table.to_pylist()[0] for table in decode_segments(pa.Table.from_pylist([row]), SMALL, segment)]


# Decoding, in this process


def test_segments_hold_their_frames(folder):
    found = tables(folder / "a.avi", parts=(1,))
    assert [(row["segment"], row["n"]) for row in found] == [
        (0, 8), *((k, 8) for k in range(2, 8)), (8, 6), (END_OF_VIDEO, 70),
    ]  # fmt: skip
    for row in found[:-1]:
        images = np.frombuffer(row["frames"], np.uint8).reshape(row["n"], SMALL[1], SMALL[0], 3)
        for i, image in enumerate(images):
            assert abs(float(image.mean()) - grey(8 * row["segment"] + i)) < 2
    assert found[0]["expected"] == 9


def test_a_file_that_is_not_a_video_is_reported_in_a_row(tmp_path):
    (tmp_path / "a.avi").write_bytes(b"not a video" * 100)
    (row,) = tables(tmp_path / "a.avi")
    assert row["segment"] == END_OF_VIDEO
    assert "a.avi" in row["fault"]


# Pending work


def test_folders_without_videos_are_an_error(tmp_path):
    with pytest.raises(SourceError, match="no folder"):
        scan_folder(batch_of(tmp_path / "none", tmp_path / "out"))
    with pytest.raises(SourceError, match="no video"):
        scan_folder(batch_of(tmp_path, tmp_path / "out"))


def test_films_are_found_by_name_or_content(tmp_path):
    """Not those in hidden folders, and no pictures, texts and lists of films."""
    from PIL import Image

    films.film(tmp_path / "a.mp4", range(2))
    data = (tmp_path / "a.mp4").read_bytes()
    for name in ("b", "c.jpg", "d.dat", ".hidden/e.mp4", "below/f.MP4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    Image.new("RGB", (8, 8)).save(tmp_path / "g.jpg")
    for name, text in (("h.m3u8", "#EXTM3U\n#EXTINF:1,\na.mp4\n"), ("i.txt", "a film"), ("j.mp4", "no film")):
        (tmp_path / name).write_text(text)
    found = [video.name for video in scan_folder(batch_of(tmp_path, tmp_path / "out"))]
    assert found == ["a.mp4", "b", "below/f.MP4", "c.jpg", "d.dat", "j.mp4"]


def test_an_output_folder_belongs_to_one_set_of_settings(folder, tmp_path):
    scan_folder(batch_of(folder, tmp_path / "out"))
    scan_folder(batch_of(folder, tmp_path / "out", engines=3))
    with pytest.raises(UsageError, match="another segment"):
        scan_folder(batch_of(folder, tmp_path / "out", segment=9))
    with pytest.raises(UsageError, match="made with another rung"):
        scan_folder(batch_of(folder, tmp_path / "out", rung=TOUCHY))


def test_segments_that_are_too_large_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="--segment 4 or fewer"):
        Batch(folder, tmp_path, CHEAP, Workload(size=(3840, 2160)), segment=64)


# Whole batches, on Ray


@pytest.mark.extended
def test_every_frame_has_its_row_and_nothing_is_done_twice(ray_here, folder, tmp_path):
    (folder / "broken.mp4").write_bytes(b"not a video" * 100)
    out = tmp_path / "out"
    done = run(batch_of(folder, out, rung=CHEAP_GROUPS))
    assert (done.videos, done.frames, done.boxes, done.parts) == (2, 103, 103, 9 + 5)
    assert done.new_frames == 103
    assert len(done.faults) == 1 and "broken.mp4" in done.faults[0]
    assert_whole(out, "a.avi", 70)
    assert_whole(out, "below/b.avi", 33, first=20)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    (folder / "broken.mp4").unlink()
    again = run(batch_of(folder, out, rung=CHEAP_GROUPS))
    assert (again.videos, again.frames, again.new_frames, again.faults) == (2, 103, 0, ())
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}


def test_a_wrong_estimate_and_damage_cost_no_second_pass(ray_here, tmp_path):
    """A trimmed film, one with a damaged packet and one of variable rate are finished in one run."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    films.trim(films.film(tmp_path / "whole.mp4", range(30)), videos / "trimmed.mp4", 13)
    films.damage(films.film(videos / "damaged.mp4", range(20)), [12])
    films.film(videos / "._hidden.mp4", range(2))
    times = [0, 1, 2, 10, 11, 30, 31]
    films.film(videos / "vfr.mp4", times)
    done = run(batch_of(videos, out))
    assert (done.videos, done.frames, done.faults) == (3, 17 + 19 + 7, ())
    (note,) = done.notes
    assert "damaged.mp4: 1 damaged packet" in note
    assert [row["time_s"] for row in rows_of(out, "vfr.mp4")] == pytest.approx([k / 25 for k in times])
    assert [row["time_s"] for row in rows_of(out, "damaged.mp4")][11:14] == pytest.approx([0.44, 0.52, 0.56])
    assert all(video.finished for video in scan_folder(batch_of(videos, out)))


def test_boxes_are_in_pixels_of_the_original(ray_here, tmp_path):
    """A film of 128x96 in frames of 64x64: letterboxed, cropped, refused."""
    from labkit.fleet.rows import read_metadata

    videos = tmp_path / "videos"
    videos.mkdir()
    films.film(videos / "a.mp4", range(3))
    corners = {}
    for fit in ("letterbox", "crop", "none"):
        out = tmp_path / fit
        batch = replace(batch_of(videos, out), workload=replace(WORKLOAD, size=(64, 64), fit=fit))
        done = run(batch)
        if fit == "none":
            assert "frames are 128x96" in done.faults[0]
            assert "--fit none" in done.faults[0]
            continue
        assert done.faults == ()
        facts = read_metadata(out / "a.mp4" / "segment-000000.parquet")
        assert (facts["fit"], facts["size"], facts["original_size"]) == (fit, [64, 64], [128, 96])
        row = rows_of(out, "a.mp4")[0]
        corners[fit] = [row[name][0] for name in ("x_min", "y_min", "x_max", "y_max")]
    assert corners == {"letterbox": [0, 0, 128, 96], "crop": [16, 0, 112, 96]}, "the whole frame is its box"


def test_a_scan_leaves_alone_what_others_write_and_misses_nothing_that_went(tmp_path, monkeypatch):
    for name in ("a.avi", "b.avi", "gone.avi"):
        (tmp_path / name).write_bytes(b"x")
    batch = batch_of(tmp_path, tmp_path / "out")
    scan_folder(batch)
    for name, age_s in (("young", 0), ("old", 2 * videos.ABANDONED_S)):
        partial = tmp_path / "out" / "a.avi" / f".segment-000000.parquet.{name}"
        partial.parent.mkdir(exist_ok=True)
        partial.write_bytes(b"")
        os.utime(partial, (time.time() - age_s,) * 2)
    (tmp_path / "out" / "a.avi" / "video.json").write_text('{"stamp": 5}')
    listed = videos._list_videos(tmp_path)
    monkeypatch.setattr(videos, "_list_videos", lambda folder: listed)
    (tmp_path / "gone.avi").unlink()  # between the list and the look, as a recorder does
    found = {video.name: video.finished for video in scan_folder(batch)}
    assert found == {"a.avi": False, "b.avi": False}
    assert [path.name.rpartition(".")[2] for path in tmp_path.rglob(".segment-*")] == ["young"]


def test_exit_codes_of_child_processes_are_still_known(ray_here):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        child.kill()
        assert child.wait(PATIENCE_S) == -signal.SIGKILL


@pytest.mark.extended
def test_a_replaced_video_is_processed_again(ray_here, folder, tmp_path):
    out = tmp_path / "out"
    run(batch_of(folder, out))
    film(folder / "a.avi", 9, first=50)
    os.utime(folder / "a.avi", (1e9, 1e9))
    done = run(batch_of(folder, out))
    assert (done.frames, done.new_frames) == (42, 9)
    assert_whole(out, "a.avi", 9, first=50)
    assert_whole(out, "below/b.avi", 33, first=20)


@pytest.mark.extended
def test_a_failed_segment_is_reported_and_retried_by_the_next_run(ray_here, folder, tmp_path):
    film(folder / "a.avi", 70)  # from frame 62 on too bright, in segments 7 and 8
    done = run(batch_of(folder, tmp_path / "out", rung=TOUCHY))
    assert [fault.split(":")[0] for fault in sorted(done.faults)] == ["a.avi, segment 7", "a.avi, segment 8"]
    assert (done.videos, done.frames) == (1, 56 + 33)
    again = run(batch_of(folder, tmp_path / "out", rung=TOUCHY))
    assert (len(again.faults), again.new_frames) == (2, 0)


def kill_the_finder(frames, net):
    """Kills its process once, in the middle of a segment."""
    for frame in frames:
        marker = Path(os.environ.get("TMPDIR", "/tmp")) / f"labkit-test-died-{net}"
        if frame.image.mean() > 60 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        from fleet_pipelines import detect

        yield frame, detect(frame)


@pytest.mark.extended
def test_a_killed_actor_costs_no_row(ray_here, folder, tmp_path):
    from dataclasses import replace

    token = f"{os.getpid()}-{time.time_ns()}"

    def open_token(rung, workload):
        return token, {}

    marker = Path(os.environ.get("TMPDIR", "/tmp")) / f"labkit-test-died-{token}"
    try:
        done = run(
            batch_of(folder, tmp_path / "out", rung=replace(CHEAP, run=kill_the_finder), open_net=open_token)
        )
        assert marker.exists()
    finally:
        marker.unlink(missing_ok=True)
    assert (done.frames, done.faults) == (103, ())
    assert_whole(tmp_path / "out", "a.avi", 70)
    assert_whole(tmp_path / "out", "below/b.avi", 33, first=20)


def open_without_weights(rung, workload):
    raise WeightsError("the weights are not there; fetch them")


@pytest.mark.extended
def test_unavailable_networks_end_the_batch_with_the_reason(ray_here, folder, tmp_path):
    with pytest.raises(LabError, match="fetch them"):
        run(batch_of(folder, tmp_path / "out", open_net=open_without_weights))
    with pytest.raises(UnavailableError, match="GPU"):
        run(batch_of(folder, tmp_path / "out2", rung=rung("resnet_cuda"), open_net=None))


DRIVER = """
import sys
from pathlib import Path
from fleet_pipelines import CHEAP, open_slow
from labkit.fleet.batch.videos import Batch, scan_folder
from labkit.core.types import Workload
from labkit.fleet.cluster import cluster
batch = Batch(Path(sys.argv[1]), Path(sys.argv[2]), CHEAP, Workload(model_set="lab", size=(64, 48)), 8,
            open_net=open_slow)
with cluster(sys.argv[3]):
    from labkit.fleet.batch.run_batch import process
    print(process(batch, scan_folder(batch)).new_frames)
"""


@pytest.mark.extended
def test_a_killed_batch_is_resumed(ray_here, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    out = tmp_path / "out"
    address = ray_here.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, str(folder), str(out), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        until_s = time.monotonic() + PATIENCE_S
        while len(list(out.rglob("segment-*.parquet"))) < 4:
            assert first.poll() is None and time.monotonic() < until_s, first.stdout.read()
            time.sleep(0.05)
        first.kill()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("segment-*.parquet")}
    assert len(kept) < 14
    again = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert again.returncode == 0, again.stderr
    assert 0 < int(again.stdout.split()[-1]) < 103
    assert_whole(out, "a.avi", 70)
    assert_whole(out, "below/b.avi", 33, first=20)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())


def test_batch_command_takes_names_of_any_bytes(ray_here, tmp_path, capsys):
    from labkit.cli.main import main

    film(tmp_path / "a.avi", 20)
    videos = tmp_path / os.fsdecode(b"\xff")  # names that are no UTF-8
    videos.mkdir()
    (tmp_path / "a.avi").rename(videos / os.fsdecode(b"\xfe.avi"))
    arguments = ["batch", str(videos), "--rung", "resnet_linear_cpu", "--model-set", "lab"]
    arguments += ["--size", "64x48", "--segment", "8", "--out", str(videos / "out")]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code
    out = capsys.readouterr().out
    assert "20 frames with 20 boxes in 3 parts; 1 videos finished" in out
    assert "20 of these frames now" in out
    work = replace(WORKLOAD, objects=10, threshold=0.5)
    batch = Batch(videos, videos / "out", rung("resnet_linear_cpu"), work, segment=8)
    assert [video.finished for video in scan_folder(batch)] == [True]
