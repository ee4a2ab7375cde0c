"""One owner at a time: the next one waits for the last, and leaves it behind if it hangs."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Owner(Protocol):
    """A thread that uses what only one may use.

    Attributes:
        stopped_s: when it was told to stop; None while it may go on.
    """

    stopped_s: float | None

    def join(self, timeout_s: float) -> bool:
        """Waits for its thread; whether it has ended."""
        ...


class Handover:
    """Passes a camera, or the networks, from one owner to the next.

    A thread inside native code cannot be ended from outside. An owner that was told to stop and
    has not ended `patience_s` later counts as hung: nobody waits for it again.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._lock = threading.Lock()
        self._owners: list[Owner] = []

    def enter(self, owner: Owner, thread: threading.Thread) -> None:
        """Registers an owner behind the earlier ones, and starts its thread, which calls `wait` first."""
        with self._lock:
            self._owners = [*(each for each in self._owners if not each.join(0)), owner]
            thread.start()

    def wait(self, owner: Owner, stop: threading.Event) -> list[Owner] | None:
        """Waits until all owners before this one have ended or are given up.

        Returns:
            Those given up; None if `stop` was set first.
        """
        with self._lock:
            earlier = self._owners[: self._owners.index(owner)]
        hung: list[Owner] = []
        for each in earlier:
            while not each.join(0.05):
                if stop.is_set():
                    return None
                if each.stopped_s is not None and time.perf_counter() - each.stopped_s > self.patience_s:
                    hung.append(each)
                    break
        with self._lock:
            self._owners = [each for each in self._owners if each not in hung]
        return None if stop.is_set() else hung
