"""Statistics of a measurement: deterministic functions of NumPy arrays.

No function drops a sample. With too few samples the result is None or an interval without bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labkit.core.errors import UsageError

Interval = tuple[float, float]
Floats = NDArray[np.float64]

UNBOUNDED: Interval = (0.0, float("inf"))
"""The interval of a positive quantity for which there are too few samples."""

SAME = (0.98, 1.02)
"""Ratios in this band count as the same speed."""

MIN_PROCESSES = 3
"""Fewest processes from which it is measured how far processes differ."""

ASSUMED_OFFSET = 0.02
"""Standard deviation of speed between processes that is assumed where it was not measured."""

MIN_RESULTS = 120
"""Fewest results from which throughput gets an interval."""

MIN_EPISODES = 5
"""Fewest slow episodes that may decide a throughput's interval."""

SPREAD_LIMIT = 0.10
DRIFT_LIMIT = 0.05
OUTLIER_SCORE = 3.5
RESAMPLES = 2000
LEVEL = 0.95


def percentile(latency_s: ArrayLike, q: float) -> float | None:
    """The q-th percentile of latency in s, or None where there are too few frames for it.

    Args:
        latency_s: (n,) s.
        q: in (0, 100). The median is given from one frame on; any other percentile from
            `frames_needed(q)` frames on.
    """
    samples = _samples("latency_s", latency_s)
    if len(samples) < (1 if q == 50 else frames_needed(q)):
        return None
    return float(np.percentile(samples, q))


@cache
def frames_needed(q: float) -> int:
    """Fewest frames from which a percentile of latency is reported: p90 64, p99 662.

    With that many, at least two frames lie beyond the true percentile with 99% certainty,
    whatever the distribution (the number beyond is binomial), so no lone frame decides it.
    """
    if not 0 < q < 100:
        raise UsageError(f"a percentile lies between 0 and 100, not {q}")
    tail = min(q, 100 - q) / 100
    n = 2
    while (1 - tail) ** n + n * tail * (1 - tail) ** (n - 1) > 0.01:
        n += 1
    return n


def format_interval(interval: Interval, spec: str = ".2f") -> str:
    """An interval as text: "1.20 to 1.35", or "too few for an interval"."""
    low, high = interval
    if not np.isfinite(high):
        return "too few for an interval"
    return f"{low:{spec}}" if low == high else f"{low:{spec}} to {high:{spec}}"


def speed_ratio(ratios: ArrayLike, process: ArrayLike = ()) -> float:
    """The ratio that a comparison's rounds come to: the geometric mean over processes of their medians.

    Args:
        ratios, process: as for `ratio_interval`.
    """
    return float(np.exp(np.mean(_process_medians(*_rounds(ratios, process)))))


def ratio_interval(ratios: ArrayLike, process: ArrayLike = ()) -> Interval:
    """95% interval of how many times faster one program is than another, whatever process it runs in.

    Rounds of one process share what differs from start to start (where memory lies, how threads were
    placed), so they are not independent: each process counts once, by the median of its log ratios, and
    the interval is Student's t over processes. By simulation with offsets between processes of 0 to 2%
    (standard deviation) and turns that scatter by 1 to 5% it covers in 95%, and A against A is called
    different in 5%. (A bootstrap of processes and of rounds within them covers 87 to 90% for offsets of 2%.)

    A speed-up of 5% is found in these shares of comparisons, for turns that scatter by 1, 3, 5%:

    | processes x rounds each | offsets 0.5% | offsets 1% | offsets 2% |
    |---|---|---|---|
    | 3 x 3 (`labkit bench --quick`) | 91, 36, 18% | 71, 33, 17% | 34, 24, 15% |
    | 5 x 2 (`labkit compare --quick`) | 100, 75, 38% | 99, 70, 36% | 78, 53, 31% |
    | 7 x 2 (full) | 100, 93, 57% | 100, 90, 55% | 94, 74, 46% |

    One or two processes cannot tell how far processes differ. The interval is then that of the rounds,
    widened as if processes differed by `ASSUMED_OFFSET`.

    Args:
        ratios: (rounds,), all above 0; of one or two processes 5 rounds or more, else `UNBOUNDED`.
        process: (rounds,) number of the process in which each round was measured; empty for rounds of
            one process.
    """
    logs, number = _rounds(ratios, process)
    medians = _process_medians(logs, number)
    n, centre = len(medians), float(np.mean(medians)) if len(medians) else 0.0
    if n >= MIN_PROCESSES:
        width = half_width(medians)
        return float(np.exp(centre - width)), float(np.exp(centre + width))
    if len(logs) < 5:
        return UNBOUNDED
    low, high = median_interval(logs[None])[0]
    offset = 1.96 * ASSUMED_OFFSET * sqrt(2 / n)
    return (
        float(np.exp(centre - np.hypot(max(0.0, centre - low), offset))),
        float(np.exp(centre + np.hypot(max(0.0, high - centre), offset))),
    )


def rounds_interval(ratios: ArrayLike) -> Interval:
    """95% interval of the median ratio of two ways to measure one thing in one and the same process.

    It says nothing of another process: for the speed of programs there is `ratio_interval`. The plain
    bootstrap of a median can only land on the samples themselves, so with a handful of rounds its
    coverage jumps with their number. Smoothing the samples with a kernel of one standard error mends
    that (T. Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69,
    2015). The interval is that of infinitely many resamples, found from the median's exact
    distribution: nothing is drawn at random.

    Args:
        ratios: (rounds,), all above 0; fewer than 5 say nothing and give `UNBOUNDED`.
    """
    logs, _ = _rounds(ratios, ())
    if len(logs) < 5:
        return UNBOUNDED
    low, high = np.exp(median_interval(logs[None]))[0]
    return float(low), float(high)


def median_interval(samples: Floats) -> Floats:
    """95% smoothed-bootstrap intervals of the medians of many series at once.

    Args:
        samples: (m, n), n of 5 or more.

    Returns:
        (m, 2) lower and upper bounds.
    """
    n = samples.shape[1]
    quartiles = np.percentile(samples, [25, 75], axis=1)
    spread = np.minimum(samples.std(axis=1, ddof=1), (quartiles[1] - quartiles[0]) / 1.349)
    width = np.maximum(spread / sqrt(n - 2), 1e-12)
    tail = _median_rank(n, (1 - LEVEL) / 2)
    return np.stack([_smoothed_quantile(samples, width, q) for q in (tail, 1 - tail)], axis=1)


def verdict(interval: Interval) -> Literal["faster", "slower", "same", "cannot tell"]:
    """Classify the interval of a speed ratio; "same" (within 2%) is tested first."""
    low, high = interval
    if low >= SAME[0] and high <= SAME[1]:
        return "same"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "cannot tell"


def throughput_interval(done_s: ArrayLike) -> Interval:
    """95% interval of frames per second: a block bootstrap over the times between results.

    Blocks of about sqrt(n) successive results are drawn with replacement, so that drift and
    other memory in the series count. Blocks are short and few, hence their spread is widened
    twice: by what blocks of this length miss of the series' memory (as if autoregressive),
    and by the critical value that belongs to so few blocks instead of the normal one
    (N. Kiefer and T. Vogelsang, "A new asymptotic theory for heteroskedasticity-
    autocorrelation robust tests", Econometric Theory 21, 2005). Frames that come together,
    as from a batch, are one result with their number.

    It covers the true throughput in 93 to 97% of runs, or says that there are too few results: fewer
    than `MIN_RESULTS`, in which a machine that is slow now and then may not have been so yet, or
    slow episodes that make up most of the spread and are fewer than `MIN_EPISODES`. What happens
    less often than about three times in a run is not known from that run.

    Args:
        done_s: (n,) s when each result was there, rising, from the start of the timed part.

    Returns:
        (low, high) in frames per second; `UNBOUNDED` where there are too few results.
    """
    gaps_s = np.diff(_samples("done_s", done_s), prepend=0.0)
    if len(gaps_s) and gaps_s.min() < 0:
        raise UsageError("done_s rises from frame to frame, from 0; this series falls somewhere")
    time_s, frames = _bursts(gaps_s)
    if len(time_s) < MIN_RESULTS:
        return UNBOUNDED
    period_s = time_s.sum() / frames.sum()
    residual_s = (time_s - period_s * frames) / frames.mean()
    if _decided_by_few(residual_s):
        return UNBOUNDED
    low_s, high_s = period_s + np.quantile(_mean_deviations(residual_s), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return 1 / float(high_s), 1 / float(low_s) if low_s > 0 else float("inf")


def noise_reasons(latency_s: ArrayLike) -> tuple[str, ...]:
    """Reasons to call a series of latencies noisy, as sentences; empty when there is none.

    Args:
        latency_s: (n,) s in the order of the frames.
    """
    samples = _samples("latency_s", latency_s)
    if len(samples) < 3:
        return ()
    reasons = []
    low, median, high = np.percentile(samples, [25, 50, 75])
    if median > 0 and (high - low) / median > SPREAD_LIMIT:
        share = (high - low) / median
        reasons.append(f"latency spreads: its interquartile range is {share:.0%} of the median (limit 10%)")
    third = len(samples) // 3
    first, last = np.median(samples[:third]), np.median(samples[-third:])
    if first > 0 and abs(last / first - 1) > DRIFT_LIMIT:
        change = last / first - 1
        reasons.append(f"latency drifts: {change:+.0%} from the first third to the last (limit 5%)")
    return tuple(reasons)


def outliers(latency_s: ArrayLike) -> NDArray[np.bool_]:
    """(n,) bool: frames far from the median (modified z-score above 3.5); none is dropped.

    Source: B. Iglewicz and D. Hoaglin, "How to detect and handle outliers", 1993. Where more
    than half the frames are equal, the mean absolute deviation takes the median one's place.
    """
    samples = _samples("latency_s", latency_s)
    if not len(samples):
        return np.zeros(0, np.bool_)
    distance = np.abs(samples - np.median(samples))
    scale = 1.4826 * np.median(distance) or 1.2533 * distance.mean()
    return np.asarray(distance > OUTLIER_SCORE * scale)


def warm_up_done(
    latencies_s: ArrayLike, elapsed_s: float, *, min_frames: int = 20, min_s: float = 2.0
) -> bool:
    """True once warm-up may end: enough frames and time, and two successive medians within 2%.

    Args:
        latencies_s: (n,) s of all warm-up frames so far.
        elapsed_s: since the warm-up began.
        min_frames: fewest frames; the medians are over 10 frames each, or over half of
            `min_frames` where that is less (quick mode).
        min_s: shortest time.
    """
    samples = _samples("latencies_s", latencies_s)
    part = min(10, min_frames // 2)
    if len(samples) < min_frames or elapsed_s < min_s:
        return False
    if part == 0:
        return True
    before, now = np.median(samples[-2 * part : -part]), np.median(samples[-part:])
    return bool(abs(now - before) <= 0.02 * before)


@dataclass(frozen=True)
class Line:
    """A straight line through measurements, with 95% intervals.

    Attributes:
        slope: rise per unit of x.
        start: height at x = 0.
        slope_interval, start_interval: without bounds for fewer than 3 points.
    """

    slope: float
    start: float
    slope_interval: Interval
    start_interval: Interval


def fit_line(x: ArrayLike, y: ArrayLike) -> Line:
    """Least squares; the intervals are Student's, from how far the points lie off the line.

    Args:
        x, y: (n,), n of 2 or more, not all x the same.
    """
    from scipy.stats import linregress

    across, up = _samples("x", x), _samples("y", y)
    if across.shape != up.shape or len(np.unique(across)) < 2:
        raise UsageError("a line goes through two or more points at different x")
    found, n = linregress(across, up), len(across)
    width = t_value(n - 2) if n > 2 else float("inf")
    slope, start = float(found.slope), float(found.intercept)

    def around(value: float, error: float) -> Interval:
        return (value - width * error, value + width * error) if n > 2 else (-width, width)

    return Line(slope, start, around(slope, found.stderr), around(start, found.intercept_stderr))


def is_pareto(speed: ArrayLike, accuracy: ArrayLike) -> NDArray[np.bool_]:
    """(n,) bool: points that no other one beats in speed without losing accuracy, or reverse.

    Args:
        speed: (n,), higher is better.
        accuracy: (n,), higher is better. A NaN in either is never on the front.
    """
    x, y = np.asarray(speed, np.float64), np.asarray(accuracy, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise UsageError(f"speed and accuracy have one length, not {x.shape} and {y.shape}")
    at_least = (x[None] >= x[:, None]) & (y[None] >= y[:, None])
    better = (x[None] > x[:, None]) | (y[None] > y[:, None])
    return ~(at_least & better).any(axis=1) & np.isfinite(x) & np.isfinite(y)


def half_width(values: ArrayLike) -> float:
    """Half of the 95% interval of a mean (Student's t) over two or more independent values."""
    samples = _samples("values", values)
    return t_value(len(samples) - 1) * float(samples.std(ddof=1)) / sqrt(len(samples))


@cache
def t_value(freedom: int, level: float = LEVEL) -> float:
    """Student's two-sided critical value."""
    from scipy.special import stdtrit  # here, since importing it takes longer than labkit itself

    return float(stdtrit(freedom, (1 + level) / 2))


def _samples(name: str, values: ArrayLike) -> Floats:
    samples = np.asarray(values, np.float64)
    if samples.ndim != 1:
        raise UsageError(f"{name} is a series (n,), not of shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise UsageError(f"{name} holds finite numbers; {np.sum(~np.isfinite(samples))} are NaN or infinite")
    return samples


def _rounds(ratios: ArrayLike, process: ArrayLike) -> tuple[Floats, Floats]:
    """(rounds,) log ratios and process numbers."""
    samples, number = _samples("ratios", ratios), _samples("process", process)
    if len(samples) and samples.min() <= 0:
        raise UsageError(f"ratios are above 0, not {samples.min()}; check the times they come from")
    if len(number) not in (0, len(samples)):
        raise UsageError(f"process has one number per round ({len(samples)}) or none, not {len(number)}")
    return np.log(samples), number if len(number) else np.zeros(len(samples))


def _process_medians(logs: Floats, number: Floats) -> Floats:
    """(processes,) median log ratio of each process."""
    return np.array([np.median(logs[number == each]) for each in np.unique(number)])


@cache
def _median_rank(n: int, tail: float) -> float:
    """Quantile of the median's rank: Beta((n+1)/2, (n+1)/2) at `tail`."""
    from scipy.special import betaincinv  # here, since importing it takes longer than labkit itself

    return float(betaincinv((n + 1) / 2, (n + 1) / 2, tail))


def _smoothed_quantile(samples: Floats, width: Floats, q: float) -> Floats:
    """(m,) q-quantiles of (m, n) samples, each blurred by a logistic kernel of that deviation."""
    slope = np.pi / (2 * sqrt(3) * width)[:, None]
    low, high = samples.min(axis=1) - 12 * width, samples.max(axis=1) + 12 * width
    for _ in range(50):
        middle = (low + high) / 2
        share = 0.5 + 0.5 * np.tanh((middle[:, None] - samples) * slope).mean(axis=1)
        low, high = np.where(share < q, middle, low), np.where(share < q, high, middle)
    return (low + high) / 2


def _bursts(gaps_s: Floats) -> tuple[Floats, Floats]:
    """Time and number of frames of each burst: frames a tenth of the mean gap apart or less."""
    if not len(gaps_s) or gaps_s.max() == 0:
        return np.empty(0), np.empty(0)
    first = gaps_s > 0.1 * gaps_s.mean()
    first[0] = True
    start = np.flatnonzero(first)
    return np.add.reduceat(gaps_s, start), np.diff(start, append=len(gaps_s)).astype(np.float64)


def _decided_by_few(residual_s: Floats) -> bool:
    """True if a few slow episodes make up most of a series' spread; results 3 apart are one episode."""
    slow = np.flatnonzero(outliers(residual_s) & (residual_s > 0))
    episodes = int(np.sum(np.diff(slow, prepend=-np.inf) > 3))
    share = float(np.sum(residual_s[slow] ** 2)) / max(float(residual_s @ residual_s), 1e-300)
    return 0 < episodes < MIN_EPISODES and share > 0.5


def _mean_deviations(series: Floats) -> Floats:
    """(RESAMPLES,) bootstrapped deviations of the mean of a series around 0; seeded."""
    n = len(series)
    block = max(1, round(sqrt(n)))
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([series, series[: block - 1]]))])
    sums = total[block:] - total[:-block]
    starts = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, max(2, round(n / block))))
    return sums[starts].mean(axis=1) / block * _memory_factor(series, block) * _few_blocks_factor(block / n)


def _memory_factor(series: Floats, block: int) -> float:
    """Ratio of a mean's spread to what blocks of this length show, for an autoregressive series."""
    n, energy = len(series), float(series @ series)
    rho = float(series[1:] @ series[:-1]) / energy if energy > 0 else 0.0
    if rho <= 0:
        return 1.0
    rho = min(rho + (1 + 3 * rho) / n, 0.97)  # the estimate is low by this much in short series
    lag = np.arange(1, block)
    seen = 1 + 2 * float(np.sum((1 - lag / block) * rho**lag))
    return sqrt((1 + rho) / (1 - rho) / seen)


def _few_blocks_factor(share: float) -> float:
    """Fixed-bandwidth 97.5% critical value over the normal one; `share` is block / n."""
    return (1.9600 + 2.9694 * share + 0.4160 * share**2 - 0.5324 * share**3) / 1.9600
