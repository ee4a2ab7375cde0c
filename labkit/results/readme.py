"""Recorded runs as Markdown: the README's short table, and the whole record beside the runs.

    python -m labkit.results.readme results/reference/MACHINE [README.md]

draws the folder's plots and writes `README.md` beside it, with everything that was recorded; where a
README is named, its short table is written between the two marks. Tests compare all of it with the
records.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labkit.core.errors import LabError, ResultsError, UsageError
from labkit.core.files import write_atomic
from labkit.core.read_json import read_json
from labkit.core.stats import format_interval
from labkit.core.terminal import print_text
from labkit.filters.filter_benchmark import FilterTimes
from labkit.pipelines.ladder import rung
from labkit.results.ablation import Estimate, from_csv
from labkit.results.exports import Export, load_export
from labkit.results.format import format_bounds, format_number, format_percent
from labkit.results.operator_times import Operators
from labkit.results.plots.labels import PRECISION, describe_losses, format_names, format_precision
from labkit.results.plots.save import save, save_all
from labkit.results.plots.tradeoffs import speed_accuracy
from labkit.results.records import Comparison, Run, describe_disturbances
from labkit.results.result_set import ResultSet

BEGIN, END = "<!-- recorded: begin -->", "<!-- recorded: end -->"
BASELINE = "baseline_combined_cpu"
HIGHLIGHTS = (
    BASELINE, "batched_cpu", "folded_cpu", "peer_onnxruntime_fp32", "cpu_engine_fp32", "cpu_engine_bf16",
    "cpu_engine_int8_mixed", "cpu_engine_int8",
)  # fmt: skip
"""Rungs of the short table, the slowest way first."""
FED_COLUMNS = ["rung", "fed", "fps", "p50_ms", "p99_ms", "times_closed", "dropped", "cpu_ms"]
COLUMNS = ("rung", "FPS", "95% interval", "p50 ms", "agrees", PRECISION, "names", "of peak", "MiB", "start s")


def block(folder: Path) -> str:
    """A folder of recorded runs as Markdown: workload, table of all rungs, sentences."""
    export = load_export(folder)
    if not export.runs:
        raise UsageError(f"{folder} holds no runs")
    first = export.runs[0]
    kinds = ", ".join(sorted({str(run.settings.get("weights")) for run in export.runs}))
    width, height = first.settings["size"]
    boxes = max(run.settings.get("objects", 1) for run in export.runs)
    noisy = "~: noisy, so doubt it" if any(run.noisy for run in export.runs) else ""
    marks = [each for each in (noisy, describe_losses(export.runs)) if each]
    lines = [
        f"Recorded on {first.machine}, {first.created[:10]}, "
        f"labkit {first.fingerprint.get('labkit')}; source `{first.source.get('spec')}` {width}x{height}, "
        f"{boxes} boxes per frame, {kinds} weights (with random weights speeds are real, names mean nothing; "
        "mAP and names are those of the lab's small models in the same preparation).",
        "",
        *_table(COLUMNS, map(_cells, export.runs)),
        "",
        *([f"{'. '.join(marks)}.", ""] if marks else []),
        *_folded(f"Interleaved comparisons, {boxes} boxes per frame", _climbs(export.comparisons)),
    ]
    for each in sorted(folder.glob("[0-9]*-boxes")):
        title = f"Interleaved comparisons, {each.name.partition('-')[0]} boxes per frame"
        lines += _folded(title, _climbs(load_export(each).comparisons))
    lines += _elsewhere(folder, export)
    lines += _fed_at_rates(folder / "paced")
    lines += _int8_front(folder)
    lines += _peers(folder / "peers")
    lines += _detectors(folder / "detectors")
    for title, sentences in (
        ("What keeps the engines from the peak", [*_engine_time(folder), *_around_engines(export.runs)]),
        ("The small models, which ship with the lab", _small_models(folder)),
        ("The guided filter by itself", _filters(folder)),
        ("The live view", _live_view(folder.parent / "live")),
        ("Many streams on this machine", _fleets(folder.parent / "fleet" / "figures.json")),
        ("Boxes followed between detections", _tracking(folder)),
        ("What measuring costs", [cost["sentence"] for cost in _read(folder / "span_cost.json")]),
    ):
        lines += _folded(title, sentences)
    return "\n".join(lines)


def highlights(folder: Path) -> str:
    """The short table of a folder: the main rungs with their gains over the first one, and accuracy."""
    export = load_export(folder)
    runs = {run.rung: run for run in export.runs if run.rung in HIGHLIGHTS}
    if not runs:
        raise UsageError(f"{folder} holds no run of {', '.join(HIGHLIGHTS)}")
    gains = {c.b: _gain(c) for c in export.comparisons if c.a == BASELINE}
    first = next(iter(runs.values()))
    width, height = first.settings["size"]
    heads = ("rung", "FPS", "times the baseline (95% CI)", f"{PRECISION} (95% CI)", "what it changes")
    rows = [
        (f"`{name}`", _fps(runs[name]), gains.get(name, "1"), _precision(runs[name]), rung(name).about)
        for name in HIGHLIGHTS
        if name in runs
    ]
    return "\n".join(
        [
            *_table(heads, rows, words=(0, 4)),
            "",
            f"{first.machine}, {first.created[:10]}: frames of {width}x{height} through DETR-R50 and "
            f"ResNet-18, {first.settings.get('objects')} boxes per frame, {first.settings.get('weights')} "
            "weights; accuracy is that of the lab's small models in the same preparation. ~: a noisy run. "
            f"!: accuracy is lost, so this is no like-for-like gain.{_followed(folder)}{_alone(folder)} All "
            "rungs, machines and plots: [results/reference](results/reference/README.md).",
        ]
    )


def _followed(folder: Path) -> str:
    """A sentence on the recorded tracking with the fewest detections; nothing without a record."""
    path = folder / "tracking.json"
    if not path.is_file():
        return ""
    kept = read_json(path, dict)
    row, boxes = kept["rows"][-1], kept["workload"]["objects"]
    lost = [
        f" ({Estimate(**each['lost']).points} points of mAP lost on moving scenes)"
        for record in _read(folder.parent / "accuracy" / "tracking.json")
        for each in record["rows"]
        if each["every"] == row["every"]
    ]
    return (
        f" `{kept['rung']}` follows {boxes} boxes with a detection every {row['every']} frames at "
        f"{row['fps']['value']:.0f} FPS on average{''.join(lost)}."
    )


def _alone(folder: Path) -> str:
    """A sentence on the recorded detectors, each by itself in bfloat16; nothing without a record."""
    if not (folder / "detectors" / "runs.parquet").is_file():
        return ""
    runs = [run for run in load_export(folder / "detectors").runs if run.rung == "detr_engine_bf16"]
    each = ", ".join(f"`{run.settings['detector']}` {_fps(run)} FPS" for run in runs)
    return f" Detectors alone in the bfloat16 engine: {each}."


def record(folder: Path) -> str:
    """Everything that was recorded on a machine and beside it, as a page of Markdown."""
    drawn = [f"![{path.stem}]({folder.name}/{path.name})" for path in sorted(folder.glob("*.png"))]
    plots = _details("Plots", drawn) if drawn else []
    return "\n".join(["# Recorded results", "", block(folder), *plots]) + "\n"


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


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int] = (0,)) -> list[str]:
    """A table of Markdown; the columns whose places are in `words` stand to the left."""
    rule = "".join("|---" if k in words else "|---:" for k in range(len(heads))) + "|"
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return [lines[0], rule, *lines[1:]]


def _cells(run: Run) -> list[str]:
    return [
        f"`{run.rung}`",
        _fps(run),
        format_bounds(run.fps_interval),
        format_number(run.percentile_ms(50)),
        format_percent(run.agreed),
        _precision(run),
        format_names(run),
        format_percent(run.share_of_limit),
        f"{run.peak_bytes / 2**20:.0f}",
        f"{run.startup_s:.1f}",
    ]


def _fps(run: Run) -> str:
    return format_number(run.fps) + run.doubt


def _precision(run: Run) -> str:
    return format_precision(run).replace(" to ", "&nbsp;to&nbsp;")  # breaks before the interval, not inside


def _gain(comparison: Comparison) -> str:
    low, high = comparison.interval
    mark = "" if comparison.agrees else "!"
    return f"{comparison.ratio:.2f}{mark} ({low:.2f}&nbsp;to&nbsp;{high:.2f})"


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    """A list that opens on a click; nothing where there is nothing to list."""
    return _details(title, [f"- {line}" for line in lines]) if lines else []


def _details(title: str, lines: Sequence[str]) -> list[str]:
    """Markdown that opens on a click."""
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def _read(path: Path) -> list[Any]:
    """Content of a JSON file, as a list of one; empty without the file."""
    return [read_json(path, object)] if path.is_file() else []


def _climbs(comparisons: Sequence[Comparison]) -> list[str]:
    """Each rung against the first of its family, after what disturbed them."""
    climbs = [c for c in comparisons if c.a == c.settings.get("baseline")]
    return [*filter(None, [describe_disturbances(climbs)]), *(c.finding for c in climbs)]


def _live_view(folder: Path) -> list[str]:
    """Sentences on the recorded live view, without and with a browser."""
    lines = []
    for view in _read(folder / "figures.json"):
        slow = [100 * share for share in view["slowdown_per_round"]]
        lines.append(
            f"{view['rung']} with the {view['model_set']} models: {view['display_fps']:.1f} pictures "
            f"shown per second (p99 of the interval {view['interval_p99_ms']:.0f} ms) to a client that "
            f"costs nothing; detections slowed by {100 * view['slowdown']:.1f}% ({min(slow):.1f} to "
            f"{max(slow):.1f} over {view['rounds']} rounds); a result is "
            f"{view['result_age_in_detections']:.2f} detections and a frame old (p99); stopped within "
            f"{view['stop_p99_ms']:.0f} ms (p99 of {view['stops']})."
        )
    for view in (each for beside in _read(folder / "browser.json") for each in beside["figures"]):
        source = {"browser": "the browser's camera"}.get(view["source"], f"`{view['source']}`")
        lines.append(
            f"{view['rung']} with the {view['models']} models and Chromium on the same cores, "
            f"{source}: {view['displayed_fps']:.1f} shown and {view['detections_per_s']:.1f} detections "
            f"per second, a picture {view['picture_age_p50_ms']:.0f} ms old (p50) when it is painted."
        )
    return lines


def _tracking(folder: Path) -> list[str]:
    """Sentences on following boxes: accuracy lost, recorded beside the folder, and speed, recorded in it."""
    lines = []
    for kept in _read(folder.parent / "accuracy" / "tracking.json"):
        lines += [
            f"{kept['rung']} on {kept['shots']} moving scenes, a detection due every {row['every']} frames "
            f"and made on {row['detected']:.0%} of them: {Estimate(**row['lost']).points} points of "
            f"{PRECISION} lost against one on every frame."
            for row in kept["rows"]
            if row["every"] > 1
        ]
    for kept in _read(folder / "tracking.json"):
        lines += [
            f"{kept['rung']} with the {kept['workload']['model_set']} models, a detection every "
            f"{row['every']} frames: {row['fps']['value']:.1f} FPS on average (a detection holds up its own "
            f"frame), {Estimate(**row['times'])} times one on every frame."
            for row in kept["rows"]
            if row["every"] > 1
        ]
    return lines


def _small_models(folder: Path) -> list[str]:
    """Sentences on the speed of the lab's small models, from the runs in the folder `lab`."""
    runs = load_export(folder / "lab").runs if (folder / "lab" / "runs.parquet").is_file() else ()
    return [
        f"{run.rung}{run.doubt} on frames of {'x'.join(map(str, run.settings['size']))}: "
        f"{format_number(run.percentile_ms(50))} ms per frame (p50), "
        f"{format_number(run.fps)} FPS ({format_bounds(run.fps_interval)})."
        for run in runs
    ]


def _fed_at_rates(folder: Path) -> list[str]:
    """A table of rungs as fast as they can and fed as a camera does, which opens on a click."""
    if not (folder / "runs.parquet").is_file():
        return []
    fed = ResultSet(list(load_export(folder).runs))
    heads = ("rung", "fed", "FPS", "p50 ms", "p99 ms", "times closed", "dropped", "CPU ms per frame")
    rows = [
        [f"`{name}`", rate, *map(format_number, times), format_percent(dropped), format_number(cpu_ms)]
        for name, rate, *times, dropped, cpu_ms in fed.paced()[FED_COLUMNS].itertuples(index=False)
    ]
    work = fed.runs[0].settings
    lines = [
        f"The {work['model_set']} models on frames of {'x'.join(map(str, work['size']))}. "
        "`closed`: as fast as it can, without a nap. Else frames fall due at that rate, as a camera gives "
        "them; latency counts from when a frame was due, and `times closed` is its median over that of the "
        "closed run. Threads that spin are paid for in CPU time.",
        "",
        *_table(heads, rows, words=(0, 1)),
        "",
        *fed.sentences(),  # of these runs: where energy cannot be measured
    ]
    return _details("Fed at the rate of a camera", lines)


def _int8_front(folder: Path) -> list[str]:
    """A table of the ways to quantise, with what each gains and loses, and their front."""
    if not (folder / "int8" / "runs.parquet").is_file():
        return []
    export = load_export(folder / "int8")
    gains = {c.b: _gain(c) for c in export.comparisons if c.a == BASELINE}
    file = folder.parent / "accuracy" / "int8.csv"
    lost = {row.change: row for row in from_csv(file.read_text(encoding="utf-8"))} if file.is_file() else {}
    rows = [
        (f"`{run.rung}`", _fps(run), gains[run.rung], lost[run.rung].lost_map.points, rung(run.rung).about)
        for run in export.runs
        if run.rung in gains and run.rung in lost
    ]
    scenes = max((row.n_scenes for row in lost.values()), default=0)
    heads = ("rung", "FPS", "times the baseline (95% CI)", "points of mAP lost (95% CI)", "what it changes")
    lines = [
        *_table(heads, rows, words=(0, 4)),
        "",
        f"Lost against float32 on {scenes} drawn scenes on which no choice was made, by the small models.",
        "",
        f"![The front of speed and accuracy]({folder.name}/int8/speed_accuracy.png)",
    ]
    return _details("8 bits, and ways to keep the accuracy", lines)


def _peers(folder: Path) -> list[str]:
    """A table of direct scripts against the lab's rung of the same precision, which opens on a click."""
    if not (folder / "comparisons.parquet").is_file():
        return []
    comparisons = load_export(folder).comparisons
    best: dict[str, Comparison] = {}
    for each in comparisons:
        best[each.a] = max(best.get(each.a, each), each, key=lambda c: c.ratio)
    by_rung = sorted(comparisons, key=lambda c: list(best).index(c.a))
    rows = [[f"`{c.a}`", f"`{c.b}`", _gain(c), "yes" if c is best[c.a] else ""] for c in by_rung]
    heads = ("the lab's rung", "direct script", "times the lab's rung (95% CI)", "the best")
    lines = [
        "Both networks, 5 boxes, written without the lab by somebody who knows the library: "
        "`tests/direct_loops.py`. Below 1 the script is slower. ONNX Runtime multiplies no bfloat16 on x86.",
        "",
        *_table(heads, rows, words=(0, 1, 3)),
        "",
        *(f"- {each.finding}" for each in best.values()),
    ]
    return _details("The best direct script at each precision", lines)


def _detectors(folder: Path) -> list[str]:
    """A table of detectors by precision of the engine, which opens on a click."""
    if not (folder / "runs.parquet").is_file():
        return []
    export = load_export(folder)
    runs = {(run.settings["detector"], run.rung): run for run in export.runs}
    rungs = list(dict.fromkeys(run.rung for run in export.runs))
    gains = {(c.settings["detector"], c.b): f", {_gain(c)}" for c in export.comparisons if c.a == rungs[0]}
    rows = []
    for name in dict.fromkeys(run.settings["detector"] for run in export.runs):
        work = next(
            run.limit.get("gflop_per_frame") for run in export.runs if run.settings["detector"] == name
        )
        known = [(runs.get((name, each)), gains.get((name, each), "")) for each in rungs]
        cells = [f"{_fps(run)}{gain}" if run else "-" for run, gain in known]
        rows.append([f"`{name}`", format_number(work), *cells])
    lines = [
        "Frames per second of the detector alone; behind the comma how many times as fast as "
        f"`{rungs[0]}` (95% CI). !: its answers differ, or cannot be judged; with random weights that says "
        "little of trained ones, since the best queries lie so near one another that rounding picks others.",
        "",
        *_table(["detector", "GFLOP", *(f"`{each}`" for each in rungs)], rows),
    ]
    return _details("Other detectors", lines)


def _around_engines(runs: Sequence[Run]) -> list[str]:
    """Sentences on the share of a frame that passes outside the engine."""
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
    """Sentences on the benchmarks of the guided filter, on the CPU and on a GPU."""
    times = [each for name in ("filters.json", "filters_cuda.json") for each in _read(folder / name)]
    return [line for each in times for line in FilterTimes.from_json(each).sentences()]


def _engine_time(folder: Path) -> list[str]:
    """Sentences on the engines' time by operator."""
    found = [each for all_of_them in _read(folder / "operators.json") for each in all_of_them]
    return [line for each in found for line in Operators.from_json(each).sentences()]


def _fleets(file: Path) -> list[str]:
    """Sentences on a recorded fleet benchmark: its throughput beside a single process."""
    lines = []
    for kept in _read(file):
        lines += [
            f"{each['streams']} {'stream' if each['streams'] == 1 else 'streams'} of {kept['rung']} through "
            f"Ray: {each['fps']:.2f} frames per second together, {_share(each)} of the "
            f"{each['single_fps']:.2f} that one process reaches which reads, finds and writes the same by "
            "itself."
            for each in kept["fleets"]
        ]
        most = kept["fleets"][-1]
        used = {who: cores for who, cores in most.get("cores_used", {}).items() if who != "engines"}
        if used:
            parts = (f"{who} {cores:.2f}" for who, cores in sorted(used.items(), key=lambda one: -one[1]))
            lines.append(
                f"Beside the engine, {most['streams']} streams use {sum(used.values()):.2f} of "
                f"{kept['fingerprint']['cores']} cores ({', '.join(parts)}); where the engine wants all of "
                "them, that is what a fleet costs."
            )
        lines.append(
            f"Overhead of a fleet: {kept['overhead_ms']:.1f} ms per frame; it recovers "
            f"{kept['recovery_s']:.1f} s after an engine crash."
        )
    return lines


def _share(fleet: Mapping[str, Any]) -> str:
    """A fleet's share of what one process does; with its interval, where it was measured in rounds."""
    share = f"{100 * fleet['share_of_single']:.0f}%"
    if "share_interval" not in fleet:
        return share + (f" ({len(rounds)} rounds)" if (rounds := fleet.get("rounds_fps")) else "")
    low, high = (100 * bound for bound in fleet["share_interval"])
    return f"{share} ({format_interval((low, high), '.0f')}%, {len(fleet['rounds_fps'])} rounds)"


def _elsewhere(folder: Path, here: Export) -> list[str]:
    """Gains on every machine that has recorded the same work, as a table that opens on a click."""
    places = sorted(path for path in folder.parent.iterdir() if (path / "runs.parquet").is_file())
    exports = [(place, load_export(place)) for place in places if place != folder]
    others = [(place, export) for place, export in exports if _workload(export) == _workload(here)]
    table = _climbs_side_by_side([here, *(export for _, export in others)])
    if not others or not table:
        return []
    for other, export in others:
        sentences = [
            *_engine_time(other), *_around_engines(export.runs), *_small_models(other), *_filters(other),
            *_fleets(other / "fleet.json"),
        ]  # fmt: skip
        if sentences:
            table += ["", f"Also on {export.runs[0].machine}:", "", *(f"- {line}" for line in sentences)]
    which = "another machine" if len(others) == 1 else "other machines"
    return _details(f"The same gains on {which}", table)


def _climbs_side_by_side(exports: Sequence[Export]) -> list[str]:
    """A table of the rungs that all machines compared; empty if there are none."""
    gains = [{c.b: c for c in export.comparisons if c.a == BASELINE} for export in exports]
    shares = [{run.rung: run.share_of_limit for run in export.runs} for export in exports]
    rungs = [name for name in gains[0] if all(name in each for each in gains)]
    if not rungs:
        return []
    heads = ["rung", *(head for export in exports for head in (export.runs[0].machine, "of peak"))]
    rows = [
        [f"`{name}`"]
        + [
            c
            for g, s in zip(gains, shares, strict=True)
            for c in (_gain(g[name]), format_percent(s.get(name)))
        ]
        for name in rungs
    ]
    lines = [
        f"Times as fast as `{BASELINE}` on the same machine, with the share of that machine's peak that "
        "the rung reaches in its own precision.",
        "",
        *_table(heads, rows),
    ]
    if any(not own[name].agrees for own in gains for name in rungs):
        lines += ["", "!: its answers differ from the reference's, so this is no like-for-like gain."]
    return lines


def _workload(export: Export) -> tuple[Any, ...]:
    first = export.runs[0]
    boxes = max(run.settings.get("objects", 1) for run in export.runs)
    return first.source.get("sha256"), tuple(first.settings["size"]), boxes, first.settings.get("model_set")


def pictures(folder: Path) -> list[Path]:
    """Draws what a folder of recorded runs allows, from its rows alone; returns the files."""
    export = load_export(folder)
    drawn = save_all(export.runs, export.comparisons, folder)
    if (folder / "int8" / "runs.parquet").is_file():
        runs = [run for run in load_export(folder / "int8").runs if run.rung != BASELINE]
        drawn += save(speed_accuracy(runs), folder / "int8" / "speed_accuracy")
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws a folder's plots and writes its record; with a README, also the short table in it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not 1 <= len(given) <= 2:
        print_text("usage: python -m labkit.results.readme FOLDER [README.md]", file=sys.stderr)
        return UsageError.exit_code
    folder = Path(given[0])
    try:
        for path in pictures(folder):
            print_text(path)
        print_text(write_atomic(folder.parent / "README.md", record(folder)))
        if len(given) == 2:
            readme = Path(given[1])
            print_text(write_atomic(readme, insert(readme.read_text(encoding="utf-8"), highlights(folder))))
    except LabError as error:
        print_text(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print_text(f"labkit: {error}", file=sys.stderr)
        return ResultsError.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
