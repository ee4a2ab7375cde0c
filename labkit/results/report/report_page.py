"""One HTML page that shows a set of results; it needs no network and no script."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from labkit import __version__
from labkit.core.errors import UsageError
from labkit.core.files import write_atomic
from labkit.results.predictions import Calibration, Noted, calibration
from labkit.results.records import Comparison, Run
from labkit.results.report.groups import Group, by_boxes, groups
from labkit.results.report.machines import Machine, machines, side_by_side, what_differs
from labkit.results.report.tables import machines_table, runs_table

MAX_MACHINES = 6
"""Columns that still fit side by side; of more, those with the newest records stay."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1a1a1a; --faint: #5f6368; --line: #dadce0; --doubt: #8a4b00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8eaed; --faint: #a6abb2; --line: #3c4043; --doubt: #ffb95c; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p.lead, figcaption, footer { color: var(--faint); font-size: .9rem; }
.wide { overflow-x: auto; --edge: no-repeat local; --shade: no-repeat scroll;
  background: linear-gradient(to right, var(--paper) 40%, transparent) left / 3rem 100% var(--edge),
    linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% var(--edge),
    linear-gradient(to right, var(--line), transparent) left / 1rem 100% var(--shade),
    linear-gradient(to left, var(--line), transparent) right / 1rem 100% var(--shade); }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, th:last-child, td:last-child { text-align: left; }
td { white-space: nowrap; }
tbody th { font-weight: 600; min-width: 9rem; max-width: 18rem; overflow-wrap: anywhere;
  position: sticky; left: 0; background: var(--paper); }
td:last-child { min-width: 5rem; white-space: normal; }
figure { margin: 1.5rem 0; } img { width: min(100%, 60rem); height: auto; }
.doubt { color: var(--doubt); }
.machines th, .machines td { text-align: right; min-width: 6rem; white-space: nowrap; }
thead th:last-child { min-width: 0; }
.machines th:first-child { text-align: left; min-width: 10rem; max-width: 26rem;
  white-space: normal; }
small { display: block; color: var(--faint); font-weight: normal; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .75rem; font-size: .8rem; }
"""


def write_report(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    path: Path | str,
    predictions: Sequence[Noted] = (),
    *,
    others: Sequence[Run] = (),
) -> Path:
    """Writes the page: machines side by side, sentences, table, doubts, plots with alt text.

    Results of unlike machines or software, and of unlike work, stand in sections of their own.

    Args:
        runs: in the order in which the tables show them.
        comparisons: each gives one sentence.
        path: of the HTML file, which is written whole.
        predictions: the learner's predictions, oldest first; none gives no section about them.
        others: further runs that are only compared between machines.

    Raises:
        UsageError: there is nothing to show.
        ResultsError: the file cannot be written.
    """
    if not runs and not comparisons:
        raise UsageError("a report needs a run or a comparison; measure one first, or name other results")
    return write_atomic(path, _page(runs, comparisons, calibration(predictions), others))


def _page(
    runs: Sequence[Run], comparisons: Sequence[Comparison], known: Calibration, others: Sequence[Run]
) -> str:
    shown = {id(record) for record in (*runs, *comparisons)}
    there = machines([*runs, *comparisons, *(run for run in others if id(run) not in shown)])
    kept = [machine for machine in _newest(there) if any(id(record) in shown for record in machine.records)]
    sections = [
        _section("Machines side by side", _side_by_side(_newest(there), len(there)))
        if len(there) > 1
        else "",
        *(_sections_of(machine, shown, alone=len(there) == 1) for machine in kept),
        _section("Predictions", _predictions(known)) if known.outcomes else "",
        _section("Machine and software", _fingerprints(_newest(there))),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>labkit report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>What was measured</h1>\n{_lead(runs, comparisons)}\n{''.join(sections)}</main>\n"
        f"<footer>labkit {escape(__version__)}. All intervals are 95% intervals; a percentile is given only "
        "with frames enough for it.</footer>\n</body>\n</html>\n"
    )


def _newest(there: Sequence[Machine]) -> list[Machine]:
    """The machines that the page has room for, in their order."""
    kept = sorted(there, key=lambda machine: machine.newest)[-MAX_MACHINES:]
    return [machine for machine in there if machine in kept]


def _sections_of(machine: Machine, shown: set[int], *, alone: bool) -> str:
    """Sections of one machine, one per workload; headings name both if there are several."""
    found = groups([record for record in machine.records if id(record) in shown])
    on = "" if alone else f" on {machine.letter}"
    about = "".join(
        _sections_about(group, on if len(found) == 1 else f"{on}: {escape(group.work.words)}")
        for group in found
    )
    runs = [run for run in machine.runs if id(run) in shown]
    return about + "".join(
        _section(f"Number of boxes{on}: {escape(work.words)}", _boxes(alike))
        for work, alike in by_boxes(runs)
    )


def _sections_about(group: Group, where: str) -> str:
    runs, comparisons = group.runs, group.comparisons
    return "".join(
        (
            _section(f"Gains{where}", _sentences(comparisons)) if comparisons else "",
            _section(f"Runs{where}", runs_table(runs)) if runs else "",
            _section(f"Doubts{where}", _doubts(runs, comparisons)),
            _section(f"Plots{where}", _plots(runs, comparisons)),
        )
    )


def _side_by_side(there: Sequence[Machine], total: int) -> str:
    """The machines with what differs, and a table of what more than one of them has measured."""
    names = [f"<li><b>{there[0].letter}</b>: {escape(there[0].name)}</li>"]
    for machine, lines in what_differs(there):
        differs = f"; differs from {there[0].letter} in {'; '.join(lines)}" if lines else ""
        names.append(f"<li><b>{machine.letter}</b>: {escape(machine.name + differs)}</li>")
    left_out = f"<p>{total - len(there)} older ones are left out.</p>" if total > len(there) else ""
    intro = (
        "<p>Frames per second of the same work, each with its 95% interval. Where a machine measured it "
        "several times: the median of n runs, and the outermost bounds of their intervals.</p>"
    )
    listed = f"<ul>\n{''.join(names)}</ul>{left_out}"
    rows = side_by_side(there)
    if not rows:
        return f"{listed}<p>No work has been measured on more than one of them.</p>"
    return f"{intro}{listed}{machines_table(there, rows)}"


def _lead(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    records: list[Run | Comparison] = [*runs, *comparisons]
    weights = sorted({str(record.settings.get("weights", "unknown")) for record in records})
    facts = [
        f"{len(runs)} runs and {len(comparisons)} comparisons",
        f"weights: {' and '.join(weights)}",
        f"source: {' and '.join(sorted({str(r.source.get('spec', 'unknown')) for r in records}))}",
        f"on {' and '.join(sorted({record.machine for record in records}))}",
    ]
    days = sorted(record.created[:10] for record in records if record.created)
    if days:
        facts.append(days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")
    warning = "The weights are random: speeds hold, names of what was found mean nothing."
    extra = f'<p class="doubt">{warning}</p>' if "random" in weights else ""
    return f'<p class="lead">{escape("; ".join(facts))}</p>{extra}'


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>\n"


def _sentences(comparisons: Iterable[Comparison]) -> str:
    lines = (f"<li>{escape(c.sentence)}</li>" for c in comparisons)
    return f"<p>Each pair was measured in turns on the same frames.</p>\n<ul>\n{''.join(lines)}</ul>"


def _doubts(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    named = [(run.rung, run.noise) for run in runs]
    named += [(f"{c.a} against {c.b}", c.disturbances) for c in comparisons]
    lines = [f"<li><b>{escape(name)}</b>: {escape('; '.join(noise))}</li>" for name, noise in named if noise]
    if not lines:
        return "<p>None: latencies were steady and nothing disturbed the machine.</p>"
    return f'<ul class="doubt">\n{"".join(lines)}</ul>'


def _plots(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    from labkit.results.plots.save import overview, svg_text

    light, dark = (overview(runs, comparisons, theme=theme) for theme in ("light", "dark"))
    return "".join(
        _figure(svg_text(chart), svg_text(night), chart.alt_text)
        for (_, chart), (_, night) in zip(light, dark, strict=True)
    )


def _boxes(runs: Sequence[Run]) -> str:
    """Section on the cost of each further box."""
    from labkit.results.plots.by_boxes import cost_of_boxes
    from labkit.results.plots.save import svg_text

    light, dark = (cost_of_boxes(runs, theme=theme) for theme in ("light", "dark"))
    return _figure(svg_text(light), svg_text(dark), light.alt_text)


def _figure(light: str, dark: str, words: str) -> str:
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_data(dark)}">'
        f'<img src="{_data(light)}" alt="{escape(words)}"></picture>'
        f"<figcaption><details><summary>In words</summary>{escape(words)}</details></figcaption></figure>\n"
    )


def _predictions(known: Calibration) -> str:
    """Section on predictions: what was expected, and the error."""
    from labkit.results.plots.predicted import prediction_chart
    from labkit.results.plots.save import svg_text

    light, dark = (prediction_chart(known, theme=theme) for theme in ("light", "dark"))
    lines = "".join(
        f"<li>{escape(one.question)} <b>{escape(one.verdict)}</b></li>\n" for one in known.outcomes
    )
    figure = _figure(svg_text(light), svg_text(dark), light.alt_text)
    return f"<p>{escape(known.sentence)}</p>\n<ul>\n{lines}</ul>\n{figure}"


def _fingerprints(there: Sequence[Machine]) -> str:
    """The newest fingerprint of each machine."""
    shown = " open" if len(there) == 1 else ""
    parts = []
    for machine in there:
        title = machine.name if len(there) == 1 else f"{machine.letter}: {machine.name}"
        facts = json.dumps(dict(machine.fingerprint), indent=2, default=str, ensure_ascii=False)
        parts.append(
            f"<details{shown}><summary>{escape(title)}</summary><pre>{escape(facts)}</pre></details>\n"
        )
    return "".join(parts)


def _data(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
