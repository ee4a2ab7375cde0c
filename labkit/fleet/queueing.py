"""Discrete-event simulation of a camera fleet: from measured service times to the number of cameras.

It follows the rules of `labkit.fleet`: every stream offers frames at its rate and keeps only the
latest; an engine gathers frames of several streams, at most `batch` of them and no longer than a
deadline, processes them at once, and starts again. No closed form describes batch service of streams
that replace their waiting frame, so it is simulated.

Assumptions: cameras start at random times and keep their rate exactly; an engine's time depends on the
number of frames alone, with the measured spread; a frame takes a fixed `transfer_s` to reach an engine;
writing results costs nothing; nothing fails. So the result is an upper bound for a measured fleet.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labkit.core.errors import UsageError

MOST_STREAMS, TRIAL_S = 4096, 10.0
"""Of one engine, and simulated for each number of streams that is tried."""


@dataclass(frozen=True)
class ServiceTime:
    """Service time of a batch of n frames: `base_s + per_frame_s * n`, times a random factor.

    Attributes:
        base_s, per_frame_s: cost of a call, and of each frame in it.
        spread: factors around 1 to draw from; (1.0,) for no spread.

    Raises:
        UsageError: a time is negative, or both are 0.
    """

    base_s: float
    per_frame_s: float
    spread: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.base_s < 0 or self.per_frame_s < 0 or self.base_s + self.per_frame_s <= 0:
            raise UsageError(
                f"a batch takes time: base_s {self.base_s} and per_frame_s {self.per_frame_s} must be 0 or "
                "more, and not both 0"
            )

    def mean_s(self, frames: int) -> float:
        """Mean service time of a batch of so many frames in s."""
        return (self.base_s + self.per_frame_s * frames) * float(np.mean(self.spread))

    @classmethod
    def fitted(cls, batch_s: Mapping[int, Sequence[float]]) -> ServiceTime:
        """Fit measured times: batch size -> times of batches in s.

        The line is the non-negative least-squares fit of the medians; the spread is that of the
        smallest batch size around its median.

        Raises:
            UsageError: nothing was measured.
        """
        from scipy.optimize import nnls

        medians = {n: float(np.median(times)) for n, times in batch_s.items() if len(times)}
        if not medians:
            raise UsageError("no measured batch to fit a service time to")
        sizes = sorted(medians)
        (per_frame_s, base_s), _ = nnls(np.array([[n, 1.0] for n in sizes]), [medians[n] for n in sizes])
        factors = np.asarray(batch_s[sizes[0]], float) / medians[sizes[0]]
        return cls(float(base_s), float(per_frame_s), tuple(map(float, factors)))


@dataclass(frozen=True)
class FleetModel:
    """Parameters of a simulated fleet.

    Attributes:
        streams, engines: their numbers.
        fps: frames per second that each stream offers.
        batch: largest number of frames in one call, each of another stream.
        deadline_s: longest wait of an engine for more frames once it has one.
        transfer_s: from the capture of a frame to its arrival at an engine.

    Raises:
        UsageError: a value is out of range.
    """

    streams: int
    fps: float = 30.0
    engines: int = 1
    batch: int = 1
    deadline_s: float = 0.0
    transfer_s: float = 0.002

    def __post_init__(self) -> None:
        if min(self.streams, self.engines, self.batch) < 1:
            raise UsageError(f"a fleet needs at least one stream, one engine and one frame per batch: {self}")
        if not self.fps > 0 or self.deadline_s < 0 or self.transfer_s < 0:
            raise UsageError(f"fps must be above 0 and times 0 s or more: {self}")


@dataclass(frozen=True)
class SimulationResult:
    """Results of a simulation; ages run from a frame's capture to its result.

    Attributes:
        fps: results per second of all streams together.
        fps_per_stream: (streams,) 1/s.
        age_s: (results,) s.
        dropped: share of the offered frames that a later one replaced.
        utilization: share of the time that engines were busy.
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
    """Simulate `seconds` of a fleet; the same arguments give the same result.

    Streams are distributed evenly over engines. The first tenth is left out of the figures.
    """
    rng = np.random.default_rng(seed)
    timed_s = 0.9 * seconds
    counts, ages, busy_s, calls = [], [], 0.0, 0
    for k in range(min(fleet.engines, fleet.streams)):
        phases_s = rng.uniform(0, 1 / fleet.fps, size=len(range(k, fleet.streams, fleet.engines)))
        count, age_s, work_s = _one_engine(phases_s, fleet, service, seconds, rng)
        counts.append(count)
        ages += age_s
        busy_s, calls = busy_s + sum(work_s), calls + len(work_s)
    per_stream = np.concatenate(counts)
    return SimulationResult(
        fps=float(per_stream.sum() / timed_s),
        fps_per_stream=per_stream / timed_s,
        age_s=np.asarray(ages),
        dropped=max(0.0, 1 - float(per_stream.sum()) / (fleet.streams * fleet.fps * timed_s)),
        utilization=busy_s / (fleet.engines * timed_s),
        mean_batch=len(ages) / calls if calls else 0.0,
    )


def _one_engine(
    phases_s: NDArray[np.float64],
    fleet: FleetModel,
    service: ServiceTime,
    seconds: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], list[float], list[float]]:
    """Results per stream, their ages in s, and the time of each call in s, after the first tenth."""
    period_s, begin_s = 1 / fleet.fps, 0.1 * seconds
    counts = np.zeros(len(phases_s))
    ages: list[float] = []
    calls_s: list[float] = []
    now_s = 0.0
    # When each stream's next frame reaches the engine; the frame that waits longest is taken first.
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
        captured_s = [_latest_capture(phases_s[k], period_s, now_s - fleet.transfer_s) for k in taken]
        work_s = (service.base_s + service.per_frame_s * len(taken)) * float(rng.choice(service.spread))
        now_s += work_s
        if begin_s <= now_s < seconds:
            calls_s.append(work_s)
            counts[taken] += 1
            ages += [now_s - t for t in captured_s]
        for k, t in zip(taken, captured_s, strict=True):
            heapq.heappush(waiting, (t + period_s + fleet.transfer_s, k))
    return counts, ages, calls_s


def _latest_capture(phase_s: float, period_s: float, now_s: float) -> float:
    """Capture time of the latest frame up to now."""
    return phase_s + np.floor((now_s - phase_s) / period_s + 1e-9) * period_s


def max_streams(
    fleet: FleetModel,
    service: ServiceTime,
    *,
    age_ms: float,
    fps: float,
) -> int:
    """The largest number of streams for which the p90 age and the slowest stream's rate meet limits.

    Args:
        fleet: parameters; its number of streams is ignored.
        service: of one engine.
        age_ms: upper limit of the p90 of results' ages.
        fps: lower limit of any stream's results per second, with 5% of tolerance.

    Returns:
        0 if not even one stream fits.
    """

    def too_many(streams: int) -> bool:
        out = simulate(replace(fleet, streams=streams), service, seconds=TRIAL_S)
        return not (out.fps_per_stream.min() >= 0.95 * fps and out.age_ms(90) <= age_ms)

    return bisect_left(range(1, MOST_STREAMS + 1), True, key=too_many)


def deployments(
    cameras: int,
    per_engine: int,
    *,
    fps: float,
    jpeg_bytes: float,
    result_bytes: float,
    motion_share: float,
) -> list[tuple[str, int, float]]:
    """Three ways to serve many cameras: where, engines on servers, Mbit/s of all cameras together.

    Args:
        cameras: number of cameras.
        per_engine: streams that one engine serves; see `max_streams`.
        fps: results wanted per camera and second.
        jpeg_bytes, result_bytes: size of a frame, and of its boxes and names.
        motion_share: share of the frames in which something moves, in (0, 1].

    Raises:
        UsageError: not one stream fits an engine, or a share outside (0, 1].
    """
    if per_engine < 1:
        raise UsageError("no engine serves even one stream within these limits; loosen them")
    if not 0 < motion_share <= 1:
        raise UsageError(f"motion_share must be above 0 and at most 1, not {motion_share}")
    mbit = 8e-6 * cameras * fps
    moving = max(1, -(-int(np.ceil(cameras * motion_share)) // per_engine))
    return [
        ("every frame goes to the servers", -(-cameras // per_engine), mbit * jpeg_bytes),
        ("cameras send frames only while something moves", moving, mbit * jpeg_bytes * motion_share),
        ("cameras detect, and send boxes and names", 0, mbit * result_bytes),
    ]
