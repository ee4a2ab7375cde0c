"""What else was measured on a machine, and lies beside its runs, as sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labkit.core.stats import told as interval_told
from labkit.filters.filter_benchmark import Race
from labkit.profiling.operators import Operators
from labkit.results.exports import load_export
from labkit.results.run_record import Run
from labkit.results.text import number


def live_view(folder: Path) -> list[str]:
    """What `python -m labkit.live.live_benchmark` and `tests/browser/figures.py` left there."""
    alone, beside = folder / "figures.json", folder / "browser.json"
    lines = []
    if alone.is_file():
        told = json.loads(alone.read_text())
        slow = [100 * share for share in told["slowdown_per_round"]]
        lines.append(
            f"{told['rung']} with the {told['model_set']} models: {told['display_fps']:.1f} pictures "
            f"shown per second (p99 of the interval {told['interval_p99_ms']:.0f} ms) to a client that "
            f"costs nothing; detections slowed by {100 * told['slowdown']:.1f}% ({min(slow):.1f} to "
            f"{max(slow):.1f} over {told['rounds']} rounds); a result is "
            f"{told['result_age_in_detections']:.2f} detections and a frame old (p99); stopped within "
            f"{told['stop_p99_ms']:.0f} ms (p99 of {told['stops']})."
        )
    if beside.is_file():
        for told in json.loads(beside.read_text())["figures"]:
            source = {"browser": "the browser's camera"}.get(told["source"], f"`{told['source']}`")
            lines.append(
                f"{told['rung']} with the {told['models']} models and Chromium on the same cores, "
                f"{source}: {told['displayed_fps']:.1f} shown and {told['detections_per_s']:.1f} detections "
                f"per second, a picture {told['picture_age_p50_ms']:.0f} ms old (p50) when it is painted."
            )
    return lines


def small_models(folder: Path) -> list[str]:
    """How fast the lab's own models are, from the runs in the folder `lab`."""
    place = folder / "lab"
    if not (place / "runs.parquet").is_file():
        return []
    lines = []
    for run in load_export(place).runs:
        low, high = run.fps_interval
        width, height = run.settings["size"]
        lines.append(
            f"{run.rung}{'~' if run.noisy else ''} on frames of {width}x{height}: "
            f"{number(run.percentile_ms(50))} ms per frame (p50), "
            f"{number(run.fps)} FPS ({number(low)} to {number(high)})."
        )
    return lines


def observer(folder: Path) -> list[str]:
    """What the spans cost that measured all this, where `labkit.lessons.pitfalls.span_cost` left it."""
    found = folder / "span_cost.json"
    return [json.loads(found.read_text())["sentence"]] if found.is_file() else []


def around_engines(runs: Sequence[Run]) -> list[str]:
    """How much of a frame the pipeline takes around an engine that does nothing but detect."""
    lines = []
    for run in runs:
        made = run.settings.get("preparation", {})
        if made.get("engine") == "openvino" and made.get("task") == "detect" and "infer" in run.spans_s:
            around = 1 - float(np.nanmedian(run.spans_s["infer"] / run.latency_s))
            lines.append(
                f"{100 * around:.1f}% of a frame of {run.rung} passes outside the engine (preprocessing, "
                f"decoding, spans): OpenVINO called with nothing around it is ahead by that."
            )
    return lines


def filters(folder: Path) -> list[str]:
    """What `python -m labkit.filters.filter_benchmark` found."""
    found = folder / "filters.json"
    return Race.from_json(json.loads(found.read_text())).sentences() if found.is_file() else []


def engine_time(folder: Path) -> list[str]:
    """Where `python -m labkit.profiling.operators` found the engines' time."""
    found = folder / "operators.json"
    if not found.is_file():
        return []
    return [line for told in json.loads(found.read_text()) for line in Operators.from_json(told).sentences()]


def fleets(figures: Path) -> list[str]:
    """Sentences on a recorded fleet benchmark: its throughput beside a single process."""
    if not figures.is_file():
        return []
    told = json.loads(figures.read_text())
    lines = [
        f"{each['streams']} {'stream' if each['streams'] == 1 else 'streams'} of {told['rung']} through Ray: "
        f"{each['fps']:.2f} frames per second together, {_share(each)} of the {each['single_fps']:.2f} that "
        "one process reaches which reads, finds and writes the same by itself."
        for each in told["fleets"]
    ]
    most = told["fleets"][-1]
    used = {who: cores for who, cores in most.get("cores_used", {}).items() if who != "engines"}
    if used:
        parts = ", ".join(
            f"{who} {cores:.2f}" for who, cores in sorted(used.items(), key=lambda one: -one[1])
        )
        lines.append(
            f"Beside the engine, {most['streams']} streams use {sum(used.values()):.2f} of "
            f"{told['fingerprint']['cores']} cores ({parts}); where the engine wants all of them, that is "
            "what a fleet costs."
        )
    return [
        *lines,
        f"A fleet's own work is {told['overhead_ms']:.1f} ms per frame; answers come again "
        f"{told['recovery_s']:.1f} s after an engine was killed.",
    ]


def _share(fleet: Mapping[str, Any]) -> str:
    """A fleet's share of what one process does; with its interval, where it was measured in rounds."""
    share = f"{100 * fleet['share_of_single']:.0f}%"
    if "share_interval" not in fleet:
        return share
    low, high = (100 * bound for bound in fleet["share_interval"])
    return f"{share} ({interval_told((low, high), '.0f')}%, {len(fleet['rounds_fps'])} rounds)"
