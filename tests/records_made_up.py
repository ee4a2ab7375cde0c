"""Runs and comparisons with plausible made-up numbers, for the tests of what shows and keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np

from labkit.results.records import Agreement, Comparison, Run

MACHINE = {"cpu": "Example CPU 3000", "cores": 8, "os": "Linux 6.1", "gpu": None}


def made_up_run(
    rung: str = "opencv",
    *,
    stage: int = 1,
    period_s: float = 0.03,
    spread: float = 0.03,
    n: int = 120,
    seed: int = 0,
    agreement: float | None = 1.0,
    **other: Any,
) -> Run:
    rng = np.random.default_rng(seed)
    latency_s = period_s * np.exp(spread * rng.normal(size=n))
    share = {"preprocess": 0.12, "infer": 0.75, "decode": 0.08}
    values: dict[str, Any] = {
        "rung": rung,
        "stage": stage,
        "scenario": "closed",
        "quick": False,
        "latency_s": latency_s,
        "done_s": np.cumsum(latency_s),
        "spans_s": {name: part * latency_s for name, part in share.items()},
        "warmup_s": period_s * np.array([9.0, 1.4, 1.1, 1.0]),
        "offered": n,
        "dropped": 0,
        "failed": 0,
        "startup_s": 1.7,
        "peak_bytes": 600 * 2**20,
        "settings": {"device": "cpu", "weights": "random", "model_set": "full", "size": [640, 480]},
        "source": {"spec": "scenes", "sha256": "ab" * 32},
        "limit": {"gflop_per_frame": 10.0, "peak_gflops": 1000.0},
        "agreement": None if agreement is None else Agreement("opencv", 32, agreement, None, 1e-4, 0),
        "accuracy": {},
        "fingerprint": MACHINE,
    }
    return Run(**(values | other))


def made_up_comparison(
    a: str = "opencv",
    b: str = "tuned",
    *,
    ratio: float = 1.3,
    spread: float = 0.02,
    rounds: int = 11,
    seed: int = 0,
    **other: Any,
) -> Comparison:
    rng = np.random.default_rng(seed)
    a_s = 0.03 * np.exp(spread * rng.normal(size=rounds))
    values: dict[str, Any] = {
        "a": a,
        "b": b,
        "a_s": a_s,
        "b_s": 0.03 / ratio * np.exp(spread * rng.normal(size=rounds)),
        "frames_per_turn": 20,
        "agrees": True,
        "quick": False,
        "settings": {"device": "cpu", "weights": "random"},
        "source": {"spec": "scenes"},
        "fingerprint": MACHINE,
    }
    return Comparison(**(values | other))
