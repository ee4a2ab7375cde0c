"""Soaks of network cameras (`make soak`): damaged streams, a cable that is pulled, four hours of faults.

Each prints its figures.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import numpy as np
import psutil
import pytest

from labkit.core.errors import LabError, SourceLost
from labkit.live import player as live_player
from labkit.live.settings import LiveSettings
from labkit.sources.openers import open_source

from faulty_camera import HEAD, FaultyCamera, picture  # isort: skip

OPEN_S, READ_S = 2.0, 0.5
SEEDS = 20
Bytes = Callable[[random.Random], bytes]


def part(content: bytes, length: object = None) -> bytes:
    told = b"Content-Length: %s\r\n" % str(len(content) if length is None else length).encode()
    return b"--picture\r\nContent-Type: image/jpeg\r\n" + told + b"\r\n" + content + b"\r\n"


PICTURES = [picture(number, (160, 120)) for number in range(80)]
STREAM = HEAD + b"".join(map(part, PICTURES))


def garbage(rng: random.Random, most: int = 3000) -> bytes:
    return rng.randbytes(rng.randrange(1, most))


def cut(start: int, end: int) -> Bytes:
    return lambda rng: STREAM[: rng.randrange(start, end)]


def flipped(rng: random.Random, content: bytes, times: int) -> bytes:
    spoiled = bytearray(content)
    for _ in range(times):
        spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def each(change: Callable[[random.Random, bytes], bytes]) -> Bytes:
    """A stream of which every picture's part is changed."""
    return lambda rng: HEAD + b"".join(change(rng, content) for content in PICTURES)


def of_size(rng: random.Random, content: bytes) -> bytes:
    """A picture whose header tells other sizes."""
    at = content.index(b"\xff\xc0") + 5
    return part(content[:at] + rng.randbytes(4) + content[at + 4 :])


def zeroed(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) - 50)
    return part(content[:at] + bytes(50) + content[at + 50 :])


FAULTS: dict[str, Bytes] = {
    "ends in its header": cut(1, len(HEAD)),
    "ends in a boundary": lambda rng: STREAM[: len(HEAD) + rng.randrange(1, 11)],
    "ends in the first picture": lambda rng: STREAM[: len(HEAD) + rng.randrange(80, len(PICTURES[0]))],
    "ends anywhere": cut(1, len(STREAM)),
    "closes at once": lambda rng: b"",
    "bits flipped in the header": lambda rng: flipped(rng, HEAD, 4) + STREAM[len(HEAD) :],
    "bits flipped in pictures": each(lambda rng, content: part(flipped(rng, content, 20))),
    "bits flipped anywhere": lambda rng: flipped(rng, STREAM, 200),
    "zeros in pictures": each(zeroed),
    "garbage for a header": lambda rng: garbage(rng) + STREAM,
    "garbage for everything": lambda rng: garbage(rng, 60_000),
    "garbage between pictures": each(lambda rng, content: part(content) + garbage(rng)),
    "no boundaries": each(lambda rng, content: content),
    "boundaries alone": each(lambda rng, content: b"--picture\r\n" * rng.randrange(1, 50)),
    "lengths too small": each(lambda rng, content: part(content, rng.randrange(len(content)))),
    "lengths too large": each(lambda rng, content: part(content, len(content) + rng.randrange(1, 10**6))),
    "lengths that are none": each(lambda rng, content: part(content, rng.choice([-1, "x", 10**30, 1e9, ""]))),
    "empty pictures": each(lambda rng, content: part(content[: rng.randrange(3)])),
    "half pictures": each(lambda rng, content: part(content[: rng.randrange(len(content))])),
    "sizes that change": each(
        lambda rng, content: part(picture(3, (rng.randrange(16, 400), rng.randrange(16, 400))))
    ),
    "sizes that lie": each(of_size),
    "a page": lambda rng: b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>" + garbage(rng),
    "a refusal": lambda rng: b"HTTP/1.0 %d No\r\n\r\n" % rng.choice([301, 401, 403, 404, 500, 503, 999]),
    "a header without an end": lambda rng: (
        b"HTTP/1.0 200 OK\r\n" + b"X-%d: y\r\n" % rng.randrange(99) * 20_000
    ),
}


PLAYED: dict[str, str] = {}
"""Address of each player: the fault that it plays and its seed."""


class Player:
    """Sends each client the bytes of one fault, at a pace and to an end that vary."""

    def __init__(self, content: bytes, rng: random.Random) -> None:
        # Most come as a camera's pictures do, some at once.
        self._content, self._piece = content, max(1, len(content) // rng.choice([80, 40, 1]))
        self._stays = rng.random() < 0.5  # silent at its end, where others hang up
        self._over = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/camera"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                threading.Thread(target=self._serve, args=(self._server.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            for at in range(0, len(self._content), self._piece):
                connection.sendall(self._content[at : at + self._piece])
                if self._over.wait(0.03):
                    return
            if self._stays:
                self._over.wait(30)

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def outcome(name: str, seed: int) -> tuple[str, str, float]:
    """Kind of fault, how the source ended, and seconds until then."""
    rng = random.Random(f"{name} {seed}")
    begun_s = time.monotonic()
    with Player(FAULTS[name](rng), rng) as player:
        PLAYED[player.url] = f"{name} {seed}"
        try:
            with open_source(player.url, (64, 48), open_timeout_s=OPEN_S, read_timeout_s=READ_S) as source:
                for frame, _ in zip(source, range(3), strict=False):
                    assert frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8
            how = "frames"
        except LabError as error:
            how = "an error in a sentence" if str(error) and "\x1b" not in str(error) else "no sentence"
        except Exception as error:
            how = f"{type(error).__name__}: {error}"
    return name, how, time.monotonic() - begun_s


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_kind_of_damaged_stream_ends_in_time(capsys):
    assert len(FAULTS) == 24
    before = threading.active_count()
    with ThreadPoolExecutor(6) as pool:
        jobs = [(name, seed) for name in FAULTS for seed in range(SEEDS)]
        found = list(pool.map(lambda job: outcome(*job), jobs))
    longest_s = max(seconds for *_, seconds in found)
    ends = Counter(how for _, how, _ in found)
    deadline_s = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline_s:
        time.sleep(0.1)
    with capsys.disabled():
        print(f"\n{len(FAULTS)} kinds x {SEEDS} seeds of source faults: {dict(ends)}")
        with_frames = sorted({name for name, how, _ in found if how == "frames"})
        print(f"longest {longest_s:.1f} s; frames came from: {', '.join(with_frames)}")
        names = [thread.name for thread in threading.enumerate()][before:]
        print(f"threads left: {[PLAYED.get(name.removeprefix('labkit camera '), name) for name in names]}")
    assert set(ends) <= {"frames", "an error in a sentence"}
    assert longest_s < 10 * (OPEN_S + 3 * READ_S)  # ten times, for a machine that is busy
    assert threading.active_count() <= before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_times_the_cable_is_pulled(capsys):
    lost_s, back_s, descriptors = [], [], None
    with (
        FaultyCamera() as camera,
        open_source(camera.url, open_timeout_s=2.0, read_timeout_s=1.0) as source,
    ):
        for cycle in range(50):
            camera.turn("refuse" if cycle % 2 else "stall")
            begun_s = time.perf_counter()
            with contextlib.suppress(SourceLost):  # which ends the loop; a source that is lost does not end
                for frame in source:
                    begun_s = frame.t_s
            lost_s.append(time.perf_counter() - begun_s)
            camera.turn("stream")
            begun_s = time.perf_counter()
            while True:
                with contextlib.suppress(SourceLost):
                    next(source)
                    break
            back_s.append(time.perf_counter() - begun_s)
            for _ in range(5):
                next(source)
            if cycle == 4 and os.path.isdir("/proc/self/fd"):
                descriptors = len(os.listdir("/proc/self/fd")) - len(camera.descriptors)
        left = None if descriptors is None else len(os.listdir("/proc/self/fd")) - len(camera.descriptors)
        balance = source.captured - source.delivered - source.dropped
    with capsys.disabled():
        print(
            f"\n50 unplug cycles: loss told within {max(lost_s):.2f} s, back within {max(back_s):.2f} s, "
            f"open files {descriptors} -> {left}"
        )
    assert max(lost_s) < 5 and max(back_s) < 10
    assert 0 <= balance <= 1
    assert descriptors is None or left <= descriptors + 3


SOAK_S, PHASE_S = 4 * 3600.0, 10.0


@pytest.mark.slow
@pytest.mark.timeout(5 * 3600)
def test_four_hours_of_live_detection_from_a_camera_with_faults(capsys):
    """Between faults detections go on; memory, threads and open files stay what they were."""
    process = psutil.Process()
    settings = LiveSettings(rung="resnet_opencv_cpu", second=None, model_set="lab", size=(160, 120))
    used: list[tuple[float, int, int]] = []  # MB, threads, open files, after each good phase
    with FaultyCamera(size=(160, 120), fps=15) as camera:

        def opened(size):
            return open_source(camera.url, size, open_timeout_s=2.0, read_timeout_s=1.0)

        player = live_player.Player(opened, settings, source_name="faulty")
        player.start()
        until_s = time.monotonic() + SOAK_S
        for fault in cycle(("stall", "corrupt", "refuse", "truncated", "silent")):
            camera.turn("stream")
            time.sleep(PHASE_S / 2)  # to recover; how fast is another test's question
            before = player.revision
            time.sleep(PHASE_S / 2)
            assert player.running and player.revision > before
            own = process.num_threads() - camera.serving, process.num_fds() - len(camera.descriptors)
            used.append((process.memory_info().rss / 1e6, *own))
            if time.monotonic() > until_s:
                break
            camera.turn(fault)
            time.sleep(PHASE_S)
        player.stop()
        assert player.wait_until_ended(10.0)
    first, last = (np.median(part, axis=0) for part in (used[len(used) // 10 :][:5], used[-5:]))
    with capsys.disabled():
        print(f"\n{SOAK_S / 3600:g} h, {len(used)} phases: MB, threads, open files {first} -> {last}")
    assert last[0] < first[0] + 50
    assert (last[1:] <= first[1:] + 3).all()
