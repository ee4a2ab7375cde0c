"""The page's tables: what each run says, and what machines say of the same work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

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
from labkit.results.report.groups import Work
from labkit.results.report.machines import Figure, Machine

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


def runs_table(runs: Sequence[Run]) -> str:
    """One row per run, and what the signs mean."""
    head = "".join(f'<th scope="col" title="{escape(about)}">{name}</th>' for name, about in COLUMNS)
    common = [fact for fact in _facts(runs[0]) if all(fact in _facts(run) for run in runs)]
    rows = "".join(f"<tr>{_row(run, common)}</tr>\n" for run in runs)
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"
    on, lost = evaluated_on(runs), describe_losses(runs)
    notes = [f"All of these: {', '.join(common)}."] if common else []
    notes += [f"{PRECISION} and names: {on}."] if on else []
    notes += [f"{lost}."] if lost else []
    below = "".join(f'<p class="lead">{escape(note)}</p>' for note in notes)
    return f'<div class="wide" tabindex="0">{table}</div>{below}'


def machines_table(there: Sequence[Machine], rows: Sequence[tuple[Work, Mapping[str, Figure]]]) -> str:
    """One row per work, one column per machine that has done any of it."""
    having = [machine for machine in there if any(machine.letter in cells for _, cells in rows)]
    head = "".join(f'<th scope="col">{machine.letter}</th>' for machine in having)
    body = "".join(
        f'<tr><th scope="row">{escape(work.rung)}<small>{escape(work.words)}</small></th>'
        f"{''.join(_figure_cell(cells.get(machine.letter)) for machine in having)}</tr>\n"
        for work, cells in rows
    )
    table = f'<table class="machines">\n<thead><tr><th scope="col">Rung</th>{head}</tr></thead>'
    marked = any(figure.loses for _, cells in rows for figure in cells.values())
    below = f'<p class="lead">{LOSES}: {LOSES_WORDS}.</p>' if marked else ""
    return f'<div class="wide" tabindex="0">{table}\n<tbody>{body}</tbody></table></div>{below}'


def _facts(run: Run) -> list[str]:
    """Qualifications of a speed: noise, agreement, accuracy."""
    facts = [run.scenario, f"{run.settings.get('weights', 'unknown')} weights"]
    return [*facts, "quick"] if run.quick else facts


def _row(run: Run, common: Sequence[str]) -> str:
    notes = [fact for fact in _facts(run) if fact not in common]
    notes += ["noisy, see below"] if run.noisy else []
    lost = [f"{n} {what}" for n, what in ((run.dropped, "dropped"), (run.failed, "failed")) if n]
    cells = (
        _cell(str(run.stage)),
        _cell(format_number(run.fps), format_bounds(run.fps_interval)),
        *(_cell(format_number(run.percentile_ms(q))) for q in (50, 90, 99)),
        _cell("-" if run.agreement is None else f"{run.agreement.share:.1%}"),
        _precision_cell(run),
        _cell(format_names(run)),
        _cell("-" if run.share_of_limit is None else f"{run.share_of_limit:.1%}"),
        _cell(format_number(run.peak_bytes / 2**20), _gpu_memory(run)),
        _cell(format_number(run.startup_s)),
        _cell("; ".join([str(run.n_frames), *lost])),
        _cell("; ".join(notes)),
    )
    name = escape(run.rung).replace("_", "_<wbr>")
    return f'<th scope="row">{name}</th>{"".join(cells)}'


def _gpu_memory(run: Run) -> str:
    return "" if run.gpu_peak_bytes is None else f"GPU {format_number(run.gpu_peak_bytes / 2**20)}"


def _precision_cell(run: Run) -> str:
    value, bounds, _ = accuracy_of(run, "map")
    if np.isnan(value):
        return _cell("-")
    interval = "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
    if not loses(run):
        return _cell(f"{value:.3f}", interval)
    return f'<td><b class="doubt">{value:.3f}{LOSES}</b><small>{interval}</small></td>'


def _cell(text: str, below: str = "") -> str:
    small = f"<small>{escape(below)}</small>" if below else ""
    return f"<td>{escape(text)}{small}</td>"


def _figure_cell(figure: Figure | None) -> str:
    if figure is None:
        return "<td>-</td>"
    interval = "too few frames" if figure.interval is None else format_bounds(figure.interval)
    notes = [f"n = {figure.n}"] if figure.n > 1 else []
    notes += [] if figure.agreement is None else [f"agrees {figure.agreement:.0%}"]
    notes += ["noisy"] if figure.noisy else []
    mark = LOSES if figure.loses else ""
    below = "".join(f"<small>{text}</small>" for text in (interval, ", ".join(notes)))
    return f"<td>{format_number(figure.fps)}{mark}{below}</td>"
