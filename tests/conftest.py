"""What the tests share: small frames, small work, and no disturbance of the user's own files."""

import faulthandler
import functools
import importlib.util
import os
import random
import signal
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads; pools must not fight
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes test side by side; each has its core

import numpy as np
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

from labkit.core.types import Frame, Workload

TINY = (160, 128)

# What a browser shows. The same messages are tested without one in test_live.py.
EXTENDED = {"browser"}

# Each of these starts clusters; their tests share one process.
CLUSTERS = {"test_batch", "test_fleet", "test_sweep"}

# What an image for GPUs often lacks; everything else is torch and what it stands on.
MAY_BE_MISSING = {
    "nvtx", "ipywidgets", "anywidget", "nbclient", "nbformat", "nbconvert", "tornado", "jupyterlab",
    "IPython", "ipykernel", "traitlets", "openvino", "nncf", "onnxruntime", "onnx", "onnxscript", "ray",
    "pycocotools", "torchmetrics", "av", "pillow_heif", "playwright", "hypothesis", "supervision",
    "cloudpickle", "pytest_timeout", "pytest_xdist", "xdist",
}  # fmt: skip

# These take longest. They begin first, so that none of them is left to one process at the end.
LONGEST = (
    *sorted(CLUSTERS), "test_notebooks", "test_measure", "test_live", "test_fake_gpu",
    "test_pipelines", "test_kernels", "test_cli", "test_own_loop",
)  # fmt: skip


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell: children would inherit that nobody can interrupt them.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def without_hypothesis():
    """Stands in for hypothesis on an image without it: its tests skip, all others of a file run."""
    skipped = pytest.mark.skip(reason="needs hypothesis")
    hypothesis = ModuleType("hypothesis")
    hypothesis.__spec__ = ModuleSpec("hypothesis", None)  # torch asks where modules lie
    hypothesis.given = lambda *_, **__: skipped
    hypothesis.settings = lambda *_, **__: lambda test: test
    hypothesis.strategies = MagicMock()
    hypothesis.extra = SimpleNamespace(numpy=MagicMock())
    sys.modules["hypothesis"] = hypothesis
    sys.modules["hypothesis.strategies"] = hypothesis.strategies
    sys.modules["hypothesis.extra"] = hypothesis.extra


if importlib.util.find_spec("hypothesis") is None:
    without_hypothesis()
else:
    from hypothesis import HealthCheck, settings

    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skips a file that imports a package which an image for GPUs may lack, and says which."""
    report = yield
    error = report.call.excinfo and report.call.excinfo.value.__cause__
    if isinstance(error, ModuleNotFoundError) and error.name.partition(".")[0] in MAY_BE_MISSING:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: needs {error.name}")
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks what a browser shows, and puts the longest first."""
    for item in items:
        if room_of(item) in EXTENDED:
            item.add_marker("extended")
    rank = {room: place for place, room in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(room_of(item), len(rank)))


def room_of(item):
    """The file of a test, or the folder below `tests` that it lies in."""
    return item.path.stem if item.path.parent.name == "tests" else item.path.parent.name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes, a file's tests stay in one, where they share what they prepare."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = Path(nodeid.partition("::")[0])
            if path.stem == "test_notebooks":
                return nodeid
            return "clusters" if path.stem in CLUSTERS else path.stem

    config.option.loadscopereorder = False  # it would begin with many short tests
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """Results of a test land in its own folder."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "lab-home"))


@pytest.fixture(autouse=True)
def crashes_are_told(pytestconfig):
    """Ray takes over what tells of a crash, and a worker that used it would die without a word."""
    told_to = pytestconfig.stash.get(fault_handler_stderr_fd_key, None)
    if told_to is not None:
        faulthandler.disable()
        faulthandler.enable(file=told_to)


@pytest.fixture(autouse=True)
def same_draws(request, monkeypatch):
    """Checks of exercises draw the same inputs whenever a test is repeated; a soak draws new ones."""
    exercise = sys.modules.get("labkit.lessons.exercise")
    if exercise is not None and request.node.get_closest_marker("slow") is None:
        draws = random.Random(request.node.nodeid)
        monkeypatch.setattr(exercise, "secrets", SimpleNamespace(randbelow=draws.randrange))


@pytest.fixture(scope="session")
def peaks_once():
    """What this machine can reach at most is measured once for all benchmarks of this process."""
    from labkit.bench import peaks

    once = functools.cache(peaks.measure_peaks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peaks, "measure_peaks", lambda device, *_: once(device, tries=1))
        yield


@pytest.fixture(scope="session")
def networks_once():
    """The two DETRs are built once per weights; whoever wants one gets a copy."""
    import in_process

    with pytest.MonkeyPatch.context() as patch:
        in_process.build_once(patch.setattr)
        yield


@pytest.fixture
def in_process(monkeypatch):
    """Rungs and peaks are measured in this process, which has everything imported."""
    import in_process

    in_process.measure_in_process(monkeypatch.setattr)


@pytest.fixture
def fake_gpu():
    """The practice GPU, on which every race is an error."""
    from labkit import practice

    with practice.fake_gpu(strict=True, real=False) as gpu:
        yield gpu


@pytest.fixture
def usual_umask():
    """What says nothing of its own can be read by everyone."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def frames():
    """Six small frames with structure: smooth gradients and a moving bright square."""
    return [make_frame(i) for i in range(6)]


@pytest.fixture
def workload():
    """The small networks on small frames, three boxes."""
    return Workload(model_set="lab", size=TINY, objects=3)


def further(*cases):
    """Cases of a parametrised test that only `make test-all` runs."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.extended)
        for case in cases
    ]


def make_frame(index, size=TINY, seed=0):
    width, height = size
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], -1)
    image = image.astype(np.uint8)
    image[10 + index : 40 + index, 20 + 3 * index : 60 + 3 * index] = (240, 40, 90)
    noise = np.random.default_rng(seed + index).integers(0, 20, image.shape, dtype=np.uint8)
    return Frame(np.ascontiguousarray(np.maximum(image, noise)), index, float(index))
