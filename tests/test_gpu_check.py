"""The check of a machine with a GPU: bounded steps, on the practice GPU."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

SCRIPT = Path(__file__).parents[1] / ".ci" / "gpu_check.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_without_a_gpu_nothing_is_checked_and_nothing_fails(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing was checked: torch sees no NVIDIA GPU" in done.stdout
    assert not (tmp_path / "out").exists()


def test_two_steps_on_the_practice_gpu_leave_a_record(tmp_path):
    done = run("--out", tmp_path, "--fake", "facts", "peaks")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "record" / "gpu_check.json").read_text())
    assert told["fake"]
    assert [told[step]["ends"] for step in ("facts", "peaks")] == [[0], [0]]
    assert "practice GPU" in told["facts"]["found"]["gpu"]
    assert told["facts"]["found"]["versions"]["torch"] == torch.__version__
    assert set(told["peaks"]["found"]) == {"fp32", "bf16", "fp16", "copy_gb_s"}


def test_the_limits_are_those_of_two_calls(check):
    assert sum(check.FIRST.values()) <= 545
    assert sum(check.SECOND.values()) + check.EXPORT_S <= 550
    assert list(check.LIMITS_S) == list(check.STEPS)


def test_a_step_that_hangs_ends_with_all_that_it_started(check, tmp_path):
    code = "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; "
    code += "time.sleep(60)']); print(c.pid, flush=True); time.sleep(60)"
    begun = time.perf_counter()
    end = check.bounded([sys.executable, "-c", code], tmp_path / "log", 3, {})
    assert end == "ended after its limit of 3 s"
    assert time.perf_counter() - begun < 40
    inner = int((tmp_path / "log").read_text())
    assert not psutil.pid_exists(inner) or psutil.Process(inner).status() == psutil.STATUS_ZOMBIE


STEP = """
import json, os, sys
from pathlib import Path
file = Path(sys.argv[sys.argv.index("--out") + 1]) / "rungs.json"
found = json.loads(file.read_text()) if file.exists() else {}
for name in ("a", "b", "c"):
    if name not in found:
        found[name] = {"failed": "the process ended while it ran"}
        file.write_text(json.dumps(found))
        if name == "b":
            os.abort()
        found[name] = {"agreement": 1.0}
        file.write_text(json.dumps(found))
"""


def test_after_a_crash_the_rest_of_a_step_gets_a_new_process(check, tmp_path, monkeypatch):
    script = tmp_path / "step.py"
    script.write_text(STEP)
    monkeypatch.setattr(check, "__file__", str(script))
    told = check.check_step("rungs", tmp_path, False, 60)
    assert told["ends"] == [-6, 0]
    assert told["found"] == {
        "a": {"agreement": 1.0}, "b": {"failed": "the process ended while it ran"}, "c": {"agreement": 1.0},
    }  # fmt: skip
