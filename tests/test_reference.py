"""The README's figures are those of the recorded runs, word for word."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import UsageError
from labkit.reference import BEGIN, END, block, insert
from labkit.results import Store

from records_made_up import made_up_comparison, made_up_run  # isort: skip

ROOT = Path(__file__).parents[1]
RECORDED = sorted(p for p in (ROOT / "results" / "reference").glob("*") if (p / "runs.parquet").is_file())


@pytest.mark.skipif(not RECORDED, reason="no recorded runs yet")
def test_the_readme_says_what_was_recorded():
    readme = (ROOT / "README.md").read_text()
    assert any(insert(readme, block(folder)) == readme for folder in RECORDED)


def test_a_block_names_machine_workload_and_every_rung(tmp_path):
    with Store(tmp_path / "lab.sqlite") as store:
        store.add_run(made_up_run())
        store.add_comparison(made_up_comparison())
        store.export(tmp_path / "out")
    text = block(tmp_path / "out")
    assert "Recorded on" in text
    assert f"| `{made_up_run().rung}` |" in text


def test_other_numbers_of_boxes_and_the_cost_of_spans_are_told(tmp_path):
    one = made_up_comparison()
    more = replace(one, settings={**one.settings, "objects": 15, "baseline": one.a})
    with Store(tmp_path / "lab.sqlite") as store:
        store.add_run(made_up_run())
        store.export(tmp_path / "out")
    with Store(tmp_path / "more.sqlite") as store:
        store.add_comparison(more)
        store.export(tmp_path / "out" / "15-boxes")
    live = {
        "rung": "cpu_engine_bf16", "model_set": "full", "display_fps": 29.97, "interval_p99_ms": 38.4,
        "slowdown": 0.01, "slowdown_per_round": [-0.02, 0.03], "rounds": 2, "stops": 100,
        "result_age_in_detections": 1.01, "stop_p99_ms": 120.3,
    }  # fmt: skip
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "figures.json").write_text(json.dumps(live))
    (tmp_path / "out" / "span_cost.json").write_text('{"sentence": "Spans cost little."}')
    lines = block(tmp_path / "out").splitlines()
    assert "- Spans cost little." in lines
    assert lines[-1].startswith("- cpu_engine_bf16 with the full models: 30.0 pictures shown per second")
    assert "slowed by 1.0% (-2.0 to 3.0 over 2 rounds)" in lines[-1]
    assert lines[lines.index("With 15 boxes per frame:") + 2] == f"- {more.sentence}"


def test_text_goes_between_the_marks_only():
    assert insert(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\nnew\n{END} b"
    with pytest.raises(UsageError, match="no <!-- recorded"):
        insert("no marks", "new")
