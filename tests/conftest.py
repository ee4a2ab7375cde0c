"""What the tests share: small frames, small work, and no disturbance of the user's own files."""

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads; pools must not fight

import numpy as np
import pytest

from labkit.types import Frame, Workload

TINY = (160, 128)

# These wait for deadlines, watch the machine's load, or start many processes of their own.
ALONE = {
    "test_batch", "test_fleet", "test_live", "test_live_page", "test_measure", "test_profiling",
    "test_sources_live", "test_sweep",
}  # fmt: skip


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell: children would inherit that nobody can interrupt them.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks what runs alone; of the rest, a file's tests stay together, but for the notebooks."""
    for item in items:
        room = item.path.stem
        if room in ALONE or item.get_closest_marker("alone"):
            item.add_marker("alone")
        elif item.get_closest_marker("notebook") is None:
            item.add_marker(pytest.mark.xdist_group(room))


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """Results of a test land in its own folder."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "lab-home"))


@pytest.fixture
def frames():
    """Six small frames with structure: smooth gradients and a moving bright square."""
    return [make_frame(i) for i in range(6)]


@pytest.fixture
def workload():
    """Random weights on small frames, three boxes."""
    return Workload(weights="random", size=TINY, objects=3)


def make_frame(index, size=TINY, seed=0):
    width, height = size
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], -1)
    image = image.astype(np.uint8)
    image[10 + index : 40 + index, 20 + 3 * index : 60 + 3 * index] = (240, 40, 90)
    noise = np.random.default_rng(seed + index).integers(0, 20, image.shape, dtype=np.uint8)
    return Frame(np.ascontiguousarray(np.maximum(image, noise)), index, float(index))
