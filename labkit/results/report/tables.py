"""Tables of the report: one row per run, and machines side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labkit.results.format import format_bounds, format_number
from labkit.results.plots.labels import (
    LOSES,
    LOSES_WORDS,
    PRECISION,
    accuracy_of,
    describe_losses,
    evaluated_on,
    format_names,
    loses,
)
from labkit.results.records import Run
from labkit.results.report.machines import Figure, Machine, side_by_side, what_differs

COLUMNS = (
    ("Rung", "what was measured"),
    ("Stage", "the notebook that tells its story"),
    ("FPS", "frames / wall time of the timed part, and its 95% interval"),
    ("p50 ms", "median latency"),
    ("p90 ms", "from 64 frames on"),
    ("p99 ms", "from 662 frames on"),
    ("Agrees", "detections shared with the reference rung"),
    (PRECISION, f"mean over IoU 0.5 to 0.95, and its 95% interval; {LOSES}: {LOSES_WORDS}"),
    ("Names", "share of right names among the objects found"),
    ("Of limit", "arithmetic per second over the machine's measured peak"),
    ("Peak MiB", "largest memory of the measuring process; below it what torch held on the GPU"),
    ("Start-up s", "from an empty process to the first frame"),
    ("Frames", "processed; dropped and failed ones beside it"),
    ("Notes", "what sets a run apart, and doubts"),
)


def runs_table(runs: Sequence[Run]) -> dict[str, Any]:
    """One row per run, and what the signs mean; a column in which nothing is known is left out."""
    common = [fact for fact in _facts(runs[0]) if all(fact in _facts(run) for run in runs)]
    on, lost = evaluated_on(runs), describe_losses(runs)
    notes = [f"All of these: {', '.join(common)}."] if common else []
    notes += [f"{PRECISION} and names: {on}."] if on else []
    notes += [f"{lost}."] if lost else []
    cells = [_cells(run, common) for run in runs]
    shown = [k for k in range(len(COLUMNS) - 1) if any(row[k].text not in ("", "-") for row in cells)]
    rows = [
        (run.rung.split("_"), [row[k] for k in shown])  # long names break at "_"
        for run, row in zip(runs, cells, strict=True)
    ]
    return {"columns": [COLUMNS[0], *(COLUMNS[k + 1] for k in shown)], "rows": rows, "notes": notes}


def machines_table(there: Sequence[Machine], total: int) -> dict[str, Any]:
    """The machines with what differs; one row per work that two or more of them have done.

    Args:
        there: those that are shown.
        total: how many there are.
    """
    names = [(there[0].letter, there[0].name)]
    for machine, lines in what_differs(there):
        differs = f"; differs from {there[0].letter} in {'; '.join(lines)}" if lines else ""
        names.append((machine.letter, machine.name + differs))
    if unknown := {word: None for machine in there for word in machine.unknown}:
        names.append(("Unknown of some results", ", ".join(unknown)))
    rows = side_by_side(there)
    letters = [m.letter for m in there if any(m.letter in figures for _, figures in rows)]
    marked = any(figure.loses for _, figures in rows for figure in figures.values())
    return {
        "names": names,
        "left_out": total - len(there),
        "letters": letters,
        "rows": [(work, [_figure_cell(figures.get(one)) for one in letters]) for work, figures in rows],
        "mark": f"{LOSES}: {LOSES_WORDS}." if marked else "",
    }


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, smaller lines below it, and whether it is marked as a doubt."""

    text: str
    below: tuple[str, ...] = ()
    doubt: bool = False


def _facts(run: Run) -> list[str]:
    """Qualifications of a speed: noise, agreement, accuracy."""
    facts = [run.scenario, f"{run.settings.get('weights', 'unknown')} weights"]
    facts += [str(run.settings["fallback"])] if run.settings.get("fallback") else []
    facts += [run.agreement.unjudged] if run.agreement and run.agreement.unjudged else []
    return [*facts, "quick"] if run.quick else facts


def _cells(run: Run, common: Sequence[str]) -> list[Cell]:
    notes = [fact for fact in _facts(run) if fact not in common]
    notes += ["noisy, see below"] if run.noisy else []
    lost = [f"{n} {what}" for n, what in ((run.dropped, "dropped"), (run.failed, "failed")) if n]
    gpu = [] if run.gpu_peak_bytes is None else [f"GPU {format_number(run.gpu_peak_bytes / 2**20)}"]
    return [
        Cell(str(run.stage)),
        Cell(format_number(run.fps), (format_bounds(run.fps_interval),)),
        *(Cell(format_number(run.percentile_ms(q))) for q in (50, 90, 99)),
        Cell("-" if run.agreed is None else f"{run.agreed:.1%}"),
        _precision_cell(run),
        Cell(format_names(run)),
        Cell("-" if run.share_of_limit is None else f"{run.share_of_limit:.1%}"),
        Cell(format_number(run.peak_bytes / 2**20), tuple(gpu)),
        Cell(format_number(run.startup_s)),
        Cell("; ".join([str(run.n_frames), *lost])),
        Cell("; ".join(notes)),
    ]


def _precision_cell(run: Run) -> Cell:
    value, bounds = accuracy_of(run, "map")
    if np.isnan(value):
        return Cell("-")
    interval = () if bounds is None else (f"{bounds[0]:.3f} to {bounds[1]:.3f}",)
    return Cell(f"{value:.3f}{LOSES if loses(run) else ''}", interval, loses(run))


def _figure_cell(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell("-")
    interval = "too few frames" if figure.interval is None else format_bounds(figure.interval)
    notes = [f"n = {figure.n}"] if figure.n > 1 else []
    notes += [] if figure.agreement is None else [f"agrees {figure.agreement:.0%}"]
    notes += ["noisy"] if figure.noisy else []
    mark = LOSES if figure.loses else ""
    return Cell(format_number(figure.fps) + mark, (interval, ", ".join(notes)))
