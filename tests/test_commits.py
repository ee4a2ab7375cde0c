"""Two revisions of a user's own code: which code runs, what is left behind, what is said of mistakes."""

from __future__ import annotations

import json
import pickle
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from labkit.bench import run as run_module
from labkit.bench.commits import rung_at
from labkit.cli.main import main
from labkit.core.errors import UsageError
from labkit.core.types import Frame
from labkit.pipelines.own_loop import own_loop

LOOP = """
import time
from beside import PAUSE_S

def my_loop(frames):
    for frame in frames:
        time.sleep(PAUSE_S)
        yield frame, {"boxes": [[1, 2, 30, 40]], "scores": [PAUSE_S], "labels": [1]}
"""


def git(folder, *arguments):
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A loop and a module beside it, of which the second commit changes the module only."""
    folder = tmp_path / "own"
    (folder / "code").mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "code" / "loops.py").write_text(LOOP)
    for pause_s in (0.02, 0.002):
        (folder / "code" / "beside.py").write_text(f"PAUSE_S = {pause_s}\n")
        git(folder, "add", "-A")
        git(folder, "commit", "--quiet", "-m", "a change")
    (folder / "code" / "beside.py").write_text("PAUSE_S = 0.5  # not committed\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    return folder


def test_each_revision_runs_its_own_code_and_nothing_is_left(repository):
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0)
    with (
        rung_at("code/loops.py:my_loop", "HEAD~1") as before,
        rung_at("code/loops.py:my_loop", "HEAD") as now,
    ):
        assert (before.name, now.name) == tuple(f"my_loop@{git(repository, 'rev-parse', '--short=7', r)}"
                                                for r in ("HEAD~1", "HEAD"))  # fmt: skip
        scores = []
        for rung in (before, now):
            sent = pickle.loads(pickle.dumps(own_loop(rung)))
            scores += [found.score[0] for _, found in sent([frame], None)]
    assert scores == pytest.approx([0.02, 0.002])
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert git(repository, "status", "--porcelain") == "M code/beside.py"


@pytest.mark.parametrize(
    ("loop", "revision", "message"),
    [
        ("code/loops.py:my_loop", "no_such", "no_such"),
        ("code/other.py:my_loop", "HEAD", "no file code/other.py at HEAD"),
        ("code/loops.py:other", "HEAD", "no function 'other'"),
        ("folded_cpu", "HEAD", "FILE.py:FUNCTION"),
    ],
)
def test_what_is_not_there_is_said_in_one_line_and_nothing_is_left(repository, loop, revision, message):
    with pytest.raises(UsageError, match=message), rung_at(loop, revision):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_the_command_measures_two_commits_in_turns(repository, monkeypatch, capsys):
    short = replace(run_module.QUICK_PAIR, rounds=9, processes=1, turn_s=0.05)
    monkeypatch.setattr(run_module, "QUICK_PAIR", short)
    options = "--quick --json --model-set lab --size 64x48 --source scenes"
    with pytest.raises(SystemExit, match="0"):
        main(["compare", "code/loops.py:my_loop", "--commits", "HEAD~1", "HEAD", *options.split()])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [said[side].partition("@")[0] for side in "ab"] == ["my_loop", "my_loop"]
    assert said["agrees"]
    assert said["ratio"] > 2  # 10 on a machine that does nothing else
    assert main(["compare", "a", "b", "--commits", "HEAD", "HEAD"]) == 2
    assert main(["compare", "folded_cpu"]) == 2
