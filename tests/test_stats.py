"""The statistics, proved on simulated pipelines whose truth is known."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.bench.interleave import FULL_ROUNDS, QUICK_PAIR, QUICK_ROUNDS, RoundPlan
from labkit.core import stats
from labkit.core.errors import UsageError

from conftest import further  # isort: skip

SIMULATIONS = 2000
ROUNDS = (9, 11, 15, 21)


def autoregressive(rng: np.random.Generator, runs: int, n: int, rho: float) -> np.ndarray:
    """(runs, n) standard normal series whose neighbours correlate by `rho`."""
    noise = rng.normal(size=(n + 1, runs))
    series = np.empty((n, runs))
    last = noise[-1]
    for step in range(n):
        last = series[step] = rho * last + np.sqrt(1 - rho**2) * noise[step]
    return series.T


def interleaved(
    rng: np.random.Generator, rounds: int, ratio: float, *, frames_per_turn: int = 20, spread: float = 0.05
) -> np.ndarray:
    """(SIMULATIONS, rounds) ratios of two rungs measured in turns on one restless machine.

    Frame times are log-normal with the given spread; a tenth of it remembers the last frame,
    the machine drifts by several per cent, and one frame in 200 takes twice as long.
    """
    n = 2 * rounds * frames_per_turn
    log_s = spread * (
        0.9 * rng.normal(size=(SIMULATIONS, n)) + 0.4 * autoregressive(rng, SIMULATIONS, n, 0.6)
    )
    log_s += 0.05 * np.cumsum(rng.normal(size=(SIMULATIONS, n)), axis=1) / np.sqrt(n)
    time_s = 0.02 * np.exp(log_s) * np.where(rng.random((SIMULATIONS, n)) < 0.005, 2, 1)
    turns_s = time_s.reshape(SIMULATIONS, rounds, 2, frames_per_turn).mean(axis=3)
    b_first = rng.random((SIMULATIONS, rounds)) < 0.5
    first, second = turns_s[:, :, 0], turns_s[:, :, 1]
    a_s, b_s = np.where(b_first, second, first), np.where(b_first, first, second) / ratio
    return a_s / b_s


def intervals(ratios: np.ndarray) -> np.ndarray:
    return np.exp(stats.median_interval(np.log(ratios)))


OFFSETS = (0.0, 0.005, 0.01, 0.02)
SCATTERS = (0.01, 0.03, 0.05)
PLANS = {"quick": QUICK_ROUNDS, "quick pair": QUICK_PAIR, "full": FULL_ROUNDS}


def compared(plan: RoundPlan, offset: float, scatter: float, ratio: float, n: int = 1000) -> np.ndarray:
    """(n, 2) intervals of comparisons of two rungs whose processes differ by `offset` (sd).

    Args:
        scatter: standard deviation of a turn's time within one process.
    """
    rng = np.random.default_rng(int(1e4 * offset + 1e6 * scatter))
    process = np.sort(np.arange(plan.rounds) % plan.processes)
    offsets = offset * rng.normal(size=(2, n, plan.processes))
    log_s = offsets[:, :, process] + scatter * rng.normal(size=(2, n, plan.rounds))
    return np.array([stats.ratio_interval(each, process) for each in ratio * np.exp(log_s[0] - log_s[1])])


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_comparisons_cover_and_call_a_against_a_different_in_5_percent(plan: RoundPlan) -> None:
    """Whatever processes differ by: their number is what the interval rests on."""
    different = []
    for offset in OFFSETS:
        for scatter in SCATTERS:
            bounds = compared(plan, offset, scatter, 1.0)
            assert 0.93 <= np.mean((bounds[:, 0] <= 1) & (bounds[:, 1] >= 1)) <= 0.97
            different.append(np.mean([stats.verdict(tuple(b)) in ("faster", "slower") for b in bounds]))
    assert np.mean(different) <= 0.05


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_as_many_5_percent_changes_are_found_as_the_docstring_says(plan: RoundPlan) -> None:
    assert stats.ratio_interval.__doc__ is not None
    key = f"| {plan.processes} x {plan.rounds // plan.processes} "
    (row,) = [line for line in stats.ratio_interval.__doc__.splitlines() if key in line]
    for offset, cell in zip((0.005, 0.01, 0.02), row.split("|")[2:], strict=False):
        for scatter, said in zip(SCATTERS, re.findall(r"\d+", cell), strict=True):
            verdicts = [stats.verdict(tuple(b)) for b in compared(plan, offset, scatter, 1.05)]
            assert 100 * np.mean([word == "faster" for word in verdicts]) == pytest.approx(int(said), abs=5)


def test_rounds_of_one_process_claim_no_small_change() -> None:
    """Rounds agree with one another far better than two processes do."""
    rng = np.random.default_rng(0)
    one = 1.04 * np.exp(0.005 * rng.normal(size=15))
    assert stats.verdict(stats.ratio_interval(one)) == "cannot tell"
    assert stats.ratio_interval(one) == stats.ratio_interval(one, np.zeros(15))
    assert stats.verdict(stats.ratio_interval(2 * one)) == "faster"
    low, high = stats.ratio_interval(one)
    assert low < stats.rounds_interval(one)[0] < stats.rounds_interval(one)[1] < high
    for n in (1, 2):
        process = np.arange(14) % n
        offsets = 0.02 * rng.normal(size=(2, 1000, n))
        log_s = offsets[:, :, process] + 0.02 * rng.normal(size=(2, 1000, 14))
        bounds = np.array([stats.ratio_interval(each, process) for each in np.exp(log_s[0] - log_s[1])])
        assert np.mean((bounds[:, 0] <= 1) & (bounds[:, 1] >= 1)) >= 0.93


def test_each_process_counts_once_however_many_rounds_it_has() -> None:
    ratios, process = [1.0] * 9 + [1.2, 1.44], [0] * 9 + [1, 2]
    assert stats.speed_ratio(ratios, process) == pytest.approx(1.2)
    assert stats.speed_ratio(ratios) == pytest.approx(1.0)
    half = 4.3027 * np.log(1.2) / np.sqrt(3)
    assert np.log(stats.ratio_interval(ratios, process)) == pytest.approx(
        [np.log(1.2) - half, np.log(1.2) + half], abs=1e-4
    )
    with pytest.raises(UsageError, match="one number per round"):
        stats.ratio_interval(ratios, [0, 1])
    with pytest.raises(UsageError, match="ratios are above 0, not 0"):
        stats.speed_ratio([1.0, 0.0, 1.2])


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("spread", [0.03, 0.1, 0.2])
def test_rounds_interval_covers_the_truth_in_95_percent(rounds: int, spread: float) -> None:
    ratios = interleaved(np.random.default_rng(rounds), rounds, 1.3, spread=spread)
    low, high = intervals(ratios).T
    assert 0.93 <= np.mean((low <= 1.3) & (high >= 1.3)) <= 0.97


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("shape", ["normal", "heavy tails", "skewed", "uniform"])
def test_rounds_interval_covers_for_other_noise(rounds: int, shape: str) -> None:
    rng = np.random.default_rng(100 + rounds)
    size = (4 * SIMULATIONS, rounds)
    log_ratio = {
        "normal": lambda: rng.normal(size=size),
        "heavy tails": lambda: rng.standard_t(3, size=size),
        "skewed": lambda: np.expm1(0.5 * rng.normal(size=size)),
        "uniform": lambda: rng.uniform(-1, 1, size=size),
    }[shape]()
    low, high = stats.median_interval(0.03 * log_ratio).T
    assert 0.93 <= np.mean((low <= 0) & (high >= 0)) <= 0.97


@pytest.mark.parametrize("rounds", ROUNDS)
def test_rounds_of_one_process_against_itself_differ_in_at_most_5_percent(rounds: int) -> None:
    """At a spread (interquartile range 7% of the median) that is not yet called noisy."""
    rng = np.random.default_rng(200 + rounds)
    ratios = np.concatenate([interleaved(rng, rounds, 1.0) for _ in range(4)])  # 8,000: a rate to 0.2%
    verdicts = [stats.verdict(tuple(pair)) for pair in intervals(ratios)]
    assert np.mean([word in ("faster", "slower") for word in verdicts]) <= 0.05


@pytest.mark.parametrize(
    ("rounds", "frames_per_turn", "spread"),
    [(9, 20, 0.05), (9, 40, 0.10), (15, 20, 0.10)],
)
def test_a_5_percent_gain_within_a_process_is_found_in_90_percent(
    rounds: int, frames_per_turn: int, spread: float
) -> None:
    """Rounds, frames per turn and spread of frame times that suffice for it."""
    rng = np.random.default_rng(300 + rounds)
    ratios = interleaved(rng, rounds, 1.05, frames_per_turn=frames_per_turn, spread=spread)
    verdicts = [stats.verdict(tuple(pair)) for pair in intervals(ratios)]
    assert np.mean([word == "faster" for word in verdicts]) >= 0.90


def test_smoothed_bootstrap_equals_one_drawn_at_random() -> None:
    """The closed form against what it stands for: resample, add the kernel, take the median."""
    rng = np.random.default_rng(4)
    samples = np.log(1.2) + 0.05 * rng.normal(size=11)
    quartiles = np.percentile(samples, [25, 75])
    spread = min(samples.std(ddof=1), (quartiles[1] - quartiles[0]) / 1.349)
    drawn = rng.choice(samples, size=(200_000, 11))
    drawn += rng.logistic(0, spread / 3 * np.sqrt(3) / np.pi, size=drawn.shape)
    expected = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    assert np.log(stats.rounds_interval(np.exp(samples))) == pytest.approx(expected, abs=0.002)


def test_an_interval_of_a_mean_is_students() -> None:
    folds = np.arange(8.0)
    assert stats.half_width(folds) == pytest.approx(2.365 * folds.std(ddof=1) / 8**0.5, rel=1e-3)


def test_ratio_interval_is_deterministic_and_turns_over_with_the_question() -> None:
    ratios = np.array([1.1, 1.2, 1.15, 1.3, 1.05, 1.22, 1.18, 1.12, 1.25])
    low, high = stats.ratio_interval(ratios)
    assert (low, high) == stats.ratio_interval(ratios)
    assert low < np.median(ratios) < high
    assert stats.ratio_interval(1 / ratios) == pytest.approx((1 / high, 1 / low), rel=1e-9)


def test_ratio_interval_of_equal_ratios_is_a_point_and_of_few_has_no_bounds() -> None:
    assert stats.rounds_interval([1.5] * 9) == pytest.approx((1.5, 1.5), rel=1e-9)
    assert stats.ratio_interval([1.5] * 9, np.arange(9) % 3) == pytest.approx((1.5, 1.5), rel=1e-9)
    assert stats.ratio_interval([1.5] * 4) == stats.UNBOUNDED
    assert stats.verdict(stats.ratio_interval([9.0] * 4)) == "cannot tell"


@pytest.mark.parametrize("bad", [[1, 0, 1, 1, 1], [1, -1, 1, 1, 1], [1, np.nan, 1, 1, 1], [[1.0]]])
def test_ratio_interval_refuses_what_is_no_ratio(bad: list) -> None:
    with pytest.raises(UsageError):
        stats.ratio_interval(bad)


@pytest.mark.parametrize("n", [1000, *further(300)])
@pytest.mark.parametrize(
    ("rho", "spread", "outlier_share", "batch"),
    [
        (0, 0.1, 0, 1),
        (0, 0.4, 0, 1),
        (0.5, 0.1, 0, 1),
        (0.8, 0.1, 0, 1),
        (0.3, 0.05, 0.02, 1),
        (0, 0.1, 0, 4),
    ],
    ids=["independent", "wide", "remembering", "remembering long", "outliers", "batches"],
)
def test_throughput_interval_covers_the_truth_in_95_percent(
    n: int, rho: float, spread: float, outlier_share: float, batch: int
) -> None:
    rng = np.random.default_rng(n + int(100 * rho))
    results = n // batch
    time_s = 0.02 * np.exp(spread * autoregressive(rng, SIMULATIONS, results, rho))
    time_s *= np.where(rng.random(time_s.shape) < outlier_share, 3, 1)
    truth_fps = batch / (0.02 * np.exp(spread**2 / 2) * (1 + 2 * outlier_share))
    gaps_s = np.zeros((SIMULATIONS, n))
    gaps_s[:, ::batch] = time_s
    bounds = np.array([stats.throughput_interval(done) for done in np.cumsum(gaps_s, axis=1)])
    if results < stats.MIN_RESULTS:
        assert not np.isfinite(bounds[:, 1]).any()
        return
    low, high = bounds.T
    assert 0.93 <= np.mean((low <= truth_fps) & (high >= truth_fps)) <= (0.99 if outlier_share else 0.97)
    assert np.median(high - low) < 0.12 * truth_fps


@pytest.mark.parametrize("n", [64, 300, *further(160, 1000)])
@pytest.mark.parametrize(("begins", "length", "times"), [(0.02, 5, 2.0), (0.05, 4, 1.5), (0.03, 4, 2.0)])
def test_throughput_of_a_machine_that_is_slow_now_and_then_is_covered_or_untold(
    n: int, begins: float, length: int, times: float
) -> None:
    """Episodes of slow frames, of which a short run has few, or by chance none."""
    rng = np.random.default_rng(n)
    slow = np.zeros((500, n + 200), bool)
    for i in range(1, n + 200):
        going_on = rng.random(500) < 1 - 1 / length
        slow[:, i] = np.where(slow[:, i - 1], going_on, rng.random(500) < begins)
    gaps_s = 0.02 * np.exp(0.05 * rng.normal(size=(500, n))) * np.where(slow[:, 200:], times, 1)
    share = begins / (begins + 1 / length)
    truth_fps = 1 / (0.02 * np.exp(0.05**2 / 2) * (1 + share * (times - 1)))
    low, high = np.array([stats.throughput_interval(done) for done in np.cumsum(gaps_s, axis=1)]).T
    assert np.mean((low <= truth_fps) & (high >= truth_fps)) >= 0.91
    assert (n == 64) == (not np.isfinite(high).any())


def test_throughput_interval_holds_the_estimate_and_says_nothing_of_few() -> None:
    done_s = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.03, 200))
    low, high = stats.throughput_interval(done_s)
    assert low < 200 / done_s[-1] < high
    assert stats.throughput_interval(done_s[:119]) == stats.UNBOUNDED
    assert stats.throughput_interval([]) == stats.UNBOUNDED
    assert stats.throughput_interval([0.0] * 20) == stats.UNBOUNDED
    with pytest.raises(UsageError, match="falls"):
        stats.throughput_interval(done_s[::-1])


@pytest.mark.parametrize(("q", "n"), [(90, 64), (99, 662), (10, 64)])
def test_frames_needed_is_the_smallest_n_of_the_rule(q: float, n: int) -> None:
    """Two frames or more beyond the percentile with 99%: binomial, by simulation-free sums."""

    def lone_or_none(frames: int) -> float:
        tail = min(q, 100 - q) / 100
        weights = np.cumsum(np.log(np.arange(1, frames + 1)))
        log_choose = lambda k: weights[-1] - (weights[k - 1] if k else 0) - weights[frames - k - 1]  # noqa: E731
        return sum(np.exp(log_choose(k) + k * np.log(tail) + (frames - k) * np.log1p(-tail)) for k in (0, 1))

    assert stats.frames_needed(q) == n
    assert lone_or_none(n) <= 0.01 < lone_or_none(n - 1)


def test_percentile_needs_frames_enough_except_the_median() -> None:
    rng = np.random.default_rng(1)
    samples = rng.random(662)
    assert stats.percentile(samples, 99) == np.percentile(samples, 99)
    assert stats.percentile(samples[:661], 99) is None
    assert stats.percentile(samples[:64], 90) == np.percentile(samples[:64], 90)
    assert stats.percentile(samples[:63], 90) is None
    assert stats.percentile([0.25], 50) == 0.25
    assert stats.percentile([], 50) is None
    for wrong in (0, 100, -1):
        with pytest.raises(UsageError, match="between 0 and 100"):
            stats.percentile(samples, wrong)


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((0.99, 1.01), "same"),
        ((1.001, 1.02), "same"),
        ((0.98, 0.995), "same"),
        ((1.001, 1.03), "faster"),
        ((0.9, 0.99), "slower"),
        ((0.97, 1.01), "cannot tell"),
        ((1.0, 1.5), "cannot tell"),
        (stats.UNBOUNDED, "cannot tell"),
    ],
)
def test_verdict(interval: tuple[float, float], word: str) -> None:
    assert stats.verdict(interval) == word


def test_noise_reasons_name_spread_and_drift() -> None:
    rng = np.random.default_rng(2)
    quiet = 0.02 * np.exp(0.02 * rng.normal(size=300))
    assert stats.noise_reasons(quiet) == ()
    (spread,) = stats.noise_reasons(0.02 * np.exp(0.2 * rng.normal(size=3000)))
    assert "spreads" in spread
    (drift,) = stats.noise_reasons(quiet * np.linspace(1, 1.11, 300))
    assert "drifts: +7%" in drift
    assert stats.noise_reasons([]) == () == stats.noise_reasons([1.0, 2.0])


def test_outliers_are_flagged_in_place() -> None:
    samples = np.random.default_rng(3).normal(1, 0.01, 200)
    samples[[7, 150]] = 1.2, 0.7
    assert list(np.flatnonzero(stats.outliers(samples))) == [7, 150]
    assert not stats.outliers(np.ones(5)).any()
    assert list(np.flatnonzero(stats.outliers([1.0] * 20 + [2.0]))) == [20]
    assert stats.outliers([]).shape == (0,)


def test_warm_up_ends_when_frames_time_and_steadiness_are_there() -> None:
    steady = [1.0] * 20
    assert stats.warm_up_done(steady, 2.0)
    assert not stats.warm_up_done(steady[:19], 2.0)
    assert not stats.warm_up_done(steady, 1.9)
    assert not stats.warm_up_done([1.0] * 10 + [0.97] * 10, 9.0)
    assert stats.warm_up_done([1.0] * 10 + [0.985] * 10, 9.0)
    assert stats.warm_up_done([5.0, 1.0, 1.0], 0.0, min_frames=2, min_s=0.0)
    assert stats.warm_up_done([], 0.0, min_frames=0, min_s=0.0)


def test_pareto_front() -> None:
    speed = [10, 20, 30, 20, 5, 30, 40]
    accuracy = [0.9, 0.8, 0.5, 0.7, 0.9, 0.5, np.nan]
    assert list(stats.is_pareto(speed, accuracy)) == [True, True, True, False, False, True, False]
    with pytest.raises(UsageError, match="one length"):
        stats.is_pareto([1, 2], [1])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_pareto_front_equals_the_definition(points: list[tuple[int, int]]) -> None:
    def beaten(p: tuple[int, int]) -> bool:
        return any(o != p and o[0] >= p[0] and o[1] >= p[1] for o in points)

    assert list(stats.is_pareto(*zip(*points, strict=True))) == [not beaten(p) for p in points]


def test_a_fitted_line_is_that_of_the_textbook_and_its_interval_covers_the_truth():
    exact = stats.fit_line([1, 5, 15], [3.5, 11.5, 31.5])
    assert (exact.slope, exact.start) == pytest.approx((2, 1.5))
    assert exact.slope_interval == pytest.approx((2, 2))
    rng = np.random.default_rng(3)
    x = np.array([1.0, 5, 10, 15])
    inside = 0
    for _ in range(400):
        line = stats.fit_line(x, 2 * x + 7 + rng.normal(0, 1, 4))
        inside += line.slope_interval[0] <= 2 <= line.slope_interval[1]
        inside += line.start_interval[0] <= 7 <= line.start_interval[1]
    assert 0.92 <= inside / 800 <= 0.98


def test_two_points_give_a_line_without_an_interval_and_one_gives_none():
    line = stats.fit_line([1, 3], [5, 9])
    assert (line.slope, line.start) == pytest.approx((2, 3))
    assert not np.isfinite(line.slope_interval).any()
    for x in ([1], [2, 2, 2]):
        with pytest.raises(UsageError, match="different x"):
            stats.fit_line(x, [1.0] * len(x))


def test_few_blocks_widen_an_interval_as_fixed_bandwidth_theory_says():
    """97.5% critical values of Kiefer and Vogelsang (2005) for Bartlett's kernel."""
    factors = [stats._few_blocks_factor(share) for share in (0.0, 0.5, 1.0)]
    assert factors == pytest.approx([1.0, 3.482 / 1.96, 4.813 / 1.96], abs=1e-3)


def test_turns_of_all_rungs_last_as_long_as_the_slowest_frame_from_one_to_two_turns():
    plan = RoundPlan(turn_s=1.0)
    assert plan.frames_at({"a": 0.01, "b": 0.1}) == {"a": 100, "b": 10}
    assert plan.frames_at({"a": 0.01, "b": 1.5}) == {"a": 150, "b": 1}
    assert plan.frames_at({"a": 0.01, "b": 5.0}) == {"a": 200, "b": 1}
