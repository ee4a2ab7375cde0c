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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from labkit.core.errors import WorkerError

if TYPE_CHECKING:
    import psutil

LOOK_EVERY_S = 0.3
LONGEST_EXEC_S = 0.5  # that a process on a busy machine may take to become another program
KTHREADD = 2  # parent of all threads of the Linux kernel, which have no variables ever
PR_SET_PDEATHSIG = 1


def child_command(module: str, *arguments: str, direct: bool = True) -> list[str]:
    """The command of a child of this process that runs a module.

    Args:
        module: run as `python -m` does.
        arguments: for the module.
        direct: False if another program that this process starts is to start the child.
    """
    # Linux kills a child with the thread that started it, so only the main thread may ask for that.
    direct = direct and threading.current_thread() is threading.main_thread()
    kind = "process" if direct else "thread"
    return [sys.executable, "-m", "labkit.core.child", f"{os.getpid()}", kind, module, *arguments]


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes started in the block; those the user has set win."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class SpawnedProcess:
    """A spawned process that calls functions one after another, each within a deadline.

    It starts at the first call, and ends with this process, with the block, or when a call takes too long.
    """

    def __init__(self) -> None:
        from concurrent.futures import ProcessPoolExecutor  # here, as each child imports this module
        from multiprocessing import get_context

        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=end_with, initargs=(os.getpid(),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def call(self, deadline_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function of a module's top level; what it raises is raised here.

        Raises:
            WorkerError: the process died, or gave no result in time and was ended.
        """
        from concurrent.futures.process import BrokenProcessPool

        try:
            future = self._pool.submit(function, *arguments)
            return future.result(deadline_s)
        except BrokenProcessPool as error:
            raise WorkerError(f"the process died ({error})") from error
        except TimeoutError:
            if future.done():  # the function's own
                raise
            self.end()
            raise WorkerError(f"the process gave no result within {deadline_s:g} s and was ended") from None

    def end(self) -> None:
        """Ends the process, whatever it is at work on."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown()


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


def end_tree(process: int, within_s: float) -> None:
    """Ends a process and all that it has started.

    Args:
        process: its id.
        within_s: how long it waits for them to have ended.
    """
    import psutil

    with suppress(psutil.Error):
        started = psutil.Process(process)
        _kill([*started.children(recursive=True), started], time.monotonic() + within_s)


def end_marked(variable: str, value: str, within_s: float) -> None:
    """Ends all other processes that have started with an environment variable, whoever is their parent.

    Only what has it starts what has it, so one look that finds none is enough, except where a process is
    about to run another program: it has no variables meanwhile, and is looked at again.

    Args:
        variable, value: what they have started with.
        within_s: after which it gives up.
    """
    import psutil

    begun_s = time.monotonic()
    until_s = begun_s + within_s
    while time.monotonic() < until_s:
        left, starting = [], False
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                variables = each.environ()
                if each.pid == os.getpid() or each.status() == psutil.STATUS_ZOMBIE:
                    continue
                if variables.get(variable) == value:
                    left.append(each)
                elif not variables and each.ppid() not in (0, KTHREADD):
                    starting = True
        if left:
            _kill(left, until_s)
        elif not starting or time.monotonic() > begun_s + LONGEST_EXEC_S:
            return
        else:
            time.sleep(0.01)


def _kill(processes: list[psutil.Process], until_s: float) -> None:
    """Kill processes and wait for their end: one that is ending has no variables left to be found by."""
    import psutil

    for each in processes:
        with suppress(psutil.Error):
            each.kill()
    while any(lives(each.pid) for each in processes) and time.monotonic() < until_s:
        time.sleep(0.005)


def lives(process: int) -> bool:
    """True while a process runs; one that has ended and was not yet asked how is over."""
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's
        return True


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
