"""One HTML page that shows a set of results; it needs no network and no script."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from labkit import __version__
from labkit.core.errors import UsageError
from labkit.core.files import write_atomic
from labkit.core.terminal import printable
from labkit.results.ceilings import with_ceilings
from labkit.results.plots.by_boxes import cost_of_boxes
from labkit.results.plots.predicted import prediction_chart
from labkit.results.plots.save import overview, svg_text
from labkit.results.plots.style import Chart
from labkit.results.predictions import Calibration, calibration
from labkit.results.records import Comparison, Run
from labkit.results.report.groups import by_boxes, groups
from labkit.results.report.machines import Machine, machines
from labkit.results.report.tables import machines_table, runs_table
from labkit.results.result_set import ResultSet
from labkit.results.store import Prediction

Section = tuple[str, str, Any]
"""Title, kind (a macro of the template) and the data that this kind takes."""

TEMPLATE = Path(__file__).with_name("report.html")
MAX_MACHINES = 6
"""Columns that still fit side by side; of more, those with the newest records stay."""


def write_report(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    path: Path | str,
    predictions: Sequence[Prediction] = (),
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
    records: list[Run | Comparison] = [*runs, *comparisons]
    shown = {id(record) for record in records}
    there = machines([*records, *(run for run in others if id(run) not in shown)])
    fitting = [machine for machine in there if machine in sorted(there, key=_newest)[-MAX_MACHINES:]]
    sections: list[Section] = []
    if len(there) > 1:
        sections.append(("Machines side by side", "machines", machines_table(fitting, len(there))))
    for machine in fitting:
        sections += _sections_of(machine, shown, alone=len(there) == 1)
    if known.outcomes:
        sections.append(("Predictions", "predictions", _predictions(known)))
    sections.append(("Machine and software", "fingerprints", _fingerprints(fitting)))
    weights = sorted({str(record.settings.get("weights", "unknown")) for record in records})
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        sections=sections,
        disturbed=ResultSet([*runs], [*comparisons]).disturbed(),
        lead=_lead(runs, comparisons, weights),
        random="random" in weights,
        version=__version__,
    )
    return printable(page)  # what is in anybody's names steers no browser and no terminal


def _newest(machine: Machine) -> str:
    """When a machine's last record was made; empty for records without a time."""
    return max(record.created for record in machine.records)


def _sections_of(machine: Machine, shown: set[int], *, alone: bool) -> list[Section]:
    """Sections of one machine, one per workload; headings name both if there are several."""
    found = groups([record for record in machine.records if id(record) in shown])
    on = "" if alone else f" on {machine.letter}"
    sections: list[Section] = []
    for work, runs, comparisons in found:
        where = on if len(found) == 1 else f"{on}: {work.words}"
        if comparisons:
            findings = [each.finding for each in with_ceilings(comparisons, runs)]
            sections.append((f"Gains{where}", "gains", findings))
        if runs:
            sections.append((f"Runs{where}", "runs", runs_table(runs)))
        sections.append((f"Doubts{where}", "doubts", _doubts(runs, comparisons)))
        figures = [_figure(chart) for _, chart in overview(runs, comparisons)]
        sections.append((f"Plots{where}", "plots", figures))
    for work, alike in by_boxes([run for run in machine.runs if id(run) in shown]):
        sections.append((f"Number of boxes{on}: {work.words}", "plots", [_figure(cost_of_boxes(alike))]))
    return sections


def _lead(runs: Sequence[Run], comparisons: Sequence[Comparison], weights: Sequence[str]) -> str:
    records: list[Run | Comparison] = [*runs, *comparisons]
    facts = [
        f"{len(runs)} runs and {len(comparisons)} comparisons",
        f"weights: {' and '.join(weights)}",
        f"source: {' and '.join(sorted({str(r.source.get('spec', 'unknown')) for r in records}))}",
        f"on {' and '.join(sorted({record.machine for record in records}))}",
    ]
    days = sorted(record.created[:10] for record in records if record.created)
    if days:
        facts.append(days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")
    return "; ".join(facts)


def _doubts(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    named = [(run.rung, run.noise) for run in runs]
    named += [(f"{c.a} against {c.b}", c.disturbances) for c in comparisons]
    by_reasons: dict[str, list[str]] = {}
    for name, noise in named:
        by_reasons.setdefault("; ".join(noise), []).append(name)
    return [(", ".join(names), reasons) for reasons, names in by_reasons.items() if reasons]


def _figure(chart: Chart) -> dict[str, str]:
    """A chart as data of the page."""
    picture = b64encode(svg_text(chart).encode()).decode()
    return {"picture": f"data:image/svg+xml;base64,{picture}", "words": chart.alt_text}


def _predictions(known: Calibration) -> dict[str, Any]:
    """Predictions: what was expected, and the error."""
    return {
        "sentence": known.sentence,
        "outcomes": [(outcome.question, outcome.verdict) for outcome in known.outcomes],
        "figure": _figure(prediction_chart(known)),
    }


def _fingerprints(there: Sequence[Machine]) -> list[tuple[str, str]]:
    """The newest fingerprint of each machine, with its heading."""
    return [
        (
            machine.name if len(there) == 1 else f"{machine.letter}: {machine.name}",
            json.dumps(dict(machine.fingerprint), indent=2, default=str, ensure_ascii=False),
        )
        for machine in there
    ]
