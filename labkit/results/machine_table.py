"""The same climb elsewhere: on other machines, and with other numbers of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.results.beside import around_engines, engine_time, filters, fleets, small_models
from labkit.results.comparison import Comparison
from labkit.results.exports import Export, load_export
from labkit.results.text import details, folded, percent

CLIMBS_FROM = "origin_combined_cpu"


def climbs(comparisons: Sequence[Comparison]) -> list[str]:
    """Each rung against the first of its family."""
    return [c.sentence for c in comparisons if c.a == c.settings.get("baseline")]


def with_other_boxes(folder: Path) -> list[str]:
    """What was compared with another number of boxes, in folders such as `15-boxes`."""
    lines = []
    for each in sorted(folder.glob("[0-9]*-boxes")):
        comparisons = load_export(each).comparisons
        boxes = each.name.partition("-")[0]
        lines += folded(f"Compared in turns, {boxes} boxes per frame", climbs(comparisons))
    return lines


def elsewhere(folder: Path, here: Export) -> list[str]:
    """The climb on every machine that has recorded the same work, as a table that opens on a click."""
    there = [(folder, here), *_others(folder, here)]
    table = _climbs_side_by_side([export for _, export in there])
    if len(there) < 2 or not table:
        return []
    title = "The same climb on another machine" if len(there) == 2 else "The same climb on other machines"
    for other, export in there[1:]:
        told = [
            *engine_time(other), *around_engines(export.runs), *small_models(other), *filters(other),
            *fleets(other / "fleet.json"),
        ]  # fmt: skip
        if told:
            table += ["", f"Also on {export.runs[0].machine}:", "", *(f"- {line}" for line in told)]
    return details(title, table)


def _others(folder: Path, here: Export) -> list[tuple[Path, Export]]:
    """Other machines that have recorded the same work, and what they recorded."""
    places = sorted(path for path in folder.parent.iterdir() if (path / "runs.parquet").is_file())
    exports = [(place, load_export(place)) for place in places if place != folder]
    return [(place, export) for place, export in exports if _workload(export) == _workload(here)]


def _climbs_side_by_side(exports: Sequence[Export]) -> list[str]:
    """A table of the rungs that all machines compared; empty if there are none."""
    gains = [{c.b: c for c in export.comparisons if c.a == CLIMBS_FROM} for export in exports]
    runs = [{run.rung: run for run in export.runs} for export in exports]
    rungs = [name for name in gains[0] if all(name in each for each in gains)]
    if not rungs:
        return []
    lines = [
        f"Times as fast as `{CLIMBS_FROM}` on the same machine, with the share of that machine's peak that "
        "the rung reaches in its own precision.",
        "",
        "| rung | " + " | ".join(f"{export.runs[0].machine} | of peak" for export in exports) + " |",
        "|---" + "|---:|---:" * len(exports) + "|",
    ]
    for rung in rungs:
        cells = []
        for own, measured in zip(gains, runs, strict=True):
            share = measured[rung].share_of_limit if rung in measured else None
            cells += [_gain(own[rung]), percent(share)]
        lines.append(f"| `{rung}` | " + " | ".join(cells) + " |")
    if any(not own[rung].agrees for own in gains for rung in rungs):
        lines += ["", "!: its answers differ from the reference's, so this is no like-for-like gain."]
    return lines


def _gain(comparison: Comparison) -> str:
    low, high = comparison.interval
    mark = "" if comparison.agrees else "!"
    return f"{comparison.ratio:.2f}{mark} ({low:.2f}&nbsp;to&nbsp;{high:.2f})"


def _workload(export: Export) -> tuple[Any, ...]:
    first = export.runs[0]
    boxes = max(run.settings.get("objects", 1) for run in export.runs)
    return first.source.get("sha256"), tuple(first.settings["size"]), boxes, first.settings.get("model_set")
