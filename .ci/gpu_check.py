"""First measurements on a machine with an NVIDIA GPU, in bounded steps.

    python .ci/gpu_check.py [STEP ...]

Needs no installation: it runs in the Python that is there, from a checkout. Each step is a process of its
own with a limit, so that a hang or a crash costs only itself, and writes what it finds at once. Without
steps named, those of the first call run; `bench compile` are the second call's.

    facts    versions, driver, memory of a context; the fingerprint
    peaks    products, convolutions and copies
    kernels  each CUDA kernel: its difference from the reference, and its microseconds
    rungs    each GPU rung: its agreement with its reference, and its milliseconds
    profile  kernels of a frame, by torch.profiler, and by nsys where it is there
    tests    the tests that need a GPU
    bench    interleaved comparisons of the ladder, in the store
    compile  rungs that take minutes to get ready

OUT/gpu_check.json holds all of it; OUT/record/ is what goes under results/reference/, in a folder named
after the machine. `--fake` runs the same steps on the practice GPU, on small work: nothing is measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIRST = {"facts": 30, "peaks": 60, "kernels": 60, "rungs": 150, "profile": 60, "tests": 185}
SECOND = {"bench": 290, "compile": 240}
LIMITS_S = {**FIRST, **SECOND}
"""545 s at most in the first call, and 550 s in the second with the export of what was measured."""
EXPORT_S = 20
PATIENCE = 4  # of a fake run, whose limits are for nothing but to end
RACES = "baseline_streams_cuda"  # on purpose: strict as the practice GPU is, it would stop there
BROKEN = 75
"""Exit code of a step after whose error nothing runs on the GPU any more: the rest gets a new process."""

PACKAGES = (
    "torch", "torchvision", "transformers", "triton", "numpy", "cupy-cuda13x", "cupy-cuda12x",
    "nvidia-cudnn-cu13", "nvtx", "pycocotools", "opencv-python", "opencv-python-headless", "tensorrt",
)  # fmt: skip

Note = Callable[[str, Any], None]


@dataclass(frozen=True)
class Scale:
    """Size of the work.

    Attributes:
        size: (width, height) of the frames.
        model_set, weights: see `labkit.core.types.Workload`.
        seconds: length of a timed run.
        rounds: of the kernels.
        frames: of a profile.
    """

    size: tuple[int, int]
    model_set: str
    weights: str
    seconds: float
    rounds: int
    frames: int

    def workload(self) -> Any:
        """The workload of all rungs."""
        from labkit.core.types import Workload

        return Workload(self.model_set, self.weights, self.size, 5)  # type: ignore[arg-type]


REAL = Scale((640, 480), "full", "random", 1.0, 31, 10)
FAKE = Scale((64, 48), "lab", "auto", 0.05, 1, 1)


# Steps; each notes what it finds, and does not do again what is noted already.


def facts(scale: Scale, note: Note, noted: dict[str, Any]) -> None:
    """Versions, driver, the GPU, and what a context takes of its memory."""
    import torch

    from labkit.bench.doctor import examine
    from labkit.core.machine import fingerprint

    note("versions", {name: _version(name) for name in PACKAGES})
    note("python", sys.version)
    note("fingerprint", fingerprint())
    note("gpu", str(torch.cuda.get_device_name()))
    place = torch.cuda.get_device_properties(0)
    note("capability", [place.major, place.minor])
    note("multiprocessors", place.multi_processor_count)
    free, total = torch.cuda.mem_get_info()
    note("memory MiB", {"total": total >> 20, "taken by others and this context": (total - free) >> 20})
    note("cudnn", torch.backends.cudnn.version())
    note("nsys", shutil.which("nsys"))
    note("doctor", [f"{check.state}: {check.what}: {check.found}" for check in examine()])


def peaks(scale: Scale, note: Note, noted: dict[str, Any]) -> None:
    """Peaks, each as soon as it is measured."""
    from labkit.bench import peaks as measured

    if scale is FAKE:
        measured.SIDES = {"cuda": dict.fromkeys(("fp32", "bf16", "fp16"), 64)}
        measured.COPIED_BYTES = {"cuda": 4096}
        measured.SECONDS, measured.EVENT_MS = 0.001, 0.05
        measured._convolution_rate = lambda dtype, device: 0.0
    for name, rate in measured._peaks("cuda"):
        note(name, round(rate, 1))


def kernels(scale: Scale, note: Note, noted: dict[str, Any]) -> None:
    """Each kernel file against the float64 reference, then the guided filter's versions in turns."""
    import torch

    from labkit.core.machine import fingerprint
    from labkit.filters import filter_benchmark, reference
    from labkit.filters.cuda import DeviceFilter
    from labkit.filters.filter_benchmark import graph_of_calls, levels_apart, replay_s, time_gpu_versions
    from labkit.filters.versions import VERSIONS
    from labkit.sources.openers import first_frame

    if scale is FAKE:  # a kernel in its emulation takes long
        filter_benchmark.CALLS = 1
    image = first_frame("photos", scale.size).image
    for row in VERSIONS.values():
        if row.kernel is None or row.kernel in noted:
            continue
        with _failures(row.kernel, note):
            place = torch.from_numpy(image.copy()).cuda()
            ready = DeviceFilter(row.kernel, image.shape, 1 if row.filter == "edge" else 4)
            found = ready(place).cpu().numpy()
            if row.filter == "edge":
                apart = int(abs(found.astype(int) - reference.edges(image)).max())
            else:
                apart = levels_apart(row, found, image, 4, 0.01)
            graph = graph_of_calls(ready, place)
            us = [1e6 * replay_s(graph)[0] for _ in range(scale.rounds)]
            begun, calls = time.perf_counter(), 2 if scale is FAKE else 200
            for _ in range(calls):
                ready(place)
            host_us = (time.perf_counter() - begun) / calls * 1e6
            torch.cuda.synchronize()
            times = {} if scale is FAKE else {"us": statistics.median(us), "host us per call": host_us}
            note(row.kernel, {"largest difference": apart, **times})
    times = time_gpu_versions(size=scale.size, rounds=scale.rounds)
    note("sentences", times.sentences())
    note("filters_cuda.json", {**times.to_json(), "fingerprint": fingerprint()})


def rungs(scale: Scale, note: Note, noted: dict[str, Any], compiled: bool = False) -> None:
    """Each GPU rung in this process: its agreement, its milliseconds, its spans on the GPU's clock."""
    from labkit.bench.frames import collect
    from labkit.core.requirements import unmet_requirement
    from labkit.pipelines.ladder import LADDER

    frames = collect("photos", scale.size, fit="letterbox", seed=0, noise=0.0).frames[:3]
    known: dict[str, Any] = {}
    rows = [row for row in LADDER if row.prepare.device == "cuda" and row.prepare.compiles == compiled]
    for row in sorted(rows, key=lambda row: -row.stage):  # what the climb is about comes first
        if row.name in noted:
            continue
        needs = tuple(need for need in row.needs if scale is REAL or need not in ("cuda", "cupy"))
        if reason := unmet_requirement(needs):
            note(row.name, {"skipped": reason})
        elif scale is FAKE and (row.name == RACES or compiled):
            note(row.name, {"skipped": "not for the practice GPU"})
        else:
            note(row.name, {"failed": "the process ended while it ran"})  # until it is overwritten
            with _failures(row.name, note):
                note(row.name, _rung(row, scale, frames, known))


def _rung(row: Any, scale: Scale, frames: Any, known: dict[str, Any]) -> dict[str, Any]:
    import torch

    from labkit.bench.agreement import measure_agreement
    from labkit.bench.plan import QUICK
    from labkit.bench.session import Session
    from labkit.pipelines.ladder import rung

    work = scale.workload()
    if row.reference not in known:
        known[row.reference] = Session(rung(row.reference), work, frames).answers(frames)
    torch.cuda.reset_peak_memory_stats()
    session = Session(row, work, frames)
    agreement = measure_agreement(known[row.reference], session.answers(frames))
    found = {"agreement": asdict(agreement), "ready s": session.ready.startup_s}
    if scale is FAKE:
        return found
    timing = session.run(replace(QUICK, seconds=scale.seconds, min_frames=20))
    n, took = len(timing.done_s), timing.done_s[-1] - timing.done_s[0]
    spans = {name: _median_ms(values) for name, values in timing.per_span(gpu=True).items()}
    return {
        **found, "p50 ms": _median_ms(timing.latency_s), "ms per frame": 1e3 * took / max(n - 1, 1),
        "frames": n, "gpu ms": spans, "held MiB": (session.gpu_peak_bytes() or 0) / 2**20,
    }  # fmt: skip


def _median_ms(seconds: Any) -> float:
    return 1e3 * statistics.median([value for value in seconds.tolist() if value == value])


def profile(scale: Scale, note: Note, noted: dict[str, Any]) -> None:
    """GPU work of a frame, by kind and name, as torch.profiler and nsys see it."""
    from labkit.lessons.nb06_optimizations import LAUNCH_COUNTS
    from labkit.profiling.profiler import why_not_nsys
    from labkit.profiling.variant import ProfileTarget, profile_rung

    if scale is FAKE:
        return note("skipped", "a profiler sees nothing of the practice GPU")
    counted = json.loads(LAUNCH_COUNTS.read_text(encoding="utf-8"))["boxes"]["5"]
    engines = ["torch", *([] if why_not_nsys() else ["nsys"])]
    for name, engine in [(name, engine) for engine in engines for name in ("graph_cuda", "half_cuda")]:
        with _failures(f"{name} by {engine}", note):
            seen = profile_rung(ProfileTarget(name, scale.workload(), "photos", scale.frames), engine)
            kinds = Counter(work.kind for work in seen.gpu)
            busy: Counter[str] = Counter()
            for work in seen.gpu:
                busy[work.name] += work.duration_ns
            frames = scale.frames
            row = {
                "per frame": {kind: n / frames for kind, n in kinds.items()},
                "counted by rule": counted.get(name),
                "busy ms per frame": sum(busy.values()) / frames / 1e6,
                "waits per frame": len(seen.waits) / frames,
                "top, us per frame": {key[:90]: ns / frames / 1e3 for key, ns in busy.most_common(30)},
                "notes": list(seen.notes),
            }
            note(f"{name} by {engine}", row)


def tests(scale: Scale, note: Note, noted: dict[str, Any]) -> None:
    """All tests that need a GPU, in whatever file they are."""
    command = pytest_command(scale, {name for name in PLUGINS if importlib.util.find_spec(name) is not None})
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    print(done.stdout, done.stderr)
    note("exit code", done.returncode)
    note("end", (done.stdout.strip() or done.stderr.strip()).splitlines()[-25:])


PLUGINS = ("xdist", "pytest_timeout")


def pytest_command(scale: Scale, plugins: set[str]) -> list[str]:
    """The command line of pytest; a file that lacks a package stops no other."""
    which = ["tests", "-m", "gpu", "--continue-on-collection-errors",
             "-k", "not compiled_cuda and not ahead_cuda and not tensorrt_cuda"]  # fmt: skip
    if scale is FAKE:
        which = ["tests/test_gpu.py", "-k", "sentences or given_the_right_filter or at_most_one and fake_gpu"]
    options = ["-n", "4"] if "xdist" in plugins and scale is REAL else []
    options += ["--timeout", "120"] if "pytest_timeout" in plugins else []
    return [sys.executable, "-m", "pytest", "-q", "-o", "addopts=-ra --strict-markers", "-p",
            "no:cacheprovider", *options, *which]  # fmt: skip


def bench(scale: Scale, note: Note, noted: dict[str, Any]) -> None:
    """The ladder in interleaved rounds; each run stands in the store as soon as it is measured."""
    what = ["--device", "cuda", "--quick", "--seconds", "2", "--no-accuracy", "--minutes", "3"]
    if scale is FAKE:  # other processes know nothing of the practice GPU; the way to the record is the same
        what = ["resnet_opencv_cpu", "--quick", "--seconds", "0.1", "--no-accuracy", "--no-compare",
                "--model-set", "lab", "--size", "96x64"]  # fmt: skip
    command = [sys.executable, "-m", "labkit", "bench", *what]
    note("command", command[1:])
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    print(done.stdout, done.stderr)
    note("exit code", done.returncode)
    note("end", (done.stdout.strip() or done.stderr.strip()).splitlines()[-60:])


STEPS: dict[str, Callable[[Scale, Note, dict[str, Any]], None]] = {
    "facts": facts, "peaks": peaks, "kernels": kernels, "rungs": rungs, "profile": profile, "tests": tests,
    "bench": bench, "compile": partial(rungs, compiled=True),
}  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextmanager
def _failures(name: str, note: Note) -> Iterator[None]:
    """Notes an error and goes on; where the GPU's context is broken, ends this process.

    Handled outside `except`: the caught exception keeps a failed rung's tensors alive.
    """
    problem = ""
    try:
        yield
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        import traceback

        traceback.print_exc()
    if problem:
        note(name, {"failed": problem})
    import torch

    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        sys.stdout.flush()
        os._exit(BROKEN)


# The steps' processes


def run_step(step: str, file: Path, fake: bool) -> int:
    """One step, in this process; what it notes is in the file at once."""
    from labkit.core.files import write_atomic

    noted = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def note(name: str, value: Any) -> None:
        noted[name] = value
        write_atomic(file, json.dumps(noted, indent=1, default=str) + "\n")
        print(f"{name}: {json.dumps(value, default=str)[:600]}", flush=True)

    if not fake:
        STEPS[step](REAL, note, noted)
        return 0
    from labkit.practice import fake_gpu

    context = nullcontext() if step in ("tests", "bench") else fake_gpu(strict=True, real=False)
    with context:
        STEPS[step](FAKE, note, noted)
    return 0


def bounded(command: list[str], log: Path, limit_s: float, environment: dict[str, str]) -> int | str:
    """Runs a command with its output in a file; after the limit it and all its children are killed."""
    import psutil

    with log.open("a", encoding="utf-8") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        try:
            return child.wait(timeout=max(limit_s, 1.0))
        except subprocess.TimeoutExpired:
            return f"ended after its limit of {limit_s:.0f} s"
        finally:
            if child.poll() is None:
                for each in [*psutil.Process(child.pid).children(recursive=True), child]:
                    try:
                        each.kill()
                    except psutil.NoSuchProcess:
                        continue
                child.wait()


def check_step(step: str, out: Path, fake: bool, limit_s: float) -> dict[str, Any]:
    """A step in processes of its own: what is left after one that broke gets another, while there is time."""
    part, log, begun = out / f"{step}.json", out / f"{step}.log", time.perf_counter()
    part.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1", "LABKIT_HOME": str(out / "home"),
    }  # fmt: skip
    command = [sys.executable, __file__, "--step", step, "--out", str(out), *(["--fake"] if fake else [])]
    ends: list[int | str] = []
    known = -1
    while True:
        ends.append(bounded(command, log, limit_s - (time.perf_counter() - begun), environment))
        found = json.loads(part.read_text(encoding="utf-8")) if part.exists() else {}
        if ends[-1] == 0 or not isinstance(ends[-1], int) or len(found) <= known:
            break
        known = len(found)
    told: dict[str, Any] = {"ends": ends, "s": round(time.perf_counter() - begun, 1), "found": found}
    if ends[-1] != 0:
        told["log"] = log.read_text(encoding="utf-8", errors="replace")[-1500:]
    return told


def write_record(out: Path, checked: dict[str, Any]) -> Path:
    """Content for results/reference/: the export of the store, the kernels' times, and the check."""
    record = out / "record"
    record.mkdir(exist_ok=True)
    shutil.copy(out / "gpu_check.json", record)
    times = checked.get("kernels", {}).get("found", {}).get("filters_cuda.json")
    if times:
        (record / "filters_cuda.json").write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    if (out / "home" / "lab.sqlite").exists():
        environment = {**os.environ, "LABKIT_HOME": str(out / "home"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "labkit", "results", "export", str(record)]
        bounded(command, out / "export.log", EXPORT_S, environment)
    return record


def main() -> int:
    """Runs the steps that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu-check")
    parser.add_argument("--fake", action="store_true", help="on the practice GPU; nothing is measured")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"there is no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    out = options.out.absolute()
    if options.step:
        return run_step(options.step, out / f"{options.step}.json", options.fake)
    missing = [name for name in ("torch", "psutil", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"nothing was checked: {sys.executable} lacks {', '.join(missing)}; name another with PY=")
        return 1
    import torch

    if not options.fake and not torch.cuda.is_available():
        print("nothing was checked: torch sees no NVIDIA GPU here (labkit doctor says why)")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    file = out / "gpu_check.json"
    checked: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    failed = []
    for step in options.steps or FIRST:
        told = checked[step] = check_step(
            step, out, options.fake, LIMITS_S[step] * (PATIENCE if options.fake else 1)
        )
        file.write_text(json.dumps({"fake": options.fake, **checked}, indent=1) + "\n", encoding="utf-8")
        lost = [
            name for name, value in told["found"].items() if isinstance(value, dict) and "failed" in value
        ]
        bad = told["ends"][-1] != 0 or lost or told["found"].get("exit code")
        failed += [step] if bad else []
        print(f"{step}: {'FAILED' if bad else 'done'} in {told['s']} s {' '.join(lost)}", flush=True)
    record = write_record(out, checked)
    print(f"{file}; to keep the record: {record} -> results/reference/MACHINE")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
