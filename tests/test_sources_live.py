"""Cameras and network streams: the newest frame, losses and returns, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import http.server
import itertools
import os
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import films
import numpy as np
import pytest
from faulty_camera import BITS, FaultyCamera, number_in, picture

from labkit.core.errors import SourceError, SourceLost, UnavailableError
from labkit.sources.camera import Backlog, Camera
from labkit.sources.openers import open_source

REPORTED_S = 2.0
TIMEOUTS = {"open_timeout_s": 2.0, "read_timeout_s": 1.0}


def wait_until(condition, timeout_s: float = 5.0) -> bool:
    """Whether the condition came true in time."""
    end_s = time.perf_counter() + timeout_s
    while not condition():
        if time.perf_counter() > end_s:
            return False
        time.sleep(0.005)
    return True


def until_lost(source) -> tuple[float, str]:
    """Reads until the loss is reported: seconds since the last frame, and the message."""
    last_s = time.perf_counter()
    try:
        for frame in source:
            last_s = frame.t_s
    except SourceLost as error:
        return time.perf_counter() - last_s, str(error)
    raise AssertionError("the source ended instead")


def until_back(take, tries: int = 20):
    """The next frame, however many losses are reported before it."""
    for _ in range(tries):
        with contextlib.suppress(SourceLost):
            return take()
    raise AssertionError("the camera did not come back")


def lag(frame, camera) -> int:
    """How many pictures older than the newest one the frame is."""
    return (camera.sent - number_in(frame.image)) % (1 << BITS)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("labkit camera")]


@pytest.fixture
def camera():
    with FaultyCamera() as camera:
        yield camera


# The reader, with a capture that does what the test says


class ScriptedCapture:
    """Gives one frame for each `push`; notes which threads use it."""

    def __init__(self) -> None:
        self._waiting = threading.Semaphore(0)
        self.ended = False
        self.level = 0
        self.threads: set[str] = set()
        self.released = threading.Event()

    def push(self, n: int = 1) -> None:
        self._waiting.release(n)

    def end(self) -> None:
        self.ended = True
        self.push()

    def grab(self) -> bool:
        self.threads.add(threading.current_thread().name)
        self._waiting.acquire()
        self.level += 1
        return not self.ended

    def retrieve(self):
        self.threads.add(threading.current_thread().name)
        return True, np.full((4, 6, 3), self.level, np.uint8)

    def release(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.released.set()


class Script:
    """A camera whose connections are scripted captures."""

    def __init__(self) -> None:
        self.captures: list[ScriptedCapture] = []
        self.refusing = False
        self.pusher = threading.Thread(target=self._start)
        self.pusher.start()
        self.camera = Camera(self._connect, "scripted", open_timeout_s=2.0, read_timeout_s=1.0)
        self.pusher.join()
        assert wait_until(lambda: self.camera.captured == 4)

    def _connect(self):
        if self.refusing:
            raise SourceError("the cable is out")
        self.captures.append(ScriptedCapture())
        return self.captures[-1], {"backend": "scripted", "fps": 30.0}

    def _start(self) -> None:
        """Frames that have to be waited for, as a camera gives them, until one counts as new."""
        assert wait_until(lambda: self.captures)
        self.flow(4)

    def flow(self, n: int) -> None:
        for _ in range(n):
            time.sleep(0.02)  # the interval of the frames is what is simulated
            self.captures[-1].push()


@pytest.fixture
def script():
    script = Script()
    yield script
    script.refusing = True
    for capture in script.captures:
        capture.end()
    script.camera.close()


def test_a_camera_that_hangs_while_it_opens_has_both_time_outs():
    released = threading.Event()

    def hangs():
        released.wait(30)
        raise SourceError("let go of")

    begun_s = time.perf_counter()
    with pytest.raises(SourceError, match=r"has sent no frame within 0\.3 s; is it in use elsewhere"):
        Camera(hangs, "hung", open_timeout_s=0.2, read_timeout_s=0.1)
    assert 0.3 <= time.perf_counter() - begun_s < 10
    released.set()


def test_only_the_reader_touches_the_capture(script):
    assert script.camera.take() is not None
    script.captures[0].end()
    assert script.captures[0].released.wait(5)
    assert script.captures[0].threads == {"labkit camera scripted"}


def test_the_newest_frame_is_delivered_and_the_rest_counted(script):
    before = script.camera.captured
    taken = script.camera.take()
    assert taken.image[0, 0, 0] == before
    dropped = script.camera.dropped
    script.captures[0].push(10)
    assert wait_until(lambda: script.camera.captured == before + 10)
    taken = script.camera.take()
    assert taken.image[0, 0, 0] == before + 10
    assert script.camera.dropped == dropped + 9
    assert script.camera.captured == 2 + script.camera.dropped


def test_a_lost_camera_says_why_and_comes_back(script):
    script.camera.take()
    script.refusing = True
    script.captures[0].end()
    assert script.captures[0].released.wait(5)
    with pytest.raises(SourceLost, match="the cable is out"):
        script.camera.take()
    script.refusing = False
    assert wait_until(lambda: len(script.captures) == 2)
    script.flow(4)
    assert until_back(script.camera.take) is not None
    assert script.camera.describe()["connections"] == 2


def test_closing_wakes_whoever_waits(script):
    script.camera.take()
    results = []
    waiting = threading.Thread(target=lambda: results.append(script.camera.take()))
    waiting.start()
    script.camera.close()
    waiting.join(2)
    assert results == [None]


def test_an_error_of_the_driver_reaches_the_user():
    def connect():
        raise RuntimeError("the driver is upside down")

    with pytest.raises(SourceError, match="upside down"):
        Camera(connect, "odd", open_timeout_s=1.0, read_timeout_s=0.5)
    assert wait_until(lambda: not readers())


class Webcam:
    """Stands in for `cv2.VideoCapture`: notes what it is asked, and gives a size of its own."""

    asked: list[tuple[int, float]]

    def __init__(self, index: int, backend: int) -> None:
        self.index = index
        self.asked = []
        Webcam.last = self

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def getBackendName(self) -> str:  # noqa: N802
        return "PRETENDED"

    def set(self, prop: int, value: float) -> bool:
        self.asked.append((prop, value))
        return True

    def get(self, prop: int) -> float:
        import cv2

        return {cv2.CAP_PROP_FPS: 15.0, cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FRAME_HEIGHT: 480}.get(
            prop, 0
        )

    def grab(self) -> bool:
        time.sleep(0.03)
        return True

    def retrieve(self):
        return True, np.full((30, 40, 3), (0, 0, 255), np.uint8)

    def release(self) -> None:
        pass


def test_a_webcam_is_asked_in_the_right_order_and_its_first_frame_believed(monkeypatch):
    import cv2

    monkeypatch.setattr(cv2, "VideoCapture", Webcam)
    monkeypatch.setattr("labkit.sources.camera_open.Path.exists", lambda path: True)
    with open_source("webcam:7", (320, 240), fps=60) as source:
        frame = next(source)
        described = source.describe()
    props = [prop for prop, _ in Webcam.last.asked]
    order = [cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS]
    assert props[:4] == order
    assert [value for _, value in Webcam.last.asked][1:4] == [320, 240, 60]
    assert Webcam.last.index == 7
    assert frame.size == (320, 240)
    assert frame.image[0, 0].tolist() == [255, 0, 0], "RGB"
    assert described["asked_size"] == [320, 240]
    assert described["got_size"] == [40, 30], "not the 640x480 that it claims"
    assert (described["asked_fps"], described["fps"]) == (60, 15.0)


# Cameras by name


DSHOW = """DirectShow video device options (from video devices)
 Pin "Capture" (alternative pin name "Capture")
  pixel_format=yuyv422  min s=640x480 fps=5 max s=640x480 fps=30
  pixel_format=yuyv422  min s=1280x720 fps=5 max s=1280x720 fps=10
  vcodec=mjpeg  min s=1280x720 fps=5 max s=1280x720 fps=60.0002
  vcodec=mjpeg  min s=1280x720 fps=5 max s=1280x720 fps=60.0002 (pc, bt470bg/bt709/unknown, center)
 Pin "Still" (alternative pin name "Still")
  unknown compression type 0x47504A4D  min s=1920x1080 fps=30 max s=1920x1080 fps=30
"""
AVFOUNDATION = """Selected framerate (1000.000000) is not supported by the device.
Supported modes:
  640x480@[1.000000 30.000030]fps
  1280x720@[1.000000 60.000240]fps
  1920x1080@[15.000000 30.000030]fps
"""


@pytest.mark.parametrize(
    ("platform", "log", "backend", "address", "level"),
    [("win32", DSHOW, "CAP_DSHOW", ("video=Integrated", "dshow"), "INFO"),
     ("darwin", AVFOUNDATION, "CAP_AVFOUNDATION", ("Integrated:none", "avfoundation"), "ERROR")],
)  # fmt: skip
def test_elsewhere_ffmpeg_s_log_names_sizes_and_rates(monkeypatch, platform, log, backend, address, level):
    """What a library lists by OpenCV's numbers; the texts are FFmpeg's, for these systems are not here."""
    import av
    import cv2

    from labkit.sources import camera_list

    def opened(name, format, options):
        if (name, format) == address:
            for line in log.splitlines(keepends=True):
                av.logging.log(getattr(av.logging, level), format, line)
        raise av.ExitError(0, "Immediate exit requested")

    cameras = [SimpleNamespace(index=1, name="OBS"), SimpleNamespace(index=0, name="Integrated")]
    library = SimpleNamespace(enumerate_cameras=lambda asked: {getattr(cv2, backend): cameras}[asked])
    monkeypatch.setattr(av, "open", opened)
    monkeypatch.setattr(camera_list.sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "cv2_enumerate_cameras", library)
    first, second = camera_list.list_cameras()
    assert (first.spec, first.name, second.spec, second.name) == ("webcam:0", "Integrated", "webcam:1", "OBS")
    assert first.offers() == "1920x1080 at 30, 1280x720 at 60, 640x480 at 30 FPS" and second.modes == ()
    assert av.logging.get_level() is None
    monkeypatch.setitem(sys.modules, "cv2_enumerate_cameras", None)
    with pytest.raises(UnavailableError, match="pip install cv2-enumerate-cameras"):
        camera_list.list_cameras()


class Driver:
    """A V4L2 driver: answers the requests about the devices in a folder, in the header's structures."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        import fcntl

        from labkit.sources import camera_list

        self.cards: dict[str, tuple[bytes, int, dict]] = {}
        self.folder = folder
        monkeypatch.setattr(camera_list, "DEVICES", folder)
        monkeypatch.setattr(fcntl, "ioctl", self.ioctl)

    def plug_in(self, number: int, name: bytes, formats: dict, caps: int = 0x04200001) -> None:
        (self.folder / f"video{number}").touch()
        self.cards[f"video{number}"] = (name, caps, formats)

    def ioctl(self, handle: int, request: int, buffer: bytearray) -> int:
        device = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        if device not in self.cards:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        name, caps, formats = self.cards[device]
        number = request & 0xFF
        index = int.from_bytes(buffer[:4], "little")
        assert len(buffer) == request >> 16 & 0x3FFF
        if number == 0:
            buffer[16 : 16 + len(name)] = name
            buffer[84:92] = struct.pack("<II", caps | 0x80000000 | 0x1, caps)
            return 0
        code = bytes(buffer[4:8]).decode()
        width, height = struct.unpack_from("<II", buffer, 8)
        try:
            if number == 2:
                assert struct.unpack_from("<I", buffer, 4)[0] == 1
                buffer[44:48] = list(formats)[index].encode()
            elif number == 74:
                buffer[8:36] = struct.pack("<7I", *(list(formats[code])[index] + (0,) * 7)[:7])
            elif number == 75:
                size = width, height
                key = next(k for k in formats[code] if size in (k[1:3], k[2::3]))
                rates = formats[code][key]
                buffer[16:28] = struct.pack("<3I", 1, *rates[index])
        except IndexError:
            raise OSError(errno.EINVAL, "Invalid argument") from None
        return 0


@pytest.fixture
def driver(tmp_path, monkeypatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("V4L2 is Linux's")
    return Driver(tmp_path, monkeypatch)


def test_cameras_are_listed_by_name_with_sizes_and_rates(driver):
    from labkit.sources.camera_list import list_cameras

    driver.plug_in(
        10, b"Lab Cam 4K\x1b[31m",
        {"YUYV": {(1, 640, 480): [(1, 15), (1, 30)], (1, 1920, 1080): [(1, 5)]},
         "MJPG": {(1, 1920, 1080): [(1001, 30000)], (1, 3840, 2160): []}},
    )  # fmt: skip
    driver.plug_in(11, b"Lab Cam 4K", {}, caps=0x04A00000)  # its metadata
    driver.plug_in(2, b"", {"RGB3": {(2, 16, 1280, 2, 16, 720, 2): [(1, 60)]}})  # any size up to 1280x720
    (driver.folder / "video7").touch()  # not a driver
    (driver.folder / "video-notes").touch()
    first, second = list_cameras()
    assert (first.spec, first.name, first.modes) == ("webcam:2", "camera", (((1280, 720), 60.0),))
    assert (second.spec, second.name) == ("webcam:10", "Lab Cam 4K [31m")
    assert second.modes == (((3840, 2160), None), ((1920, 1080), 30000 / 1001), ((640, 480), 30.0))
    assert second.offers(2) == "3840x2160, 1920x1080 at 30 FPS, 1 more"


def test_a_camera_that_may_not_be_opened_says_why(driver, monkeypatch):
    from labkit.bench.doctor import _camera
    from labkit.sources.camera_list import list_cameras

    driver.plug_in(0, b"Locked", {})
    monkeypatch.setattr(os, "open", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    (found,) = list_cameras()
    assert "group video" in found.problem
    assert _camera().state == "missing" and "group video" in _camera().advice


def test_webcam_alone_is_the_first_that_gives_a_picture(driver, monkeypatch):
    import cv2

    class Some(Webcam):
        def isOpened(self) -> bool:  # noqa: N802
            return self.index != 0

        def grab(self) -> bool:
            time.sleep(0.03 if self.index == 4 else 0.3)
            return self.index == 4

    for number, name in ((0, b"Busy"), (2, b"Mute"), (4, b"Good"), (6, b"Better")):
        driver.plug_in(number, name, {"MJPG": {(1, 640, 480): [(1, 30)]}})
    monkeypatch.setattr(cv2, "VideoCapture", Some)
    monkeypatch.setattr("labkit.sources.camera_open.Path.exists", lambda path: True)
    begun_s = time.perf_counter()
    with open_source("webcam", open_timeout_s=1.0, read_timeout_s=0.5) as source:
        assert source.spec == "webcam:4"
        next(source)
    del driver.cards["video4"], driver.cards["video6"]
    with pytest.raises(SourceError) as failed:
        open_source("webcam", open_timeout_s=0.5, read_timeout_s=0.5)
    assert time.perf_counter() - begun_s < 8
    for words in ("webcam:0 (Busy)", "webcam:2 (Mute)", '"browser"', "--open-timeout"):
        assert words in str(failed.value)
    driver.cards.clear()
    with pytest.raises(SourceError, match=r'no camera.*"browser"'):
        open_source("webcam")


# What is old and what is new


def times_of(*groups: tuple[int, float]) -> list[tuple[float, float]]:
    """(asked, arrived) of frames: groups of (number, seconds that each is waited for)."""
    now, times = 0.0, []
    for count, waited_s in groups:
        for _ in range(count):
            times.append((now, now + waited_s))
            now += waited_s + 0.002
    return times


@pytest.mark.parametrize(
    ("name", "interval_s", "groups", "kept"),
    [
        ("steady", 1 / 30, [(10, 0.031)], "0" + "1" * 9),
        ("probed frames come first", 1 / 30, [(6, 0.001), (6, 0.031)], "000000" + "01" + "1111"),
        ("backlog after a pause", 1 / 30, [(5, 0.031), (1, 5.0), (20, 0.001), (5, 0.031)], None),
        ("one frame per second", 1 / 25, [(12, 1.0)], None),
        ("faster than it can be told", 1 / 30, [(800, 0.001)], None),
    ],
)
def test_backlog(name, interval_s, groups, kept):
    backlog = Backlog(interval_s, 0.0)
    times = times_of(*groups)
    flags = "".join("01"[not backlog.is_stale(*pair)] for pair in times)
    if kept is not None:
        assert flags == kept
    if name.startswith("backlog"):
        assert flags[5:26] == "0" * 21, "nothing that piled up is kept"
        assert flags.endswith("1111")
    if name.startswith("one frame"):
        assert flags.endswith("11111"), "a slow camera is no pause"
    if name.startswith("faster"):
        assert flags.endswith("1" * 100), "it does not wait for ever"


# Against a server


def test_a_stream_gives_new_frames_of_the_size_asked_for(camera):
    with open_source(camera.url, (160, 120)) as source:
        assert source.live
        frames = [next(source) for _ in range(10)]
        assert [frame.size for frame in frames] == [(160, 120)] * 10
        assert [frame.index for frame in frames] == list(range(10))
        assert len({number_in(frame.image) for frame in frames}) == 10
        assert lag(frames[-1], camera) < 15
        start = source.captured
        assert wait_until(lambda: source.captured >= start + 20)
        assert lag(next(source), camera) < 15, "a slow reader gets the newest"
        assert source.dropped >= 15
        assert 0 <= source.captured - source.delivered - source.dropped <= 1
        camera.turn("corrupt")
        assert len([next(source) for _ in range(20)]) == 20, "damaged pictures do not end it"
    with open_source(camera.url, None, limit=3) as source:
        assert source.size == (320, 240) and len(list(source)) == 3


@pytest.mark.parametrize("read_timeout_s", [1.0, 30.0])
def test_a_stall_is_reported_in_time_and_repaired(camera, read_timeout_s):
    with open_source(camera.url, read_timeout_s=read_timeout_s) as source:
        next(source)
        camera.turn("stall")
        silent_s, message = until_lost(source)
        assert silent_s < REPORTED_S
        assert "reading again" in message
        camera.turn("stream")
        frame = until_back(source.__next__)
        assert lag(frame, camera) < 15
        assert frame.index == source.delivered - 1


def test_a_disconnected_camera_comes_back_with_another_size(camera):
    with open_source(camera.url, None, **TIMEOUTS) as source:
        next(source)
        camera.turn("refuse")
        silent_s, _ = until_lost(source)
        assert silent_s < REPORTED_S
        camera.size = (640, 480)
        camera.turn("stream")
        frame = until_back(source.__next__)
        assert frame.size == source.size == (320, 240), "frames keep their size"
        assert lag(frame, camera) < 15
        assert source.describe()["camera_size"] == [640, 480]
        assert source.describe()["connections"] == 2


@pytest.mark.parametrize(
    ("mode", "film", "words"),
    [("404", False, "404"), ("404", True, "404"), ("silent", False, "sends nothing"),
     ("truncated", False, "ended before"),
     ("drip", False, "--open-timeout"), ("drip", True, "--open-timeout"), ("silent", True, "--open-timeout"),
     ("chunks", False, "--read-timeout"), ("closed", False, "refuses port 1"),
     ("closed", True, "refuses port 1")],
)  # fmt: skip
def test_a_server_that_sends_no_video_is_named_in_time(camera, mode, film, words):
    camera.turn(mode)
    url = "http://127.0.0.1:1/camera" if mode == "closed" else camera.url
    start_s = time.perf_counter()
    with pytest.raises(SourceError, match=words):
        open_source(url + ".mp4" * film, open_timeout_s=0.5, read_timeout_s=0.5)
    assert time.perf_counter() - start_s < 6, "and room for a busy machine"
    assert wait_until(lambda: not readers(), 3)


def test_exit_waits_for_all_hanging_cameras_together(monkeypatch):
    """Captures that hang for ever in a read: one deadline, not one each."""
    from labkit.sources import camera as room

    monkeypatch.setattr(room, "_EXIT_WAIT_S", 0.5)
    monkeypatch.setattr(room, "_open_cameras", set())
    scripts = [Script() for _ in range(4)]
    start_s = time.perf_counter()
    room._close_all()
    assert time.perf_counter() - start_s < 1.5
    for script in scripts:
        script.refusing = True
        for capture in script.captures:
            capture.end()


class Dialects(http.server.ThreadingHTTPServer):
    """Cameras of several makes, one under each path."""

    daemon_threads = True

    def __init__(self) -> None:
        import cv2

        self.asked = 0
        jpegs = [picture(k, (320, 240)) for k in range(8)]

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def start(self, kind: str, **headers: str) -> None:
                self.send_response(200)
                for name, value in {"Content-Type": kind, **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()

            def pictures(self, before: bytes, after: bytes, period_s: float = 0.02) -> None:
                for k in range(400):
                    self.wfile.write(
                        before.replace(b"LENGTH", b"%d" % len(jpegs[k % 8])) + jpegs[k % 8] + after
                    )
                    time.sleep(period_s)

            def do_GET(self) -> None:
                part = b"Content-Type: image/jpeg\r\nContent-Length: LENGTH\r\n\r\n"
                multipart = "multipart/x-mixed-replace; boundary="
                with contextlib.suppress(OSError):
                    match self.path.partition("?")[0].strip("/"):
                        case "plain":
                            self.start(multipart + "f")
                            self.pictures(b"--f\r\n" + part, b"\r\n")
                        case "nolength":
                            self.start(multipart + "f")
                            self.pictures(b"--f\nContent-Type: image/jpeg\n\n", b"\n")
                        case "after":
                            self.start("Multipart/X-Mixed-Replace;Boundary=--f", Content_Length="2147483647")
                            self.pictures(part, b"\r\n--f\r\n")
                        case "bare":
                            self.start("video/x-motion-jpeg")
                            self.pictures(b"", b"")
                        case "slow":
                            self.start(multipart + "f")
                            self.pictures(b"--f\r\n" + part, b"\r\n", 0.7)
                        case "index":
                            self.start("text/html\x1b[31m")
                            self.wfile.write(b"<html>log in</html>")
                        case "snapshot.jpg" | "cgi-bin/snapshot.cgi":
                            self.start("image/jpeg", Content_Length="1500")  # too short by a little
                            self.wfile.write(jpegs[int(time.time() * 20) % 8])
                        case "picture.png" | "picture.webp" | "octets" | "untold" | "busy" as path:
                            self.server.asked += 1
                            if path == "busy" and self.server.asked % 3 == 0:
                                return self.send_error(503)
                            _, suffix = os.path.splitext(path)
                            kind = {"octets": "application/octet-stream", "busy": "image/jpeg"}.get(path)
                            kind = f"image/{suffix[1:]}" if suffix else kind
                            number = self.server.asked % 8
                            decoded = cv2.imdecode(np.frombuffer(jpegs[number], np.uint8), cv2.IMREAD_COLOR)
                            data = cv2.imencode(suffix, decoded)[1].tobytes() if suffix else jpegs[number]
                            self.send_response(200)
                            if kind is not None:
                                self.send_header("Content-Type", kind)
                            self.send_header("Content-Length", str(len(data)))
                            self.end_headers()
                            self.wfile.write(data)
                        case "list.m3u8":  # whose film is not there
                            self.start("application/vnd.apple.mpegurl")
                            self.wfile.write(
                                b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfilm.ts?key=s3cret\n"
                            )
                        case "moved":  # to where nobody follows, with the key that it was asked with
                            self.send_response(302, f"Moved from {self.path}")
                            self.send_header("Location", f"rtsp://camera{self.path}")
                            self.end_headers()
                        case "auth" if self.headers.get("Authorization") is None:
                            self.send_response(401)
                            self.send_header("WWW-Authenticate", 'Basic realm="cam"')
                            self.end_headers()
                        case "auth":
                            assert self.headers["Authorization"] == "Basic YWRtaW46cEBzcyMx"
                            self.start(multipart + '"f"')
                            self.pictures(b"--f\r\n" + part, b"\r\n")

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def dialects():
    server = Dialects()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "path",
    [
        "plain",
        "nolength",
        "after",
        "bare",
        "snapshot.jpg",
        "cgi-bin/snapshot.cgi",
        "auth",
        "picture.png",
        "picture.webp",
        "octets",
        "untold",
        "busy",
    ],
)
@pytest.mark.extended
def test_dialects_of_cameras(dialects, path):
    user = "admin:p%40ss%231@" if path == "auth" else ""
    with open_source(f"http://{user}{dialects}/{path}", None) as source:
        assert {number_in(next(source).image) for _ in range(6)} <= set(range(8))
        assert source.live


def test_a_slow_camera_a_page_and_a_wrong_password_are_told_apart(dialects):
    with pytest.raises(SourceError, match=r"no picture for 0.3 s; .*--read-timeout"):
        open_source(f"http://{dialects}/slow", read_timeout_s=0.3)
    with open_source(f"http://{dialects}/slow", read_timeout_s=5) as source:
        assert len([next(source) for _ in range(4)]) == 4, "it is not reported as lost between its pictures"
    with pytest.raises(SourceError, match=r"sends text/[^\x1b]*, not a video; check the path, or log in"):
        open_source(f"http://{dialects}/index")
    with pytest.raises(SourceError, match=r"wants a user and password"):
        open_source(f"http://{dialects}/auth")


class RtspServer(socketserver.ThreadingTCPServer):
    """A camera that sends its stream inside the RTSP connection only, as behind a firewall."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, film: bytes) -> None:
        super().__init__(("127.0.0.1", 0), RtspTalk)
        self.film = film
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class RtspTalk(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while (request := self.rfile.readline().decode().split()) and self.answer(request[0]):
                pass

    def answer(self, method: str) -> bool:
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        more, body, status = [], "", "200 OK"
        if method == "OPTIONS":
            more = ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"]
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\n"
            body += "m=video 0 RTP/AVP 33\r\na=control:one\r\n"
            more = ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            self.server.asked.append(headers["transport"])
            if "TCP" not in headers["transport"]:
                status = "461 Unsupported Transport"
            more = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        head = [f"RTSP/1.0 {status}", f"CSeq: {headers['cseq']}", *more]
        self.wfile.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())
        if method == "PLAY":
            self.send_film()
        return method not in ("PLAY", "TEARDOWN")

    def send_film(self) -> None:
        step = 7 * 188
        starts = range(0, len(self.server.film), step)
        for number, at in enumerate(itertools.cycle(starts)):
            chunk = self.server.film[at : at + step]
            packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, number * 900, 7) + chunk
            self.wfile.write(struct.pack(">BBH", ord("$"), 0, len(packet)) + packet)
            time.sleep(8 / len(starts))  # 200 frames at 25 per second


def test_rtsp_is_read_over_tcp(tmp_path):
    path = films.film(tmp_path / "cam.ts", range(200), key_every=5)
    with RtspServer(path.read_bytes()) as server:
        address = f"rtsp://127.0.0.1:{server.server_address[1]}/stream"
        with open_source(address, None, **TIMEOUTS) as source:
            frame = next(source)
            assert source.live and frame.image.shape == (96, 128, 3)
        assert "TCP" in server.asked[0]
        server.shutdown()


def test_an_rtsp_camera_that_is_silent_is_not_told_as_one_with_a_wrong_password(camera):
    camera.turn("silent")
    with pytest.raises(SourceError, match=r"no video within 0\.4 s; .*--open-timeout"):
        open_source(camera.url.replace("http", "rtsp"), open_timeout_s=0.4, read_timeout_s=1.0)


def test_a_picture_whose_header_lies_about_its_size_costs_no_time(camera, capfd):
    """OpenCV fills gigabytes for 65535x65535 px, for up to a minute, and nothing ends its thread before."""
    with open_source(camera.url, read_timeout_s=0.5) as source:
        next(source)
        reader = readers()[0]
        camera.turn("lies")
        until_lost(source)
        camera.turn("stream")
        assert until_back(source.__next__).size == (640, 480)
    reader.join(3)
    assert not reader.is_alive() and capfd.readouterr().err == ""


def test_pictures_are_found_whatever_is_between_them():
    """Garbage, thumbnails inside, one that is cut off, one that is damaged; a byte at a time."""
    from labkit.sources.jpeg_stream import take_jpeg

    first, second = picture(5, (320, 240)), picture(9, (64, 48))
    with_thumbnail = first[:2] + b"\xff\xe1" + (len(second) + 2).to_bytes(2, "big") + second + first[2:]
    sent = (
        b"--x\r\n" + first + b"\xff\xd8junk" + with_thumbnail + second[: len(second) // 2] + second + second
    )
    buffer, found = bytearray(), []
    for k in range(len(sent)):
        buffer += sent[k : k + 1]
        while (one := take_jpeg(buffer)) is not None:
            found.append(one)
    assert found[0] == first
    assert with_thumbnail in found
    assert found[-1] == second


def test_credentials_stay_hidden(camera):
    url = camera.url.replace("http://", "http://joe:s3cret@") + "?token=s3cret"
    with open_source(url, **TIMEOUTS) as source:
        next(source)
        camera.turn("refuse")
        _, message = until_lost(source)
        shown = f"{message} {source.spec} {source.describe()} {[t.name for t in threading.enumerate()]}"
    assert "s3cret" not in shown
    with pytest.raises(SourceError) as caught:
        open_source(url, **TIMEOUTS)
    assert "s3cret" not in str(caught.value)
    assert b"token=s3cret" in camera.requests[0], "but the camera gets them"


def test_nothing_kept_of_a_camera_has_its_credentials(camera, tmp_path):
    """Rows, exports, report, what a notebook shows of them; names and files of a fleet's folders."""
    import pandas as pd
    from records_made_up import made_up_comparison, made_up_run

    from labkit.bench.frames import collect
    from labkit.core.types import Workload
    from labkit.fleet.fleet_plan import Plan
    from labkit.fleet.run_fleet import _make_run_folder
    from labkit.fleet.stream_recorder import Recorder, folder_name
    from labkit.fleet.streams import EndOfStream
    from labkit.fleet.sweep.grid import Grid
    from labkit.pipelines.ladder import rung
    from labkit.results.report.report_page import write_report
    from labkit.results.store import Store
    from labkit.results.sweeps import keep_point, sweep_points

    url = camera.url.replace("http://", "http://josephine:s3cret@").replace("/camera", "/s3cret?key=s3cret")
    source = collect(url, n=2, **TIMEOUTS).source
    grid, plan = Grid(("detr_opencv_cpu",), source=url), Plan((url,), rung("detr_opencv_cpu"), Workload())
    with Store(tmp_path / "lab.sqlite") as store:
        run, comparison = store.add(made_up_run(source=source)), store.add(made_up_comparison(source=source))
        for point in grid.points:
            measured = made_up_run(seed=1, source=source)
            keep_point(store, grid.name, point.key, point.describe(), measured)
        shown = [run, comparison, run.to_json(), comparison.to_json()]
        shown += [grid, plan, sweep_points(store, grid.name)]
        store.export(tmp_path / "export")
    write_report([run], [comparison], tmp_path / "report.html")
    folder = _make_run_folder(plan, tmp_path / "fleet", {})
    (stream,) = plan.streams()
    Recorder(stream, folder / folder_name(stream)).close(EndOfStream(None, "", 0, "it ended", failed=True))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    shown += [pd.read_parquet(path).to_csv() for path in files if path.suffix == ".parquet"]
    texts = [*map(str, files), *map(repr, shown), *map(str, shown)]
    texts += [path.read_bytes().decode("latin-1") for path in files]
    assert len(files) >= 8 and "127.0.0.1" in repr(shown)
    assert not [text[:80] for text in texts if "s3cret" in text or "josephine" in text]


def test_a_refusal_that_repeats_the_address_is_told_in_other_words(dialects):
    with pytest.raises(SourceError, match=r"\*\*\* cannot be opened: it answers 302 Found;") as caught:
        open_source(f"http://{dialects}/moved?key=s3cret")
    assert "s3cret" not in str(caught.value)


def test_ffmpeg_prints_no_address(dialects, capfd):
    with pytest.raises(SourceError):
        open_source(f"http://joe:s3cret@{dialects}/list.m3u8", open_timeout_s=0.5, read_timeout_s=0.5)
    assert "s3cret" not in capfd.readouterr().err


# Closing


def test_close_is_quick_from_any_thread_and_leaves_none(camera):
    source = open_source(camera.url)
    closer = threading.Timer(0.2, source.close)
    closer.start()
    assert list(source) and list(source) == []
    closer.join()
    start_s = time.perf_counter()
    source.close()
    assert time.perf_counter() - start_s < 1.0
    assert wait_until(lambda: not readers(), 3)


def test_close_does_not_wait_for_a_hanging_camera(camera):
    source = open_source(camera.url, **TIMEOUTS)
    next(source)
    camera.turn("stall")
    time.sleep(0.1)  # lets the reader get stuck in its read
    start_s = time.perf_counter()
    source.close()
    assert time.perf_counter() - start_s < 1.0
    assert wait_until(lambda: not readers(), TIMEOUTS["read_timeout_s"] + 2), "gone after the read's deadline"


def test_a_forgotten_source_lets_go_of_its_camera(camera):
    source = open_source(camera.url)
    next(source)
    del source
    gc.collect()
    assert wait_until(lambda: not readers(), 3)


@pytest.mark.extended
def test_twenty_cycles_leave_nothing_behind(camera):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are counted in /proc")

    def cycle() -> None:
        with open_source(camera.url) as source:
            next(source)

    def left() -> tuple[int, int]:
        assert wait_until(lambda: not readers(), 5)
        gc.collect()
        ours = [p for p in Path("/proc/self/fd").iterdir() if not is_of(p, camera)]
        return threading.active_count() - camera.serving, len(ours)

    def is_of(descriptor: Path, camera) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return int(descriptor.name) in camera.descriptors
        return True  # closed meanwhile

    cycle()  # what the libraries open once and keep
    before = left()
    for _ in range(20):
        cycle()
    assert left() == before


def test_an_open_camera_does_not_stop_python_from_ending(camera):
    code = (
        "from labkit.sources.openers import open_source; "
        f"s = open_source({camera.url!r}); print(next(s).size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(640, 480)" in done.stdout


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("path", ["clip.avi", "download?id=7"])
def test_a_recording_behind_an_address_is_read_whole(tmp_path, path):
    from test_sources import clip, levels

    clip(tmp_path / "clip.avi", 12).rename(tmp_path / path.partition("?")[0])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_source(f"http://127.0.0.1:{server.server_port}/{path}", None) as source:
            assert not source.live
            assert levels(source) == list(range(12))
        server.shutdown()


@pytest.mark.parametrize("sent", ["", "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n    ftypisom"])
def test_a_film_that_stalls_is_told_with_its_deadlines_and_no_password(sent):
    import traceback

    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    kept[-1].sendall(sent.encode())

        threading.Thread(target=serve, daemon=True).start()
        address = f"http://joe:s3cret@127.0.0.1:{server.getsockname()[1]}/clip.mp4"
        with pytest.raises(SourceError, match=r"the host stalled.* --open-timeout \(0\.3 s\)") as caught:
            open_source(address, open_timeout_s=0.3, read_timeout_s=0.3)
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# Soaks


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot pause a process")
@pytest.mark.extended
def test_a_process_that_was_paused_gets_no_stale_frames(camera):
    """The client is stopped for 4 s; what the server sent meanwhile must not come out afterwards."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from faulty_camera import number_in\n"
        "from labkit.core.errors import SourceLost\n"
        "from labkit.sources.openers import open_source\n"
        f"source = open_source({camera.url!r})\n"
        "while True:\n"
        "    try: print(number_in(next(source).image), flush=True)\n"
        "    except SourceLost: pass\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    try:
        for _ in range(20):
            client.stdout.readline()
        os.kill(client.pid, signal.SIGSTOP)
        paused_at = camera.sent
        time.sleep(4)
        os.kill(client.pid, signal.SIGCONT)
        resumed_at = camera.sent
        after = [int(client.stdout.readline()) for _ in range(30)]
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    fresh = [n for n in after if n > paused_at + 3]  # a few lines were in the pipe already
    assert min(fresh) > resumed_at - 15, (paused_at, resumed_at, after)
