"""The check of a machine with a GPU: bounded steps, on the practice GPU."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from labkit.core.child import lives

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


@pytest.mark.extended
def test_two_steps_on_the_practice_gpu_leave_a_record(tmp_path):
    done = run("--out", tmp_path, "--fake", "facts", "peaks")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "record" / "gpu_check.json").read_text())
    assert told["fake"]
    assert [told[step]["ends"] for step in ("facts", "peaks")] == [[0], [0]]
    assert "practice GPU" in told["facts"]["found"]["gpu"]
    assert told["facts"]["found"]["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(told["peaks"]["found"]) == {"fp32", "bf16", "fp16", "copy_gb_s"}


def test_the_limits_are_those_of_two_calls(check):
    assert sum(check.FIRST.values()) <= 545
    assert sum(check.SECOND.values()) + check.EXPORT_S <= 550
    assert list(check.LIMITS_S) == list(check.STEPS)


def test_every_test_that_needs_a_gpu_is_run(check):
    """Those that skip without one say so by their mark, and the step takes the mark from every file."""
    command = check.pytest_command(check.REAL, set())
    assert command[command.index("-m", 3) + 1] == "gpu" and "tests" in command
    for file in SCRIPT.parents[1].glob("tests/**/test_*.py"):
        text = file.read_text()
        if re.search(r"if not torch\.cuda\.is_available\(\):\n\s+pytest\.skip", text):
            assert "pytest.mark.gpu" in text, file


def test_a_step_that_hangs_ends_with_all_that_it_started(check, tmp_path):
    code = "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; "
    code += "time.sleep(60)']); print(c.pid, flush=True); time.sleep(60)"
    begun = time.perf_counter()
    end = check.bounded([sys.executable, "-c", code], tmp_path / "log", 3, {})
    assert end == "ended after its limit of 3 s"
    assert time.perf_counter() - begun < 40
    inner = int((tmp_path / "log").read_text())
    while lives(inner):  # it was killed, and takes a moment to end
        assert time.perf_counter() - begun < 40
        time.sleep(0.01)


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


# What a machine's GPU needs, in the doctor's words


@pytest.mark.parametrize(
    ("driver", "cuda", "words"),
    [
        (13000, None, ("a CPU build", "--torch-backend=cu130", "cupy-cuda13x[ctk]")),
        (14000, None, ("a CPU build", "--torch-backend=cu130", "cupy-cuda13x[ctk]")),
        (12080, "13.0", ("built for CUDA 13.0", "--torch-backend=cu126", "cupy-cuda12x[ctk]")),
        (11040, None, ("a CPU build", "driver for CUDA 12 or later")),
        (None, None, ("--torch-backend=cu130",)),
    ],
)
def test_a_torch_that_cannot_use_the_gpu_gets_the_command_for_one_that_can(monkeypatch, driver, cuda, words):
    from labkit.bench import doctor
    from labkit.core import gpu

    state = {"name": "RTX 4060 Laptop GPU", "driver": "580.1", "cuda_driver": driver}
    monkeypatch.setattr(gpu, "gpu_state", lambda: state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    check = doctor._gpu()
    assert check.state == "missing"
    for each in words:
        assert each in check.found + check.advice
    assert "://" not in check.advice
    assert all(len(line) <= 80 for line, _ in doctor.lines([check]))


@pytest.mark.parametrize(("driver", "package"), [(12080, "cupy-cuda12x"), (13000, None)])
def test_a_cupy_that_is_too_new_for_the_driver_is_exchanged(monkeypatch, driver, package):
    import importlib.metadata

    from labkit.bench import doctor
    from labkit.core import gpu

    def version(name):
        if name == "cupy-cuda13x":
            return "14.2.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(gpu, "gpu_state", lambda: {"cuda_driver": driver})
    check = doctor._cupy()
    assert (check.state == "missing") == (package is not None)
    assert package is None or f"pip install '{package}[ctk]'" in check.advice


@pytest.mark.parametrize(("platform", "patience_s"), [("win32", 15.0), ("linux", 0.2)])
def test_a_webcam_on_windows_has_the_time_that_media_foundation_takes(monkeypatch, platform, patience_s):
    from labkit.sources import camera

    given = {}
    monkeypatch.setattr(camera.sys, "platform", platform)
    monkeypatch.setattr(camera, "Camera", lambda connect, shown, **how: given.update(how))
    camera.open_camera("webcam:0", None, None, open_timeout_s=0.1, read_timeout_s=0.1)
    assert given["start_timeout_s"] == pytest.approx(patience_s)


@pytest.mark.parametrize(("built", "said"), [(None, "this torch is built without CUDA"), ("13.0", "driver")])
def test_a_torch_without_cuda_is_not_told_as_a_driver_that_is_missing(monkeypatch, built, said):
    import torch

    from labkit.core import requirements

    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert said in requirements._no_cuda.__wrapped__()


def test_triton_on_windows_is_a_package_that_brings_its_compiler(monkeypatch):
    from labkit.core import requirements

    monkeypatch.setattr(requirements.sys, "platform", "win32")
    monkeypatch.setattr(requirements.shutil, "which", lambda _: None)
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda _: None)
    assert "pip install triton-windows" in requirements._no_triton()
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: name)
    assert requirements._no_triton() is None
