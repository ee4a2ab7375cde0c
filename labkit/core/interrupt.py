"""Ctrl-C, deferred where it would leave something half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from labkit.core.terminal import printable


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was under way in a sentence; a notebook shows that and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {printable(str(self))}"]


@contextmanager
def interrupt_after() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block; a second one acts at once.

    A torch that is half imported cannot be imported again in the same process.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before in (None, signal.SIG_IGN):
        yield
        return
    interrupted = False

    def handle(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise Interrupted("stopped while the lab was loading")
