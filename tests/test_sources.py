"""Recorded and embedded sources, conversion to RGB, names and sizes."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from films import GRAIN, damage, film, trim
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labkit.bench.frames import collect
from labkit.core.errors import FrameError, LabError, SourceError, UsageError
from labkit.core.types import Detections
from labkit.sources.convert import PADDING, centre_crop, fit_image, placement, to_rgb
from labkit.sources.openers import first_frame, open_source
from labkit.sources.spec import ANY_WEBCAM, check_size, redact, webcam_index
from labkit.sources.stills import FRAMES_PER_PHOTO, PHOTOS, ping_pong

CLIPS = Path(__file__).parents[2] / "shared" / "video"
IMAGES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


def clip(path: Path, frames: int, size=(64, 48), fourcc="MJPG", fps=20.0) -> Path:
    """A video in which frame k is gray of the level 10 k."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), fps, size)
    for k in range(frames):
        writer.write(np.full((size[1], size[0], 3), 10 * k, np.uint8))
    writer.release()
    return path


def levels(source) -> list[int]:
    return [round(float(frame.image.mean()) / 10) for frame in source]


def grey(frame) -> int:
    """The number of a frame of a `film`, by its grey level."""
    return round((float(frame.image.mean()) - float(GRAIN.mean())) / 8)


# Photographs


def test_the_first_frame_is_that_of_the_stream_and_an_empty_source_says_so(tmp_path):
    with open_source("scenes", (64, 48), seed=3) as stream:
        expected = next(stream)
    found = first_frame("scenes", (64, 48), seed=3)
    assert found.index == 0
    np.testing.assert_array_equal(found.image, expected.image)
    with pytest.raises(SourceError, match="nowhere"):
        first_frame(tmp_path / "nowhere.mp4")


def test_photos_have_the_same_bytes_on_every_machine():
    """Eight frames of each photograph, hashed; scikit-image's files and Pillow's scaling decide them."""
    digest = hashlib.sha256()
    with open_source("photos", (640, 480), limit=FRAMES_PER_PHOTO * len(PHOTOS)) as source:
        for frame in source:
            if frame.index % FRAMES_PER_PHOTO % 20 == 7:
                digest.update(frame.image.tobytes())
    assert digest.hexdigest() == "ce57814ae2d843fb51f926a0721d56069c5fd746276e56283efe8c8316be3061"


def test_photos_are_windows_of_the_photograph_at_whole_offsets():
    """Every frame is found, pixel for pixel, in the photograph scaled by Pillow alone."""
    import skimage
    from PIL import Image

    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    whole = np.asarray(Image.open(path).convert("RGB").resize((800, 800), Image.Resampling.BICUBIC))
    corners = []
    with open_source("photos", (640, 480), limit=FRAMES_PER_PHOTO) as source:
        for frame in source:
            x, y = ping_pong(2 * frame.index, 160), ping_pong(frame.index, 320)
            assert np.array_equal(frame.image, whole[y : y + 480, x : x + 640])
            corners.append((x, y))
    assert len(set(corners)) > 100, "the window moves"
    assert max(abs(a - c) + abs(b - d) for (a, b), (c, d) in itertools.pairwise(corners)) <= 3


def test_photos_do_not_end_and_show_every_photograph():
    with open_source("photos", (32, 24)) as source:
        assert source.length is None
        assert not source.live
        seen = {next(source).image.tobytes() for _ in range(4 * FRAMES_PER_PHOTO + 1)}
        assert (source.captured, source.delivered, source.dropped) == (601, 601, 0)
        assert len(seen) > 4
        first = next(iter(open_source("photos", (32, 24)))).image
    with open_source("photos", (32, 24), limit=601) as source:
        assert np.array_equal([frame.image for frame in source][600], first), "it starts over"


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 3), (2600, 1700)])
def test_photos_fill_any_window(size):
    with open_source("photos", size, limit=2) as source:
        frames = list(source)
    assert [frame.size for frame in frames] == [size, size]


def test_a_caller_may_change_its_frames():
    with open_source("photos", (32, 24)) as source:
        frame = next(source)
        frame.image[:] = 0
    with open_source("photos", (32, 24)) as source:
        assert next(source).image.any()


@pytest.mark.parametrize(("step", "expected"), [(0, 0), (3, 3), (4, 4), (5, 3), (8, 0), (9, 1)])
def test_ping_pong_turns_round_at_both_ends(step, expected):
    assert ping_pong(step, 4) == expected
    assert ping_pong(step, 0) == 0


# Scenes


def test_scenes_know_their_truth():
    with (
        open_source("scenes", (160, 120), seed=3, limit=3) as source,
        open_source("scenes", (160, 120), seed=3) as b,
    ):
        for frame in source:
            assert frame.size == (160, 120)
            assert frame.truth is not None
            assert frame.truth.frame_size == (160, 120)
            assert np.array_equal(frame.image, next(b).image)
        assert source.describe()["seed"] == 3
    with (
        open_source("scenes", (160, 120), seed=4) as other,
        open_source("scenes", (160, 120), seed=3) as same,
    ):
        assert not np.array_equal(next(other).image, next(same).image)


# Frames and their order


def test_frames_are_numbered_and_timed():
    before = time.perf_counter()
    with open_source("photos", (32, 24), limit=5) as source:
        frames = list(source)
        assert list(source) == [], "an ended source stays ended"
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    times = [frame.t_s for frame in frames]
    assert times == sorted(times)
    assert before < times[0]
    assert times[-1] < time.perf_counter()


def test_limit_zero_gives_nothing():
    with open_source("photos", (32, 24), limit=0) as source:
        assert list(source) == []
        assert source.length == 0


def test_a_closed_source_gives_nothing():
    source = open_source("photos", (32, 24))
    source.close()
    source.close()
    assert list(source) == []


# Images


def save(path: Path, array: np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(array).save(path)
    return path


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name, level in (("b.png", 20), ("a.png", 10), ("c.bmp", 30)):
        save(tmp_path / name, np.full((10, 12, 3), level, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    with open_source(tmp_path, None) as source:
        frames = list(source)
        assert source.length == 3
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 20, 30]
    assert frames[0].size == (12, 10)


def test_a_folder_starts_over_when_asked(tmp_path):
    for level in (1, 2):
        save(tmp_path / f"{level}.png", np.full((4, 4, 3), 10 * level, np.uint8))
    with open_source(tmp_path, None, loop=True, limit=5) as source:
        assert levels(source) == [1, 2, 1, 2, 1]
    with open_source(tmp_path, None, loop=True) as source:
        assert source.length is None


def test_an_unreadable_image_is_named(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    with open_source(tmp_path) as source:
        next(source)
        with pytest.raises(SourceError, match=r"broken\.png"):
            next(source)


def test_a_cut_off_image_is_named(tmp_path):
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:3000])
    with open_source(cut) as source, pytest.raises(SourceError, match=r"cut\.png"):
        next(source)


def test_a_folder_without_images_says_so(tmp_path):
    with pytest.raises(SourceError, match="holds no images"):
        open_source(tmp_path)


def test_one_image_is_one_frame_of_any_depth(tmp_path):
    from PIL import Image

    deep = np.array([[0, 257 * 100], [65535, 257 * 7 + 100]], np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    (frame,) = open_source(path, None)
    assert frame.image[:, :, 0].tolist() == [[0, 100], [255, 7]]


RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)


@pytest.mark.parametrize(
    ("name", "values", "shown"),
    [
        ("a.tif", RAMP.astype(np.int32) * 257, RAMP),
        ("b.tif", RAMP.astype(np.int32), RAMP),
        ("c.tif", RAMP.astype(np.int32) * 1000 - 5000, RAMP / 252 * 255),
        ("d.tif", RAMP.astype(np.float32) / 255, RAMP),
        ("e.tif", RAMP.astype(np.float32), RAMP),
        (
            "f.tif",
            np.where(RAMP == 252, np.nan, RAMP.astype(np.float32) - 9),
            RAMP / 248 * 255 * (RAMP < 252),
        ),
        ("g.tif", RAMP.astype(np.uint16) * 257, RAMP),
        ("h.png", RAMP.astype(np.uint16) * 257, RAMP),
        ("i.pgm", RAMP.astype(np.uint16) * 257, RAMP),
        ("j.png", RAMP > 99, 255 * (RAMP > 99)),
    ],
)
def test_gray_of_any_depth(tmp_path, name, values, shown):
    from PIL import Image

    Image.fromarray(values).save(tmp_path / name)
    (frame,) = open_source(tmp_path / name, None)
    assert np.abs(frame.image.astype(float) - np.asarray(shown)[:, :, None]).max() <= 0.5


@pytest.mark.parametrize(
    ("name", "dtype", "white"),
    [("a.tif", np.uint16, 65535), ("b.tif", np.float32, 1), ("c.png", np.uint16, 65535)],
)
def test_colour_of_any_depth(tmp_path, name, dtype, white):
    import cv2

    deep = (COLOURS[:, :, ::-1].astype(np.float64) / 255 * white).astype(dtype)
    cv2.imwrite(str(tmp_path / name), deep)
    (frame,) = open_source(tmp_path / name, None)
    assert np.abs(frame.image.astype(int) - COLOURS).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "P", "RGBA", "L"])
def test_modes(tmp_path, mode):
    from PIL import Image, ImageCms

    plain = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        ImageCms.profileToProfile(plain, srgb, lab, outputMode="LAB").save(tmp_path / "a.tif")
    else:
        (plain.quantize() if mode == "P" else plain.convert(mode)).save(tmp_path / "a.tif")
    (frame,) = open_source(tmp_path / "a.tif", None)
    expected = (124, 124, 124) if mode == "L" else (200, 100, 50)
    assert np.abs(frame.image.astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "RGBA"), ("a.png", "LA"), ("a.gif", "P"), ("a.webp", "RGBA")]
)
def test_transparent_parts_are_white(tmp_path, name, mode):
    """Half is red (gray), half nothing; a plain conversion would show what is hidden."""
    from PIL import Image

    image = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    image.paste((0, 0, 90, 0), (4, 0, 8, 8))
    (image if mode == "P" else image.convert(mode)).save(tmp_path / name, lossless=True)
    (frame,) = open_source(tmp_path / name, None)
    assert frame.image[0, 0, 0] == pytest.approx(60 if mode == "LA" else 200, abs=1)
    assert (frame.image[:, 4:] == 255).all()


@pytest.mark.parametrize(
    ("name", "moving"),
    [("a.gif", True), ("a.webp", True), ("a.png", True), ("a.avif", True), ("a.tif", False)],
)
def test_several_pictures_in_a_file_are_several_frames(tmp_path, name, moving):
    from PIL import Image

    pictures = [Image.new("RGB", (32, 32), (k, k, k)) for k in (40, 120, 200)]
    more = {"lossless": True} if name == "a.webp" else {}
    pictures[0].save(
        tmp_path / name, save_all=True, append_images=pictures[1:], duration=[200, 300, 400], **more
    )
    with open_source(tmp_path / name, None) as source:
        assert source.length == 3
        frames = list(source)
    assert [frame.image.mean() for frame in frames] == pytest.approx([40, 120, 200], abs=2)
    assert [frame.time_s for frame in frames] == ([0.0, 0.2, 0.5] if moving else [None] * 3)
    save(tmp_path / "z.bmp", np.full((4, 4, 3), 9, np.uint8))
    with open_source(tmp_path, None) as source:
        assert len(list(source)) == source.length == 4
    with open_source(tmp_path / name, None, loop=True, limit=5) as source:
        assert levels(source) == [4, 12, 20, 4, 12]


def test_of_a_phone_s_picture_only_the_photograph_is_shown(tmp_path):
    """Depth maps (MPO) and smaller copies (TIFF) in the same file are not."""
    from PIL import Image, TiffImagePlugin

    big, small = Image.new("RGB", (32, 32), (90, 90, 90)), Image.new("RGB", (8, 8))
    big.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[small])
    copy = TiffImagePlugin.ImageFileDirectory_v2()
    copy[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "b.tif"), True) as out:
        big.save(out, "TIFF")
        out.newFrame()
        small.save(out, "TIFF", tiffinfo=copy)
    for name in ("a.jpg", "b.tif"):
        (frame,) = open_source(tmp_path / name, None)
        assert frame.size == (32, 32)


def test_heic_is_the_whole_picture_upright(tmp_path):
    """Larger than a tile of 512, one quarter white; read as HEIC whatever the file is called."""
    from PIL import Image

    pillow_heif = pytest.importorskip("pillow_heif")
    array = np.zeros((800, 1200, 3), np.uint8)
    array[:400, :600] = 255
    try:
        pillow_heif.from_pillow(Image.fromarray(array)).save(tmp_path / "a.heic", quality=90)
    except (RuntimeError, OSError):
        pytest.skip("this pillow-heif cannot write HEIC")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.heic").read_bytes())
    (tmp_path / "c").write_bytes((tmp_path / "a.heic").read_bytes())
    for name in ("a.heic", "b.jpg", "c"):
        (frame,) = open_source(tmp_path / name, None)
        assert frame.size == (1200, 800)
        assert np.abs(frame.image.astype(int) - array)[5:-5:9, 5:-5:9].mean() < 2


def test_heic_without_its_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with (
        open_source(tmp_path / "a.heic") as source,
        pytest.raises(SourceError, match="pip install pillow-heif"),
    ):
        next(source)


@pytest.mark.parametrize(
    ("name", "words"), [("a.jxl", "pillow-jxl-plugin"), ("a.NEF", "rawpy"), ("a.svg", "browser")]
)
def test_formats_that_are_not_read_name_what_reads_them(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"whatever")
    with open_source(tmp_path / name) as source, pytest.raises(SourceError, match=rf"{name}.*{words}"):
        next(source)


def test_what_is_no_picture_in_a_folder_is_passed_over(tmp_path):
    """Natural order; macOS's notes are hidden, and other files are counted."""
    for k in (10, 2, 1, 0):
        save(tmp_path / f"frame{k}.png", np.full((4, 4, 3), 10 * k, np.uint8))
    for name in ("._frame0.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    with open_source(tmp_path, None) as source:
        assert levels(source) == [0, 1, 2, 10]
        assert source.describe()["files_skipped"] == 2


def test_after_a_broken_picture_come_the_others(tmp_path):
    for k in (1, 2, 3):
        save(tmp_path / f"{k}.png", np.full((4, 4, 3), 10 * k, np.uint8))
    (tmp_path / "2.png").write_bytes(b"broken")
    with open_source(tmp_path, None) as source:
        assert next(source).image[0, 0, 0] == 10
        with pytest.raises(SourceError, match=r"2\.png"):
            next(source)
        assert next(source).image[0, 0, 0] == 30


def test_a_huge_picture_of_floats_is_scaled_as_a_small_one():
    from labkit.sources import pictures

    values = np.random.default_rng(0).normal(0, 1000, (1500, 1000)).astype(np.float32)
    values[0, :3] = np.inf, -np.inf, np.nan
    low, high = np.nanmin(values[np.isfinite(values)]), np.nanmax(values[np.isfinite(values)])
    wanted = np.rint(255 * np.clip((values.astype(np.float64) - low) / (float(high) - low), 0, 1))
    assert values.size > pictures._BLOCK
    shown = pictures._scaled(values)
    assert np.array_equal(shown[1:], wanted[1:]) and shown[0, :3].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on damaged EXIF data
@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.tif", "a.gif", "a.webp", "a.pgm", "a.avif", "a.heic", "a.bmp"]
)
def test_mutated_pictures_give_a_picture_or_one_sentence(tmp_path, name):
    from PIL import Image

    pytest.importorskip("pillow_heif").register_heif_opener()
    rng, path = np.random.default_rng(0), tmp_path / name
    Image.fromarray(RAMP if name == "a.pgm" else COLOURS.repeat(4, 0).repeat(4, 1)).save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for k in range(60):
        data = whole.copy()
        data[rng.integers(0, min(len(data), 40 if k % 2 else 10**9), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(data[: rng.integers(1, len(data) + 1) if k % 3 == 0 else None].tobytes())
        try:
            with open_source(path, (32, 24), limit=5) as source:
                list(source)
            said = ""
        except (SourceError, FrameError) as error:
            said = str(error)
        assert "\n" not in said


def test_photographs_held_sideways_are_turned_upright(tmp_path):
    from PIL import Image

    image = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    image.save(tmp_path / "side.jpg", exif=exif)
    (frame,) = open_source(tmp_path / "side.jpg", None)
    assert frame.size == (10, 20)


# Video files


@pytest.mark.parametrize(("name", "fourcc"), [("clip.avi", "MJPG"), ("clip.mp4", "mp4v")])
def test_a_video_is_read_in_order_and_whole(tmp_path, name, fourcc):
    path = clip(tmp_path / name, 12, fourcc=fourcc)
    with open_source(path, None) as source:
        assert (source.length, source.fps, source.live) == (12, 20.0, False)
        assert source.size == (64, 48)
        assert levels(source) == list(range(12))
        assert (source.captured, source.delivered, source.dropped) == (12, 12, 0)


def test_a_video_starts_over_when_asked(tmp_path):
    path = clip(tmp_path / "clip.avi", 3)
    with open_source(path, loop=True, limit=7) as source:
        assert levels(source) == [0, 1, 2, 0, 1, 2, 0]


def test_frames_of_a_video_are_rgb_and_cut_to_the_middle(tmp_path):
    import cv2

    writer = cv2.VideoWriter(str(tmp_path / "c.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 20.0, (80, 40))
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = (0, 0, 255)  # red in OpenCV's order
    writer.write(picture)
    writer.release()
    (frame,) = open_source(tmp_path / "c.avi", (40, 40), fit="crop")
    assert frame.size == (40, 40)
    assert (frame.image[:, :, 0] > 240).all()
    assert (frame.image[:, :, 1:] < 15).all()


def test_a_text_file_is_no_video(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("this is no video\n" * 100)
    with pytest.raises(SourceError, match="is not a video") as caught:
        open_source(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["empty.avi", "empty.png", "empty"])
def test_an_empty_file_says_so(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=rf"{name} is empty \(0 bytes\)"):
        open_source(tmp_path / name)


def test_a_film_ends_where_its_decoder_ends(tmp_path):
    """A file that was cut off: what is there is read, more than once if asked."""
    path = clip(tmp_path / "clip.avi", 25, size=(320, 240))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_source(path) as source:
        stated = source.length
        count = len(list(source))
        assert 5 < count < 20 < stated
        assert source.length == count, "exact once the end was seen"
    with open_source(path, loop=True, limit=3 * count) as source:
        assert len(list(source)) == 3 * count


def test_a_trimmed_film_begins_where_it_was_cut(tmp_path):
    """Cut without encoding it anew: the container holds 30 frames and shows 17."""
    with open_source(trim(film(tmp_path / "a.mp4", range(30)), tmp_path / "b.mp4", 13), None) as source:
        assert source.length == 30
        frames = list(source)
        assert source.length == 17
    assert [grey(frame) for frame in frames] == list(range(13, 30))
    assert [frame.time_s for frame in frames] == pytest.approx([k / 25 for k in range(17)])


def test_sampling_copes_with_a_wrong_estimate(tmp_path):
    path = trim(film(tmp_path / "a.mp4", range(29)), tmp_path / "b.mp4", 21)
    frames = collect(str(path), None, 4).frames
    assert [grey(frame) for frame in frames] == [21, 23, 25, 27]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]


def test_time_is_the_frame_s_own(tmp_path):
    """Variable rate: OpenCV's clock, another reader, agrees."""
    import cv2

    path = film(tmp_path / "vfr.mp4", [0, 1, 2, 10, 11, 30, 31])
    capture, theirs = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while capture.read()[0]:
        theirs.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    with open_source(path) as source:
        assert [frame.time_s for frame in source] == pytest.approx(theirs)
    assert theirs == pytest.approx([0, 0.04, 0.08, 0.4, 0.44, 1.2, 1.24])
    with open_source(path, loop=True, limit=9) as source:
        assert [frame.time_s for frame in source][6:8] == pytest.approx([1.24, 1.28], abs=0.2)
    with open_source("photos", (32, 24)) as source:
        assert next(source).time_s is None


@pytest.mark.parametrize(
    ("damaged", "left"), [([12, 13], 28), ([0, 1, 2], 20)], ids=["in the middle", "at the start"]
)
def test_a_damaged_packet_costs_its_frame(tmp_path, caplog, damaged, left):
    path = damage(film(tmp_path / "a.mp4", range(30)), damaged)
    with open_source(path, None) as source:
        frames = list(source)
        assert f"{len(damaged)} damaged packets" in source.note
        assert source.describe()["damaged_packets"] == len(damaged)
    assert len(frames) == left
    assert (grey(frames[-1]), frames[-1].time_s) == (29, pytest.approx(29 / 25))
    assert len(caplog.messages) == 1, "told once"
    assert str(path) in caplog.messages[0]


def test_a_film_without_any_whole_frame_is_refused(tmp_path, capfd):
    path = damage(film(tmp_path / "a.mp4", range(5)), range(5))
    with pytest.raises(SourceError, match=r"a\.mp4 holds no frame"):
        open_source(path)
    assert capfd.readouterr() == ("", ""), "the decoder's own words stay out of the terminal"


def test_music_with_a_cover_is_no_film(tmp_path):
    import av

    with av.open(str(tmp_path / "a.m4a"), "w") as out:
        sound = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.rate = 44100
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with pytest.raises(SourceError, match=r"a\.m4a: no video stream found \(is it audio only\?\)"):
        open_source(tmp_path / "a.m4a")


@pytest.mark.parametrize("codec", ["libsvtav1", "libx265", "libvpx-vp9", "prores_ks", "ffv1"])
def test_codecs_that_opencv_may_lack(tmp_path, codec):
    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        try:
            stream = out.add_stream(codec, rate=25)
        except av.FFmpegError:
            pytest.skip(f"this PyAV cannot write {codec}")
        stream.width, stream.height = 128, 96
        stream.pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
        for k in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(GRAIN + np.uint8(40 * k), format="rgb24")))
        out.mux(stream.encode(None))
    with open_source(tmp_path / "a.mkv", None) as source:
        means = [frame.image.mean() for frame in source]
    assert means == pytest.approx([7.5, 47.5, 87.5], abs=2)


def film_of(path: Path, codec: str, pictures, pix_fmt: str, **options: str) -> Path:
    """A film of whole (H, W, 3 or 4) pictures; several streams where `pictures` is a list of lists."""
    import av

    streams = pictures if isinstance(pictures[0], list) else [pictures]
    with av.open(str(path), "w") as out:
        for shown in streams:
            stream = out.add_stream(codec, rate=25, options=options)
            stream.height, stream.width = shown[0].shape[:2]
            stream.pix_fmt = pix_fmt
        for k in range(len(streams[0])):
            for stream, shown in zip(out.streams.video, streams, strict=True):
                kind = "rgba" if shown[k].shape[2] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(shown[k], format=kind).reformat(format=pix_fmt)
                frame.pts = k
                out.mux(stream.encode(frame))
        for stream in out.streams.video:
            out.mux(stream.encode(None))
    return path


def plain(colour, size=(64, 48)) -> np.ndarray:
    return np.full((size[1], size[0], len(colour)), colour, np.uint8)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.mov", "png", "rgba"), ("a.mov", "prores_ks", "yuva444p10le"), ("a.webm", "libvpx-vp9", "yuva420p")],
)
def test_transparent_parts_of_a_film_are_white(tmp_path, name, codec, pix_fmt):
    picture = plain((200, 60, 20, 255))
    picture[:, 32:, 3] = 0
    with open_source(film_of(tmp_path / name, codec, [picture] * 3, pix_fmt), None) as source:
        images = [frame.image.astype(int) for frame in source]
    assert len(images) == 3
    for image in images:
        assert abs(image[24, 8] - (200, 60, 20)).max() < 6 and abs(image[24, 56] - 255).max() < 3


def test_a_screen_recording_whose_alpha_is_nowhere_set_is_shown(tmp_path):
    path = film_of(tmp_path / "a.mov", "png", [plain((200, 60, 20, 0))], "rgba")
    assert first_frame(path, None).image[0, 0].tolist() == [200, 60, 20]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "which"),
    [("a.mkv", "ffv1", "bgr0", 1), ("a.ts", "libx264", "yuv420p", 1), ("a.mp4", "libx264", "yuv420p", 0)],
)  # MP4 marks its first stream as the default
def test_of_several_streams_the_default_or_largest_is_shown(tmp_path, name, codec, pix_fmt, which):
    small, large = [plain((0, 0, 255), (32, 24))] * 3, [plain((255, 0, 0), (128, 96))] * 3
    path = film_of(tmp_path / name, codec, [small, large], pix_fmt)
    with open_source(path, None) as source:
        shown = [(frame.size, int(frame.image[0, 0].argmax())) for frame in source]
    assert shown == [[((32, 24), 2), ((128, 96), 0)][which]] * 3


def test_interlaced_films_have_no_combs(tmp_path):
    """A bar that moves between the two half pictures of a frame; woven together they make a comb."""
    pictures = []
    for k in range(6):
        picture = plain((20, 20, 20), (128, 96))
        for half in (0, 1):
            at = 12 * k + 6 * half
            picture[half::2, at : at + 24] = 220
        pictures.append(picture)
    options = {"x264-params": "tff=1:crf=4"}
    path = film_of(tmp_path / "a.mp4", "libx264", pictures, "yuv420p", **options)
    with open_source(path, None) as source:
        frames = list(source)

    def combs(image) -> float:
        lines = image[16:80, :, 1].astype(int)
        return float(np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean())

    assert [frame.time_s for frame in frames] == pytest.approx([k / 25 for k in range(6)])
    for frame, woven in list(zip(frames, pictures, strict=True))[1:-1]:
        assert combs(frame.image) < 0.25 * combs(woven)


def test_an_hdr_film_is_shown_on_an_ordinary_screen(tmp_path):
    """Greys of PQ by their brightness: below the curve's knee as sRGB has them, the brightest white."""
    import av

    from labkit.sources.hdr_film import HLG, PQ, to_srgb

    nits = np.array([0.0, 20, 50, 203, 1000])
    root = (nits / 10000) ** (2610 / 16384)
    signal = ((3424 / 4096 + 2413 / 128 * root) / (1 + 2392 / 128 * root)) ** (2523 / 32)
    picture = (
        np.repeat(np.round(signal * 65535).astype(np.uint16), 16)[None, :, None].repeat(48, 0).repeat(3, 2)
    )
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p10le"
        coder = stream.codec_context
        coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range = 9, 9, PQ, 1
        frame = av.VideoFrame.from_ndarray(picture, format="rgb48le")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)
        frame.color_primaries, frame.color_trc = 9, PQ
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    shown = first_frame(tmp_path / "a.mkv", None).image[24, 8::16].astype(int)
    assert shown[:, 1].tolist() == pytest.approx([0, 88, 136, 229, 255], abs=6)
    assert np.ptp(shown, axis=1).max() <= 2, "greys stay grey"
    grey = np.linspace(0, 1, 256)[:, None].repeat(3, 1)
    for transfer in (PQ, HLG):
        answer = to_srgb(grey, transfer)[:, 1]
        assert (np.diff(answer) >= 0).all() and answer[0] == 0 and answer[-1] == pytest.approx(1, abs=0.01)
    red = to_srgb(np.array([0.5, 0.0, 0.0]), PQ)
    assert red[0] > 0.5 and red[1:].max() == 0, "more red than this screen has is its fullest red"


@pytest.mark.parametrize("size", [(1, 1), (4097, 3), (127, 95)])
def test_odd_sizes_of_films(tmp_path, size):
    path = film_of(tmp_path / "a.mkv", "ffv1", [plain((200, 60, 20), size)] * 2, "bgr0")
    with open_source(path, None) as source:
        assert [(frame.size, frame.image[-1, -1].tolist()) for frame in source] == [(size, [200, 60, 20])] * 2


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_film_held_sideways_is_turned_upright(tmp_path, turn):
    """OpenCV, another reader, turns it the same way."""
    import cv2

    path = film(tmp_path / "a.mp4", range(2))
    data, one = path.read_bytes(), 1 << 16
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    at = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    theirs = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).read()[1][:, :, ::-1]
    with open_source(path, None) as source:
        assert source.size == ((96, 128) if turn in (90, 270) else (128, 96))
        assert np.array_equal(next(source).image, theirs)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [((-1, 0, 0, 1), lambda image: image[:, ::-1]), ((1, 0, 0, -1), lambda image: image[::-1]),
     ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2))],
)  # fmt: skip
def test_a_film_of_a_mirror_is_turned_round(tmp_path, matrix, shown):
    path = film(tmp_path / "a.mp4", range(2))
    stored = first_frame(path, None).image
    data, one = path.read_bytes(), 1 << 16
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    a, b, c, d = (one * side for side in matrix)
    at = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
    assert np.array_equal(first_frame(path, None).image, shown(stored))


@pytest.mark.parametrize(
    "name", ["door:cam.mp4", "-dash.mp4", "a%03d.mp4", "[x]*?.mp4", "quote'\"s.mp4", "100% #1 \u65e5.mp4",
             b"latin-\xe9.mp4"],
)  # fmt: skip
def test_every_name_that_the_file_system_allows_opens(tmp_path, monkeypatch, name):
    name = os.fsdecode(name)
    film(tmp_path / "a.mp4", range(2)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for spec in (name, tmp_path / name):
        with open_source(spec) as source:
            assert len(list(source)) == 2


def test_closing_a_video_while_another_thread_reads_it(tmp_path):
    path = clip(tmp_path / "clip.avi", 20)
    for _ in range(5):
        source = open_source(path, loop=True)
        errors = []

        def read(source=source, errors=errors):
            try:
                for _ in source:
                    pass
            except Exception as error:
                errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        while source.delivered < 3 and reader.is_alive():
            pass
        source.close()
        reader.join(5)
        assert not reader.is_alive()
        assert errors == []


@pytest.mark.parametrize(("name", "size", "frames"), [("bottle-detection.mp4", (640, 360), 1189)])
def test_a_real_clip(name, size, frames):
    if not (CLIPS / name).is_file():
        pytest.skip(f"the clip {CLIPS / name} is not on this machine")
    with open_source(CLIPS / name, None, limit=40) as source:
        assert source.describe()["stored_frames"] == frames
        shown = list(source)
    assert {frame.size for frame in shown} == {size}
    assert len({frame.image.tobytes() for frame in shown}) > 30


# Names, sizes, errors


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("nothing-here.mp4", SourceError, "there is no file or folder"),
        ("", SourceError, "there is no file or folder"),
        ("x" * 5000, SourceError, "there is no file or folder"),
        ("a\0b", SourceError, "there is no file or folder"),
        ("/dev/null", SourceError, "neither a file nor a folder"),
        ("browser", SourceError, "live view"),
        ("webcam:front", UsageError, "webcam:0"),
        ("webcam:-1", UsageError, "webcam:0"),
        ("gopher://host/x", UsageError, "http, https or rtsp"),
    ],
)
def test_what_cannot_be_opened_says_why(spec, kind, words):
    with pytest.raises(kind, match=words):
        open_source(spec)


def test_a_missing_webcam_says_what_to_do():
    if not sys.platform.startswith("linux") or Path("/dev/video99").exists():
        pytest.skip("only Linux names its cameras, and this one must be missing")
    with pytest.raises(SourceError, match=r"no webcam 99 .*photos"):
        open_source("webcam:99")


@pytest.mark.parametrize(
    "size", [(0, 4), (4,), (4, 4, 4), "ab", 7, (1.5, 4), (16385, 4), (float("nan"), 4), (-1, 4)]
)
def test_sizes_outside_the_range_are_refused(size):
    with pytest.raises(UsageError, match="size is"):
        open_source("photos", size)


@pytest.mark.parametrize(
    "argument",
    [
        {"limit": -1},
        {"fps": 0.0},
        {"fps": float("nan")},
        {"noise": -0.1},
        {"noise": 0.5},
        {"open_timeout_s": 0},
    ],
)
def test_other_arguments_outside_the_range_are_refused(argument):
    with pytest.raises(UsageError):
        open_source("photos", **argument)


def test_sizes_become_plain_integers():
    assert check_size((np.int64(4), 5.0)) == (4, 5)
    assert all(type(side) is int for side in check_size((np.int64(4), 5.0)))


def test_names_are_understood_as_people_write_them(tmp_path, monkeypatch):
    """Accents of one keyboard or another, quotes of a file manager, file addresses, a file called ~."""
    monkeypatch.chdir(tmp_path)
    there = unicodedata.normalize("NFD", "caf\u00e9 1.mp4")
    film(tmp_path / "a.mp4", range(2)).rename(tmp_path / there)
    absolute = str(tmp_path / there)
    for name in (
        unicodedata.normalize("NFC", there), there, f'"{absolute}"', f" {absolute} ", Path(absolute).as_uri(),
        os.fsencode(there), Path(there).absolute().as_uri().replace("file://", "FILE://localhost"),
    ):  # fmt: skip
        with open_source(name) as source:
            assert len(list(source)) == 2
    for name in ("~", "~.mp4", "line\nbreak.mp4", "-", "photos.mp4"):
        (tmp_path / there).rename(tmp_path / name)
        with open_source(name) as source:
            assert len(list(source)) == 2 and source.spec.isprintable()
        (tmp_path / name).rename(tmp_path / there)


@pytest.mark.parametrize(
    ("name", "words"),
    [(0, '"webcam:0"'), ("1", '"webcam:1"'), (None, "webcam"), (["a.mp4"], "webcam"),
     ("loop", "leads nowhere"),
     ("broken", "leads nowhere"), ("192.168.0.7/video", "http://"), ("cam.local:8080/video", "http://"),
     ("films", "films (1) and no images; name one, such as"), ("pipe.mp4", "neither a file nor a folder"),
     ("a/" * 3000, "no file or folder"), ("\0", "no file or folder"),
     ("file://host/a.mp4", "addresses start"),
     (os.devnull, "neither a file nor a folder"), ("bad\nname.mp4", r"bad\nname.mp4 is not a video")],
)  # fmt: skip
@pytest.mark.skipif(sys.platform == "win32", reason="names and files that Windows does not have")
def test_what_cannot_be_opened_is_one_sentence(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    os.symlink("nobody", "broken")
    os.mkfifo("pipe.mp4")
    (tmp_path / "films" / "clip.mp4").mkdir(parents=True)
    (tmp_path / "films" / "b.mp4").touch()
    (tmp_path / "bad\nname.mp4").write_text("no film")
    with pytest.raises((SourceError, UsageError)) as caught:
        open_source(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("spec", "index"),
    [("webcam", ANY_WEBCAM), ("webcam:3", 3), ("/dev/video2", 2), ("webcams", None), ("./webcam", None)],
)
def test_names_of_webcams(spec, index):
    assert webcam_index(spec) == index


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://camera/live", "http://camera/live"),
        ("http://joe:s3cret@camera:8080/live", "http://***@camera:8080/live"),
        ("rtsp://joe@camera/live?token=s3cret&x=", "rtsp://***@camera/live?***"),
        ("https://camera/live#s3cret", "https://camera/live?***"),
        ("http://joe:s3@cret@camera/live", "http://***@camera/live"),
        ("http://[s3cret", "http://***"),
        ("http://[fe80::1]:80/cam/12/snapshot.jpg", "http://[fe80::1]:80/cam/12/snapshot.jpg"),
        ("http://camera/axis-cgi/mjpg/video.cgi", "http://camera/axis-cgi/mjpg/video.cgi"),
        ("http://camera/holiday.mp4", "http://camera/***.mp4"),
        ("clip.mp4", "clip.mp4"),
        ("me@home.mp4", "me@home.mp4"),
    ],
)
def test_addresses_are_shown_without_secrets(url, shown):
    assert redact(url) == shown


SPELLINGS = [
    "http://joe:s3cret@camera/live",
    "http://s3cret@camera/live",
    "http://:s3cret@camera/live",
    "http://joe:s3@cret@camera/live",
    "http://joe:s3#cret@camera/live",
    "http://joe:12#s3cret@camera/live",
    "http://joe:s3/cret@camera/live",
    "http://joe:12/s3cret@camera/live",
    "http://joe:s3?cret@camera/live",
    "http://joe:12?s3cret@camera/live",
    "http://joe:s3:cret@camera:8080/live",
    "http://joe:s3 cret@camera/live",
    "http://joe:s3\\cret@camera/live",
    "http://joe:s3%23cret@camera/live",
    "http://joe:s3cret@[fe80::1]/live",
    "http://joe:s3cret@[fe80/live",
    "http://joe:s3cret@camera:port/live",
    "HTTP://joe:s3cret@camera/live",
    "rtsp://joe:s3cret@camera:554/ch1",
    "rtsp://camera/user=admin_password=s3cret_channel=1.sdp",
    "rtsp://camera/user=admin&password=s3cret",
    "http://camera/s3cret/live",
    "http://camera/live/s3cret",
    "http://camera/s3cret.mjpg",
    "http://camera/live;s3cret",
    "http://camera/live?s3cret",
    "http://camera/live?token=s3cret",
    "http://camera/live?user=joe&pwd=s3@cret",
    "http://camera?s3cret",
    "http://camera/live#s3cret",
    "http://camera/live?a=1#token=s3cret",
    " http://joe:s3cret@camera/live",
    "\thttp://camera/live?s3cret",
    '"http://joe:s3cret@camera/live"',
    "'http://joe:s3cret@camera/live'",
    "\u201chttp://joe:s3cret@camera/live\u201d",
    "joe:s3cret@camera/live",
    "//joe:s3cret@camera/live",
    "http:/joe:s3cret@camera/live",
    "http:joe:s3/cret@camera/live",
    "camera/live?token=s3cret",
    "source=http://joe:s3cret@camera/live",
    "rtmp://joe:s3cret@camera/live",
    "s3cret://camera/live",
    "http://joe:s3cret@camera/live\n",
]


@pytest.mark.parametrize("spec", SPELLINGS)
def test_no_spelling_of_an_address_shows_its_secret(spec, monkeypatch):
    """In what is shown and stored, in messages, in names of folders."""
    from labkit.core.types import Workload
    from labkit.fleet.fleet_plan import Plan
    from labkit.fleet.stream_recorder import folder_name
    from labkit.pipelines.ladder import rung
    from labkit.sources import camera, video

    def reads(name, *_, **__):
        raise SourceError(f"{redact(name)}: not opened in this test")

    monkeypatch.setattr(camera, "open_camera", reads)
    monkeypatch.setattr(video, "Video", lambda name, shown, **_: reads(name))
    with pytest.raises(LabError) as caught:
        open_source(spec)
    (stream,) = Plan((spec,), rung("detr_opencv_cpu"), Workload()).streams()
    texts = (redact(spec), str(caught.value), stream.shown, folder_name(stream), repr(stream))
    for part in ("s3", "cret", "joe"):
        assert not [text for text in texts if part in text]


def test_a_doubtful_address_says_what_to_write():
    with pytest.raises(UsageError, match=r"http://\*\*\* .*# as %23, / as %2F, \? as %3F, @ as %40"):
        open_source("http://joe:s3#cret@camera/live")


@given(user=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), odd=st.text("@:/?#% "))
def test_no_password_survives(user, odd):
    from urllib.parse import quote

    secret = "Zq9" + odd + "qZ9"
    shown = redact(f"http://{user}:{quote(secret, safe='')}@camera/live?key={quote(secret, safe='')}")
    assert shown == "http://***@camera/live?***"
    raw = redact(f"http://{user}:{secret}@camera/live")
    assert "Zq9" not in raw
    assert "qZ9" not in raw


# Conversion


@given(hnp.arrays(np.uint8, IMAGES.map(lambda shape: (*shape, 3))))
def test_bgr_becomes_rgb(array):
    before = array.copy()
    image = to_rgb(array)
    assert np.array_equal(image, np.stack([array[:, :, 2], array[:, :, 1], array[:, :, 0]], 2))
    assert image.flags.c_contiguous
    assert image.dtype == np.uint8
    assert np.array_equal(array, before)
    assert np.array_equal(to_rgb(array, "rgb"), array)


@given(hnp.arrays(np.uint8, IMAGES.map(lambda shape: (*shape, 4))))
def test_alpha_is_dropped(array):
    assert np.array_equal(to_rgb(array), to_rgb(array[:, :, :3]))
    assert np.array_equal(to_rgb(array, "rgb"), array[:, :, :3])


@given(hnp.arrays(np.uint8, IMAGES), st.booleans())
def test_gray_becomes_three_equal_channels(array, with_axis):
    image = to_rgb(array[:, :, None] if with_axis else array)
    assert image.shape == (*array.shape, 3)
    assert all(np.array_equal(image[:, :, c], array) for c in range(3))


@given(hnp.arrays(np.uint16, IMAGES))
def test_sixteen_bits_are_rounded_to_eight(array):
    assert np.array_equal(to_rgb(array)[:, :, 0], np.rint(array / 257.0))


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]), IMAGES, elements=st.floats(0, 1, width=16)
    )
)
def test_floats_are_scaled(array):
    assert np.array_equal(to_rgb(array)[:, :, 0], np.rint(array.astype(np.float64) * 255))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int32),
        np.zeros((4, 4, 3), bool),
        np.full((4, 4, 3), 1.5),
        np.full((4, 4, 3), np.nan),
        [[1, 2], [3, 4]],
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(FrameError) as caught:
        to_rgb(array)
    if isinstance(array, np.ndarray):
        assert str(array.shape) in str(caught.value)
        assert str(array.dtype) in str(caught.value)


@given(hnp.arrays(np.uint8, IMAGES.map(lambda shape: (*shape, 3))))
def test_views_of_any_layout_are_read(array):
    expected = to_rgb(np.ascontiguousarray(array[::-1, ::-1]))
    assert np.array_equal(to_rgb(array[::-1, ::-1]), expected)
    assert to_rgb(array.transpose(1, 0, 2)).flags.c_contiguous


SIDES = st.integers(1, 200)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES))
def test_the_cut_is_the_largest_centred_one_of_the_aspect(given_size, wanted):
    x, y, width, height = centre_crop(given_size, wanted)
    assert x >= 0
    assert y >= 0
    assert width == given_size[0] or height == given_size[1]
    assert abs((given_size[0] - width) - 2 * x) <= 1
    assert abs((given_size[1] - height) - 2 * y) <= 1
    # The aspect is right to within the rounding of one side.
    assert abs(width * wanted[1] - height * wanted[0]) <= max(wanted)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(["crop", "stretch", "letterbox"]))
def test_fitting_gives_the_size_and_keeps_a_plain_colour(given_size, wanted, how):
    image = np.full((given_size[1], given_size[0], 3), (10, 20, 30), np.uint8)
    fitted, placed = fit_image(image, wanted, how)
    assert fitted.shape == (wanted[1], wanted[0], 3)
    assert fitted.flags.c_contiguous
    assert placed == placement(given_size, wanted, how)
    inside = (fitted == (10, 20, 30)).all(-1)
    assert (inside | (fitted == PADDING).all(-1)).all()
    whole = placed.boxes(np.array([[0, 0, *given_size]], np.float64))[0]
    assert inside.sum() == round((whole[2] - whole[0]) * (whole[3] - whole[1])), "bars beside it, no more"
    if how == "letterbox":
        assert inside.all(0).any() or inside.all(1).any(), "it fills one direction"


@pytest.mark.parametrize("how", ["letterbox", "crop", "stretch"])
@pytest.mark.parametrize(
    ("given", "size"), [((40, 80), (64, 48)), ((80, 40), (64, 48)), ((64, 48), (64, 48)), ((3, 2), (64, 48))]
)
def test_boxes_go_where_their_pixels_go_and_back(given, size, how):
    width, height = given
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = width // 4, height // 2, width // 2 + 1, height - height // 8
    image[top:bottom, left:right] = 255
    frame, placed = fit_image(image, size, how)
    (box,) = placed.boxes(np.array([[left, top, right - left, bottom - top]], np.float64))
    lit = np.argwhere((frame > 200).all(-1))
    seen = [lit[:, 1].min(), lit[:, 0].min(), lit[:, 1].max() + 1, lit[:, 0].max() + 1]
    slack = max(1.0, size[1] / height / 2 + 1)  # enlarging blends the border
    np.testing.assert_allclose(box, seen, atol=slack)
    found = Detections(box[None], np.ones(1, np.float32), np.zeros(1, np.int64), ("a",), size)
    back = placed.to_original(found)
    assert back.frame_size == given
    kept = np.array([left, top, right, bottom], float)
    if how == "crop":  # what was cut off cannot come back
        x, y, inner_width, inner_height = centre_crop(given, size)
        kept = kept.clip([x, y, x, y], [x + inner_width, y + inner_height] * 2)
    np.testing.assert_allclose(back.xyxy[0], kept, atol=1e-3)


def test_a_portrait_film_is_shown_whole(tmp_path):
    """Each fit of a tall picture with a white top, and boxes back in its own pixels."""
    image = np.full((80, 40, 3), 90, np.uint8)
    image[:10] = 255
    path = save(tmp_path / "tall.png", image)
    shown = {}
    for fit in ("letterbox", "crop", "stretch", "none"):
        with open_source(path, (64, 48), fit=fit) as source:
            shown[fit] = next(source)
            assert source.describe()["fit"] == fit
    assert {fit: frame.size for fit, frame in shown.items()} == {
        "letterbox": (64, 48), "crop": (64, 48), "stretch": (64, 48), "none": (40, 80),
    }  # fmt: skip
    boxes = shown["letterbox"].placed
    assert boxes.scale == (0.6, 0.6)
    assert boxes.corner == (20, 0)
    assert (shown["letterbox"].image[:5, 22:42] > 240).all()
    assert (shown["letterbox"].image[:, :20] == PADDING).all()
    assert (shown["stretch"].image[:5] > 240).all()
    assert (shown["crop"].image == 90).all()
    assert shown["none"].placed is None
    with open_source(path, (64, 48)) as source:
        assert np.array_equal(next(source).image, shown["letterbox"].image), "the default"
    with pytest.raises(UsageError, match="letterbox, crop, stretch, none, not 'squeeze'"):
        open_source(path, fit="squeeze")


def test_importing_the_room_imports_nothing_heavy():
    code = "import sys, labkit.sources, labkit.core.annotate; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"cv2", "PIL", "torch", "matplotlib", "skimage"} & set(out.stdout.split())
