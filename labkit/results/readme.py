"""The README's block on recorded runs, and a folder's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labkit.core.errors import UsageError
from labkit.results.beside import (
    around_engines,
    engine_time,
    filters,
    fleets,
    live_view,
    observer,
    small_models,
)
from labkit.results.exports import load_export
from labkit.results.machine_table import climbs, elsewhere, with_other_boxes
from labkit.results.plots.labels import PRECISION, names_told, precision_told, those_that_lose
from labkit.results.plots.save import overview, save
from labkit.results.run_record import Run
from labkit.results.text import folded, number, percent

BEGIN, END = "<!-- recorded: begin -->", "<!-- recorded: end -->"
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
        *folded(f"Compared in turns, {boxes} boxes per frame", climbs(export.comparisons)),
        *with_other_boxes(folder),
        *elsewhere(folder, export),
        *folded("What keeps the engines from the peak", [*engine_time(folder), *around_engines(export.runs)]),
        *folded("The small models, which ship with the lab", small_models(folder)),
        *folded("The guided filter by itself", filters(folder)),
        *folded("The live view", live_view(folder.parent / "live")),
        *folded("Many streams on this machine", fleets(folder.parent / "fleet" / "figures.json")),
        *folded("What measuring costs", observer(folder)),
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


def _marks(runs: Sequence[Run]) -> list[str]:
    """What the table's signs mean, where it has any."""
    noisy = "~: noisy, so doubt it" if any(run.noisy for run in runs) else ""
    told = [each for each in (noisy, those_that_lose(runs)) if each]
    return [f"{'. '.join(told)}.", ""] if told else []


def _row(run: Run) -> str:
    low, high = run.fps_interval
    cells = [
        f"`{run.rung}`",
        number(run.fps) + ("~" if run.noisy else ""),
        f"{number(low)} to {number(high)}",
        number(run.percentile_ms(50)),
        percent(run.fidelity.agreement if run.fidelity else None),
        precision_told(run).replace(" to ", "&nbsp;to&nbsp;"),  # breaks before the interval, not inside
        names_told(run),
        percent(run.share_of_limit),
        f"{run.peak_bytes / 2**20:.0f}",
        f"{run.startup_s:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"
