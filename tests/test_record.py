"""The recording of a machine: its parts are commands that work and write what the page reads."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.cli.main import _add_commands, app
from labkit.pipelines.ladder import rung
from labkit.results.exports import load_export

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "record.py"
SMALL = ("--quick", "--size", "160x128", "--model-set", "lab")


@pytest.fixture(scope="module")
def recording():
    spec = importlib.util.spec_from_file_location("record", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*words):
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True)


def test_every_rung_that_is_recorded_is_there(recording):
    for name in (*recording.CLIMB, *recording.FED, *recording.QUANTISED, *recording.DETECT):
        assert rung(name).name == name
    scripts = (ROOT / "tests" / "direct_loops.py").read_text()
    assert all(f"def {peer}(" in scripts for peer in recording.PEERS)


def test_every_part_is_made_of_commands_that_exist(recording, tmp_path):
    _add_commands()
    known = {each.name or each.callback.__name__ for each in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    for part in recording.PARTS:
        for module, *words in recording.commands(part, tmp_path / "machine"):
            if module == "labkit":
                assert words[0] in known
            else:
                assert importlib.util.find_spec(module) is not None
    assert all(f"{part} " in recording.__doc__ for part in recording.PARTS)


@pytest.mark.parametrize("words", [(), ("--quick",), ("somewhere", "nosuch")])
def test_a_wrong_call_is_told_and_nothing_is_measured(words, tmp_path):
    done = run(*words)
    assert done.returncode == 2 and "python .ci/record.py" in done.stderr
    assert ("there is no part nosuch" in done.stderr) is ("nosuch" in words)


def test_a_part_that_fails_is_named(recording, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recording, "commands", lambda part, folder, options: [["labkit", "nosuch"]])
    assert recording.main([str(tmp_path), "int8", "page"]) == 1
    assert "not recorded whole: int8, page" in capsys.readouterr().out


@pytest.mark.extended
def test_a_part_is_measured_and_written_whole(tmp_path):
    done = run(tmp_path / "machine", "boxes", "--", *SMALL, "--minutes", "1")
    assert done.returncode == 0, done.stderr
    runs = load_export(tmp_path / "machine" / "15-boxes").runs
    assert runs and {(run.settings["objects"], run.settings["model_set"]) for run in runs} == {(15, "lab")}
    assert "recorded in" in done.stdout
