"""Facts about the notebook kernel: whether a browser shows it, and when it is interrupted."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any


def kernel() -> Any:
    """The Jupyter kernel of this process, None outside one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None)


def has_front_end() -> bool:
    """True if the running cell was sent by a notebook in a browser.

    Those say which cell it is; programs that execute notebooks (nbclient, papermill), consoles
    and scripts do not, and nobody would see a widget there.
    """
    running = kernel()
    if running is None:
        return False
    return bool((running.get_parent().get("metadata") or {}).get("cellId"))


class KernelWatch:
    """Watches the kernel: is it interrupted, and can messages of pages reach it at the moment?

    JupyterLab delivers them to a thread of their own, but only once the kernel has been idle
    after the widget appeared; other front ends deliver them between cells. So silence during
    a long cell proves nothing, unless messages came during one.

    Attributes:
        stop: called when the kernel is interrupted, whether it runs a cell or is idle.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], None] = lambda: None
        self._own_thread = False
        running = kernel()
        self._shell: Any = getattr(running, "shell", None)
        self._busy = self._shell is not None  # this is made inside a running cell
        self._hooks = {
            "pre_execute": self._begin,
            "post_execute": self._end,
            "post_run_cell": self._after_cell,
        }
        if self._shell is None:
            return
        for event, hook in self._hooks.items():
            self._shell.events.register(event, hook)
        if threading.current_thread() is threading.main_thread() and hasattr(running, "saved_sigint_handler"):
            # The kernel puts this handler back whenever it goes idle; by default it ignores interrupts.
            running.saved_sigint_handler = self._when_idle

    def reachable(self) -> bool:
        """True if a page that is there would be heard."""
        return self._own_thread or not self._busy

    def note_message(self) -> None:
        """Notes, in the thread that delivers it, that a message came."""
        self._own_thread = threading.current_thread() is not threading.main_thread()

    def close(self) -> None:
        """Takes the hooks out of the shell; interrupts at idle times are ignored, as the kernel does."""
        self.stop = lambda: None
        if self._shell is None:
            return
        for event, hook in self._hooks.items():
            if hook in self._shell.events.callbacks[event]:
                self._shell.events.unregister(event, hook)

    def _begin(self) -> None:
        self._busy = True

    def _end(self) -> None:
        self._busy = False

    def _after_cell(self, result: Any) -> None:
        if isinstance(result.error_in_exec or result.error_before_exec, KeyboardInterrupt):
            self.stop()

    def _when_idle(self, number: int, frame: Any) -> None:
        del number, frame
        # Not from the handler itself: it may have interrupted a thread's owner of the same locks.
        threading.Thread(target=lambda: self.stop(), name="labkit live interrupt", daemon=True).start()
