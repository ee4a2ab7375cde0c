"""Commands that are stopped at random moments leave no process behind (`make soak`)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest
from films import film

WORK = ["--model-set", "lab", "--size", "160x120"]
COMMANDS = {
    "bench": "bench resnet_opencv_cpu detr_opencv_cpu",
    "converting": "bench cpu_engine_int8 cpu_engine_bf16 --quick",
    "compare": "compare resnet_opencv_cpu resnet_pil_cpu",
    "profile": "profile detr_opencv_cpu --frames 500",
    "live": "live --source photos",
    "fleet": "fleet photos scenes --rung resnet_linear_cpu",
    "batch": "batch films --rung resnet_linear_cpu --segment 8 --out found",
    "sweep": "sweep resnet_opencv_cpu resnet_pil_cpu",
}
KILLS = 4
"""Of each command by each of two signals: 64 of all."""
SECONDS = 2.0
LATEST_S = 30.0
"""By then each command has long been at work."""


def alive(mark: str) -> list[psutil.Process]:
    """The processes whose environment holds the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("LABKIT_SOAK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())[:120]
    return "gone"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of other processes")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_stopped_leaves_no_process(name, tmp_path, capsys):
    """On a machine that is busy the two seconds are longer, by as much as it is busy."""
    (tmp_path / "films").mkdir()
    film(tmp_path / "films" / "a.mp4", range(2000))
    rng, left, gone_s, said = random.Random(name), [], [], []
    for number in [signal.SIGTERM, signal.SIGKILL] * KILLS:
        mark = uuid.uuid4().hex
        home = tmp_path / mark
        home.mkdir()
        own = {"LABKIT_SOAK": mark, "LABKIT_HOME": str(home), "XDG_CACHE_HOME": str(home), "BROWSER": "true"}
        command = [sys.executable, "-m", "labkit", *COMMANDS[name].split(), *WORK]
        with (home / "said").open("wb") as output:
            process = subprocess.Popen(
                command, cwd=tmp_path, env=os.environ | own, stdout=output, stderr=subprocess.STDOUT
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.2, LATEST_S))
        process.send_signal(number)
        begun_s = time.monotonic()
        busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        while (others := alive(mark)) and time.monotonic() < begun_s + SECONDS * busy:
            time.sleep(0.05)
        gone_s.append(time.monotonic() - begun_s)
        left += [f"{number.name}: {described(other)}" for other in others]
        for other in others:
            with contextlib.suppress(psutil.Error):
                other.kill()
        process.wait()
        said.append((home / "said").read_text(errors="replace"))
    with capsys.disabled():
        print(f"\n{name}: orphans {len(left)} after {2 * KILLS} kills, all gone within {max(gone_s):.1f} s")
    assert left == []
    assert not [text for text in said if "terminate called" in text or "core_worker.cc" in text]
