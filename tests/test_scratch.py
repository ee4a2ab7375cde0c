"""Folders of temporary files: private, and gone with the process that made them, however that ended."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import labkit
from labkit.core import scratch
from labkit.core.scratch import scratch_folder

MAKES_TWO = """
import os, signal, sys
from labkit.core.scratch import kept_scratch_folder, scratch_folder
with scratch_folder("gallery") as folder:
    print(folder, kept_scratch_folder("kernels"), flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), getattr(signal, sys.argv[1])) if len(sys.argv) > 1 else None
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield tmp_path
    monkeypatch.undo()


def test_a_scratch_folder_is_private_and_goes_with_its_block(temporary):
    with scratch_folder("gallery") as folder:
        assert folder.stat().st_mode & 0o077 == 0 or os.name == "nt"
        assert folder.parent == temporary and f"-{os.getpid()}-" in folder.name
        (folder / "file").touch()
    assert not folder.exists()


def test_what_a_killed_process_left_goes_when_the_next_folder_is_made(temporary):
    kept = [temporary / "labkit-unsaved-x2k9wq0b", temporary / "labkit-notes-of-mine", temporary / "another"]
    for folder in kept:  # results that a full disk refused, and what is not ours
        folder.mkdir()
    command = [sys.executable, "-c", MAKES_TWO]
    ended = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    assert [Path(name).exists() for name in ended.stdout.split()] == [False, False]
    killed = subprocess.run([*command, "SIGKILL"], input="", capture_output=True, text=True, check=False)
    left = [Path(name) for name in killed.stdout.split()]
    assert len(left) == 2 and all(folder.is_dir() for folder in left)
    with scratch_folder("gallery") as running, scratch_folder("ray", temporary) as last:
        assert sorted(temporary.iterdir()) == sorted([*kept, running, last])


@pytest.mark.skipif(sys.platform == "win32", reason="containers there share no folder")
def test_another_containers_folders_stay(temporary, monkeypatch):
    """Containers that share a folder of temporary files cannot see one another's processes."""
    monkeypatch.setattr(scratch, "lives", lambda _: False)
    command = [sys.executable, "-c", MAKES_TWO]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        running = [Path(name) for name in other.stdout.readline().split()]
        with scratch_folder("gallery"):
            assert len(running) == 2 and all(folder.is_dir() for folder in running)
        other.kill()
    with scratch_folder("gallery") as mine:
        assert list(temporary.iterdir()) == [mine]


def test_every_temporary_folder_is_a_scratch_folder_or_one_to_be_kept():
    package = Path(labkit.__file__).parent
    users = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"TemporaryDirectory|mkdtemp|mkstemp|NamedTemporary", path.read_text(encoding="utf-8"))
    }
    kept = {"results/saving.py", "profiling/profiler.py"}  # which say where they put what is not lost
    assert {name.replace(os.sep, "/") for name in users} == {"core/scratch.py", "core/files.py", *kept}


@pytest.mark.skipif(sys.platform == "win32", reason="counts files in /proc")
def test_folders_leave_no_open_file(temporary):
    command = [sys.executable, "-c", MAKES_TWO, "SIGKILL"]
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        subprocess.run(command, input="", capture_output=True, text=True, check=False)
        with scratch_folder("gallery"):
            pass
    assert len(os.listdir("/dev/fd")) == before
