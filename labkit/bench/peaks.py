"""Peak rates of this machine: matrix products, convolutions and copies, measured.

    python -m labkit.bench.peaks

The peak of a precision is the best of large matrix products and convolutions in it; a rung's share of
that is how much of the possible it reaches. Measured in a process of its own. On a GPU both are as
torch ships: convolutions of fp32 round their inputs to TF32, products do not; the fingerprint says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from labkit.bench.noise import NoiseMonitor
from labkit.core.child import child_command
from labkit.core.errors import LabError, WorkerError
from labkit.core.files import user_cache, write_atomic
from labkit.core.machine import fingerprint
from labkit.core.telemetry import switch_off_telemetry
from labkit.core.threads import PASSIVE_WAIT

SIZE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}  # beyond a GPU's cache, and long beside a launch
SECONDS = 0.6
PEAK_TRIES = 3


def measure_peaks(
    device: str = "cpu", tries: int = PEAK_TRIES, report: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """Peaks: {"fp32": GFLOP/s, "bf16": ..., "int8": ..., "copy_gb_s": ...}.

    A precision that this machine or its libraries cannot run is absent.

    Args:
        device: "cpu" or "cuda".
        tries: how often at most, until nothing else wants the machine; the best counts.
        report: receives the reasons where every try was disturbed.

    Raises:
        WorkerError: the process that measures failed.
    """
    best: dict[str, float] = {}
    doubts: tuple[str, ...] = ()
    for _ in range(tries):
        with NoiseMonitor() as monitor:
            found = _in_fresh_process(device)
        best |= {name: max(rate, best.get(name, 0.0)) for name, rate in found.items()}
        doubts = monitor.disturbances()
        if not doubts:
            return best
    report(f"this machine's peak may be higher than measured: {'; '.join(doubts)}")
    return best


def _in_fresh_process(device: str) -> dict[str, float]:
    command = child_command("labkit.bench.peaks", device)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **PASSIVE_WAIT}
    )
    if done.returncode != 0:
        raise WorkerError(f"measuring the machine's peak failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _peaks(device: str) -> dict[str, float]:
    import torch

    n = SIZE[device]
    peaks: dict[str, float] = {}
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device == "cuda":
        dtypes["fp16"] = torch.float16
    for name, dtype in dtypes.items():
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=dtype)
        product = 2 * n**3 / _best(partial(torch.mm, a, b, out=out), device) / 1e9
        peaks[name] = max(product, _convolution_rate(dtype, device))
    with suppress(ImportError, RuntimeError):
        if device == "cpu":
            peaks["int8"] = _int8_peak(n)
    block = torch.randn(COPIED_BYTES[device] // 4, device=device)
    target = torch.empty_like(block)
    peaks["copy_gb_s"] = 2 * block.nbytes / _best(lambda: target.copy_(block), device) / 1e9
    return peaks


def _convolution_rate(dtype: Any, device: str) -> float:
    """GFLOP/s of a large convolution: on some processors its library beats that of products."""
    import torch

    images, channels, side = 4, 256, 64
    x = torch.randn(images, channels, side, side, device=device).to(dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    work = partial(torch.nn.functional.conv2d, x, weight, padding=1)
    with torch.inference_mode():
        return 2 * 9 * images * channels**2 * side**2 / _best(work, device) / 1e9


def _int8_peak(n: int) -> float:
    """8-bit products and convolutions as OpenVINO runs them, since torch has no fast ones on every CPU."""
    import numpy as np

    switch_off_telemetry()
    from openvino import opset13 as ops

    def levels(node: Any) -> Any:
        low, high = np.float32(-1), np.float32(127 / 128)
        return ops.fake_quantize(node, low, high, low, high, 256)

    generator = np.random.default_rng(0)
    a = ops.parameter([n, n], np.float32)
    weights = ops.constant(generator.uniform(-1, 1, (n, n)).astype(np.float32))
    first = ops.matmul(levels(a), levels(weights), False, False)
    chain = ops.matmul(levels(first), levels(weights), False, False)
    products = 2 * 2 * n**3 / _openvino_s(chain, a) / 1e9
    images, channels, side = 4, 256, 64
    frames = ops.parameter([images, channels, side, side], np.float32)
    kernels = ops.constant(generator.uniform(-1, 1, (channels, channels, 3, 3)).astype(np.float32))
    found: Any = levels(frames)
    for _ in range(2):  # between two of them everything stays in bytes
        found = levels(ops.convolution(found, levels(kernels), [1, 1], [1, 1], [1, 1], [1, 1]))
    return max(products, 2 * 2 * 9 * images * channels**2 * side**2 / _openvino_s(found, frames) / 1e9)


def _openvino_s(result: Any, parameter: Any) -> float:
    """Shortest time of a graph with one input, in s."""
    import numpy as np
    import openvino as ov

    model = ov.Model([result], [parameter])
    request = ov.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    x = np.random.default_rng(1).uniform(-1, 1, tuple(parameter.shape)).astype(np.float32)
    return _best(lambda: request.infer([x], share_inputs=True), "cpu")


def _best(work: Callable[[], Any], device: str) -> float:
    """Shortest time of one call in s, over about SECONDS; the peak is what is possible."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    work()
    wait()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        begun = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - begun)
    return best


if __name__ == "__main__":
    print(json.dumps(_peaks(sys.argv[1] if len(sys.argv) > 1 else "cpu")))


CACHE_S = 3600.0
"""Peaks that are older are measured again: a machine's neighbours and clocks change."""
NOISY_CACHE_S = 600.0
"""The same for peaks that were disturbed each time."""


def cached_peaks(
    device: str, tries: int = PEAK_TRIES, report: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """Peaks of a device from the cache, or measured now; see `measure_peaks`."""
    path = _folder() / f"{_digest(_machine(device))}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # no file, or not one of ours
        kept = json.loads(path.read_text(encoding="utf-8"))
        if 0 <= time.time() - kept["unix_s"] <= (NOISY_CACHE_S if kept["doubted"] else CACHE_S):
            return {name: float(value) for name, value in kept["peaks"].items()}
    doubts: list[str] = []
    peaks = measure_peaks(device, tries, doubts.append)
    for doubt in doubts:
        report(doubt)
    entry = {"unix_s": time.time(), "device": device, "doubted": bool(doubts), "peaks": peaks}
    with suppress(LabError):  # a folder that cannot be written: then the next one measures again
        write_atomic(path, json.dumps(entry) + "\n")
    return peaks


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _machine(device: str) -> dict[str, object]:
    """Cache key of a peak: machine, software and last boot."""
    mark = fingerprint()
    gpu = (mark.get("gpu") or {}).get("name")
    alike = ("labkit", "cpu", "cores", "quota_cores", "os", "python", "versions", "threads")
    return {**{key: mark.get(key) for key in alike}, "gpu": gpu, "device": device, "boot": _boot()}


def _boot() -> str:
    """A name of the machine's last start."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    import psutil

    return f"{psutil.boot_time():.0f}"


def _folder() -> Path:
    return user_cache() / "peaks"
