"""Mutated pictures and films: each gives frames or one sentence, and no decoder ends the process.

`make soak` runs all of them; `python tests/test_fuzz.py films 100 200 FOLDER` reads films 100 to 199 again.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from films import scheduled_as_before

ROOT = Path(__file__).parents[1]
LONGEST_S = 60
N_PICTURES, N_FILMS = 27_000, 5_600


def _picture_seeds(folder: Path) -> None:
    import cv2
    import pillow_heif
    import tifffile
    from PIL import Image, ImageCms

    pillow_heif.register_heif_opener()
    y, x = np.mgrid[:40, :56]
    grey = ((3 * x + 5 * y) % 256).astype(np.uint8)
    colour = np.dstack([grey, grey.T.repeat(2, 0)[:40, :40].repeat(2, 1)[:, :56], 255 - grey])
    rgb = Image.fromarray(colour)
    alpha = Image.fromarray(np.dstack([colour, grey]))
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = wide.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))
    for name, image, options in (
        ("rgb.png", rgb, {}), ("alpha.png", alpha, {}), ("palette.png", rgb.quantize(16), {}),
        ("deep.png", Image.fromarray(grey.astype(np.uint16) * 257), {}), ("bit.png", rgb.convert("1"), {}),
        ("exif.jpg", rgb, {"exif": turned}), ("cmyk.jpg", rgb.convert("CMYK"), {}),
        ("progressive.jpg", rgb, {"progressive": True}), ("profile.png", alpha, {"icc_profile": wide}),
        ("moving.png", rgb, {"save_all": True, "append_images": [alpha] * 2, "default_image": True}),
        ("lzw.tif", rgb, {"compression": "tiff_lzw"}),
        ("float.tif", Image.fromarray(grey / np.float32(255)), {}),
        ("pages.tif", rgb, {"save_all": True, "append_images": [alpha.convert("RGB")] * 2}),
        ("moving.gif", rgb, {"save_all": True, "append_images": [rgb.rotate(90)] * 3, "duration": 50}),
        ("lossy.webp", rgb, {}), ("moving.webp", rgb, {"save_all": True, "append_images": [alpha] * 2}),
        ("grey.pgm", rgb.convert("L"), {}), ("a.bmp", rgb, {}), ("a.tga", alpha, {}), ("a.jp2", rgb, {}),
        ("a.avif", rgb, {}), ("a.heic", rgb, {}),
    ):  # fmt: skip
        image.save(folder / name, **options)
    cv2.imwrite(str(folder / "deep.tif"), colour.astype(np.uint16) * 257)
    for name in ("a.hdr", "a.pfm"):
        cv2.imwrite(str(folder / name), colour.astype(np.float32) / 255)
    tifffile.imwrite(
        folder / "planes.tif", np.moveaxis(colour.astype(np.uint16), 2, 0), planarconfig="separate",
        photometric="rgb", compression="zlib",
    )  # fmt: skip


def _film_seeds(folder: Path) -> None:
    import av

    y, x = np.mgrid[:48, :64]
    for name, codec, pix_fmt, options in (
        ("h264.mp4", "libx264", "yuv420p", {}), ("b_frames.mkv", "libx264", "yuv420p", {"bf": "3"}),
        ("interlaced.ts", "libx264", "yuv420p", {"x264-params": "tff=1"}),
        ("raw.h264", "libx264", "yuv420p", {}),
        ("hevc.mov", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
        ("vp9.webm", "libvpx-vp9", "yuva420p", {"deadline": "realtime"}),
        ("av1.mp4", "libsvtav1", "yuv420p", {"preset": "12"}),
        ("mjpeg.avi", "mjpeg", "yuvj420p", {}), ("mpeg4.avi", "mpeg4", "yuv420p", {}),
        ("mpeg2.mpg", "mpeg2video", "yuv420p", {}), ("prores.mov", "prores_ks", "yuva444p10le", {}),
        ("png.mov", "png", "rgba", {}), ("flv1.flv", "flv", "yuv420p", {}),
        ("wmv2.wmv", "wmv2", "yuv420p", {}),
        ("ffv1.mkv", "ffv1", "bgr0", {}),
    ):  # fmt: skip
        try:
            with scheduled_as_before(), av.open(str(folder / name), "w") as out:
                stream = out.add_stream(codec, rate=25, options=options)
                stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
                stream.gop_size = 4
                for k in range(10):
                    picture = ((5 * x + 3 * y + 16 * k) % 256).astype(np.uint8)
                    frame = av.VideoFrame.from_ndarray(np.dstack([picture] * 3), format="rgb24")
                    out.mux(stream.encode(frame.reformat(format=pix_fmt)))
                out.mux(stream.encode(None))
        except av.FFmpegError:  # this PyAV cannot write it
            (folder / name).unlink(missing_ok=True)


def mutated(data: bytes, k: int) -> bytes:
    """A file with a few faults: bytes, runs, parts that are missing, doubled or moved, an early end."""
    rng = np.random.default_rng(k)
    bytes_ = np.frombuffer(data, np.uint8).copy()
    for _ in range(int(rng.integers(1, 3))):
        n = len(bytes_)
        reach = min(n, int(rng.choice([16, 64, 512, n])))  # headers more often than the rest
        at, run = int(rng.integers(0, reach)), int(rng.integers(1, 65))
        match rng.integers(0, 7):
            case 0:
                bytes_[at] = rng.integers(0, 256)
            case 1:
                bytes_[at] ^= np.uint8(1 << rng.integers(0, 8))
            case 2:
                bytes_[at : at + run] = rng.integers(0, 256, len(bytes_[at : at + run]))
            case 3:
                bytes_[at : at + 4] = rng.choice([0, 255])
            case 4:
                bytes_ = np.delete(bytes_, np.s_[at : at + run])
            case 5:
                bytes_ = np.insert(bytes_, at, bytes_[at : at + run])
            case _:
                bytes_ = bytes_[: int(rng.integers(1, n + 1))]
        if not len(bytes_):
            break
    return bytes_.tobytes()


def read_some(kind: str, first: int, last: int, folder: Path) -> None:
    """Reads mutated files `first` to `last` - 1; prints the number of each before, and what it gave after."""
    from labkit.core.errors import FrameError, SourceError
    from labkit.sources.openers import open_source

    warnings.simplefilter("ignore")
    seeds = sorted((folder / kind).iterdir())
    for k in range(first, last):
        seed = seeds[k % len(seeds)]
        path = folder / f"mutated{seed.suffix}"
        path.write_bytes(mutated(seed.read_bytes(), k))
        print(f"{k} {seed.name}", end=" ", flush=True)
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        try:
            with open_source(path, (32, 24), limit=20) as source:
                frames = sum(1 for _ in source)
            said = f"frames {frames}"
        except (SourceError, FrameError) as error:
            said = "sentence" if "\n" not in str(error) and len(str(error)) < 500 else f"RAW {error!r}"
        except BaseException as error:
            said = f"RAW {error!r}"
        faulthandler.cancel_dump_traceback_later()
        print(said.replace("\n", "\\n"), flush=True)


def read_all(kind: str, count: int, folder: Path) -> dict:
    """Reads `count` mutated files in processes of their own; a new one goes on behind one that died."""
    (folder / kind).mkdir()
    (_picture_seeds if kind == "pictures" else _film_seeds)(folder / kind)
    gave, faults, first = {"frames": 0, "sentence": 0}, [], 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while first < count:
        command = [sys.executable, __file__, kind, str(first), str(min(count, first + 2000)), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        lines = done.stdout.splitlines()
        for line in lines:
            number, name, *said = line.split(" ", 2)
            word = said[0].split(" ")[0] if said else ""
            if word in gave:
                gave[word] += 1
            else:
                died = signal.strsignal(-done.returncode) if done.returncode < 0 else done.stderr[-400:]
                faults.append(f"{number} {name} {said[0] if word else f'died: {died}'}")
        assert lines, done.stderr
        first = int(lines[-1].split(" ")[0]) + 1
    return {"kind": kind, "files": count, **gave, "faults": faults}


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("kind", "count"),
    [("pictures", 300), ("films", 75),
     pytest.param("pictures", N_PICTURES, marks=pytest.mark.slow),
     pytest.param("films", N_FILMS, marks=pytest.mark.slow)],
)  # fmt: skip
def test_whatever_is_in_a_file_it_is_shown_or_refused(kind, count, tmp_path, capsys):
    found = read_all(kind, count, tmp_path)
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    assert found["faults"] == []
    assert found["frames"] + found["sentence"] == count
    assert min(found["frames"], found["sentence"]) > count // 20, "the mutations are too weak or too strong"


if __name__ == "__main__":
    read_some(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
