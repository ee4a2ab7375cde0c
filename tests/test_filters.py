"""The filters: one definition, versions that agree with it, and whether it helps."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba.core.caching
import numpy as np
import pytest
import skimage.data
import skimage.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labkit.core.errors import FrameError, UnavailableError, UsageError
from labkit.filters import baseline_formula, filter_benchmark, numba_bands, quality, reference
from labkit.filters.filter_benchmark import FilterTimes
from labkit.filters.image_filters import edge_filter, guided_filter
from labkit.filters.torch_filter import edges_tensor, guided_tensor
from labkit.filters.versions import VERSIONS, FilterVersion

ROOT = Path(__file__).parents[1]
CONTRIB = ROOT / ".venv" / "contrib"
GUIDED = [v for v in VERSIONS.values() if v.filter == "guided" and v.output == "image" and v.correct]
EDGES = [v for v in VERSIONS.values() if v.filter == "edge"]
WITH_GUIDE = [v for v in GUIDED if v.guide]
FAST_CPU = ["numba", "opencv", "torch"]
SHAPES = [(1, 1, 1), (1, 9, 3), (7, 1, 2), (23, 31, 3), (64, 65, 4), (131, 20, 3)]


def on_this_machine(versions):
    """The versions as parameters; those for a GPU are marked."""
    return [pytest.param(v, id=v.name, marks=pytest.mark.gpu if v.device == "cuda" else ()) for v in versions]


@pytest.fixture
def runs(request):
    """The version under test, where this machine can run it."""
    if request.param.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    return request.param


@pytest.fixture(scope="module")
def photo():
    """(96, 128, 3) part of a photograph with eyes, teeth and flat skin."""
    return np.ascontiguousarray(skimage.data.astronaut()[60:156, 160:288])


def noise_image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def levels_apart(a, b):
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    return int(np.abs(a.astype(int) - b).max())


def assert_same_picture(found, expected):
    """One level apart at most, and hardly anywhere: a result cut, not rounded, differs at half of all."""
    assert levels_apart(found, expected) <= 1
    assert (found != expected).mean() < 0.01


def fitted_line_filter(image, radius, eps, guide=None):
    """The paper by definition: a ridge regression in each window, solved by least squares."""
    height, width, channels = image.shape
    p = image / 255
    inside = [
        [
            (slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1))
            for x in range(width)
        ]
        for y in range(height)
    ]
    out = np.empty(p.shape)
    for c in range(channels):
        line = np.empty((height, width, 2))
        I = p[..., c] if guide is None else guide / 255  # noqa: E741, N806
        for y in range(height):
            for x in range(width):
                values, targets = I[inside[y][x]].ravel(), p[..., c][inside[y][x]].ravel()
                # sum (a I + b - p)^2 + n eps a^2: one more row of weight sqrt(n eps) on a
                rows = np.column_stack([values, np.ones_like(values)])
                rows = np.vstack([rows, [np.sqrt(len(values) * eps), 0]])
                line[y, x] = np.linalg.lstsq(rows, np.append(targets, 0), rcond=None)[0]
        for y in range(height):
            for x in range(width):
                a, b = line[inside[y][x]].reshape(-1, 2).mean(axis=0)
                out[y, x, c] = a * I[y, x] + b
    return out


# The reference


@pytest.mark.parametrize("radius", [1, 3, 20])
@pytest.mark.parametrize("guided", [False, True])
def test_reference_solves_the_regression_that_the_paper_defines(radius, guided):
    image = noise_image((8, 9, 2))
    guide = noise_image((8, 9), seed=1) if guided else None
    expected = fitted_line_filter(image, radius, 0.02, guide)
    np.testing.assert_allclose(reference.guided_float(image, radius, 0.02, guide), expected, atol=1e-9)


def test_box_mean_counts_only_what_is_inside():
    ones = np.ones((5, 6, 1))
    np.testing.assert_allclose(reference.box_mean(ones, 4), 1)
    corner = np.zeros((5, 6, 1))
    corner[0, 0] = 1
    assert reference.box_mean(corner, 1)[0, 0, 0] == pytest.approx(1 / 4)
    assert reference.box_mean(corner, 1)[1, 1, 0] == pytest.approx(1 / 9)


def test_bytes_are_rounded_and_saturated():
    values = np.array([[[-0.2, 0.49 / 255, 0.51 / 255, 1.3]]])
    assert reference.to_bytes(values).ravel().tolist() == [0, 0, 1, 255]


# Every version of the guided filter


@pytest.mark.parametrize("runs", on_this_machine(GUIDED), indirect=True)
@pytest.mark.parametrize("radius", [1, 4, 16])
def test_version_agrees_on_a_photograph(runs, photo, radius):
    for eps in (1e-4, 0.01, 1.0):
        expected = reference.guided(photo, radius, eps)
        assert_same_picture(guided_filter(photo, radius, eps, version=runs.name), expected)


@pytest.mark.parametrize("runs", on_this_machine(GUIDED), indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_version_agrees_at_every_shape(runs, shape):
    image = noise_image(shape)
    for radius in (2, 9):  # windows of both larger and smaller than some images
        expected = reference.guided(image, radius, 0.01)
        assert levels_apart(guided_filter(image, radius, 0.01, version=runs.name), expected) <= 1


@pytest.mark.parametrize("runs", on_this_machine(WITH_GUIDE), indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_version_follows_a_gray_guide(runs, shape):
    image, guide = noise_image(shape), noise_image(shape[:2], seed=3)
    for radius, eps in ((2, 1e-3), (9, 0.1)):
        expected = reference.guided(image, radius, eps, guide)
        found = guided_filter(image, radius, eps, guide=guide, version=runs.name)
        assert levels_apart(found, expected) <= 1


SIMULATORS = {"triton": "TRITON_INTERPRET", "numba-cuda": "NUMBA_ENABLE_CUDASIM"}
SIMULATED = """
import sys, numpy as np
from labkit.filters.image_filters import guided_filter
for shape in ((9, 13, 3), (5, 2, 1)):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for radius, eps in ((1, 0.1), (4, 0.01)):
        found, wanted = (guided_filter(image, radius, eps, version=v) for v in (sys.argv[1], "reference"))
        assert np.abs(found.astype(int) - wanted).max() <= 1, (shape, radius)
        assert (found != image).any()
for level in (0, 255):
    flat = np.full((9, 13, 3), level, np.uint8)
    assert (guided_filter(flat, 2, 0.01, version=sys.argv[1]) == flat).all(), level
"""


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("version", [v.name for v in GUIDED if v.device == "cpu"])
def test_a_picture_of_one_grey_stays_as_it_is(version, level):
    flat = np.full((9, 13, 3), level, np.uint8)
    assert (guided_filter(flat, 2, 0.01, version=version) == flat).all()


@pytest.mark.parametrize("version", SIMULATORS)
def test_version_agrees_in_its_simulator(version):
    pytest.importorskip(version.replace("-", "."))
    command, environment = [sys.executable, "-c", SIMULATED, version], {SIMULATORS[version]: "1"}
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_tritons_kernels_compile_for_a_gpu_with_none(tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from labkit.filters.triton_filter import BLOCK, apply, coefficients

    types = {"image": "*u8", "a": "*fp32", "b": "*fp32", "height": "i32", "width": "i32", "channels": "i32"}
    constants = {"radius": 4, **BLOCK}
    for kernel, more in ((coefficients, {"eps": "fp32"}), (apply, {"out": "*u8"})):
        names = {**types, **more, **dict.fromkeys(constants, "constexpr")}
        source = ASTSource(kernel, {name: names[name] for name in kernel.arg_names}, constants)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


@settings(max_examples=25)
@given(
    image=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4)),
        elements=st.integers(0, 255),
    ),
    radius=st.integers(1, 16),
    eps=st.floats(1e-5, 10),
)
def test_cpu_versions_agree_on_any_image(image, radius, eps):
    expected = reference.guided(image, radius, eps)
    for version in FAST_CPU:
        assert levels_apart(guided_filter(image, radius, eps, version=version), expected) <= 1, version


@pytest.mark.parametrize("version", FAST_CPU)
def test_layout_does_not_matter_and_input_stays(version, photo):
    expected = guided_filter(photo[::-2, 3::3].copy(), 3, version=version)
    assert (guided_filter(photo[::-2, 3::3], 3, version=version) == expected).all()
    fixed = photo.copy()
    fixed.flags.writeable = False
    found = guided_filter(fixed, 3, version=version)
    assert (fixed == photo).all()
    assert found.flags.writeable
    assert not np.shares_memory(found, fixed)


def test_results_are_not_overwritten_by_the_next_call(photo):
    for version in FAST_CPU:
        first = guided_filter(photo, version=version)
        kept = first.copy()
        guided_filter(255 - photo, version=version)
        assert (first == kept).all(), version


def test_the_number_of_cores_changes_no_byte(monkeypatch):
    image = noise_image((500, 40, 3))
    results = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(numba_bands, "available_cores", lambda cores=cores: cores)
        results.append(guided_filter(image))
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


@pytest.mark.parametrize("cores", [1, 3, 16])
def test_every_band_is_done_once(monkeypatch, cores):
    monkeypatch.setattr(numba_bands, "available_cores", lambda: cores)
    done = []
    numba_bands.run_bands(done.append, 7)
    assert sorted(done) == list(range(7))


def test_bands_run_at_the_same_time_and_a_failing_one_is_reported(monkeypatch):
    monkeypatch.setattr(numba_bands, "available_cores", lambda: 2)
    both = threading.Barrier(2, timeout=30)  # opens only when two threads are inside
    here = threading.current_thread()

    def fail_elsewhere(band):
        both.wait()
        if threading.current_thread() is not here:
            raise FrameError(f"band {band}")

    with pytest.raises(FrameError, match="band"):
        numba_bands.run_bands(fail_elsewhere, 2)


def test_a_busy_pool_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(numba_bands, "available_cores", lambda: 2)
    pool, release = ThreadPoolExecutor(1), threading.Event()
    monkeypatch.setattr(numba_bands, "_threads", lambda: pool)
    blocker = pool.submit(release.wait, 30)
    done = []
    numba_bands.run_bands(done.append, 4)  # all here, while the only other thread is busy
    assert done == [0, 1, 2, 3]
    assert not blocker.done()
    release.set()
    pool.shutdown()


@pytest.mark.parametrize("version", FAST_CPU)
def test_several_threads_may_filter_at_once(version):
    images = [noise_image((90, 50, 3), seed) for seed in range(6)]
    expected = [reference.guided(image, 4, 0.01) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: guided_filter(image, version=version), images * 4))
    assert all(levels_apart(a, b) <= 1 for a, b in zip(found, expected * 4, strict=True))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_a_forked_child_can_filter():
    code = (
        "import os, signal, numpy as np\n"
        "from labkit.filters.image_filters import guided_filter\n"
        "image = np.random.default_rng(0).integers(0, 256, (200, 40, 3), dtype=np.uint8)\n"
        "expected = guided_filter(image)\n"  # the parent's threads exist
        "child = os.fork()\n"
        "if child == 0: signal.alarm(60)\n"  # one that waits for threads it has not must not outlive the test
        "if child == 0: os._exit(0 if (guided_filter(image) == expected).all() else 9)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_without_a_folder_for_compiled_code_it_compiles_all_the_same(monkeypatch):
    monkeypatch.setattr(numba.core.caching.FunctionCache._impl_class, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(lambda x: x + 1)
    assert numba_bands.compiled(lambda x: x + 1)(2) == 3


def test_importing_the_filters_is_light():
    code = "import sys, labkit.filters; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "cv2", "numba", "cupy", "skimage"} & set(loaded.split())


def test_tensors_stay_tensors(photo):
    tensor = torch.from_numpy(photo)
    found = guided_tensor(tensor, 4, 0.01)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert levels_apart(found.numpy(), reference.guided(photo, 4, 0.01)) <= 1
    assert (edges_tensor(tensor).numpy() == reference.edges(photo)).all()


def test_opencvs_own_filter_agrees_away_from_the_border():
    """It is in a package that takes cv2's place, so it is imported in a process of its own."""
    code = (
        "import json; from labkit.filters.filter_benchmark import has_ximgproc, time_versions; "
        "print(json.dumps(time_versions(size=(96, 64), rounds=5).to_json() if has_ximgproc() else None))"
    )
    paths = [str(CONTRIB), str(ROOT), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    told = json.loads(done.stdout)
    if told is None:
        pytest.skip("no opencv-contrib-python here; .ci/get_contrib fetches it")
    found = FilterTimes.from_json(told)
    assert found.of("ximgproc").largest_difference <= 1
    assert len(found.of("ximgproc").seconds) == 5


# Edges


@pytest.mark.parametrize("runs", on_this_machine(EDGES), indirect=True)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 2, 1), (40, 2, 3)], ids=str)
def test_edge_version_is_exact(runs, shape):
    image = noise_image(shape)
    assert (edge_filter(image, version=runs.name) == reference.edges(image)).all()


@pytest.mark.parametrize("version", ["reference", *FAST_CPU])
def test_edges_of_a_step_and_a_corner(version):
    image = np.zeros((6, 8, 1), np.uint8)
    image[:, 4:] = 100
    expected = np.zeros_like(image)
    expected[:, 3:5] = 100
    assert (edge_filter(image, version=version) == expected).all()
    image[3:, 4:] = 255  # 255 across + 155 down
    assert edge_filter(image, version=version)[3, 4, 0] == 255


# The public face


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"image\[:, :, None\]"),
        (np.zeros((4, 4, 5), np.uint8), r"\(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        ([[1]], "list"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(FrameError, match=message):
        guided_filter(image)
    with pytest.raises(FrameError, match=message):
        edge_filter(image)


@pytest.mark.parametrize("radius", [0, 17, -1, 2.0, True, "4", None])
def test_a_radius_outside_is_refused(radius):
    with pytest.raises(UsageError, match="radius is a whole number of px from 1 to 16"):
        guided_filter(np.zeros((4, 4, 3), np.uint8), radius)


@pytest.mark.parametrize("eps", [0, -0.1, float("nan"), float("inf"), "0.1", None])
def test_an_eps_outside_is_refused(eps):
    with pytest.raises(UsageError, match="eps is a number above 0"):
        guided_filter(np.zeros((4, 4, 3), np.uint8), 4, eps)


def test_numpy_numbers_are_numbers(photo):
    assert (guided_filter(photo, np.int64(3), np.float32(0.25)) == guided_filter(photo, 3, 0.25)).all()


def test_a_wrong_guide_is_refused(photo):
    for guide in (photo, photo[:-1, :, 0], photo[..., 0].astype(float), "gray"):
        with pytest.raises(FrameError, match="a guide is a gray image"):
            guided_filter(photo, guide=guide)
    with pytest.raises(UsageError, match="takes no guide"):
        guided_filter(photo, guide=photo[..., 0], version="cuda-fused")


def test_unknown_versions_are_refused_with_those_there_are(photo):
    with pytest.raises(UsageError, match="there are reference, baseline, opencv"):
        guided_filter(photo, version="fast")
    with pytest.raises(UsageError, match="no version 'guided-numba' of the edge filter"):
        edge_filter(photo, version="guided-numba")
    with pytest.raises(UsageError, match="network's input"):
        guided_filter(photo, version="cuda-detr")


@pytest.mark.parametrize(
    "version", [v for v in VERSIONS.values() if v.device == "cuda"], ids=lambda v: v.name
)
def test_without_a_gpu_its_versions_say_so(version, photo):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    args = (photo, 4, 0.01) if version.filter == "guided" else (photo,)
    with pytest.raises(UnavailableError, match="GPU"):
        version.function(*args)


# The exhibit


@pytest.fixture(scope="module")
def step():
    """A clean edge between 60 and 190."""
    image = np.full((40, 60, 3), 60, np.uint8)
    image[:, 30:] = 190
    return image


def test_exhibit_blurs_the_edge_that_the_filter_keeps(step):
    kept = guided_filter(step, 4, 0.01)
    blurred = guided_filter(step, 4, 0.1, version="baseline")
    assert levels_apart(kept, step) <= 30
    assert levels_apart(blurred, step) >= 50
    box = reference.to_bytes(reference.box_mean(step / 255, 4))
    assert levels_apart(blurred, box) <= 1
    at_edge = baseline_formula.coefficient_a(step, 4, 0.4)[:, 26:34]
    assert at_edge.min() > 0.999  # "keep everything" by its own measure, and it blurs all the same


def test_exhibit_is_a_box_blur_on_a_photograph(photo):
    found = guided_filter(photo, 2, 0.1, version="baseline").astype(float)
    box = 255 * reference.box_mean(photo / 255, 2)
    filtered = 255 * reference.guided_float(photo, 2, 0.01)
    assert np.abs(found - box).mean() < 0.8
    assert (found - box).mean() == pytest.approx(-0.5, abs=0.1)  # cut to whole levels
    assert np.abs(found - filtered).mean() > 2


def test_exhibit_hardly_knows_its_eps(photo):
    def change(version, low, high):
        a, b = (guided_filter(photo, 2, eps, version=version).astype(float) for eps in (low, high))
        return np.abs(a - b).mean()

    assert change("baseline", 0.1, 0.4) < 0.1
    assert change("numba", 0.001, 0.004) > 5 * change("baseline", 0.1, 0.4)


# Does it help?


def test_the_clean_image_is_perfect(photo):
    same = quality.measure_quality(photo, photo)
    assert same.psnr_db == float("inf")
    assert same.ssim == pytest.approx(1)
    assert same.edge_retention == pytest.approx(1)


def test_edge_retention_of_known_changes(photo):
    half = np.rint(photo * 0.5).astype(np.uint8)
    assert quality.edge_retention(photo, half) == pytest.approx(0.5, abs=0.01)
    assert quality.edge_retention(photo, 255 - photo) == pytest.approx(-1)
    assert quality.edge_retention(photo, np.zeros_like(photo)) == 0
    assert quality.edge_retention(np.zeros_like(photo), photo) == 1


def test_filter_removes_noise_and_keeps_more_edge_than_a_blur(photo):
    noisy = quality.add_noise(photo, 12)
    rows = quality.quality_sweep(photo, noisy, radii=(2,), eps_values=(1e-6, 0.01))
    before, idle, helped = (row.quality for row in rows)
    blurred = quality.measure_quality(photo, guided_filter(noisy, 2, 0.1, version="baseline"))
    assert helped.psnr_db > before.psnr_db + 1
    assert helped.ssim > before.ssim
    assert idle.psnr_db == pytest.approx(before.psnr_db, abs=0.1)
    assert helped.edge_retention > blurred.edge_retention + 0.1
    assert helped.psnr_db > blurred.psnr_db
    assert [(row.version, row.radius, row.eps) for row in rows] == [
        ("none", 0, 0.0),
        ("numba", 2, 1e-6),
        ("numba", 2, 0.01),
    ]


def test_quality_refuses_what_cannot_be_compared(photo):
    with pytest.raises(FrameError, match="of one shape"):
        quality.measure_quality(photo, photo[:-1])
    with pytest.raises(FrameError):
        quality.measure_quality(photo, photo > 9)
    with pytest.raises(FrameError, match="7 px"):
        quality.measure_quality(photo[:5], photo[:5])


def test_each_version_is_called_as_often_as_is_said(monkeypatch):
    calls = []

    def called(image, radius, eps, version):
        calls.append(version)
        return image // 2 + (3 if version == "numba" else 0)

    monkeypatch.setattr(filter_benchmark, "guided_filter", called)
    monkeypatch.setattr(filter_benchmark, "has_ximgproc", lambda: False)
    times = filter_benchmark.time_versions(size=(32, 24), rounds=5)
    assert {name: calls.count(name) for name in calls} == dict.fromkeys(filter_benchmark.VERSIONS, 6)
    apart = {each.version: each.largest_difference for each in times.versions}
    assert apart == dict.fromkeys(filter_benchmark.VERSIONS, 0) | {"numba": 3}


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_detectors_input_is_compared_in_grey_levels(channels_last):
    image = np.random.default_rng(0).integers(0, 256, (14, 11, 3), dtype=np.uint8)
    version = FilterVersion("guided", "x", "cuda", "x:y", "", output="detr")
    found = reference.detector_input(image, 2, 0.01)
    for level in (0, 3):
        apart = found.copy()
        apart[1, 5, 7] += level / 255 / reference.DEVIATION[1]
        given = apart.transpose(1, 2, 0) if channels_last else apart
        assert filter_benchmark.levels_apart(version, given, image, 2, 0.01) == level
