"""Stand-ins for the live view's neighbours: a source on a string, a rung behind a gate, a page."""

import threading
import time
import weakref

import numpy as np

from labkit.core.trace import span
from labkit.core.types import Detections, Preparation, Rung
from labkit.live.inference import Ready
from labkit.live.player import Player
from labkit.live.settings import LiveSettings
from labkit.live.view import View
from labkit.sources.source import RawFrame, Source

SIZE = (64, 48)


def wait_for(condition, timeout_s=30.0):
    """Polls until `condition()` is true; whether it became so."""
    end = time.perf_counter() + timeout_s
    while time.perf_counter() < end:
        if condition():
            return True
        time.sleep(0.002)
    return bool(condition())


class Pushed:
    """A live feed: a test pushes each picture, or `ticking` ones come every few ms."""

    live, length, fps = True, None, None

    def __init__(self, every_s=None, size=SIZE):
        self.every_s, self.size = every_s, size
        self.news = threading.Condition()
        self.waiting = []
        self.captured = self.dropped = 0
        self.closed = threading.Event()

    def push(self, value=0):
        with self.news:
            self.waiting = [value]
            self.captured += 1
            self.news.notify_all()

    def take(self):
        if self.every_s is not None:
            if self.closed.wait(self.every_s):
                return None
            self.captured += 1
            return self._taken(self.captured % 251)
        with self.news:
            self.news.wait_for(lambda: self.waiting or self.closed.is_set())
            return None if self.closed.is_set() else self._taken(self.waiting.pop())

    def _taken(self, value):
        width, height = self.size
        return RawFrame(np.full((height, width, 3), value, np.uint8), time.perf_counter())

    def describe(self):
        return {}

    def close(self):
        self.closed.set()
        with self.news:
            self.news.notify_all()

    def source(self, size=SIZE):
        return Source(self, "pushed", size)


def ticking(size=SIZE):
    """Opens a camera that gives a picture every 4 ms."""
    return Pushed(every_s=0.004, size=size).source(size)


class Gate:
    """A network that answers when the test lets it; `seen` holds the frames it was given."""

    def __init__(self, is_open=True):
        self.seen = []
        self.permits = threading.Semaphore(0)
        self.is_open = is_open

    def infer(self, frame):
        self.seen.append(frame)
        if not self.is_open:
            self.permits.acquire(timeout=10)


def gated(frames, net):
    for frame in frames:
        with span("infer", frame):
            net.infer(frame)
        yield frame, boxes(frame.size)


def reading_ahead(frames, net):
    """A schedule that has three frames in hand before it answers the first."""
    hand = []
    for frame in frames:
        net.infer(frame)
        hand.append(frame)
        if len(hand) == 3:
            first = hand.pop(0)
            yield first, boxes(first.size)
    for frame in hand:
        yield frame, boxes(frame.size)


def grouped(frames, net):
    """A schedule that answers four frames from one pass of 40 ms."""
    for group in zip(*[iter(frames)] * 4, strict=False):
        with span("infer", group[0]):
            time.sleep(0.04)
        yield from ((frame, boxes(frame.size)) for frame in group)


def failing(frames, net):
    for _ in frames:
        raise ValueError("the engine broke")
    yield


def boxes(size, name="cup"):
    width, height = size
    xyxy = np.array([[1, 1, width - 2, height - 2]], np.float32)
    return Detections(xyxy, np.array([0.9], np.float32), np.array([0]), (name,), size)


def rung_of(name, schedule=gated):
    return Rung(name, 1, schedule, Preparation("detect"), None, name, "a stand-in")


def preparing(**nets):
    """Prepares the named gates; "broken" stands for a rung that fails, "ahead" for one that reads ahead."""

    def prepare(settings, report):
        schedules = {"broken": failing, "ahead": reading_ahead, "grouped": grouped}
        rungs = tuple(rung_of(name, schedules.get(name, gated)) for name in settings.rungs)
        return Ready(rungs, tuple(nets.get(name, Gate()) for name in settings.rungs), ("made up",))

    return prepare


def player_of(open_source=ticking, rung="a", second=None, prepare=None, **more):
    settings = LiveSettings(rung=rung, second=second, model_set="lab", size=SIZE, threshold=0.5)
    more = {"source_name": "made up", **more}
    return until_the_end(Player(open_source, settings, prepare=prepare or preparing(), **more))


def started(*args, **more):
    player = player_of(*args, **more)
    player.start()
    return player


MADE: list[weakref.ref] = []
"""Players and views of the running test."""


def until_the_end(made):
    MADE.append(weakref.ref(made))
    return made


def stop_all():
    """Stops what a test has left running, which would hold up every later one."""
    while MADE:
        if (made := MADE.pop()()) is not None:
            made.stop()


class FakePage:
    """What a browser does, from outside: reachable messages, and acknowledges as it is told.

    Attributes:
        acks, pongs: how it behaves.
        told: what its pongs say besides.
        ahead_s: how far its clock is ahead of this process's.
        frames, states, stats: what it was sent.
    """

    def __init__(self, name="page", acks=True, pongs=True):
        self.name, self.acks, self.pongs = name, acks, pongs
        self.view, self.ahead_s, self.told = None, 0.0, {}
        self.frames, self.states, self.stats, self.taken = [], [], [], []
        self.jpegs = []

    def send(self, message, buffers):
        """Given to the view as what carries its messages."""
        kind = message["type"]
        if kind == "frame":
            self.frames.append(message)
            self.jpegs.append(buffers[0])
            del self.jpegs[:-3]
            if self.acks:
                self.say("ack", n=message["n"], painted=True)
        elif kind == "ping" and self.pongs:
            clock_ms = 1e3 * (time.perf_counter() + self.ahead_s)
            self.say("pong", n=message["n"], after=message["after"], clock_ms=clock_ms, **self.told)
        elif kind == "state":
            self.states.append(message)
        elif kind == "stats":
            self.stats.append(message)
        elif kind == "taken":
            self.taken.append(message)

    def say(self, kind, buffers=(), **more):
        self.view.receive({"type": kind, "page": self.name, **more}, buffers)


def view_of(page, player=None, folder=None, **more):
    page.view = until_the_end(View(player or player_of(), page.send, folder=folder, **more))
    return page.view


def shown_on(page, *args, **more):
    """A view that runs, and that the page looks at."""
    view = view_of(page, *args, **more)
    page.say("hello", visible=True)
    view.start()
    return view
