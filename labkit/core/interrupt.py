"""Ctrl-C, deferred where it would leave something half done, and the end of a command that it stopped."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from labkit.core.terminal import printable

ends_process = False
"""True in a process that ends with its first Ctrl-C, and with it whatever is half done."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was under way in a sentence; a notebook shows that and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {printable(str(self))}"]


@contextmanager
def interrupt_after(work: str) -> Iterator[None]:
    """Defer Ctrl-C to the end of the block, except where it ends the process; a second one acts at once.

    A torch that is half imported cannot be imported again in the same process; a half-started Ray crashes.

    Args:
        work: what is under way, such as "the lab was loading".
    """
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if ends_process or not in_main or before in (None, signal.SIG_IGN):
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
        raise Interrupted(f"stopped while {work}")


def abandonable(function: Callable[[], Any]) -> None:
    """Call a function in a thread, which Ctrl-C leaves behind; for a process that ends then.

    Raises:
        BaseException: what the function raises.
    """
    raised: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            function()
        except BaseException as error:  # an exit would else end the thread alone
            raised.append(error)
        done.set()
        threading.Event().wait()  # for ever, as Linux may end processes with the thread that started them

    threading.Thread(target=run, name="labkit may be left behind", daemon=True).start()
    while not done.wait(0.1):  # Windows lets no signal in while a wait has no end
        pass
    if raised:
        raise raised[0]


def leave(code: int) -> NoReturn:
    """End this process without taking its libraries down: that takes seconds, and may hang or crash."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(code)
