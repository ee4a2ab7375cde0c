"""The protocol between a view and its pages: two frames in flight, acknowledged, timed out.

A page is one browser tab; several may show the same view. Every page that shows pictures
acknowledges each frame. Messages arrive in order, so a page that answers a ping has received
every frame sent before it: only then does an unacknowledged frame time out. A page that
answers nothing is thus never owed more than two frames, and is forgotten after a while.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_IN_FLIGHT = 2
ACK_TIMEOUT_S = 1.0
SILENT_S = 1.6
"""A page that has not answered for so long is gone: closed, crashed, or cut off."""
MOST_PAGES = 64
MOST_MESSAGES_S = 1000
"""Messages of one page in a second that are listened to; a busy page sends a tenth of it."""


@dataclass(eq=False)
class _Page:
    heard_s: float
    visible: bool = True
    received: int = 0  # number of the last frame that is known to have arrived
    counted_s: float = 0.0
    messages: int = 0  # since then


@dataclass(eq=False)
class _Flight:
    sent_s: float
    captured_s: float
    awaited: set[str] = field(default_factory=set)  # pages that have not acknowledged it yet
    seen: bool = False  # whether one has


class Connection:
    """Connected pages and the frames sent to them; thread-safe.

    Attributes:
        ever_heard: a page has said something at some time.
        sent, timed_out: frames so far.
        most_in_flight: largest number of frames on their way at once.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pages: dict[str, _Page] = {}
        self._flights: dict[int, _Flight] = {}
        self._left: deque[str] = deque(maxlen=64)
        self.ever_heard = False
        self.sent = self.timed_out = self.most_in_flight = 0

    def heard(self, page: str, *, visible: bool | None = None, received: int | None = None) -> None:
        """Notes a sign of life of a page, known or new; one that has left is as silent as before."""
        with self._lock:
            if page in self._left:
                return
            known = self._pages.setdefault(page, _Page(self._clock(), received=self.sent))
            known.heard_s, self.ever_heard = self._clock(), True
            if visible is not None:
                known.visible = visible
            if received is not None:
                known.received = max(known.received, min(received, self.sent))

    def listens_to(self, page: str, *, hello: bool = False) -> bool:
        """False if a message is not to be heard.

        It is one too many of its page within a second, or of one page too many, or older than the
        goodbye of its page; who says hello again is there again.
        """
        with self._lock:
            if hello and page in self._left:
                self._left.remove(page)
            known = self._pages.get(page)
            if known is None:
                return page not in self._left and len(self._pages) < MOST_PAGES
            now_s = self._clock()
            if now_s - known.counted_s >= 1.0:
                known.counted_s, known.messages = now_s, 0
            known.messages += 1
            return known.messages <= MOST_MESSAGES_S

    def left(self, page: str) -> None:
        """Forgets a page that says goodbye."""
        with self._lock:
            self._pages.pop(page, None)
            self._left.append(page)
            self._land()

    def excuse_silence(self) -> None:
        """Counts the silence from now: until now no answer could have been heard."""
        with self._lock:
            for page in self._pages.values():
                page.heard_s = self._clock()

    def forget_silent(self) -> None:
        """Forgets the pages that have said nothing for SILENT_S."""
        with self._lock:
            now_s = self._clock()
            for name, page in list(self._pages.items()):
                if now_s - page.heard_s > SILENT_S:
                    del self._pages[name]

    @property
    def pages(self) -> int:
        """Number of connected pages."""
        with self._lock:
            return len(self._pages)

    @property
    def first_page(self) -> str | None:
        """The page that has been there longest; the browser's camera is taken from it."""
        with self._lock:
            return next(iter(self._pages), None)

    @property
    def in_flight(self) -> int:
        """Frames sent and neither acknowledged nor timed out."""
        with self._lock:
            self._land()
            return len(self._flights)

    def ready(self) -> bool:
        """True if a frame may be sent: somebody looks, and fewer than two are on their way."""
        with self._lock:
            self._land()
            looking = any(page.visible for page in self._pages.values())
            return looking and len(self._flights) < MAX_IN_FLIGHT

    def depart(self, captured_s: float) -> int:
        """Registers a frame that is about to be sent; gives its number."""
        with self._lock:
            self.sent += 1
            looking = {name for name, page in self._pages.items() if page.visible}
            self._flights[self.sent] = _Flight(self._clock(), captured_s, looking)
            self.most_in_flight = max(self.most_in_flight, len(self._flights))
            return self.sent

    def acknowledge(self, page: str, number: int) -> float | None:
        """Notes that a page has dealt with a frame.

        Returns:
            The age of the picture in s, from its capture until now; None unless this is the first
            acknowledgement of a frame in flight.
        """
        self.heard(page, received=number)
        with self._lock:
            flight = self._flights.get(number)
            if flight is None or page not in flight.awaited:
                return None
            first, flight.seen = not flight.seen, True
            flight.awaited.discard(page)
            self._land()
            return self._clock() - flight.captured_s if first else None

    def _land(self) -> None:
        """Takes frames that nobody is still to acknowledge, or that timed out, out of the air."""
        now_s = self._clock()
        for number, flight in list(self._flights.items()):
            flight.awaited &= self._pages.keys()
            if not flight.awaited:
                del self._flights[number]
            elif now_s - flight.sent_s >= ACK_TIMEOUT_S and all(
                self._pages[page].received >= number for page in flight.awaited
            ):
                del self._flights[number]
                self.timed_out += 1
