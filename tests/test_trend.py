"""Trends: simulated histories, whose commits change nothing or cost 5%, and what the command says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from labkit.cli.main import main
from labkit.core.errors import UsageError
from labkit.results.store import Store
from labkit.results.trend import Step, Trend, evaluate_commits, trend
from tests.records_made_up import MACHINE, made_up_run

from conftest import further  # isort: skip

REGRESSION = -np.log(1.05)


def judged(rng, *, offset, runs=3, commits=20, slower_from=None):
    """Verdicts on commits whose runs differ by `offset` from process to process, and by 1% besides."""
    levels = rng.normal(0, np.hypot(offset, 0.01) / np.sqrt(runs), commits)
    if slower_from is not None:
        levels[slower_from:] += REGRESSION
    return [verdict for verdict, *_ in evaluate_commits(levels, [runs] * commits)]


@pytest.mark.parametrize("offset", [0.01, *further(0.005, 0.02)])
@pytest.mark.parametrize("runs", [1, 3])
def test_20_commits_that_change_nothing_raise_an_alarm_in_at_most_5_percent(offset, runs):
    rng = np.random.default_rng(int(1e4 * offset) + runs)
    alarms = [{"slower", "faster"} & set(judged(rng, offset=offset, runs=runs)) for _ in range(800)]
    assert np.mean([bool(alarm) for alarm in alarms]) <= 0.05


def test_a_regression_of_5_percent_is_found_in_90_percent():
    rng = np.random.default_rng(5)
    at_once = [judged(rng, offset=0.01, slower_from=19)[19] == "slower" for _ in range(500)]
    in_time = ["slower" in judged(rng, offset=0.02, commits=20, slower_from=17)[17:] for _ in range(500)]
    assert np.mean(at_once) >= 0.90
    assert np.mean(in_time) >= 0.90


def test_a_slow_stretch_stays_slower_and_a_gain_becomes_the_known_good():
    levels = np.array([0.0, 0.004, -0.004, 0.003, -0.003, 0.002, -0.1, -0.1, 0.2, 0.203, 0.0])
    words = [verdict for verdict, *_ in evaluate_commits(levels, [1] * len(levels))]
    assert words[:4] == ["cannot tell"] * 4
    assert words[6:] == ["slower", "slower", "faster", "same", "slower"]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Six commits with three runs each; the last is 8% slower."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    rng = np.random.default_rng(0)
    with Store(tmp_path / "lab.sqlite") as store:
        for commit in range(6):
            for run in range(3):
                period_s = 0.03 * np.exp(0.005 * rng.normal()) * (1.08 if commit == 5 else 1)
                mark = {**MACHINE, "commit": f"{commit}abcdef01234", "dirty": False}
                when = f"2026-11-{10 + commit:02}T0{run}:00:00.000+00:00"
                store.add(made_up_run(period_s=period_s, spread=0.002, fingerprint=mark, created=when))
        other = {**MACHINE, "cpu": "Another CPU", "commit": "0abcdef01234"}
        store.add(made_up_run(fingerprint=other, created="2026-11-01T00:00:00.000+00:00"))
    return tmp_path


def test_the_command_says_that_the_newest_commit_is_slower(stored, capsys):
    with pytest.raises(SystemExit, match="8"):
        main(["results", "trend", "opencv", "--plot", str(stored / "trend.svg")])
    told = capsys.readouterr().out
    assert "opencv at 5abcdef: slower (0.92" in told
    assert "1 runs of other work or other machines are left out" in told
    assert (stored / "trend.svg").is_file()
    with pytest.raises(SystemExit, match="9"):  # its speed is accepted, and alone it tells nothing
        main(["results", "trend", "opencv", "--good", "5abcdef", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], len(said["commits"])) == ("cannot tell", 1)


def test_a_trend_is_a_table_and_says_what_is_wrong(stored):
    found = trend("opencv")
    assert isinstance(found, Trend)
    assert list(found.table()["runs"]) == [3] * 6
    assert "slower" in found._repr_html_()
    assert [step.verdict for step in found.steps][4] == "same"
    with pytest.raises(UsageError, match="no_rung has not been measured"):
        trend("no_rung")
    with pytest.raises(UsageError, match="0abcdef, 1abcdef"):
        trend("opencv", good="fff")


def test_the_speed_of_a_commit_is_the_geometric_mean_of_its_runs():
    runs = tuple(made_up_run(period_s=s, spread=0.0) for s in (0.01, 0.04))
    assert Step("abc", runs, "same", 1.0, (0.9, 1.1)).fps == pytest.approx(50.0)
