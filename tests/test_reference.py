"""The README's figures are those of the recorded runs, word for word."""

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


def test_text_goes_between_the_marks_only():
    assert insert(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\nnew\n{END} b"
    with pytest.raises(UsageError, match="no <!-- recorded"):
        insert("no marks", "new")
