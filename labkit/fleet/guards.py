"""Guards around a Ray that is started here: Ctrl-C while it starts, and an end with its owner."""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from labkit.core import interrupt
from labkit.core.child import LOOK_EVERY_S, end_marked, environment, lives

MARK = "LABKIT_RAY"
"""Variable with the folder of a Ray, which all its processes inherit; their command lines change."""
LONGEST_END_S = 5.0


def init(ray: Any, address: str, **settings: Any) -> None:
    """Call `ray.init`, quietly, where Ctrl-C may come.

    A command ends at once, and a thread with a half-started Ray ends with it. Elsewhere Ctrl-C is
    deferred. What a termination signal means stays what it was. On a busy machine Ray gives up after
    30 s that nobody can set: then it is started once more, with all that it needs in memory by now.
    """
    settings = {"logging_level": logging.ERROR, "log_to_driver": False, **settings}
    call = partial(_started, ray, address, settings)
    with _handler_kept(signal.SIGTERM), interrupt.interrupt_after("Ray was starting"):
        if not interrupt.ends_process:
            call()
            return
        try:
            with _native_errors_hidden():
                interrupt.abandonable(call)
        except KeyboardInterrupt:
            atexit.unregister(ray.shutdown)
            raise


@contextmanager
def _native_errors_hidden() -> Iterator[None]:
    """Keep native code from printing to standard error, where Python goes on to print.

    Ray's library holds Python's lock while it starts, so a signal may meet its handler, which prints a stack.
    """
    own, kept = sys.stderr, os.dup(2)
    own.flush()
    with open(os.devnull, "w") as nowhere, open(kept, "w", buffering=1, errors=own.errors) as shown:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = shown
        try:
            yield
        finally:
            sys.stderr = own
            os.dup2(kept, 2)


def _started(ray: Any, address: str, settings: dict[str, Any]) -> None:
    try:
        ray.init(address, **settings)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        ray.init(address, **settings)


@contextmanager
def _handler_kept(number: int) -> Iterator[None]:
    """Keep Python's handling of a signal, over which Ray's library sets a function that prints a stack.

    Ray goes on starting for seconds after that, in which the signal may come. Ray's handler in Python,
    set in the main thread alone, goes at the end of the block.
    """
    before = signal.getsignal(number)
    if sys.platform != "linux" or not callable(before):
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
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


@contextmanager
def ended_with_owner(folder: Path, shutdown: Callable[..., None]) -> Iterator[None]:
    """End Ray after the block, even if this process is killed in it.

    Ray's own agents outlive a process that was killed; a small process of its own ends them then, and
    removes the folder. It also does where Ctrl-C ends a command, since Ray itself takes seconds for that.

    Args:
        folder: Ray's.
        shutdown: Ray's function, which Ray also calls at the end of a process.
    """
    command = [sys.executable, "-m", "labkit.fleet.guards", str(os.getpid()), str(folder)]
    guard = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    left_to_guard = False
    try:
        with environment({MARK: str(folder)}):
            yield
    except KeyboardInterrupt:
        left_to_guard = interrupt.ends_process
        raise
    finally:
        if left_to_guard:
            atexit.unregister(shutdown)
        else:
            shutdown()
            guard.kill()
            guard.wait()


def end_after(owner: int, folder: Path) -> None:
    """Wait for a process to end, then kill what it had started with `MARK`, and delete the folder."""
    while lives(owner):
        time.sleep(LOOK_EVERY_S)
    end_marked(MARK, str(folder), LONGEST_END_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    end_after(int(sys.argv[1]), Path(sys.argv[2]))
