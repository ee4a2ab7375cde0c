"""Prefetching: a thread that works ahead of its consumer."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from typing import Generic, TypeVar

T = TypeVar("T")

LEAVE_S = 10.0
"""Longest wait, on leaving, for the item that the thread is at."""


class ReadAhead(Generic[T]):
    """Pulls items in a thread of its own, a few ahead of the consumer, in order.

        with ReadAhead(items, depth=1) as ready:
            for item in ready: ...

    What the items raise is raised to the consumer, after the items before it. Leaving the block,
    for whatever reason, ends the thread after the item it is at and drops what is waiting. A thread that
    hangs in an item for `LEAVE_S` is left behind with a warning.

    Args:
        items: iterated in the thread, and closed there if they are a generator.
        depth: most finished items that wait; the thread works on one more.
    """

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._depth = depth
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="labkit read ahead", daemon=True)

    def __enter__(self) -> ReadAhead[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(LEAVE_S)
        if self._thread.is_alive():
            logging.getLogger("labkit").warning(
                "a source still hangs after %g s and is left behind; restart Python to be rid of it", LEAVE_S
            )
        self._waiting.clear()
        self._error = None  # its traceback holds the frames that it went through

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            with closing(self._items) if hasattr(self._items, "close") else nullcontext():
                for item in self._items:
                    if not self._hand_over(item):
                        break
        except BaseException as error:  # whatever it is, the consumer is who must hear of it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hand_over(self, item: T) -> bool:
        """Waits for room; whether the consumer is still there."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._depth or self._stopped)
            if not self._stopped:
                self._waiting.append(item)
                self._changed.notify_all()
            return not self._stopped
