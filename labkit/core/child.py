"""Child processes that end with their parent, however that ends.

    subprocess.Popen(child_command("labkit.bench.worker", "7"))

The child runs a module as `python -m` does. Before the first import it asks the system to be killed when
its parent dies, where a system does that (Linux), since a library that converts a model for a minute
lets no thread of Python look; elsewhere, and for a parent whose threads come and go, a thread looks.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress

LOOK_EVERY_S = 0.3
PR_SET_PDEATHSIG = 1


def child_command(module: str, *arguments: str) -> list[str]:
    """The command of a child of this process that runs a module."""
    # Linux kills a child with the thread that started it, so only the main thread may ask for that.
    kind = "process" if threading.current_thread() is threading.main_thread() else "thread"
    return [sys.executable, "-m", "labkit.core.child", f"{os.getpid()}", kind, module, *arguments]


def end_with(owner: int, *, by_system: bool = False) -> None:
    """From now on, this process is killed when another one ends.

    Args:
        owner: the other's process id.
        by_system: also by the system; only for the parent, if its main thread started this process.
    """
    threading.Thread(target=_watch, args=(owner,), name="labkit watches parent", daemon=True).start()
    if by_system and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != owner:  # it ended before it was asked
            os._exit(1)


def _watch(owner: int) -> None:
    while lives(owner):
        time.sleep(LOOK_EVERY_S)
    os._exit(1)  # at once, whatever the other threads are busy with


def lives(process: int) -> bool:
    """True while a process runs; one that has ended and was not yet asked how is over."""
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end_first() -> None:
    """Lets the system end this child where memory runs out, which can be told of, and not its parent."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("500")


if __name__ == "__main__":
    _end_first()
    parent, kind, module, *rest = sys.argv[1:]
    end_with(int(parent), by_system=kind == "process")
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
