"""A small simulation of a camera fleet: from measured service times to how many cameras fit.

It follows the fleet's own rules (`labkit.fleet`): every stream offers frames at its rate and
keeps only the newest; an engine gathers frames of several streams, at most `batch` of them and
no longer than a deadline, works them off at once, and asks again.

What it assumes, and leaves out: cameras start at random moments and keep their rate exactly;
an engine's time depends on the number of frames alone, with the spread that was measured; a
frame costs the host and the network a fixed `transfer_s` before an engine can have it; writing
results costs nothing; nothing breaks. So it is an upper bound that the measured fleet is
compared with, and the difference is shown.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UsageError


@dataclass(frozen=True)
class ServiceTime:
    """How long an engine takes for a batch: `base_s + per_frame_s * n`, times a measured spread.

    Attributes:
        base_s, per_frame_s: s; what a call costs whatever its size, and each frame in it.
        spread: factors around 1, drawn from at random; (1.0,) for no spread.
    """

    base_s: float
    per_frame_s: float
    spread: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.base_s < 0 or self.per_frame_s < 0 or self.base_s + self.per_frame_s <= 0:
            raise UsageError(
                f"a batch takes time: base_s {self.base_s} and per_frame_s {self.per_frame_s} are 0 or "
                "more, and not both 0"
            )

    def mean_s(self, frames: int) -> float:
        """Mean time of a batch of so many frames in s."""
        return (self.base_s + self.per_frame_s * frames) * float(np.mean(self.spread))

    @classmethod
    def fitted(cls, batch_s: Mapping[int, Sequence[float]]) -> ServiceTime:
        """From measured times: batch size -> times of whole batches in s.

        The line goes through the medians (least squares, no negative part); the spread is that
        of the smallest batch around its median.

        Raises:
            UsageError: nothing was measured.
        """
        medians = {n: float(np.median(times)) for n, times in batch_s.items() if len(times)}
        if not medians:
            raise UsageError("no measured batch to fit a service time to")
        sizes = np.array(sorted(medians), float)
        times = np.array([medians[int(n)] for n in sizes])
        if len(sizes) == 1:
            base_s, per_frame_s = 0.0, float(times[0] / sizes[0])
        else:
            per_frame_s, base_s = (float(v) for v in np.polyfit(sizes, times, 1))
            if base_s < 0:
                base_s, per_frame_s = 0.0, float((times @ sizes) / (sizes @ sizes))
            elif per_frame_s < 0:
                base_s, per_frame_s = float(times.mean()), 0.0
        first = np.asarray(batch_s[int(sizes[0])], float) / medians[int(sizes[0])]
        return cls(base_s, per_frame_s, tuple(float(f) for f in first))


@dataclass(frozen=True)
class FleetModel:
    """What is simulated.

    Attributes:
        streams, engines: how many.
        fps: frames per second that each stream offers.
        batch: most frames of different streams in one call.
        deadline_s: longest an engine waits for more frames once it has one.
        transfer_s: from a camera's frame to the engine that gets it.
    """

    streams: int
    fps: float = 30.0
    engines: int = 1
    batch: int = 1
    deadline_s: float = 0.0
    transfer_s: float = 0.002

    def __post_init__(self) -> None:
        if min(self.streams, self.engines, self.batch) < 1:
            raise UsageError("a fleet has at least one stream, one engine and one frame per batch")
        if not self.fps > 0 or self.deadline_s < 0 or self.transfer_s < 0:
            raise UsageError("fps is above 0, times are 0 s or more")


@dataclass(frozen=True)
class SimulationResult:
    """What came out; ages run from a frame's capture to its result.

    Attributes:
        fps: results per second, of all streams together.
        fps_per_stream: (streams,) 1/s.
        age_s: (results,) s.
        dropped: share of the offered frames that a newer one replaced.
        utilization: share of the time in which engines worked.
        mean_batch: frames per call.
    """

    fps: float
    fps_per_stream: NDArray[np.float64]
    age_s: NDArray[np.float64]
    dropped: float
    utilization: float
    mean_batch: float

    def age_ms(self, q: float) -> float:
        """A percentile of the results' age in ms."""
        return 1e3 * float(np.percentile(self.age_s, q))


def simulate(
    fleet: FleetModel, service: ServiceTime, *, seconds: float = 20.0, seed: int = 0
) -> SimulationResult:
    """Runs a fleet for `seconds` of its own time; same arguments, same answer.

    Streams are dealt out to engines evenly. The first tenth is left out of the figures.
    """
    rng = np.random.default_rng(seed)
    results = [
        _one_engine(
            rng.uniform(0, 1 / fleet.fps, size=len(range(k, fleet.streams, fleet.engines))),
            fleet,
            service,
            seconds,
            rng,
        )
        for k in range(min(fleet.engines, fleet.streams))
    ]
    per_stream = np.concatenate([one[0] for one in results])
    ages = np.concatenate([one[1] for one in results])
    timed_s = 0.9 * seconds
    calls = sum(one[3] for one in results)
    return SimulationResult(
        fps=float(per_stream.sum() / timed_s),
        fps_per_stream=per_stream / timed_s,
        age_s=ages,
        dropped=max(0.0, 1 - float(per_stream.sum()) / (fleet.streams * fleet.fps * timed_s)),
        utilization=sum(one[2] for one in results) / (fleet.engines * timed_s),
        mean_batch=len(ages) / calls if calls else 0.0,
    )


def _one_engine(
    phases_s: NDArray[np.float64],
    fleet: FleetModel,
    service: ServiceTime,
    seconds: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, int]:
    """Results per stream, their ages in s, seconds at work, and calls, after the first tenth."""
    period_s, begin_s = 1 / fleet.fps, 0.1 * seconds
    counts = np.zeros(len(phases_s))
    ages: list[float] = []
    busy_s, calls, now_s = 0.0, 0, 0.0
    # When each stream has a frame that was not taken yet; the longest waiting one goes first.
    waiting = [(float(phase) + fleet.transfer_s, k) for k, phase in enumerate(phases_s)]
    heapq.heapify(waiting)
    while now_s < seconds:
        now_s = max(now_s, waiting[0][0])
        until_s = now_s + fleet.deadline_s
        taken: list[int] = []
        while waiting and len(taken) < fleet.batch and waiting[0][0] <= until_s:
            ready_s, k = heapq.heappop(waiting)
            now_s = max(now_s, ready_s)
            taken.append(k)
        if waiting and len(taken) < fleet.batch:
            now_s = until_s
        captured_s = [_newest(phases_s[k], period_s, now_s - fleet.transfer_s) for k in taken]
        work_s = (service.base_s + service.per_frame_s * len(taken)) * float(rng.choice(service.spread))
        now_s += work_s
        if begin_s <= now_s < seconds:
            busy_s, calls = busy_s + work_s, calls + 1
            counts[taken] += 1
            ages += [now_s - t for t in captured_s]
        for k, t in zip(taken, captured_s, strict=True):
            heapq.heappush(waiting, (t + period_s + fleet.transfer_s, k))
    return counts, np.asarray(ages), busy_s, calls


def _newest(phase_s: float, period_s: float, now_s: float) -> float:
    """When the newest frame up to now was captured."""
    return phase_s + np.floor((now_s - phase_s) / period_s + 1e-9) * period_s


def max_streams(
    fleet: FleetModel,
    service: ServiceTime,
    *,
    age_ms: float,
    fps: float,
    most: int = 4096,
    seconds: float = 10.0,
) -> int:
    """How many streams fit: the p90 of the age and the slowest stream's rate keep their limits.

    Args:
        fleet: everything but the number of streams.
        service: of one engine.
        age_ms: longest p90 of a result's age.
        fps: fewest results per second of any stream, with 5% of tolerance.
        most: where the search ends.
        seconds: of simulated time per trial.

    Returns:
        0 if not even one stream fits.
    """

    def fits(streams: int) -> bool:
        out = simulate(replace(fleet, streams=streams), service, seconds=seconds)
        return bool(out.fps_per_stream.min() >= 0.95 * fps and out.age_ms(90) <= age_ms)

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Deployment:
    """Where the work is done, for a number of cameras.

    Attributes:
        name: in words.
        engines: servers' engines needed.
        network_mbit_s: what the cameras send, in all.
    """

    name: str
    engines: int
    network_mbit_s: float


def deployments(
    cameras: int,
    per_engine: int,
    *,
    fps: float,
    jpeg_bytes: float,
    result_bytes: float,
    motion_share: float,
) -> tuple[Deployment, ...]:
    """Three ways to serve many cameras, with what they cost.

    Args:
        cameras: how many.
        per_engine: streams that one engine serves; see `most_streams`.
        fps: results wanted per camera and second.
        jpeg_bytes, result_bytes: of one frame, and of its boxes and names.
        motion_share: share of the frames in which something moves, in (0, 1].

    Raises:
        UsageError: not one stream fits an engine, or a share outside (0, 1].
    """
    if per_engine < 1:
        raise UsageError("no engine serves even one stream within these limits; loosen them")
    if not 0 < motion_share <= 1:
        raise UsageError(f"motion_share is a share of the frames, above 0 and at most 1, not {motion_share}")
    mbit = 8e-6 * cameras * fps
    return (
        Deployment("every frame goes to the servers", -(-cameras // per_engine), mbit * jpeg_bytes),
        Deployment(
            "cameras send frames only while something moves",
            max(1, -(-int(np.ceil(cameras * motion_share)) // per_engine)),
            mbit * jpeg_bytes * motion_share,
        ),
        Deployment("cameras detect, and send boxes and names", 0, mbit * result_bytes),
    )
