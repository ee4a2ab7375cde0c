"""Accuracy and speed of tracking between detections, by how far apart detections are.

The lab's small models look at shots of `scenes` whose objects move; every distance sees the same
frames, in turns, shot by shot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labkit.bench import accuracy
from labkit.bench.agreement import Answers
from labkit.core.errors import UsageError
from labkit.core.stats import half_width
from labkit.core.trace import recording
from labkit.core.types import Detections, Frame, Rung, Workload
from labkit.models.prepare import prepare
from labkit.results.ablation import Estimate
from labkit.sources.synthetic.scene import SHOT_FRAMES, scene_frame

EVERY = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class TrackingRow:
    """Accuracy and speed with a detection on every `every`-th frame.

    Attributes:
        detected: share of the frames that were detected, those after a loss included.
        fps: frames per second, mean over shots.
        times: how many times that of a detection on every frame.
        map: over IoU 0.5 to 0.95; None where the models' answers mean nothing.
        lost: of it, against a detection on every frame.
    """

    every: int
    detected: float
    fps: Estimate
    times: Estimate
    map: Estimate | None
    lost: Estimate | None

    def __str__(self) -> str:
        text = (
            f"every {self.every}: {self.fps.value:.1f} FPS, {self.times} times; {self.detected:.0%} detected"
        )
        if self.map is None or self.lost is None:
            return text
        return f"{text}; mAP@[.5:.95] {self.map}, points lost {self.lost.points}"


def moving_shots(shots: int, frames: int, size: tuple[int, int] = (640, 480)) -> list[list[Frame]]:
    """Successive frames of unrelated shots that training never saw, with their truth."""
    if shots < 1 or not 1 <= frames <= SHOT_FRAMES:
        raise UsageError(f"1 shot or more of 1 to {SHOT_FRAMES} frames, not {shots} of {frames}")
    return [
        [scene_frame(s * SHOT_FRAMES + i, size=size, seed=0) for i in range(frames)] for s in range(shots)
    ]


def measure_tracking(
    rung: Rung,
    workload: Workload,
    every: Sequence[int] = EVERY,
    *,
    shots: int = 16,
    frames: int = 32,
    progress: Callable[[float], None] = lambda share: None,
) -> list[TrackingRow]:
    """Runs a tracking rung with detections on every frame, and on every k-th for each k of `every`.

    Args:
        rung: whose networks carry `every`, such as `tracked_bf16_cpu`.
        workload: the "lab" set gives accuracy and speed, any other models speed alone.
        every: distances of detections in frames.
        shots: number of shots; a multiple of 8 gives intervals of accuracy.
        frames: of each shot.
        progress: called with the share that is done.

    Raises:
        UsageError: a distance below 1, no frame, or a rung that follows no boxes.
    """
    if "every" not in rung.prepare.options:
        raise UsageError(
            f"{rung.name} looks for boxes in every frame; one that follows them: tracked_bf16_cpu"
        )
    if not every or min(every) < 1:
        raise UsageError(f"a detection on every k-th frame: k is 1 or more, not {list(every)}")
    distances = sorted({1, *every})
    films = moving_shots(shots, frames, workload.size)
    net = prepare(rung.prepare, workload).net
    nets = {k: replace(net, every=k) for k in distances}
    found: dict[int, list[list[Detections]]] = {k: [] for k in distances}
    spent_s: dict[int, list[float]] = {k: [] for k in distances}
    detected = dict.fromkeys(distances, 0)
    list(rung.run(films[0][:2], net))  # what is made at the first call
    for number, film in enumerate(films):
        turn = number % len(distances)
        for k in (*distances[turn:], *distances[:turn]):
            with recording() as record:
                begun = time.perf_counter()
                found[k].append([answer for _, answer in rung.run(film, nets[k])])
                spent_s[k].append(time.perf_counter() - begun)
            detected[k] += sum(each.name == "detect" for each in record.spans())
        progress((number + 1) / shots)
    # Frames in the order in which each eighth of them, from which intervals come, holds whole shots.
    mixed = [frame for step in zip(*films, strict=True) for frame in step]
    answers = {
        k: Answers(str(k), [one for step in zip(*shots_of, strict=True) for one in step], {})
        for k, shots_of in found.items()
    }
    rates = {k: frames / np.array(times) for k, times in spent_s.items()}
    return [
        TrackingRow(
            k,
            detected[k] / len(mixed),
            _mean(rates[k]),
            _mean(rates[k] / rates[1]),
            *(_accuracy(answers[k], answers[1], mixed) if workload.model_set == "lab" else (None, None)),
        )
        for k in distances
    ]


def _accuracy(own: Answers, plain: Answers, frames: Sequence[Frame]) -> tuple[Estimate, Estimate]:
    score = accuracy.score(own, frames)
    lost = accuracy.map_loss(plain, own, frames)["map"]
    return Estimate(score["map"], *score.get("map_interval", (None, None))), Estimate(*lost)  # type: ignore[arg-type]


def _mean(values: NDArray[np.float64]) -> Estimate:
    """Mean over shots with its 95% interval."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean)
    half = half_width(values)
    return Estimate(mean, mean - half, mean + half)
