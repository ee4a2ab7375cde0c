"""Peak rates of this machine: matrix products, convolutions and copies, measured.

    python -m labkit.bench.peaks

The peak of a precision is the best of large matrix products and convolutions in it; a rung's share of
that is how much of the possible it reaches. Measured in a process of its own. On a GPU both are as
torch ships: convolutions of fp32 round their inputs to TF32, products do not; the fingerprint says so.
A peak that fails is left out, and the others count.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from labkit.bench.noise import NoiseMonitor
from labkit.core.child import child_command
from labkit.core.errors import LabError
from labkit.core.files import user_cache, write_atomic
from labkit.core.machine import fingerprint, speed_facts
from labkit.core.openvino_core import openvino_core, switch_off_telemetry
from labkit.core.read_json import read_json
from labkit.core.threads import worker_environment

SECONDS = 0.6
PEAK_TRIES = 3
TIMEOUT_S = 120
LONG_S = 5.0
"""Where a matrix product would take longer, all is measured smaller: no library here multiplies its type."""
EVENT_MS = 20.0
"""GPU time between two events, of as many launches as it takes: a launch then costs nothing beside it."""


SIDES = {
    "cpu": {"fp32": 2048, "bf16": 2048, "int8": 2048},
    "cuda": {"fp32": 4096, "bf16": 8192, "fp16": 8192},
}
"""Sides of the square matrices by device and precision; together less than 1 GiB of a GPU's memory."""
COPIED_BYTES = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}
"""Size of a block that is copied; beyond a GPU's cache."""


def measure_peaks(
    device: str = "cpu", tries: int = PEAK_TRIES, report: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """Peaks: {"fp32": GFLOP/s, "bf16": ..., "int8": ..., "copy_gb_s": ...}.

    What this machine or its libraries cannot run, or what failed, is absent.

    Args:
        device: "cpu" or "cuda".
        tries: how often at most, until nothing else wants the machine; the best counts.
        report: receives the reasons where every try was disturbed, or where one failed.
    """
    best: dict[str, float] = {}
    doubts: tuple[str, ...] = ()
    for _ in range(tries):
        with NoiseMonitor() as monitor:
            found, problem = _in_fresh_process(device)
        best |= {name: max(rate, best.get(name, 0.0)) for name, rate in found.items()}
        doubts = monitor.disturbances()
        if problem:
            report(f"not every peak of this machine could be measured: {problem}")
            return best
        if not doubts:
            return best
    report(f"this machine's peak may be higher than measured: {'; '.join(doubts)}")
    return best


def _in_fresh_process(device: str) -> tuple[dict[str, float], str]:
    """The peaks that a process of its own could measure, and what went wrong in the end, if anything did."""
    command = child_command("labkit.bench.peaks", device)
    environment = {**os.environ, **worker_environment()}
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        output, problem = error.stdout or b"", f"it took longer than {TIMEOUT_S} s"
    else:
        output, problem = done.stdout, ""
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            problem = words[-1] if words else f"the process ended with {done.returncode}"
    peaks: dict[str, float] = {}
    for line in output.decode(errors="replace").splitlines():
        with suppress(ValueError, TypeError):  # a library's own words, or a line that was cut off
            name, rate = json.loads(line)
            peaks[str(name)] = float(rate)
    return peaks, problem


def _peaks(device: str) -> Iterator[tuple[str, float]]:
    """Each peak as soon as it is measured.

    Raises:
        LabError: at the end, if some failed, with the reasons.
    """
    failed = []
    for name, measure in _measurements(device).items():
        try:
            yield name, measure()
        except ImportError:  # no OpenVINO, so no int8
            continue
        except (RuntimeError, MemoryError) as error:
            failed.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        if device == "cuda":
            import torch

            torch.cuda.empty_cache()
    if failed:
        raise LabError("; ".join(failed))


def _measurements(device: str) -> dict[str, Callable[[], float]]:
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device == "cuda":
        dtypes["fp16"] = torch.float16
    sides = SIDES[device]

    def rate(dtype: Any, n: int) -> float:
        slow = _product_rate(dtype, n // 8, device)
        if 2 * n**3 / slow / 1e9 > LONG_S:
            return max(slow, _convolution_rate(dtype, device, side=16))
        return max(_product_rate(dtype, n, device), _convolution_rate(dtype, device))

    work: dict[str, Callable[[], float]] = {
        name: partial(rate, dtype, sides[name]) for name, dtype in dtypes.items()
    }
    if device == "cpu":
        work["int8"] = partial(_int8_peak, sides["int8"])
    return {**work, "copy_gb_s": partial(_copy_rate, COPIED_BYTES[device], device)}


def _product_rate(dtype: Any, n: int, device: str) -> float:
    """GFLOP/s of the product of two matrices of n x n."""
    import torch

    a, b, out = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(3))
    return 2 * n**3 / _best(partial(torch.mm, a, b, out=out), device) / 1e9


def _copy_rate(nbytes: int, device: str) -> float:
    """GB/s read and written by a copy."""
    import torch

    block = torch.randn(nbytes // 4, device=device)
    target = torch.empty_like(block)
    return 2 * nbytes / _best(lambda: target.copy_(block), device) / 1e9


def _convolution_rate(dtype: Any, device: str, side: int = 64) -> float:
    """GFLOP/s of a large convolution: on some processors its library beats that of products."""
    import torch

    images, channels = 4, 256
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
    compiled = openvino_core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    x = np.random.default_rng(1).uniform(-1, 1, tuple(parameter.shape)).astype(np.float32)
    return _best(lambda: request.infer([x], share_inputs=True), "cpu")


def _best(work: Callable[[], Any], device: str) -> float:
    """Shortest time of one call in s, over about SECONDS; the peak is what is possible."""
    return _best_on_gpu(work) if device == "cuda" else _best_on_cpu(work)


def _best_on_cpu(work: Callable[[], Any]) -> float:
    work()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def _best_on_gpu(work: Callable[[], Any]) -> float:
    """The same by the GPU's own clock: mean over the launches between two events, the best of many pairs."""
    for _ in range(3):  # a library's first calls choose its kernels
        work()
    one_ms = max(_between_events_ms(work, 2) / 2, 1e-3)
    launches = max(2, min(1000, round(EVENT_MS / one_ms)))
    pairs = max(3, round(1e3 * SECONDS / (launches * one_ms)))
    return min(_between_events_ms(work, launches) for _ in range(min(pairs, 100))) / launches / 1e3


def _between_events_ms(work: Callable[[], Any], launches: int) -> float:
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(launches):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def main() -> None:
    """Print each peak of a device as a line of JSON, as soon as it is measured."""
    for peak in _peaks(sys.argv[1] if len(sys.argv) > 1 else "cpu"):
        print(json.dumps(peak), flush=True)


if __name__ == "__main__":
    main()


CACHE_S = 3600.0
"""Peaks that are older are measured again: a machine's neighbours and clocks change."""
NOISY_CACHE_S = 600.0
"""The same for peaks that were disturbed each time."""


def cached_peaks(
    device: str, tries: int = PEAK_TRIES, report: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """Peaks of a device from the cache, or measured now; see `measure_peaks`."""
    key = hashlib.sha256(json.dumps(_machine(device), sort_keys=True).encode()).hexdigest()[:32]
    path = user_cache() / "peaks" / f"{key}.json"
    with suppress(LabError, ValueError, LookupError, TypeError, AttributeError):  # none, or not one of ours
        kept = read_json(path)
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


def _machine(device: str) -> dict[str, object]:
    """Cache key of a peak: machine, software and last boot."""
    mark = fingerprint()
    return {"labkit": mark.get("labkit"), **speed_facts(mark), "device": device, "boot": _boot()}


def _boot() -> str:
    """A name of the machine's last start."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    import psutil

    return f"{psutil.boot_time():.0f}"
