"""Recorded runs as Markdown, for the README: a table and sentences, both made from the records.

    python -m labkit.reference results/reference/MACHINE README.md

puts the block between the README's two marks, and draws the folder's pictures again; tests compare
both with the records. Without a README it only draws.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labkit.errors import LabError, ResultsError, UsageError
from labkit.files import write_whole
from labkit.filter_race import Race
from labkit.plots import overview, save
from labkit.plots.answers import PRECISION, names_told, precision_told, those_that_lose
from labkit.profiling.operators import Operators
from labkit.records import Comparison, Run
from labkit.results import Export, load_export

BEGIN, END = "<!-- recorded: begin -->", "<!-- recorded: end -->"
CLIMBS_FROM = "origin_combined_cpu"
COLUMNS = ("rung", "FPS", "95% interval", "p50 ms", "agrees", PRECISION, "names", "of peak", "MiB", "start s")


def block(folder: Path) -> str:
    """What a folder of recorded runs says, as Markdown: workload, table, sentences."""
    export = load_export(folder)
    if not export.runs:
        raise UsageError(f"{folder} holds no runs")
    first = export.runs[0]
    kinds = ", ".join(sorted({str(run.settings.get("weights")) for run in export.runs}))
    width, height = first.settings["size"]
    boxes = max(run.settings.get("objects", 1) for run in export.runs)
    mark = first.fingerprint
    lines = [
        f"Recorded on {first.machine}, {first.created[:10]}, "
        f"labkit {mark.get('labkit')}; source `{first.source.get('spec')}` {width}x{height}, "
        f"{boxes} boxes per frame, {kinds} weights (with random weights speeds are real, names mean nothing; "
        "mAP and names are those of the lab's small models in the same preparation).",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
        *(_row(run) for run in export.runs),
        "",
        *_marks(export.runs),
        *_folded(f"Compared in turns, {boxes} boxes per frame", _sentences(export.comparisons)),
        *_with_other_boxes(folder),
        *_elsewhere(folder, export),
        *_folded("What keeps the engines from the peak", [*_operators(folder), *_around(export.runs)]),
        *_folded("The small models, which ship with the lab", _small(folder)),
        *_folded("The guided filter by itself", _filters(folder)),
        *_folded("The live view", _live(folder.parent / "live")),
        *_folded("Many streams on this machine", _fleet(folder.parent / "fleet" / "figures.json")),
        *_folded("What measuring costs", _observer(folder)),
    ]
    return "\n".join(lines)


def insert(readme: str, text: str) -> str:
    """The README with `text` between its marks.

    Raises:
        UsageError: a mark is missing.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"the file has no {BEGIN} and {END} to write between")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def pictures(folder: Path) -> list[Path]:
    """Draws what a folder of recorded runs allows, from its rows alone; returns the files."""
    export = load_export(folder)
    charts = overview(export.runs, export.comparisons)
    return [path for name, chart in charts for path in save(chart, folder / name)]


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    """A list that opens on a click; nothing where there is nothing to list."""
    return _details(title, [f"- {line}" for line in lines]) if lines else []


def _details(title: str, lines: Sequence[str]) -> list[str]:
    """Markdown that opens on a click."""
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def _marks(runs: Sequence[Run]) -> list[str]:
    """What the table's signs mean, where it has any."""
    noisy = "~: noisy, so doubt it" if any(run.noisy for run in runs) else ""
    told = [each for each in (noisy, those_that_lose(runs)) if each]
    return [f"{'. '.join(told)}.", ""] if told else []


def _sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Each rung against the first of its family."""
    return [c.sentence for c in comparisons if c.a == c.settings.get("baseline")]


def _live(folder: Path) -> list[str]:
    """What `python -m labkit.live_speed` and `tests/browser/figures.py` left there."""
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


def _with_other_boxes(folder: Path) -> list[str]:
    """What was compared with another number of boxes, in folders such as `15-boxes`."""
    lines = []
    for each in sorted(folder.glob("[0-9]*-boxes")):
        comparisons = load_export(each).comparisons
        boxes = each.name.partition("-")[0]
        lines += _folded(f"Compared in turns, {boxes} boxes per frame", _sentences(comparisons))
    return lines


def _elsewhere(folder: Path, here: Export) -> list[str]:
    """The climb on every machine that has recorded the same work, as a table that opens on a click."""
    there = [(folder, here)]
    for other in sorted(path for path in folder.parent.iterdir() if (path / "runs.parquet").is_file()):
        export = load_export(other)
        if other != folder and _workload(export) == _workload(here):
            there.append((other, export))
    gains = [{c.b: c for c in export.comparisons if c.a == CLIMBS_FROM} for _, export in there]
    runs = [{run.rung: run for run in export.runs} for _, export in there]
    rungs = [name for name in gains[0] if all(name in each for each in gains)]
    if len(there) < 2 or not rungs:
        return []
    names = [export.runs[0].machine for _, export in there]
    lines = [
        f"Times as fast as `{CLIMBS_FROM}` on the same machine, with the share of that machine's peak that "
        "the rung reaches in its own precision.",
        "",
        "| rung | " + " | ".join(f"{name} | of peak" for name in names) + " |",
        "|---" + "|---:|---:" * len(names) + "|",
    ]
    for rung in rungs:
        cells = []
        for own, measured in zip(gains, runs, strict=True):
            low, high = own[rung].interval
            cells += [
                f"{own[rung].ratio:.2f}{'' if own[rung].agrees else '!'} ({low:.2f}&nbsp;to&nbsp;{high:.2f})",
                _percent(measured[rung].share_of_limit if rung in measured else None),
            ]
        lines.append(f"| `{rung}` | " + " | ".join(cells) + " |")
    if any(not own[rung].agrees for own in gains for rung in rungs):
        lines += ["", "!: its answers differ from the reference's, so this is no like-for-like gain."]
    title = "The same climb on another machine" if len(there) == 2 else "The same climb on other machines"
    for other, export in there[1:]:
        told = [*_operators(other), *_around(export.runs), *_small(other), *_filters(other),
                *_fleet(other / "fleet.json")]  # fmt: skip
        if told:
            lines += ["", f"Also on {export.runs[0].machine}:", "", *(f"- {line}" for line in told)]
    return _details(title, lines)


def _workload(export: Export) -> tuple[Any, ...]:
    first = export.runs[0]
    boxes = max(run.settings.get("objects", 1) for run in export.runs)
    return first.source.get("sha256"), tuple(first.settings["size"]), boxes, first.settings.get("model_set")


def _small(folder: Path) -> list[str]:
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
            f"{_number(run.percentile_ms(50))} ms per frame (p50), "
            f"{_number(run.fps)} FPS ({_number(low)} to {_number(high)})."
        )
    return lines


def _observer(folder: Path) -> list[str]:
    """What the spans cost that measured all this, where `labkit.exhibits.cost` left it."""
    found = folder / "span_cost.json"
    return [json.loads(found.read_text())["sentence"]] if found.is_file() else []


def _around(runs: Sequence[Run]) -> list[str]:
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


def _filters(folder: Path) -> list[str]:
    """What `python -m labkit.filter_race` found."""
    found = folder / "filters.json"
    return Race.from_json(json.loads(found.read_text())).sentences() if found.is_file() else []


def _operators(folder: Path) -> list[str]:
    """Where `python -m labkit.profiling.operators` found the engines' time."""
    found = folder / "operators.json"
    if not found.is_file():
        return []
    return [line for told in json.loads(found.read_text()) for line in Operators.from_json(told).sentences()]


def _fleet(figures: Path) -> list[str]:
    """What `python -m labkit.fleet.figures` found, beside one process that does the same job."""
    if not figures.is_file():
        return []
    told = json.loads(figures.read_text())
    lines = [
        f"{each['streams']} {'stream' if each['streams'] == 1 else 'streams'} of {told['rung']} through Ray: "
        f"{each['fps']:.2f} frames per second together, {100 * each['share_of_single']:.0f}% of the "
        f"{each['single_fps']:.2f} that one process reaches which reads, finds and writes the same by itself."
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


def _row(run: Run) -> str:
    low, high = run.fps_interval
    cells = [
        f"`{run.rung}`",
        _number(run.fps) + ("~" if run.noisy else ""),
        f"{_number(low)} to {_number(high)}",
        _number(run.percentile_ms(50)),
        _percent(run.fidelity.agreement if run.fidelity else None),
        precision_told(run).replace(" to ", "&nbsp;to&nbsp;"),  # breaks before the interval, not inside
        names_told(run),
        _percent(run.share_of_limit),
        f"{run.peak_bytes / 2**20:.0f}",
        f"{run.startup_s:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes pictures and, where a README is named, its block."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not 1 <= len(given) <= 2:
        print("usage: python -m labkit.reference FOLDER [README.md]", file=sys.stderr)
        return UsageError.exit_code
    folder = Path(given[0])
    try:
        if len(given) == 2:
            readme = Path(given[1])
            write_whole(readme, insert(readme.read_text(), block(folder)))
        for path in pictures(folder):
            print(path)
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return ResultsError.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
