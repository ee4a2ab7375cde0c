"""Guards around a Ray that is started here: a deferred Ctrl-C, and an end with its owner."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit.core.child import LOOK_EVERY_S, lives

LONGEST_PAUSE_S = 30.0
"""Between two looks at which processes Ray has; a look takes some milliseconds."""


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block, as a half-started Ray may crash; a second one acts at once.

    A termination signal means afterwards what it meant before: Ray would print a stack of C++ at one.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or None in before.values():
        yield
        return
    interrupted = terminated = False

    def handle(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    if before[signal.SIGINT] != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handle)
    try:
        with _handler_kept(signal.SIGTERM):
            yield
    except SystemExit:  # what Ray makes of a termination signal while it starts
        terminated = interrupted = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if terminated and callable(before[signal.SIGTERM]):
        signal.raise_signal(signal.SIGTERM)  # whoever tells it from Ctrl-C is to hear of it
    if interrupted:
        raise KeyboardInterrupt


@contextmanager
def _handler_kept(number: int) -> Iterator[None]:
    """Keep Python's handling of a signal, over which Ray's library sets a function that prints a stack.

    Ray goes on starting for seconds after that, in which the signal may come.
    """
    if sys.platform != "linux" or not callable(signal.getsignal(number)):
        yield
        return
    libc, own, over = ctypes.CDLL(None), ctypes.create_string_buffer(256), threading.Event()
    libc.sigaction(number, None, own)

    def keep() -> None:
        while not over.wait(0.005):
            libc.sigaction(number, own, None)

    keeper = threading.Thread(target=keep, name="labkit keeps a signal handler", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


@contextmanager
def ended_with_owner(folder: Path) -> Iterator[None]:
    """See that Ray's processes end, and its folder goes, even if this process is killed in the block.

    Ray's own agents outlive a process that was killed; a small process of its own ends them then.
    """
    command = [sys.executable, "-m", "labkit.fleet.guards", str(os.getpid()), str(folder)]
    guard = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        guard.kill()
        guard.wait()


def end_after(owner: int, folder: Path) -> None:
    """Wait for a process to end, then kill what it had started, and delete the folder."""
    import psutil

    started: set[psutil.Process] = set()
    began_s, next_look_s = time.monotonic(), 0.0
    while lives(owner):
        now_s = time.monotonic()
        if now_s >= next_look_s:
            with suppress(psutil.Error):
                started |= set(psutil.Process(owner).children(recursive=True))
            next_look_s = now_s + min(LONGEST_PAUSE_S, 0.5 * (now_s - began_s))
        time.sleep(LOOK_EVERY_S)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()):
                started.add(process)
    for process in started - {psutil.Process()}:
        with suppress(psutil.Error):
            process.kill()  # psutil refuses where the process id is another's by now
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    end_after(int(sys.argv[1]), Path(sys.argv[2]))
