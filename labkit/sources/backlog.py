"""Detection of stale frames by their arrival times."""

from __future__ import annotations

_GAP_S = 0.5  # a pause shorter than this leaves no backlog worth dropping
_LONGEST_BACKLOG_S = 1.0
_FRESH_IN_A_ROW = 2


class Backlog:
    """Detector of frames that waited in a buffer while the reader was held up.

    After a pause (of the network, or of this process) and right after connecting, the
    buffered frames arrive at once. A frame that had to be waited for is a new one.
    """

    def __init__(self, interval_s: float, now_s: float) -> None:
        self._interval_s = interval_s  # between frames in steady flow
        self._pause_s = max(_GAP_S, 3 * interval_s)
        self._last_s = now_s
        self._since_s: float | None = now_s  # when the backlog began to come in, None outside one
        self._waited_for = 0
        self._was_pause = False

    def is_stale(self, asked_s: float, arrived_s: float) -> bool:
        """True if the frame requested and received at these times (s) should be dropped."""
        gap_s, self._last_s = arrived_s - self._last_s, arrived_s
        if gap_s > self._pause_s and self._was_pause:
            # Two pauses with one frame between are no pauses: this camera is slow.
            self._since_s, self._interval_s, self._pause_s = None, gap_s, 2 * gap_s
            return False
        self._was_pause = gap_s > self._pause_s
        if self._was_pause:
            self._since_s, self._waited_for = arrived_s, 0
            # A slow camera's ordinary interval must not look like a pause for ever.
            self._pause_s = min(2 * self._pause_s, 2 * gap_s)
            return True
        if self._since_s is None:
            self._interval_s += 0.2 * (gap_s - self._interval_s)
            self._pause_s += 0.2 * (max(_GAP_S, 3 * self._interval_s) - self._pause_s)
            return False
        waited = arrived_s - asked_s > 0.3 * min(self._interval_s, 0.1)
        self._waited_for = self._waited_for + 1 if waited else 0
        over = self._waited_for >= _FRESH_IN_A_ROW or arrived_s - self._since_s > _LONGEST_BACKLOG_S
        if over:
            self._since_s = None
        return not over
