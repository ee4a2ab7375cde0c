"""Runs and comparisons: raw samples, with every statistic as a property."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from labkit.core import stats
from labkit.core.errors import UsageError
from labkit.core.machine import machine_name
from labkit.core.shown import Sentence, ShownText
from labkit.results.format import format_bounds, format_load, format_number


def finite(interval: tuple[float, float]) -> list[float | None]:
    """Bounds for JSON, which knows no infinity: None where too few samples give no bound."""
    return [float(bound) if np.isfinite(bound) else None for bound in interval]


OWN_MODELS = {"full": ("detr_r50", "resnet18"), "lab": ("lab_detr", "lab_resnet")}
"""(detector, classifier) of each model set, for rows from before there were others, which hold no names."""


def models_in(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the detector and the classifier that a row's settings hold."""
    own = OWN_MODELS.get(str(settings.get("model_set")), ("unknown", "unknown"))
    return settings.get("detector") or own[0], settings.get("classifier") or own[1]


SAME_WORK = ("model_set", "weights", "size", "objects", "paced_fps")
"""Settings in which two runs agree that did the same work, besides their models."""


NEEDED = 0.99
"""Share of boxes, and of their names, that are the same where two rungs agree."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of a rung's answers with its reference's, on the same hashed frames.

    Attributes:
        reference: name of the reference rung.
        n_frames: frames compared.
        share: of the reference's detections that the rung also has (IoU >= 0.5
            and the same label), in [0, 1].
        same_name: share of matched boxes with the same fine name; None without a classifier.
        relative_error: largest ||out - ref|| / ||ref|| over the networks' raw outputs; None
            where the raw outputs are not comparable.
        nan_count: NaN or infinite values in the rung's raw outputs.
        steady: share of the reference's detections that it finds again itself where one value in a hundred
            is a grey level off, less than two ways to resize differ by; None for trained weights.
        extra: share of the rung's detections that the reference has nowhere, in [0, 1], without those that
            are too unsure for it to keep; None in rows from before it was counted.
    """

    reference: str
    n_frames: int
    share: float
    same_name: float | None
    relative_error: float | None
    nan_count: int
    steady: float | None = None
    extra: float | None = None

    @property
    def agrees(self) -> bool:
        """True if a speed-up may be claimed: 99% of boxes (and names) at least, 1% extra at most, no NaN."""
        return not self.differences

    @property
    def differences(self) -> tuple[str, ...]:
        """Why it does not agree, in words; empty if it does."""
        shares = {"label and place": self.share, "name": 1.0 if self.same_name is None else self.same_name}
        few = [
            f"only {int(round(100 * x, 6))}% of boxes have the same {of}"
            for of, x in shares.items()
            if x < NEEDED
        ]
        needed = [f"{' and '.join(few)}, and {NEEDED:.0%} are asked for"] if few else []
        extra = self.extra or 0.0
        if extra - (1 - self.share) > 1 - NEEDED:  # one that stands in the place of another was told above
            needed.append(f"{extra:.0%} of its boxes are extra: {self.reference} has no box for them")
        nan = [f"{self.nan_count} numbers of its raw outputs are NaN or infinite"] if self.nan_count else []
        return (*needed, *nan, *([self.unjudged] if self.unjudged else []))

    @property
    def unjudged(self) -> str:
        """Why a difference from the reference says nothing; empty if it does."""
        if self.steady is None or self.steady >= NEEDED:
            return ""
        return (
            f"agreement cannot be judged: with these random weights, {self.reference} finds only "
            f"{self.steady:.0%} of its own boxes again where 1% of the values are one grey level off"
        )


Scenario = Literal["closed", "paced", "live"]
Samples = NDArray[np.float64]

BUSY = 0.3
"""Share of the CPU's time taken by others above which a comparison cannot tell anything."""


@dataclass(frozen=True, eq=False, repr=False)
class Run(ShownText):
    """One measurement of one rung.

    Attributes:
        rung, stage: what was measured.
        scenario: "closed" (as fast as it can), "paced" (frames fall due), "live" (a camera).
        quick: warm-up was shortened; never compared with full runs.
        latency_s: (n,) s per timed frame: from taken (closed) or due (paced) to its result.
        done_s: (n,) s when each result was there, from the start of the timed part.
        spans_s: host seconds per timed frame and span, each (n,), NaN where a frame had none.
        spans_gpu_s: the same from CUDA events; empty without a GPU.
        warmup_s: (m,) s latencies of the warm-up frames, the first one being the cold start.
        offered, dropped, failed: frames of the timed part; offered = n + dropped + failed.
        startup_s: from an empty process to networks ready for the first frame.
        peak_bytes: largest resident memory of the measuring process.
        settings: workload as used: model_set, weights, weights_sha256, size, objects, seed, ...
        source: spec, sha256 of the frames, number of distinct frames, ...
        limit: work per frame and measured peaks of the machine; see `share_of_limit`.
        agreement: with the reference rung, measured before timing.
        accuracy: mAP and top-1 where there is ground truth, else empty.
        disturbances: what the machine did meanwhile that casts doubt (steal, throttling, ...).
        fingerprint: machine, software and preparation.
        id, created: given by the store; created is UTC in ISO format.
    """

    rung: str
    stage: int
    scenario: Scenario
    quick: bool
    latency_s: Samples
    done_s: Samples
    spans_s: Mapping[str, Samples]
    warmup_s: Samples
    offered: int
    dropped: int
    failed: int
    startup_s: float
    peak_bytes: int
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    limit: Mapping[str, Any] = field(default_factory=dict)
    agreement: Agreement | None = None
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    disturbances: tuple[str, ...] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    spans_gpu_s: Mapping[str, Samples] = field(default_factory=dict)
    id: int | None = None
    created: str = ""

    def __post_init__(self) -> None:
        n = len(self.latency_s)
        if len(self.done_s) != n or any(len(part) != n for part in self.spans_s.values()):
            raise UsageError("latency_s, done_s and every span have one value per timed frame")
        if self.offered != n + self.dropped + self.failed:
            raise UsageError(
                f"offered {self.offered} != processed {n} + dropped {self.dropped} + failed {self.failed}"
            )

    def __str__(self) -> str:
        """The run's main figure: its rate, or its latency where frames fell due; ~ if it is noisy."""
        if self.scenario == "paced":
            lost = f", {self.dropped} of {self.offered} frames dropped" if self.dropped else ""
            return (
                f"{self.rung} at {self.fed}: median latency {format_number(self.percentile_ms(50))}"
                f"{self.doubt} ms{lost}"
            )
        return f"{self.rung}: {self.rate}"

    @property
    def rate(self) -> str:
        """Throughput in words, with its interval; ~ if it is noisy."""
        return f"{format_number(self.fps)}{self.doubt} FPS ({format_bounds(self.fps_interval)})"

    @property
    def doubt(self) -> str:
        """The mark ~ behind the figures of a noisy run; empty for others."""
        return "~" if self.noisy else ""

    @property
    def n_frames(self) -> int:
        """Timed frames that have a result."""
        return len(self.latency_s)

    @property
    def wall_s(self) -> float:
        """Length of the timed part."""
        return float(self.done_s[-1]) if self.n_frames else 0.0

    @property
    def fps(self) -> float:
        """Throughput: frames / wall time of the timed part."""
        return self.n_frames / self.wall_s if self.wall_s > 0 else 0.0

    @cached_property
    def fps_interval(self) -> tuple[float, float]:
        """95% interval of `fps` (block bootstrap over frame times)."""
        return stats.throughput_interval(self.done_s)

    def percentile_ms(self, q: float) -> float | None:
        """Latency percentile in ms, or None where there are too few frames for it."""
        value = stats.percentile(self.latency_s, q)
        return None if value is None else value * 1e3

    @property
    def fed(self) -> str:
        """Pace of its frames: "closed" (as fast as it can), "30 FPS" (due at that rate) or "live"."""
        rate = self.settings.get("paced_fps")
        return f"{rate:g} FPS" if self.scenario == "paced" and rate else self.scenario

    @property
    def cpu_ms_per_frame(self) -> float | None:
        """Processor time per finished frame, over all threads and naps, in ms; None if it was not noted."""
        used_s = self.settings.get("cpu_s")
        return 1e3 * used_s / self.n_frames if used_s is not None and self.n_frames else None

    @property
    def joules_per_frame(self) -> float | None:
        """Energy per finished frame, naps included, in J; None where a counter is missing.

        The processor's, and the GPU's where the rung works on one.
        """
        joules = self.settings.get("energy_j") or {}
        wanted = ("cpu", "gpu") if self.settings.get("device") == "cuda" else ("cpu",)
        if not self.n_frames or any(joules.get(part) is None for part in wanted):
            return None
        return float(sum(joules[part] for part in wanted)) / self.n_frames

    @property
    def why_no_energy(self) -> str:
        """Reasons why `joules_per_frame` is not known; empty where it is."""
        if self.joules_per_frame is not None:
            return ""
        return "; ".join(map(str, (self.settings.get("no_energy") or {"": "it was not read"}).values()))

    @property
    def iqr_ms(self) -> float:
        """Interquartile range of latency in ms."""
        low, high = np.percentile(self.latency_s, [25, 75]) if self.n_frames else (0.0, 0.0)
        return float(high - low) * 1e3

    @property
    def spans_ms(self) -> dict[str, float]:
        """Median host time per span in ms."""
        return {name: float(np.nanmedian(part)) * 1e3 for name, part in self.spans_s.items()}

    @property
    def spans_gpu_ms(self) -> dict[str, float]:
        """Median GPU time per span in ms."""
        return {name: float(np.nanmedian(part)) * 1e3 for name, part in self.spans_gpu_s.items()}

    @property
    def noise(self) -> tuple[str, ...]:
        """Reasons to doubt this run; empty when it is quiet."""
        reasons = [*stats.noise_reasons(self.latency_s), *self.disturbances]
        if self.beats_peak:
            share = f"{self._share_of_peak:.0%} of the machine's peak"
            reasons.append(f"it reaches {share}, so the peak was measured too low")
        return tuple(reasons)

    @property
    def noisy(self) -> bool:
        """True if there is any reason to doubt this run."""
        return bool(self.noise)

    @property
    def agreed(self) -> float | None:
        """Share of its reference's detections that it also has; None if not known or without meaning."""
        return None if self.agreement is None or self.agreement.unjudged else self.agreement.share

    @property
    def machine(self) -> str:
        """Name of the machine for captions: the GPU of a GPU rung, else the CPU."""
        return machine_name(self.fingerprint, self.settings.get("device", "cpu"))

    @property
    def share_of_limit(self) -> float | None:
        """Arithmetic done per second over the measured peak of the machine, in [0, 1].

        None where one of them is not known, and where the peak is refuted by the run itself: see `noise`.
        """
        return None if self.beats_peak else self._share_of_peak

    @property
    def beats_peak(self) -> bool:
        """True if the run itself shows that the machine's peak was measured too low."""
        return (self._share_of_peak or 0) > 1

    @property
    def _share_of_peak(self) -> float | None:
        work, peak = self.limit.get("gflop_per_frame"), self.limit.get("peak_gflops")
        return self.fps * work / peak if work and peak else None

    @property
    def gpu_peak_bytes(self) -> int | None:
        """Most GPU memory that torch held; None without a GPU, and for runs from before it was noted."""
        return self.settings.get("gpu_peak_bytes")

    def to_json(self) -> dict[str, Any]:
        """The run as plain data for `--json`: statistics, not samples."""
        figures = (
            "id", "created", "rung", "stage", "scenario", "quick", "n_frames", "offered", "dropped", "failed",
            "fps", "spans_ms", "spans_gpu_ms", "startup_s", "share_of_limit", "noisy",
        )  # fmt: skip
        workload = ("device", "model_set", "detector", "classifier", "weights", "objects")
        return {
            **{name: getattr(self, name) for name in figures},
            **{name: self.settings.get(name) for name in workload},
            "source": self.source.get("spec"),
            "source_sha256": self.source.get("sha256"),
            "fps_interval": finite(self.fps_interval),
            "latency_ms": {
                **{f"p{q}": self.percentile_ms(q) for q in (50, 90, 99)},
                "max": float(self.latency_s.max()) * 1e3 if self.n_frames else None,
                "iqr": self.iqr_ms,
            },
            "cpu_ms_per_frame": self.cpu_ms_per_frame,
            "joules_per_frame": self.joules_per_frame,
            "cold_start_ms": float(self.warmup_s[0]) * 1e3 if len(self.warmup_s) else None,
            "peak_mib": self.peak_bytes / 2**20,
            "gpu_peak_mib": None if self.gpu_peak_bytes is None else self.gpu_peak_bytes / 2**20,
            "agreement": None if self.agreement is None else vars(self.agreement),
            "noise": list(self.noise),
            **{name: dict(getattr(self, name)) for name in ("limit", "accuracy", "settings", "fingerprint")},
        }


Verdict = Literal["faster", "slower", "same", "cannot tell"]


@dataclass(frozen=True)
class Ceiling:
    """The most that a change can gain (G. Amdahl, 1967).

    Attributes:
        parts: the spans that the change is about.
        gain: of the whole, if these had cost nothing at all.
    """

    parts: tuple[str, ...]
    gain: float


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(ShownText):
    """Two rungs measured in interleaved rounds on the same frames.

    Attributes:
        a, b: names; the ratio says how many times faster b is than a.
        a_s, b_s: (rounds,) mean seconds per frame of each round's turn.
        frames_per_turn: results in a turn of the slower one; the other's turn lasts as long.
        process: (rounds,) number of the pair of fresh processes that each round was measured in;
            empty for rounds of one pair, as in all comparisons before it was noted.
        agrees: whether b's answers agree with its reference, so that a gain may be claimed.
        quick: fewer or shorter rounds than a full comparison.
        settings, source, fingerprint: as in `Run`.
    """

    a: str
    b: str
    a_s: Samples
    b_s: Samples
    frames_per_turn: int
    agrees: bool
    quick: bool
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    agreement: Agreement | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    disturbances: tuple[str, ...] = ()
    process: Samples = field(default_factory=lambda: np.empty(0))
    id: int | None = None
    created: str = ""

    def __post_init__(self) -> None:
        if len(self.a_s) != len(self.b_s) or not len(self.a_s):
            raise UsageError("a comparison has one time per rung and round")
        if len(self.process) not in (0, len(self.a_s)):
            raise UsageError(f"process has one number per round, {len(self.a_s)}, not {len(self.process)}")

    def __str__(self) -> str:
        """The result in words."""
        return self.sentence

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.a_s)

    @property
    def ratios(self) -> Samples:
        """(rounds,) how many times faster b was than a in each round."""
        return self.a_s / self.b_s

    @property
    def processes(self) -> int:
        """Number of fresh processes of each rung, one after another."""
        return max(1, len(np.unique(self.process)))

    @property
    def ratio(self) -> float:
        """Speed-up of b over a; see `stats.speed_ratio`."""
        return stats.speed_ratio(self.ratios, self.process)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95% interval of `ratio`, whatever processes the two run in; see `stats.ratio_interval`."""
        return stats.ratio_interval(self.ratios, self.process)

    @property
    def verdict(self) -> Verdict:
        """Verdict that interval and machine allow: faster, slower, same (+-2%) or cannot tell."""
        return "cannot tell" if self.refuted_by else stats.verdict(self.interval)

    @property
    def refuted_by(self) -> str:
        """Reason why the interval is not to be believed, whatever it says; empty if there is none."""
        if max(self.busy_shares) > BUSY:
            return format_load(*self.busy_shares)
        limit = self.ceiling
        if limit is not None and self.interval[0] > limit.gain:
            return f"the most possible is {limit.gain:.2f}x, had {' and '.join(limit.parts)} cost nothing"
        return ""

    @property
    def busy_shares(self) -> tuple[float, float]:
        """Shares of the CPU's time that other programs, and the host below this machine, took meanwhile."""
        return self.settings.get("foreign_cpu") or 0.0, self.settings.get("steal") or 0.0

    @property
    def ceiling(self) -> Ceiling | None:
        """The most that b can gain; None where it is not known, see `labkit.results.ceilings`."""
        noted = self.settings.get("ceiling")
        return None if noted is None else Ceiling(tuple(noted["parts"]), noted["gain"])

    @property
    def machine(self) -> str:
        """Name of the machine for captions; see `Run.machine`."""
        return machine_name(self.fingerprint, self.settings.get("device", "cpu"))

    @property
    def sentence(self) -> Sentence:
        """The result in words, with its interval and what disturbed it."""
        doubts = [f"disturbed: {each}" for each in self.disturbances if each != self.refuted_by]
        return Sentence("; ".join([self.finding, *doubts]))

    @property
    def finding(self) -> str:
        """The result in words, with its interval; the only form in which a gain is stated."""
        low, high = self.interval
        ratio = self.ratio
        if self.verdict == "slower":  # how many times slower, with the interval of that
            ratio, low, high = 1 / ratio, 1 / high, 1 / low
        interval = f"95% CI {low:.2f}-{high:.2f}" if np.isfinite(high) else "too few rounds for an interval"
        within = f" in {self.processes} processes" if self.processes > 1 else " in one process"
        basis = f"{interval}, n = {self.rounds}{within}{', quick' if self.quick else ''}"
        if self.verdict in ("faster", "slower"):
            text = f"{self.b} is {ratio:.2f}x {self.verdict} than {self.a} ({basis})"
        elif self.verdict == "same":
            text = f"{self.b} is as fast as {self.a} within 2% ({ratio:.2f}x, {basis})"
        elif self.refuted_by:
            return f"{self.b} vs {self.a}: cannot tell: {self.refuted_by} ({ratio:.2f}x, {basis})"
        else:
            text = f"{self.b} vs {self.a}: no significant difference ({ratio:.2f}x, {basis})"
        if self.agrees:
            return text
        unjudged = self.agreement.unjudged if self.agreement is not None else ""
        return f"{text}; {unjudged or 'its answers differ: not a like-for-like gain'}"

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data for `--json`."""
        figures = (
            "id", "created", "a", "b", "ratio", "rounds", "processes", "frames_per_turn", "verdict", "agrees",
            "sentence", "quick",
        )  # fmt: skip
        return {
            **{name: getattr(self, name) for name in figures},
            "ci": finite(self.interval),
            "agreement": None if self.agreement is None else vars(self.agreement),
            "disturbances": list(self.disturbances),
            **{name: dict(getattr(self, name)) for name in ("settings", "source", "fingerprint")},
        }


def describe_disturbances(records: Sequence[Run | Comparison]) -> str:
    """Disturbances of these results, each kind once by its highest figure; empty if there were none."""
    doubted = [record for record in records if record.disturbances]
    worst: dict[str, str] = {}
    for reason in (each for record in doubted for each in record.disturbances):
        kind = re.sub(r"[\d.]+", "#", reason)
        worst[kind] = max(worst.get(kind, reason), reason, key=_first_number)
    share = f" ({len(doubted)} of {len(records)} results, at worst)" if len(records) > 1 else ""
    return f"disturbed{share}: {'; '.join(worst.values())}" if worst else ""


def _first_number(text: str) -> float:
    found = re.search(r"\d+(\.\d+)?", text)
    return float(found[0]) if found else -1.0
