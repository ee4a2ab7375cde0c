"""Rates, ages and drops of the last two seconds, for the status line."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import numpy as np

from labkit.live.inference import Timing

WINDOW_S = 2.0
BARS = 60
"""Answers in the moving plot."""

CAMERA_BOUND = 0.2
"""Share of the period spent waiting for frames from which on the camera is the limit."""


class Rates:
    """Counts and clocks since the rungs were last chosen; any thread may call any method."""

    def __init__(self, offered_before: int = 0, captured_before: int = 0) -> None:
        """Begins to count; what the source had brought before does not count."""
        self._before = (offered_before, captured_before)
        self._lock = threading.Lock()
        self._history: deque[tuple[float, dict[str, int]]] = deque()
        self._answers: deque[Timing] = deque(maxlen=600)
        self._ages: deque[tuple[float, float]] = deque(maxlen=240)  # (when, age in s)
        self._fresh: deque[Timing] = deque(maxlen=BARS)  # not yet in the plot
        self.inferred: dict[str, int] = {}
        self.displayed = 0

    def answered(self, answer: Timing) -> None:
        """Notes an answer of a rung."""
        with self._lock:
            self._answers.append(answer)
            self._fresh.append(answer)
            self.inferred[answer.rung] = self.inferred.get(answer.rung, 0) + 1

    def painted(self, age_s: float) -> None:
        """Notes a picture that a page has shown, `age_s` after its capture."""
        with self._lock:
            self.displayed += 1
            self._ages.append((time.perf_counter(), age_s))

    def summary(self, offered: int, captured: int) -> dict[str, Any]:
        """Plain data for the status line."""
        now_s = time.perf_counter()
        offered, captured = offered - self._before[0], captured - self._before[1]
        with self._lock:
            counts = {"offered": offered, "captured": captured, "displayed": self.displayed}
            counts |= {f"inferred {rung}": n for rung, n in self.inferred.items()}
            self._history.append((now_s, counts))
            while len(self._history) > 2 and self._history[1][0] < now_s - WINDOW_S:
                self._history.popleft()
            recent = [a for a in self._answers if a.done_s > now_s - max(WINDOW_S, 3 * a.took_s * a.frames)]
            ages = [age for when, age in self._ages if when > now_s - WINDOW_S]
            rates = self._rates(counts)
            most_inferred = max(self.inferred.values(), default=0)
        return {
            "fps": {name: rates.get(name) for name in ("offered", "captured", "displayed")},
            "rungs": {rung: _of_rung(recent, rung, rates) for rung in self.inferred},
            "age_ms": _median_ms(ages),
            "dropped": max(0, offered - most_inferred),
            "camera_bound": _waiting_share(recent) >= CAMERA_BOUND,
        }

    def recent(self) -> list[Timing]:
        """The last few hundred answers, oldest first."""
        with self._lock:
            return list(self._answers)

    def bars(self) -> list[dict[str, Any]]:
        """The answers since the last call, with their milliseconds per span.

        It waits for nothing: an answer whose spans the GPU has not ended comes with the next call.
        """
        fresh = []
        with self._lock:
            while self._fresh and self._fresh[0].record.complete():
                fresh.append(self._fresh.popleft())
        return [{"rung": a.rung, "spans": a.spans_ms(), "waited": 1e3 * a.waited_s} for a in fresh]

    def _rates(self, counts: dict[str, int]) -> dict[str, float]:
        first_s, first = self._history[0]
        seconds = self._history[-1][0] - first_s
        if seconds <= 0:
            return {}  # one look is no rate
        return {name: (n - first.get(name, 0)) / seconds for name, n in counts.items()}


def _of_rung(recent: list[Timing], rung: str, rates: dict[str, float]) -> dict[str, float | None]:
    mine = [a for a in recent if a.rung == rung]
    return {
        "fps": rates.get(f"inferred {rung}"),
        "took_ms": _median_ms([a.took_s for a in mine]),
        "age_ms": _median_ms([a.age_s for a in mine]),
    }


def _waiting_share(recent: list[Timing]) -> float:
    busy_s = sum(a.took_s for a in recent)
    waited_s = sum(a.waited_s for a in recent)
    return waited_s / (busy_s + waited_s) if busy_s + waited_s > 0 else 0.0


def _median_ms(values_s: list[float]) -> float | None:
    return 1e3 * float(np.median(values_s)) if values_s else None
