"""Still pictures, where there is no browser to show a moving one."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.core.errors import LabError, SourceError, UsageError
from labkit.core.types import is_whole
from labkit.live.encode import annotate_shot, describe_detections, jpeg, live_folder, save_picture
from labkit.live.inference import Timing
from labkit.live.notebook import kernel
from labkit.live.player import Player, Shot
from labkit.live.settings import LiveSettings
from labkit.sources.spec import source_name

PATIENCE_S = 600.0  # converting a network for an engine takes minutes the first time
WARM_UP, TIMED = 3, 7
"""Passes of a rung that only warm it up, as the first ones compile and allocate; those that are timed."""
TIMED_S = 5.0
"""Longest wait for them, once there are pictures."""


@dataclass(frozen=True)
class Stills:
    """Pictures and captions that `live` returns without a browser.

    Attributes:
        captions: a line per picture: what was found, and how long a frame takes once the rung is warm.
        paths: where the pictures lie, if they could not be shown.
    """

    captions: tuple[str, ...]
    paths: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        lines = [f"{p}: {c}" for p, c in zip(self.paths, self.captions, strict=True)] if self.paths else []
        return "\n".join(lines or self.captions)


def show_stills(source: str | os.PathLike[str], player: Player, count: int) -> Stills:
    """Runs the player until there are `count` pictures with answers and its rungs are warm, and shows them.

    Raises:
        UsageError: the source is the browser's camera, or the count is not 1 to 100.
        SourceError: the source cannot be opened or gives no picture.
        LabError: the rung does not run.
    """
    if source_name(source) == "browser":
        raise UsageError('the camera of a browser needs a notebook in a browser; use "webcam" or "photos"')
    if not is_whole(count, 1, 100):
        raise UsageError(f"stills is a number of pictures from 1 to 100, not {count!r}")
    shots: list[Shot] = []
    try:
        player.start()
        for _ in range(count):
            shots.append(_next_shot(player, shots[-1].frame.index if shots else -1))
        timed = _time_warm(player)
        weights = player.status()["weights"]
    finally:
        player.stop()
        player.wait_until_ended(5.0)
    return _shown(shots, player.settings, timed, weights)


def _next_shot(player: Player, after: int) -> Shot:
    """A frame with the answers that were found in it, later than frame `after`."""
    deadline_s = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < deadline_s:
        with player.news:
            player.news.wait(0.5)
        status = player.status()
        if status["state"] in ("failed", "ended", "lost"):
            raise SourceError(status["message"])
        if status["fault"]:
            raise LabError(status["fault"])
        shot = player.latest_shot()
        answers = [answer for answer in (shot.answers if shot is not None else ()) if answer is not None]
        if shot is not None and len(answers) == len(shot.answers):
            frame = answers[0].frame
            if frame.index > after and all(answer.frame.index == frame.index for answer in answers):
                return Shot(frame, tuple(answers))
    raise LabError(f"no detection within {PATIENCE_S:g} s; choose a quicker rung")


def _time_warm(player: Player) -> dict[str, str]:
    """Time that each rung needs for a frame once it is warm, in words: the median of so many passes."""
    deadline_s = time.perf_counter() + TIMED_S
    while True:
        passes: dict[str, dict[int, Timing]] = {rung: {} for rung in player.settings.rungs}
        for timing in player.rates.recent():
            passes[timing.rung][id(timing.record)] = timing  # a pass over several frames has one record
        fewest = min(map(len, passes.values()))
        if fewest >= WARM_UP + TIMED or (fewest and time.perf_counter() > deadline_s):
            return {rung: _median_of([*timings.values()]) for rung, timings in passes.items()}
        with player.news:
            player.news.wait(0.1)


def _median_of(passes: list[Timing]) -> str:
    """A rung's passes in words; a slow one has had fewer than are wanted."""
    first = min(WARM_UP, len(passes) - 1)
    took_ms = 1e3 * statistics.median(each.took_s for each in passes[first:])
    n, grouped = len(passes) - first, passes[-1].frames > 1
    unit, one, more = ("ms per frame", "pass", "passes") if grouped else ("ms", "frame", "frames")
    how = f"median of {n} {more if n > 1 else one} after {first} to warm up"
    how = how if first else f"the first {one}, not warmed up"
    return f"{took_ms:.{0 if took_ms >= 10 else 1}f} {unit}, {how}"


def _shown(shots: list[Shot], settings: LiveSettings, timed: dict[str, str], weights: list[str]) -> Stills:
    captions = tuple(_caption(shot, settings, timed, weights) for shot in shots)
    pictures = [annotate_shot(shot, settings) for shot in shots]
    if kernel() is None:
        folder = live_folder()
        return Stills(captions, tuple(save_picture(picture, folder) for picture in pictures))
    from IPython.display import Image, display

    for picture, caption in zip(pictures, captions, strict=True):
        display(Image(data=jpeg(picture), format="jpeg", alt=caption))
    return Stills(captions)


def _caption(shot: Shot, settings: LiveSettings, timed: dict[str, str], weights: list[str]) -> str:
    found = describe_detections(shot, settings)
    parts: list[Any] = []
    for answer, names in zip(shot.answers, found, strict=True):
        assert answer is not None
        rung = answer.timing.rung
        parts.append(f"{rung}: {names or 'nothing found'} ({timed[rung]})")
    return " | ".join([*parts, *weights])
