"""Lesson 09: service times, cameras per machine, and the needs of ten thousand cameras."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.bench.frames import collect
from labkit.bench.plan import QUICK
from labkit.bench.worker import Worker
from labkit.core.errors import UnavailableError
from labkit.core.machine import fingerprint, machine_name
from labkit.core.shown import Sentence, shown_table
from labkit.core.terminal import print_text
from labkit.core.types import Detections, Size, Workload
from labkit.fleet.benchmark.rounds import Rounds, run_rounds
from labkit.fleet.queueing import (
    FleetModel,
    ServiceTime,
    SimulationResult,
    deployments,
    max_streams,
    simulate,
)
from labkit.lessons.exercise import Mistake, Rng, call, exercise_check, items_in, numbers_in, solved
from labkit.lessons.hints import hint
from labkit.models.prepare import resolve_all
from labkit.pipelines.ladder import rung as rung_named
from labkit.results.plots.fleet_plots import FleetPoint, fleet_chart
from labkit.sources.spec import redact

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "check_engines_needed", "check_keep_newest", "hint", "many_cameras", "plot_fleet", "run_fleet",
    "service_table", "service_times", "simulated_beside_measured", "simulated_fleets", "simulation_error",
    "solved",
]  # fmt: skip


JPEG_QUALITY = 80
TURNS = 4
TRANSFER_S = 0.003  # a 640x480 frame from one process to another on one machine, decoded


@dataclass(frozen=True)
class Measured:
    """Service times of a rung on this machine, and the size of its frames and results in bytes.

    Attributes:
        rung, workload, source: of what.
        batch_s: frames per pass -> times of whole passes in s.
        service: the line through them.
        single_fps: frames per second of one process with its frames in memory, one at a time.
        jpeg_bytes, result_bytes: of a mean frame as JPEG, and of its boxes and names as JSON.
        machine, weights: where, and with which.
    """

    rung: str
    workload: Workload
    source: str = field(repr=False)  # it may hold a password
    batch_s: dict[int, tuple[float, ...]]
    service: ServiceTime
    single_fps: float
    jpeg_bytes: float
    result_bytes: float
    machine: str
    weights: str


def service_times(
    name: str,
    *,
    groups: Sequence[int] = (1, 2, 4),
    source: str = "photos",
    size: Size = (640, 480),
    objects: int = 5,
    model_set: str = "lab",
    seconds: float = 2.0,
    seed: int = 0,
) -> Measured:
    """Time a rung for groups of frames, each size in a process of its own, all in turns.

    The processes start side by side, when nothing is timed; then the sizes take turns in random order,
    so that a machine that becomes slower meanwhile slows all of them alike.

    Args:
        name: of a rung that takes groups of frames.
        groups: frames per pass; 1 has to be among them.
        source, size, objects, model_set, seed: the workload.
        seconds: of all turns of a size.
    """
    from labkit.fleet.fleet_plan import with_group

    workload = Workload(model_set=model_set, size=size, objects=objects, seed=seed)  # type: ignore[arg-type]
    frames = collect(source, size, seed=seed).frames
    weights = resolve_all(workload, [rung_named(name).prepare.task])
    passes_s: dict[int, list[float]] = {n: [] for n in groups}
    order = np.random.default_rng(seed)
    with ExitStack() as stack:

        def started(n: int) -> Worker:
            return stack.enter_context(Worker(with_group(rung_named(name), n), workload, frames, weights))

        with ThreadPoolExecutor() as pool:
            workers = dict(zip(groups, pool.map(started, groups), strict=True))
        for _ in range(TURNS):
            for n in order.permutation(groups).tolist():
                plan = replace(QUICK, seconds=seconds / TURNS, min_frames=3 * n)
                passes_s[n] += np.diff(workers[n].run(plan).done_s[n - 1 :: n]).tolist()
        found = workers[1].answers(frames[:4]).found
    batch_s = {n: tuple(times) for n, times in passes_s.items()}
    return Measured(
        name,
        workload,
        source,
        batch_s,
        ServiceTime.fitted(batch_s),
        float(1 / np.mean(batch_s[1])),
        float(np.mean([_jpeg_bytes(frame.image) for frame in frames[:4]])),
        float(np.mean([_result_bytes(each) for each in found])),
        machine_name(fingerprint()),
        " and ".join(sorted({one.kind for one in weights.values()})),
    )


def service_table(measured: Measured) -> pd.DataFrame:
    """Group size against time per pass, per frame, and throughput, as measured."""
    rows = []
    for n, times in measured.batch_s.items():
        low, middle, high = np.percentile(times, [25, 50, 75])
        rows.append(
            {
                "frames per pass": n,
                "median ms per pass": round(1e3 * middle, 2),
                "middle half": f"{1e3 * low:.2f} to {1e3 * high:.2f}",
                "ms per frame": round(1e3 * middle / n, 2),
                "frames per s": round(n / float(np.mean(times)), 1),
            }
        )
    return shown_table(rows)


def simulated_fleets(
    measured: Measured, streams: Sequence[int] = (1, 2, 4, 8), *, fps: float = 30.0, group: int = 1
) -> dict[int, SimulationResult]:
    """Simulated results for numbers of streams at `fps`, on one engine."""
    return {
        n: simulate(FleetModel(n, fps=fps, batch=group, transfer_s=TRANSFER_S), measured.service)
        for n in streams
    }


def run_fleet(
    measured: Measured,
    streams: Sequence[int] = (1, 2, 4, 8),
    *,
    fps: float = 30.0,
    group: int = 1,
    seconds: float = 5.0,
) -> Rounds:
    """Run real fleets of the same work on this machine, through Ray, one after the other.

    Before each of them a process alone does the same job: it is what a fleet has to match. Where
    Ray is missing, print so and return no fleets.

    Args:
        measured: the rung and the workload.
        streams: number of streams of each fleet.
        fps: frames per second that each stream offers.
        group: maximum of frames per pass.
        seconds: duration of a fleet's streams; the single process has half of it.
    """
    from labkit.fleet.cluster import cluster
    from labkit.fleet.fleet_plan import Plan, with_group

    rung = with_group(rung_named(measured.rung), group)
    plan = Plan((measured.source,), rung, measured.workload, fps=fps)
    try:
        with cluster():
            return run_rounds(plan, streams, seconds, print)
    except UnavailableError as error:
        print_text(f"No fleet was measured here: {error}")
        return Rounds(fps, {}, {})


def simulated_beside_measured(
    predicted: dict[int, SimulationResult], done: Rounds | None = None
) -> pd.DataFrame:
    """Simulated and, where fleets ran, measured figures, with the difference."""
    rows = []
    for point in _points(predicted, done):
        row: dict[str, Any] = {"streams": point.streams, "simulated FPS": round(point.predicted_fps, 1)}
        if point.measured_fps is not None and point.single_process_fps is not None:
            row |= {
                "measured FPS": round(point.measured_fps, 1),
                "difference": f"{100 * (point.measured_fps / point.predicted_fps - 1):+.0f}%",
                "one process FPS": round(point.single_process_fps, 1),
            }
        row["simulated age p90 ms"] = round(point.predicted_age_ms)
        if point.measured_age_ms is not None:
            row["measured age p90 ms"] = round(point.measured_age_ms)
        rows.append(row)
    return shown_table(rows)


def simulation_error(measured: Measured, predicted: dict[int, SimulationResult], done: Rounds) -> Sentence:
    """Sentences on the simulation's error, and on the fleets relative to a single process."""
    if not done.fleets:
        return Sentence("No fleet was measured here, so the simulation is unchecked.")
    off = {n: answers.fps / predicted[n].fps - 1 for n, answers in done.fleets.items()}
    worst = max(off, key=lambda n: abs(off[n]))
    way = "more" if off[worst] > 0 else "less"
    low, high = (100 * edge(done.shares.values()) for edge in (min, max))
    return Sentence(
        f"The simulation was off by {100 * abs(off[worst]):.0f}% at most ({way} was measured, at {worst} "
        f"{'stream' if worst == 1 else 'streams'}). The fleets reached {low:.0f} to {high:.0f}% of what "
        "could be had: the frames offered, or the rate of one process that reads the same streams in turn, "
        "detects and writes by itself, if that is lower. With its frames in memory, one at a time, a process "
        f"answers {measured.single_fps:.1f} per second."
        + (" More than 100%: a fleet reads, detects and writes at the same time." if high > 100 else "")
    )


def plot_fleet(
    measured: Measured,
    predicted: dict[int, SimulationResult],
    done: Rounds | None = None,
    *,
    age: bool = False,
) -> Any:
    """Plot simulated and measured rate, or age of results, against the number of streams."""
    about = [measured.rung, f"{measured.weights} weights", redact(measured.source), measured.machine, "quick"]
    points = _points(predicted, done)
    return fleet_chart(points, single_fps=measured.single_fps, age=age, about=about)


def many_cameras(
    measured: Measured,
    cameras: Sequence[int] = (1, 10, 100, 1_000, 10_000),
    *,
    done: Rounds | None = None,
    fps: float = 5.0,
    age_ms: float = 500.0,
    group: int = 1,
    moving: float = 0.1,
) -> pd.DataFrame:
    """Machines and network that cameras need, by where the work is done; displays the assumptions.

    Args:
        measured: service times on this machine; engines are counted in machines like it.
        cameras: numbers of cameras.
        done: fleets measured here; the best of them then bounds what a machine serves.
        fps, age_ms: results wanted per camera and second, and their p90 age.
        group: maximum of frames per pass.
        moving: share of the frames in which something moves.
    """
    from IPython.display import display

    fit = max_streams(
        FleetModel(1, fps=fps, batch=group, transfer_s=TRANSFER_S), measured.service, age_ms=age_ms, fps=fps
    )
    serves = f"{fit} cameras each by the simulation"
    if done is not None and done.fleets:
        best_fps = max(answers.fps for answers in done.fleets.values())
        fit = min(fit, int(best_fps / fps))
        serves += f", {fit} by the best fleet measured here ({best_fps:.0f} results per second)"
    assumed = (
        f"Assumed: {fps:g} results per second and camera, p90 age up to {age_ms:g} ms, JPEG of "
        f"{measured.jpeg_bytes / 1e3:.0f} kB, results of {measured.result_bytes:.0f} bytes, something moves "
        f"in {moving:.0%} of the frames, machines like this one ({measured.machine}), {serves}."
    )
    display(Sentence(assumed))
    if fit < 1:
        display(Sentence("Not even one camera fits such a machine within these limits; loosen them."))
        return shown_table([])
    sizes = {"jpeg_bytes": measured.jpeg_bytes, "result_bytes": measured.result_bytes}
    rows = [
        (n, where, engines, round(mbit_s, 2))
        for n in cameras
        for where, engines, mbit_s in deployments(n, fit, fps=fps, motion_share=moving, **sizes)
    ]
    return shown_table(rows, columns=["cameras", "where", "machines", "network Mbit/s"])


def _points(predicted: dict[int, SimulationResult], done: Rounds | None) -> list[FleetPoint]:
    fleets, single_process_fps = (done.fleets, done.single_process_fps) if done else ({}, {})
    return [
        FleetPoint(
            n,
            out.fps,
            out.age_ms(90),
            fleets[n].fps if n in fleets else None,
            fleets[n].age_ms(90) if n in fleets else None,
            single_process_fps.get(n),
        )
        for n, out in predicted.items()
    ]


def _jpeg_bytes(image: Any) -> int:
    import cv2

    return len(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])


def _result_bytes(found: Detections) -> int:
    record = {
        "xyxy": np.round(found.xyxy, 1).tolist(),
        "score": np.round(found.score, 3).tolist(),
        "name": list(found.fine_name or found.name),
    }
    return len(json.dumps(record))


@exercise_check
def check_keep_newest(keep_newest: Callable[[list[int], int, int], Any], rng: Rng) -> str:
    """Check `keep_newest(waiting, frame, most)`: what waits from now on, and what is dropped.

    waiting holds frame numbers, oldest first, some of which may be missing; the new frame joins them,
    at most `most` stay, also where more have waited so far, and both lists that come back are in order.
    """
    places = [(most, n) for most in range(1, 5) for n in range(most + 4)]
    for most, n in rng.permutation(places).tolist():
        *waiting, frame = (rng.integers(0, 1000) + rng.integers(1, 4, n + 1).cumsum()).tolist()
        got = call(keep_newest, waiting, frame, most)
        if not (isinstance(got, tuple | list) and len(got) == 2 and all(isinstance(x, list) for x in got)):
            raise Mistake("two lists are expected: what waits from now on, and what is dropped")
        everything, (kept, dropped) = [*waiting, frame], (items_in(x, "frame numbers", int) for x in got)
        if (kept, dropped) == (everything[-most:], everything[:-most]):
            continue
        case = (
            f"{waiting} wait, frame {frame} comes, at most {most} may stay: you keep {kept}, drop {dropped}"
        )
        if len(kept) > most:
            raise Mistake(f"more frames wait than may ({case})")
        if kept == everything[:most]:
            raise Mistake(f"the oldest frames stay, so answers are about the past; drop those ({case})")
        if sorted([*kept, *dropped], key=str) != sorted(everything, key=str):
            raise Mistake(f"a frame is neither kept nor dropped, or it is both ({case})")
        raise Mistake(f"the newest frames stay, oldest of them first ({case})")
    return "the newest frames stay, in order, and nothing is lost unseen"


@exercise_check
def check_engines_needed(engines_needed: Callable[[int, float, float, float], Any], rng: Rng) -> str:
    """Check `engines_needed(cameras, fps, frame_s, most_busy)`: a whole number of engines.

    Every camera wants `fps` results per second, a frame takes an engine `frame_s`, no engine is
    busy for a larger share of its time than `most_busy`, and a camera stays with one engine.
    """
    known = [(100, 5.0, 0.03, 0.8), (17, 5.0, 0.04, 0.75), (10_000, 2.0, 0.11, 0.85), (3, 4.0, 0.05, 0.9)]
    drawn = [_drawn_load(rng) for _ in range(12)]
    cases, gots, mistakes = [], [], []
    for cameras, fps, frame_s, busy in [*known, *drawn]:
        number = numbers_in(call(engines_needed, cameras, fps, frame_s, busy))
        if number.ndim or number.dtype == bool:
            raise Mistake(f"a whole number of engines is expected, not {number}")
        got = float(number)
        fit = busy / (fps * frame_s)  # cameras per engine
        load = f"{cameras} cameras at {fps:g} FPS, {1e3 * frame_s:g} ms a frame, up to {busy:.0%} busy"
        cases.append(f"{load}: you say {got:g}")
        gots.append(got)
        mistakes.append(
            {
                "": math.ceil(cameras / _whole(fit)),
                "an engine cannot be cut in pieces: round up to a whole number": cameras / _whole(fit),
                "no room is left: an engine is to be busy for most_busy of its time, not for all of it": (
                    math.ceil(cameras / _whole(fit / busy))
                ),
                "a camera stays with one engine: how many whole cameras fit one, before you divide?": (
                    math.ceil(cameras / fit - 1e-9)
                ),
                "the room has the wrong sign: less of each engine may be used, so more of them are needed": (
                    math.ceil(cameras * fps * frame_s * busy)
                ),
                "a camera that fits only in part does not fit: round cameras per engine down": (
                    math.ceil(cameras / math.ceil(fit - 1e-9))
                ),
                "the last engine may be half empty, but it is needed: round up": cameras // _whole(fit),
                "rounding to the nearest can leave cameras without an engine: round up": (
                    round(cameras / _whole(fit))
                ),
                "this is how many cameras one engine serves; how many engines do all of them need?": (
                    _whole(fit)
                ),
            }
        )
    for reason in mistakes[0]:
        if all(math.isclose(got, each[reason]) for got, each in zip(gots, mistakes, strict=True)):
            if not reason:
                return "whole cameras per engine, with room to spare, and engines for all of them"
            raise Mistake(f"{reason} ({cases[0]})")
    wrong = next(i for i, got in enumerate(gots) if got != mistakes[i][""])
    raise Mistake(f"take one engine first: how many whole cameras does it serve? ({cases[wrong]})")


def _drawn_load(rng: Rng) -> tuple[int, float, float, float]:
    """Cameras, results per second and camera, s per frame, and highest share of an engine's time."""
    while True:
        cameras, fps = int(rng.integers(2, 2000)), float(rng.integers(1, 15))
        frame_s, busy = round(float(rng.uniform(0.005, 0.12)), 3), round(float(rng.uniform(0.6, 0.95)), 2)
        fit = busy / (fps * frame_s)
        near = [each - round(each) for each in (fit, fit / busy, cameras / fit, cameras * busy**2 / fit)]
        if fit > 1 and np.abs(near).min() > 0.01:  # no matter how the last bit of a division is rounded
            return cameras, fps, frame_s, busy


def _whole(number: float) -> int:
    """Rounded down, but for the last bit of a division."""
    return math.floor(number + 1e-9)
