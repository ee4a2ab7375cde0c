"""Recorded and embedded sources, conversion to RGB, names and sizes."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import struct
import subprocess
import sys
import threading
import time
import unicodedata
from contextlib import suppress
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError

import numpy as np
import pytest
from films import GRAIN, damage, film, packets, scheduled_as_before, trim
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labkit.bench.frames import collect
from labkit.core.errors import FrameError, LabError, SourceError, UnavailableError, UsageError
from labkit.core.types import Detections
from labkit.sources.convert import PADDING, centre_crop, fit_image, placement, to_rgb
from labkit.sources.jpeg_stream import _refusal, take_jpeg
from labkit.sources.openers import first_frame, open_source
from labkit.sources.pictures import count_pictures
from labkit.sources.spec import ANY_WEBCAM, check_size, is_address, redact, webcam_index
from labkit.sources.stills import FRAMES_PER_PHOTO, PHOTOS, ping_pong
from labkit.sources.video import Video, _likely_matrix

from conftest import further  # isort: skip

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


@pytest.mark.parametrize("spec", ["photos", "scenes", "closeups"])
def test_what_is_skipped_is_not_drawn(spec, monkeypatch):
    with open_source(spec, (64, 48), limit=30) as source:
        every = list(source)
    drawn = []
    with open_source(spec, (64, 48), limit=30) as source:
        take = source._reader.take
        monkeypatch.setattr(source._reader, "take", lambda: drawn.append(1) or take())
        kept = []
        for frame in source:
            kept.append(frame)
            source.skip(9)
        assert (source.captured, source.delivered, source.dropped, len(drawn)) == (30, 30, 0, 3)
    for frame, same in zip(kept, every[::10], strict=True):
        assert (frame.index, frame.image.tobytes()) == (same.index, same.image.tobytes())


def test_a_film_is_read_past_what_is_skipped(tmp_path):
    with open_source(str(film(tmp_path / "a.mp4", range(9)))) as source:
        source.skip(7)
        assert [frame.index for frame in source] == [7, 8]
        source.skip(3)
        assert source.delivered == 9


def test_a_caller_may_change_its_frames():
    with open_source("photos", (32, 24)) as source:
        frame = next(source)
        frame.image[:] = 0
    with open_source("photos", (32, 24)) as source:
        assert next(source).image.any()


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
    with open_source("photos", (32, 24), limit=0) as source:
        assert list(source) == [] and source.length == 0
    source.close()
    for size in ((1, 1), (3, 700), (700, 3), (2600, 1700)):
        assert first_frame("photos", (np.int64(size[0]), float(size[1]))).size == size
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    times = [frame.t_s for frame in frames]
    assert times == sorted(times)
    assert before < times[0]
    assert times[-1] < time.perf_counter()


# Images


def save(path: Path, array: np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(array).save(path)
    return path


def test_a_folder_is_read_in_natural_order_and_past_what_is_broken(tmp_path):
    """macOS's notes are hidden, and other files are counted."""
    for k in (10, 2, 1, 0):
        save(tmp_path / f"frame{k}.png", np.full((40, 40, 3), 10 * k, np.uint8))
    for name in ("._frame0.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    if os.name != "nt":
        os.symlink("loop.png", tmp_path / "loop.png")  # nothing at all
    with open_source(tmp_path, None, loop=True, limit=5) as source:
        assert levels(source) == [0, 1, 2, 10, 0]
    with open_source(tmp_path, None) as source:
        assert source.length == 4 and source.describe()["files_skipped"] == 2
        next(source)
        for name, left in (
            ("frame1.png", b"broken"),
            ("frame2.png", (tmp_path / "frame2.png").read_bytes()[:60]),
        ):
            (tmp_path / name).write_bytes(left)
            with pytest.raises(SourceError, match=name):
                next(source)
        assert levels(source) == [10]


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
def test_gray_of_any_depth(tmp_path, monkeypatch, name, values, shown):
    from PIL import Image

    from labkit.sources import pictures

    monkeypatch.setattr(pictures, "_BLOCK", 7)  # large pictures are scaled in parts
    Image.fromarray(values).save(tmp_path / name)
    (frame,) = open_source(tmp_path / name, None)
    assert np.abs(frame.image.astype(float) - np.asarray(shown)[:, :, None]).max() <= 0.5


@pytest.mark.parametrize(
    ("name", "dtype", "white"),
    [
        ("a.tif", np.uint16, 65535),
        ("b.tif", np.float32, 1),
        ("c.png", np.uint16, 65535),
        ("d.pfm", np.float32, 1),
    ],
)
def test_colour_of_any_depth(tmp_path, name, dtype, white):
    import cv2

    deep = (COLOURS[:, :, ::-1].astype(np.float64) / 255 * white).astype(dtype)
    cv2.imwrite(str(tmp_path / name), deep)
    (frame,) = open_source(tmp_path / name, None)
    assert np.abs(frame.image.astype(int) - COLOURS).max() <= 1


def test_what_is_in_a_file_counts_and_not_its_name(tmp_path):
    import cv2
    from PIL import Image

    film(tmp_path / "film.mp4", range(3), key_every=1).rename(tmp_path / "film")
    picture = Image.fromarray(COLOURS.repeat(4, 0).repeat(4, 1))
    turned = picture.getexif()
    turned[0x0112] = 6
    picture.resize((40, 32)).save(tmp_path / "photo", "JPEG", exif=turned)
    picture.save(tmp_path / "moving", "GIF", save_all=True, append_images=[picture.rotate(90)])
    cv2.imwrite(str(tmp_path / "deep.tif"), np.full((6, 5, 3), 257 * 99, np.uint16))
    (tmp_path / "deep.tif").rename(tmp_path / "deep")
    for content, size, count in (
        ("film", (128, 96), 3),
        ("photo", (32, 40), 1),
        ("moving", (32, 32), 2),
        ("deep", (5, 6), 1),
    ):
        for suffix in ("", ".jpg", ".heic", ".mp4", ".txt"):
            there = (tmp_path / content).rename(tmp_path / f"a{suffix}")
            with open_source(there, None) as source:
                assert [frame.size for frame in source] == [size] * count, there
            there.rename(tmp_path / content)


def test_a_folder_is_shown_by_content_too(tmp_path):
    """A film that bears a picture's name gives its frames; pictures without a name of theirs are found."""
    save(tmp_path / "a.png", COLOURS)
    film(tmp_path / "film.mp4", range(3)).rename(tmp_path / "b.jpg")
    save(tmp_path / "c.png", COLOURS)
    with open_source(tmp_path, None) as source:
        frames = list(source)
    assert [frame.size for frame in frames] == [(8, 8), *[(128, 96)] * 3, (8, 8)]
    assert [grey(frame) for frame in frames[1:4]] == [0, 1, 2]
    assert [frame.time_s for frame in frames[1:4]] == pytest.approx([0, 0.04, 0.08])
    for name, renamed in (("a.png", "a"), ("b.jpg", "notes.txt"), ("c.png", "c.dat")):
        (tmp_path / name).rename(tmp_path / renamed)
    with open_source(tmp_path, None) as source:
        assert [frame.size for frame in source] == [(8, 8)] * 2 and source.describe()["files_skipped"] == 1


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_an_animation_that_was_cut_off_is_shown_up_to_there(tmp_path, caplog, name):
    from PIL import Image

    whole = Image.fromarray(COLOURS.repeat(8, 0).repeat(8, 1))
    more = [whole.rotate(9 * k) for k in range(1, 6)]
    whole.save(tmp_path / name, save_all=True, append_images=more, duration=100)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 3 // 4])
    with open_source(tmp_path / name, None) as source:
        n = len(list(source))
        assert 1 < n < 6 and source.length == n and f"(behind picture {n}: " in source.note
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]


def test_the_still_of_an_animated_png_is_for_those_that_know_no_animations(tmp_path):
    from PIL import Image

    still, *moving = [Image.new("RGB", (8, 8), (k, k, k)) for k in (9, 40, 80)]
    still.save(tmp_path / "a.png", save_all=True, append_images=moving, default_image=True, duration=100)
    with open_source(tmp_path / "a.png", None) as source:
        assert source.length == 2 and levels(source) == [4, 8]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_embedded_profile_says_what_colours_mean(tmp_path, name, mode):
    """One that exchanges red and green; the sRGB that most pictures bear changes nothing."""
    from PIL import Image, ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"XXXX", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"XXXX", b"gXYZ", 1)
    exchanged = exchanged.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    picture = Image.new("RGB" if name == "a.jpg" else mode, (16, 16), (200, 100, 50))
    for profile, shown in ((srgb, (200, 100, 50)), (exchanged, (100, 200, 50)), (srgb[:200], (200, 100, 50))):
        picture.save(tmp_path / name, icc_profile=profile, quality=95)
        image = first_frame(tmp_path / name, None).image
        assert image[8, 8].tolist() == pytest.approx(shown, abs=4)


@pytest.mark.parametrize(
    ("dtype", "white"), [("float16", 1), ("float64", 1), ("int64", 255), ("uint16", 65535)]
)
@pytest.mark.parametrize(
    ("values", "how"),
    [(COLOURS, {"photometric": "rgb"}),
     (np.stack([COLOURS, COLOURS]), {"photometric": "rgb"}),
     (np.moveaxis(COLOURS, 2, 0).copy(), {"photometric": "rgb", "planarconfig": "separate"}),
     (RAMP, {"photometric": "miniswhite"}),
     (COLOURS.repeat(2, 2)[:, :, ::2].repeat(2, 2)[:, :, :5], {"planarconfig": "contig"})],
    ids=["colour", "pages", "planes apart", "white is 0", "five bands"],
)  # fmt: skip
def test_tiffs_of_science(tmp_path, dtype, white, values, how):
    """Pillow takes planes of 16 bits for 8, leaves white at 0 in them, and knows few of the others."""
    import tifffile

    kept = (values * (white / 255)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", kept, **{"photometric": "minisblack", **how})
    shown = [np.asarray(frame.image, int) for frame in open_source(tmp_path / "a.tif", None)]
    wanted = values if values.ndim == 4 else values[None]
    if how.get("planarconfig") == "separate":
        wanted = np.moveaxis(wanted, 1, 3)
    wanted = wanted[..., None].repeat(3, 3) if values is RAMP else wanted[..., :3]
    wanted = 255 - wanted if how.get("photometric") == "miniswhite" else wanted
    assert len(shown) == len(wanted)
    assert max(np.abs(a - b).max() for a, b in zip(shown, wanted.astype(int), strict=True)) <= 1


def test_a_tiff_of_science_is_read_no_further_than_its_first_damage(tmp_path):
    """tifffile would log it and go on, in a file of a few KB for minutes."""
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", RAMP.astype(np.float16), software="x" * 99)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    at = data.index(b"\x31\x01\x02\x00")
    data[at + 2] = 99  # a type of values that there is not
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(SourceError, match=r"damaged.*tifffile and imagecodecs"):
        list(open_source(tmp_path / "a.tif"))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "jpeg"])
def test_a_damaged_tiff_is_told_once_in_a_sentence(tmp_path, caplog, capfd, recwarn, compression):
    """A folder of them is one sentence; what Pillow and libtiff write stays out of the terminal."""
    from PIL import Image

    path = tmp_path / "a.tif"
    Image.fromarray(COLOURS.repeat(8, 0).repeat(8, 1)).save(path, compression=compression, software="x" * 99)
    data = bytearray(path.read_bytes())
    software = data.index(b"\x31\x01\x02\x00", int.from_bytes(data[4:8], "little"))
    data[software + 8 : software + 12] = b"\0\0\1\0"  # where the file has long ended
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes(data)
    data[12:400] = b"\xff" * 388
    (tmp_path / "c.tif").write_bytes(data)
    with open_source(tmp_path, None) as source:
        for _ in range(3):
            with suppress(SourceError):
                next(source)
        assert "a.tif is damaged and shown as far as it can be read (" in source.note
        assert re.search(r"; so are [12] more$", source.note)
    told = [each for each in caplog.records if each.name == "labkit"]
    assert len(told) == 1 and "a.tif is damaged" in told[0].message and not recwarn.list
    assert capfd.readouterr() == ("", "")
    with open_source(tmp_path / "b.tif") as source:
        with suppress(SourceError):
            next(source)
        assert source.note.endswith(")"), "no other file is damaged"


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
    with open_source(tmp_path, None) as source:  # how many a file holds is known once they are read
        assert [source.length for _ in source] == [2, 3, 4, 4] and source.length == 4
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


def test_heic_without_its_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with (
        open_source(tmp_path / "a.heic") as source,
        pytest.raises(SourceError, match="pip install pillow-heif"),
    ):
        next(source)


def test_a_film_without_its_package_names_it(tmp_path, monkeypatch):
    film(tmp_path / "a.mp4", range(2))
    (tmp_path / "b.png").write_text("this is no picture " * 9)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnavailableError, match=r"a\.mp4 .*pip install av"):
        open_source(tmp_path / "a.mp4")
    with pytest.raises(SourceError, match=r"b\.png: what is in it is damaged"):
        list(open_source(tmp_path / "b.png"))


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


@pytest.mark.parametrize("last", [9, 17, 29])
def test_a_recording_that_was_cut_off_inside_a_packet_is_shown_up_to_there(tmp_path, last):
    """A decoder with several threads would lose what it has in hand with the packet that is not whole."""
    path = film(tmp_path / "a.mp4", range(30), fragmented=True)
    at, size = packets(path)[last]
    path.write_bytes(path.read_bytes()[: at + size // 2])
    with open_source(path, None) as source:
        assert [grey(frame) for frame in source] == list(range(last))
        assert "1 damaged packet" in source.note


def test_what_hangs_on_a_damaged_packet_is_shown_and_counted(tmp_path):
    """HEVC's decoder leaves out all up to the next key frame, unless it is asked for it."""
    moving = [np.roll(GRAIN, 3 * k, 1) * 8 for k in range(12)]
    options = {"x265-params": "log-level=none:bframes=0"}
    path = damage(film_of(tmp_path / "a.mp4", "libx265", moving, "yuv420p", **options), [5])
    with open_source(path, None) as source:
        assert [frame.time_s for frame in source] == pytest.approx([k / 25 for k in range(12) if k != 5])
        assert source.describe()["damaged_frames"] == 6
        for words in ("1 damaged packet was skipped", "6 frames were decoded only in part"):
            assert words in source.note


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

    with scheduled_as_before(), av.open(str(tmp_path / "a.mkv"), "w") as out:
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
    assert not hasattr(os, "SCHED_OTHER") or os.sched_getscheduler(0) == os.SCHED_OTHER


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
    from av.video.reformatter import ColorTrc

    from labkit.sources.hdr_film import HLG, PQ, on_screen

    assert (ColorTrc.SMPTE2084.value, ColorTrc.ARIB_STD_B67.value) == (PQ, HLG)
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
    grey = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    for transfer in (PQ, HLG):
        answer = on_screen(grey, transfer)[0].astype(int)
        assert (np.diff(answer[:, 1]) >= 0).all() and answer[0, 1] == 0 and answer[-1, 1] > 252
        assert np.ptp(answer, axis=1).max() <= 1
        red = on_screen(np.array([[[128, 0, 0]]], np.uint8), transfer)[0, 0]
        assert red[0] > 90 and red[1:].max() == 0, "more red than this screen has is its fullest red"
    # Half the signal of HLG is a twelfth of its light: 1000 / 12 ** 1.2 nits.
    assert on_screen(np.full((1, 1, 3), 128, np.uint8), HLG)[0, 0].tolist() == pytest.approx([136] * 3, abs=2)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("size", "tagged"), [((320, 240), 1), ((320, 240), None), ((1280, 720), None), ((608, 1080), None)]
)
def test_the_colours_of_a_film_are_those_of_its_matrix_and_range(tmp_path, size, tagged, full_range):
    """Without a tag HD is BT.709 and the rest BT.601, as players have it; by the formulae of H.273."""
    import av

    colour, (width, height) = np.array([200.0, 60, 20]), size
    k_red, k_blue = (0.2126, 0.0722) if tagged or height > 576 else (0.299, 0.114)
    luma = np.dot(colour, [k_red, 1 - k_red - k_blue, k_blue])
    yuv = np.array([luma, (colour[2] - luma) / (1 - k_blue) / 2, (colour[0] - luma) / (1 - k_red) / 2])
    yuv = (yuv if full_range else yuv * [219 / 255, 224 / 255, 224 / 255]) + [16 * (not full_range), 128, 128]
    planes = np.concatenate(
        [np.full(width * height // n, round(v)) for n, v in zip((1, 4, 4), yuv, strict=True)]
    )
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        coder = stream.codec_context
        coder.color_range, coder.colorspace = 1 + full_range, tagged or 2
        frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8).reshape(-1, width), format="yuv420p")
        frame.color_range, frame.colorspace = 1 + full_range, tagged or 2
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    shown = first_frame(tmp_path / "a.mp4", None).image[height // 2, width // 2]
    assert shown.tolist() == pytest.approx(colour.tolist(), abs=3)


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
    "argument",
    [{"limit": -1}, {"fps": 0.0}, {"fps": float("nan")}, {"noise": -0.1}, {"noise": 0.5},
     {"open_timeout_s": 0},
     {"size": (0, 4)}, {"size": (4,)}, {"size": (4, 4, 4)}, {"size": "ab"}, {"size": 7}, {"size": (1.5, 4)},
     {"size": (16385, 4)}, {"size": (float("nan"), 4)}, {"size": (-1, 4)}],
)  # fmt: skip
def test_arguments_outside_their_range_are_refused(argument):
    with pytest.raises(UsageError, match=f"{next(iter(argument)).removesuffix('_s')}.* (is|are|for) "):
        open_source("photos", **argument)


def test_a_camera_in_quotes_is_a_camera(tmp_path, monkeypatch):
    """In `labkit fleet` too, whose readers run in folders of their own."""
    from labkit.core.types import Workload
    from labkit.fleet.fleet_plan import Plan
    from labkit.pipelines.ladder import rung

    monkeypatch.chdir(tmp_path)
    film(tmp_path / "a b.mp4", range(1))
    meant = {
        "webcam": "webcam", ' "webcam:0" ': "webcam:0", "'/dev/video2'": "/dev/video2", "'scenes'": "scenes",
        '"rtsp://cam/live"': "rtsp://cam/live", "'a b.mp4'": str(tmp_path / "a b.mp4"),
        "gone.mp4": str(tmp_path / "gone.mp4"), (tmp_path / "a b.mp4").as_uri(): str(tmp_path / "a b.mp4"),
    }  # fmt: skip
    streams = Plan(tuple(meant), rung("detr_opencv_cpu"), Workload()).streams()
    assert [stream.spec for stream in streams] == list(meant.values())
    indices = {"webcam": ANY_WEBCAM, "webcam:3": 3, "/dev/video2": 2, "webcams": None, "./webcam": None}
    assert {name: webcam_index(name) for name in indices} == indices


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
     ("file://host/a.mp4", "addresses start"), ("gopher://host/x", "http, https or rtsp"),
     ("", "no file or folder"), ("nothing-here.mp4", "no file or folder"), ("x" * 5000, "no file or folder"),
     ("browser", "live view"), ("webcam:front", "webcam:0"), ("webcam:-1", "webcam:0"),
     ("webcam:", "webcam:0"), ("webcam:99", "webcam 99" if sys.platform == "linux" else "webcam:99"),
     ("empty.avi", "empty.avi is empty (0 bytes)"), ("empty.png", "empty.png is empty (0 bytes)"),
     ("no.jxl", "pillow-jxl-plugin"), ("no.NEF", "rawpy"), ("no.svg", "browser"),
     ("no.png", "cannot read the image no.png"), ("no.mp4", "no.mp4 is not a video"),
     ("no", "no is not a video"),
     ("films/clip.mp4", "holds no images"),
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
    for each in ("bad\nname.mp4", "no", "no.png", "no.mp4", "no.jxl", "no.NEF", "no.svg"):
        (tmp_path / each).write_text("this is no film " * 99)
    for each in ("empty.avi", "empty.png"):
        (tmp_path / each).touch()
    with pytest.raises((SourceError, UsageError)) as caught:
        list(open_source(name))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


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
        ("192.168.1.4:80/live", "192.168.1.4:80/live"),
        ("camera.example.com/key", "camera.example.com/***"),
        ("http/clip.mp4", "***/clip.mp4"),
        ("me@home.mp4", "***.mp4"),
        ("webcm", "webcm"),
        ("films/my clip (2).mp4", "films/***.mp4"),
        ("/dev/my clip (2).mp4", "/dev/my clip (2).mp4"),
        ("/dev/null", "/dev/null"),
        ("webcam:1", "webcam:1"),
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
    "192.168.1.4:80/s3cret",
    "camera.local:8080/live/s3cret",
    "http%3A%2F%2Fjoe%3As3cret%40camera",
    "rtsp//camera/s3cret",
    "rtsp;//camera/s3cret",
    "http:camera/s3cret",
    "user=joe password=s3cret host=camera",
    "camera/live;pwd=s3cret",
    "srt://camera:9000?passphrase=s3cret",
    "joe:s3cret\uff20camera/live",
    "joe@camera:s3cret",
    "joe;s3cret@camera",
    "10.0.0.5 s3cret",
    "10.0.0.5\\s3cret",
    "[fe80::1]:554/s3cret",
    "localhost/s3cret",
    "camera.local/s3cret",
    "password:s3cret",
    "webcam:s3cret",
    "webcam:0@s3cret",
    "photos:s3cret",
    "file:///path/s3cret",
    "file://camera/s3cret",
    "file:///path/s3cret.mp4",
    "/path/s3cret",
    "~/path/s3cret.mp4",
    "../path/s3cret.mp4",
    "/dev/s3cret",
    "//camera/s3cret",
    "\\\\camera\\s3cret",
    "\\\\joe:s3cret@camera\\share",
    "C:\\path\\s3cret",
    "camera.example.com/s3cret",
    "www.example.com/s3cret.mp4",
    "camera.example.com:8080/s3cret",
    "camera/s3cret.mp4",
    "s3cret/live",
    "admin;s3cret",
    "my s3cret",
    "joe:s3cret",
    "joe@s3cret.mp4",
    "joe s3cret@camera.mp4",
    "camera,/s3cret",
    "joe\uff1as3cret",
]


@pytest.fixture
def not_opened(monkeypatch):
    """Readers of cameras and films that open nothing."""
    from labkit.sources import camera, video

    def reads(name, *_, **__):
        raise SourceError(f"{redact(name)}: not opened in this test")

    monkeypatch.setattr(camera, "open_camera", reads)
    monkeypatch.setattr(video, "Video", lambda name, shown, **_: reads(name))


def test_no_spelling_of_an_address_shows_its_secret(not_opened, capsys):
    """In what is shown and stored, in messages, in names of folders, in what a notebook shows of a plan."""
    from labkit.core.types import Workload
    from labkit.fleet.fleet_plan import Plan
    from labkit.fleet.stream_recorder import folder_name
    from labkit.fleet.sweep.grid import Grid
    from labkit.pipelines.ladder import rung
    from labkit.profiling.variant import ProfileTarget

    showing = []
    for spec in SPELLINGS:
        with pytest.raises(LabError) as caught:
            open_source(spec)
        texts = [redact(spec), str(caught.value)]
        with suppress(UsageError):  # shows the same
            plan, grid = Plan((spec,), rung("detr_opencv_cpu"), Workload()), Grid(("lut_cpu",), source=spec)
            (stream,) = plan.streams()
            texts += [stream.shown, folder_name(stream), str(grid.points[0].describe())]
            texts += map(repr, (stream, plan, grid, ProfileTarget("lut_cpu", Workload(), spec)))
        if any(part in text for part in ("s3", "cret", "joe") for text in texts):
            showing.append(spec)
    with capsys.disabled():
        print(f"\ncredentials shown: {len(showing)} of {len(SPELLINGS)} spellings")
    assert showing == []


LAB_DETR = ["--model-set", "lab", "--rung", "detr_opencv_cpu"]
PLACES = [
    ["bench", "resnet_opencv_cpu", "--source"],
    ["bench", "resnet_opencv_cpu", "--source="],
    ["compare", "resnet_pil_cpu", "resnet_opencv_cpu", "--source"],
    ["profile", "resnet_opencv_cpu", "--engine", "torch", "--source"],
    ["filters", "--device", "cpu", "--source"],
    ["sweep", "lut_cpu", "--address"],
    ["fleet", "photos", *LAB_DETR, "--address="],
]
WRONG_PLACES = [
    [""], ["bench"], ["compare", "resnet_pil_cpu"], ["profile"], ["live", "--no-browser"],
    ["live", "--rung="], ["sweep", "--size"], ["fleet", "photos", "--rung"], ["fleet", "photos", "--fps="],
    ["batch", *LAB_DETR, "--out", "found"], ["gallery", "first.ipynb", "--parameter", "SOURCE="],
]  # fmt: skip
"""Of something else than a source: there names and paths are quoted, but not what looks like an address."""


@pytest.mark.parametrize("place", [PLACES[0], *further(*PLACES[1:]), *WRONG_PLACES], ids=" ".join)
def test_no_command_shows_the_secret_of_an_address(place, not_opened, monkeypatch, tmp_path, capsys):
    from labkit.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.ipynb").touch()
    showing = []
    for spec in SPELLINGS:
        if place in WRONG_PLACES and not is_address(spec, doubtful=True):
            assert not set(spec) & set("@?&=;%")
            continue
        *before, last = place
        given = repr(spec) if last == "SOURCE=" else spec
        with suppress(SystemExit):
            main([*before, last + given] if not last or last.endswith("=") else [*place, given])
        said = capsys.readouterr()
        assert said.err
        if any(part in said.out + said.err for part in ("s3", "cret", "joe")):
            showing.append(spec)
    assert showing == []


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


@given(st.data(), st.sampled_from(["u1", "u2", "f2", "f4", "f8"]), st.sampled_from([(), (1,), (3,), (4,)]))
def test_arrays_of_any_depth_channels_and_layout_become_rgb(data, dtype, channels):
    values = st.floats(0, 1, width=16) if dtype[0] == "f" else None
    array = data.draw(hnp.arrays(dtype, IMAGES.map(lambda shape: (*shape, *channels)), elements=values))
    array = data.draw(st.sampled_from([array, array[::-1, ::-1], array.swapaxes(0, 1)]))
    before, order = array.copy(), data.draw(st.sampled_from(["bgr", "rgb"]))
    image = to_rgb(array, order)
    white = {"u1": 255, "u2": 65535}.get(dtype, 1)
    wanted = np.rint(array.astype(np.float64).reshape(*array.shape[:2], -1) / white * 255)[:, :, :3]
    assert np.array_equal(image, np.broadcast_to(wanted[:, :, :: -1 if order == "bgr" else 1], image.shape))
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.shape == (*array.shape[:2], 3)
    assert np.array_equal(array, before)


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


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_camera_is_told_apart_from_a_wrong_path(code):
    assert "it is busy" in _refusal(HTTPError("", code, "no", Message(), None), False)
    assert "check the path" in _refusal(HTTPError("", code - 76, "no", Message(), None), False)
    for had_user in (False, True):
        words = "does not accept this user" if had_user else "wants a user and password"
        assert words in _refusal(HTTPError("", 401, "no", Message(), None), had_user)
        assert words in _refusal(HTTPError("", 403, "no", Message(), None), had_user)
        assert "check the path" in _refusal(HTTPError("", 404, "no", Message(), None), had_user)


@pytest.mark.parametrize("name", ["scenes", "closeups"])
def test_what_is_drawn_says_which_it_is(name):
    assert open_source(name, (64, 48), seed=3).describe().items() >= {"backend": name, "seed": 3}.items()


def test_the_largest_size_is_accepted_and_no_larger_one():
    assert check_size((16384, 16384)) == (16384, 16384)
    for size in ((16385, 1), (1, 16385), (0, 1), (1, 0)):
        with pytest.raises(UsageError):
            check_size(size)


@pytest.mark.parametrize(("width", "height", "matrix"), [(1279, 576, 5), (1280, 576, 1), (720, 577, 1)])
def test_a_film_that_states_no_matrix_gets_that_of_its_size(width, height, matrix):
    assert _likely_matrix(SimpleNamespace(color_trc=2, width=width, height=height)) == matrix


def test_a_heif_that_nothing_decodes_is_a_damaged_picture_and_no_film(tmp_path):
    for brand, is_one in ((b"heic", True), (b"msf1", True), (b"isom", False)):
        path = tmp_path / brand.decode()
        path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(16))
        assert count_pictures(path) == is_one


@pytest.mark.parametrize("readable", [0, 3])
def test_unreadable_places_in_a_row_are_one_gap_and_a_hundred_end_a_file(readable):
    import av

    asked = []

    def demux(stream):
        asked.append(stream)
        if len(asked) <= readable:
            yield SimpleNamespace(size=1, is_corrupt=False)
        raise av.InvalidDataError(1, "unreadable")

    video = SimpleNamespace(
        _container=SimpleNamespace(demux=demux), _stream=0, _seen_whole=False, damaged_packets=0
    )
    assert len(list(Video._packets(video))) == readable
    assert video.damaged_packets == max(1, readable) and len(asked) == max(100, readable + 99)


def test_a_damaged_picture_of_a_stream_ends_where_the_next_begins():
    begun = b"\xff\xd8\xff\xe0\x00\x04ab"
    whole, damaged = begun + b"\xff\xd9", begun + b"\x00\x01\x02\x03"
    buffer = bytearray(damaged)
    assert take_jpeg(buffer) is None, "its end has not come yet"
    buffer += whole
    assert [take_jpeg(buffer) for _ in range(3)] == [damaged, whole, None]
