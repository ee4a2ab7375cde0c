"""The CUDA kernels: compiled with no GPU, run on the CPU, and on a GPU where there is one."""

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.core.errors import FrameError, UnavailableError, UsageError
from labkit.filters import compile as compiler
from labkit.filters import cuda, emulate, reference
from labkit.filters.kernel_source import kernel_files, kernel_names, kernel_source
from labkit.filters.launch_config import IMAGE, NETWORK_INPUT, OUT, PLANNERS, Array, launch_plan
from labkit.filters.versions import VERSIONS

from conftest import further  # isort: skip

GUIDED_FILES = [file for file in PLANNERS if file.startswith("guided")]

needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile kernels for the CPU")


@pytest.fixture(scope="module")
def nvrtc():
    try:
        return compiler._nvrtc()
    except UnavailableError as error:
        pytest.skip(str(error))


def noise_image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def structured_image(shape):
    """Flat parts, a step and noise: a and b take all values between 0 and 1."""
    image = noise_image(shape) // 8 + 40
    image[shape[0] // 3 :, shape[1] // 2 :] += 150
    return image


def emulate_plan(plan, image, eps=0.01, source=None):
    """The result of all launches of a plan on the CPU; a kernel must write what it reads."""
    leftovers = np.random.default_rng(0)
    arrays = {
        name: np.frombuffer(bytearray(leftovers.bytes(array.nbytes)), array.dtype).reshape(array.shape)
        for name, array in plan.arrays.items()
    }
    named = {**arrays, IMAGE: image.copy(order="C"), **plan.scalars(eps)}
    for launch in plan.launches:
        args = [named[name] for name in launch.args]
        emulate.emulate_launch(
            source or plan.source, launch.kernel, args, launch.grid, launch.block, plan.defines
        )
    return named[OUT]


def expected_result(file, image, radius, eps=0.01):
    if file.startswith("edge"):
        return reference.edges(image)
    if file in NETWORK_INPUT:
        planes = reference.detector_input(image, radius, eps)
        return planes if file == "guided_5_detr.cu" else planes.transpose(1, 2, 0)
    return reference.guided(image, radius, eps)


def assert_close(file, found, expected):
    if file in NETWORK_INPUT:
        np.testing.assert_allclose(found, expected, atol=2e-3 if found.dtype == np.float16 else 2e-4)
    else:
        assert found.shape == expected.shape
        apart = np.abs(found.astype(int) - expected)
        assert apart.max() <= (0 if file.startswith("edge") else 1)
        assert (apart > 0).mean() < 0.01  # a result cut, not rounded, would differ at half of all pixels


# Run on the CPU


@needs_gcc
@pytest.mark.parametrize("file", PLANNERS)
@pytest.mark.parametrize(
    "shape",
    # one pixel; smaller than the window; odd; several tiles in x, in y; 1 to 4 channels
    [(1, 1, 3), (37, 35, 3), *further(((3, 2, 1),), ((1, 35, 2),), ((18, 130, 1),), ((33, 5, 4),))],
    ids=str,
)
def test_kernel_equals_the_reference(file, shape):
    if file in NETWORK_INPUT:
        shape = (*shape[:2], 3)
    image = structured_image(shape)
    made = launch_plan(file, shape, 4)
    assert_close(file, emulate_plan(made, image), expected_result(file, image, 4))


@needs_gcc
@pytest.mark.parametrize(
    ("file", "radius"),
    [
        ("guided_4_fused.cu", 9),
        *further(("guided_4_fused.cu", 1), *[(file, 16) for file in GUIDED_FILES[:4]]),
        *further(*[("guided_6_march.cu", radius) for radius in (1, 7, 9, 16)]),
    ],
)
def test_kernel_at_other_radii(file, radius):
    image = structured_image((29, 41, 3))
    made = launch_plan(file, image.shape, radius)
    for eps in (1e-4, 0.1):
        found = emulate_plan(made, image, eps)
        assert_close(file, found, expected_result(file, image, radius, eps))


@needs_gcc
def test_largest_window_on_the_brightest_image_does_not_overflow():
    image = np.full((40, 40, 1), 255, np.uint8)
    image[::2] = 254
    for file in ("guided_1_global.cu", "guided_4_fused.cu", "guided_6_march.cu"):
        found = emulate_plan(launch_plan(file, image.shape, 16), image, 1e-6)
        assert_close(file, found, expected_result(file, image, 16, 1e-6))


@needs_gcc
@pytest.mark.parametrize("file", NETWORK_INPUT)
def test_half_precision_is_the_rounded_float(file):
    image = structured_image((20, 34, 3))
    single = emulate_plan(launch_plan(file, image.shape, 4), image)
    half = emulate_plan(launch_plan(file, image.shape, 4, half=True), image)
    assert half.dtype == np.float16
    assert (half == single.astype(np.float16)).all()


@needs_gcc
def test_layout_of_the_image_does_not_matter():
    wide = structured_image((20, 70, 3))
    image = wide[::-1, ::2]
    before = wide.copy()
    made = launch_plan("guided_4_fused.cu", image.shape, 4)
    assert_close(made.file, emulate_plan(made, image), expected_result(made.file, image, 4))
    assert (wide == before).all()


# A barrier less is a race


def launch_arguments(made, image, step=0):
    arrays = {name: np.zeros(array.shape, array.dtype) for name, array in made.arrays.items()}
    named = {**arrays, "image": image, **made.scalars(0.01)}
    launch = made.launches[step]
    return launch, [named[name] for name in launch.args]


@functools.cache
def why_no_sanitizer(kind):
    """What keeps a program with a sanitizer of the compiler from running here; "" if nothing does."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "empty.cpp"), Path(folder, "empty")
        source.write_text("int main() {}")
        for command in (["g++", f"-fsanitize={kind}", str(source), "-o", str(program)], [str(program)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"the {kind} sanitizer does not run here: {done.stderr.strip()[:200]}"
    return ""


@pytest.fixture
def thread_sanitizer():
    if reason := why_no_sanitizer("thread"):
        pytest.skip(reason)


def race_report(made, source):
    """What the sanitizer says of all launches of a plan."""
    reports = []
    for step in range(len(made.launches)):
        launch, args = launch_arguments(made, structured_image(made.shape), step)
        reports.append(emulate.diagnose(source, launch.kernel, args, launch.grid, launch.block, made.defines))
    return "".join(reports)


BARRIER = "__syncthreads();"
WITH_BARRIERS = ["guided_2_shared.cu", "guided_3_separable.cu", "guided_4_fused.cu", "edge_2_shared.cu"]
WITH_BARRIERS += ["guided_6_march.cu"]


def barriers_of(file):
    return launch_plan(file, (20, 20, 1), 2).source.count(BARRIER)


def without_barrier(source, which):
    places = [match.start() for match in re.finditer(r"__syncthreads\(\);", source)]
    at = places[which]
    return source[:at] + source[at:].replace("__syncthreads();", "", 1)


@needs_gcc
@pytest.mark.usefixtures("thread_sanitizer")
@pytest.mark.parametrize("file", WITH_BARRIERS)
@pytest.mark.extended
def test_kernel_has_no_race(file):
    made = launch_plan(file, (20, 20, 1), 2)
    assert race_report(made, made.source) == ""


@needs_gcc
@pytest.mark.usefixtures("thread_sanitizer")
@pytest.mark.slow
@pytest.mark.parametrize("file", ["guided_2_shared.cu", "guided_3_separable.cu", "guided_5_detr.cu"])
def test_kernels_with_three_channels_have_no_race(file):
    made = launch_plan(file, (20, 20, 3), 2)
    assert race_report(made, made.source) == ""


@needs_gcc
@pytest.mark.usefixtures("thread_sanitizer")
@pytest.mark.parametrize(
    ("file", "which"), [(file, which) for file in WITH_BARRIERS for which in range(barriers_of(file))]
)
@pytest.mark.extended
def test_a_missing_barrier_is_reported(file, which):
    made = launch_plan(file, (20, 20, 1), 2)
    assert "data race" in race_report(made, without_barrier(made.source, which))


@needs_gcc
@pytest.mark.parametrize("barrier", [True, False])
def test_without_its_barrier_a_kernel_is_wrong_once_a_thread_is_late(barrier):
    """The first thread of each block sleeps before it has filled its part of the tile."""
    made = launch_plan("edge_2_shared.cu", (20, 20, 1), 1)
    source = made.source if barrier else without_barrier(made.source, 0)
    late = "if (threadIdx.x + threadIdx.y == 0) { timespec wait{0, 30000000}; nanosleep(&wait, nullptr); }"
    begin = "int c = blockIdx.z;"
    assert begin in source
    image = structured_image((20, 20, 1))
    found = emulate_plan(made, image, source=source.replace(begin, f"{begin} {late}"))
    assert (found == reference.edges(image)).all() == barrier


# The emulation itself

REVERSE = """
extern "C" __global__ void reverse(int *values, int n)
{
    __shared__ int kept[64];
    int i = threadIdx.x;
    kept[i] = values[blockIdx.x * n + i];
    __syncthreads();
    values[blockIdx.x * n + i] = kept[n - 1 - i];
}
extern "C" __global__ void scale(const float *in, double *out, float by, double more)
{
    int i = blockIdx.y * blockDim.x + threadIdx.x;
    out[i] = in[i] * by + more;
}
"""


@needs_gcc
def test_blocks_threads_and_shared_memory():
    values = np.arange(128, dtype=np.int32)
    emulate.emulate_launch(REVERSE, "reverse", [values, 64], [2], [64])
    assert (values.reshape(2, 64) == np.arange(128).reshape(2, 64)[:, ::-1]).all()


@needs_gcc
def test_a_block_of_as_many_threads_as_a_gpu_allows():
    given, out = np.arange(1024, dtype=np.float32), np.zeros(1024)
    emulate.emulate_launch(REVERSE, "scale", [given, out, 2.0, np.float64(0.5)], [1], [1024])
    assert (out == 2 * given + 0.5).all()


@needs_gcc
def test_types_of_arguments_and_source_from_a_file(tmp_path):
    (tmp_path / "mine.cu").write_text(REVERSE)
    given, out = np.arange(6, dtype=np.float32), np.zeros(6)
    given.flags.writeable = False
    emulate.emulate_launch(tmp_path / "mine.cu", "scale", [given, out, 2.0, np.float64(0.5)], (1, 2), (3,))
    assert out.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]


@needs_gcc
@pytest.mark.parametrize(
    ("kernel", "args", "message"),
    [
        ("revers", [np.zeros(4, np.int32), 4], "no kernel 'revers'; it has reverse, scale"),
        ("reverse", [np.zeros(4, np.int32)], "takes 2 arguments, not 1"),
        ("reverse", [np.zeros(4, np.int32), np.int64(4)], "argument 1 has 8 bytes, the kernel takes 4"),
        ("reverse", [np.zeros(4, np.int32), "4"], "argument 1 is an array or a number, not str"),
        ("reverse", [np.zeros((4, 4), np.int32)[:, 0], 4], "argument 0 is not C-contiguous"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(kernel, args, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        emulate.emulate_launch(REVERSE, kernel, args, [1], [4])


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [([0], [4], "grid has"), ([1], [2048], "1024 threads"), ([1], [1, 1, 1, 1], "block has")],
)
def test_impossible_launches_are_refused(grid, block, message):
    with pytest.raises(UsageError, match=message):
        emulate.emulate_launch(REVERSE, "reverse", [np.zeros(4, np.int32), 4], grid, block)


@needs_gcc
def test_a_kernel_that_does_not_compile_shows_the_compilers_message():
    source = 'extern "C" __global__ void k(int *a)\n{\n    a[0] = b;\n}\n'
    with pytest.raises(
        UsageError, match=r"does not compile:\n(.|\n)*kernel\.cu:3:12: error: .b. was not declared"
    ):
        emulate.emulate_launch(source, "k", [np.zeros(1, np.int32)], [1], [1])


@needs_gcc
def test_an_endless_loop_ends():
    source = 'extern "C" __global__ void k(volatile int *a)\n{\n    while (a[0] == 0) {}\n}\n'
    with pytest.raises(UsageError, match=r"did not end within 0\.5 s"):
        emulate.emulate_launch(source, "k", [np.zeros(1, np.int32)], [1], [1], timeout_s=0.5)


OUTSIDE = 'extern "C" __global__ void k(int *a, int i)\n{\n    a[i] = 1;\n}\n'


@needs_gcc
def test_a_crash_is_an_error_and_harms_nothing():
    values = np.zeros(4, np.int32)
    with pytest.raises(UsageError, match=r"k crashed \(signal 11\)"):
        emulate.emulate_launch(OUTSIDE, "k", [values, 1 << 30], [1], [1])
    assert (values == 0).all()


@needs_gcc
def test_writing_past_an_array_is_diagnosed():
    if reason := why_no_sanitizer("address"):
        pytest.skip(reason)
    values = np.zeros(4, np.int32)
    assert emulate.diagnose(OUTSIDE, "k", [values, 3], [1], [1], sanitizer="address") == ""
    report = emulate.diagnose(OUTSIDE, "k", [values, 4], [1], [1], sanitizer="address")
    assert "heap-buffer-overflow" in report
    assert "kernel.cu:3" in report
    assert (values == 0).all()  # it worked on copies


def test_without_gcc_the_emulation_says_so(monkeypatch):
    monkeypatch.setattr(emulate.shutil, "which", lambda name: None)
    with pytest.raises(UnavailableError, match=r"needs g\+\+"):
        emulate.emulate_launch(
            REVERSE + "// not compiled before", "reverse", [np.zeros(4, np.int32), 4], [1], [4]
        )


# Compiled for GPUs, with none


@pytest.mark.parametrize("file", PLANNERS)
@pytest.mark.parametrize("arch", [90, *further(*(arch for arch in compiler.MULTIPROCESSORS if arch != 90))])
def test_kernel_compiles_for_every_architecture(nvrtc, file, arch):
    made = launch_plan(file, (480, 640, 3), 4)
    rows = compiler.compile_plan(made, arch)
    assert [row.kernel for row in rows] == [launch.kernel for launch in made.launches]
    for row in rows:
        assert 8 <= row.registers <= 255
        assert row.stack_bytes == 0, "something was spilled"
        assert row.code_bytes > 0
        assert 0 < row.occupancy <= 1


@pytest.mark.extended
def test_fused_kernels_fit_shared_memory_at_every_radius(nvrtc):
    for radius in range(1, 17):
        (row,) = compiler.compile_plan(launch_plan("guided_4_fused.cu", (480, 640, 3), radius), 90)
        assert row.shared_bytes <= 48 * 1024
        assert row.stack_bytes == 0


def test_shared_memory_is_what_the_source_declares(nvrtc):
    side = 16 + 2 * 4
    for arch in (75, 90, 120):
        first, second = compiler.compile_plan(launch_plan("guided_2_shared.cu", (480, 640, 3), 4), arch)
        assert first.shared_bytes == side**2
        assert second.shared_bytes == 2 * 4 * side**2


def test_spilled_registers_are_seen(nvrtc):
    source = """extern "C" __global__ void k(float *a, int i)
    { float kept[256]; for (int j = 0; j < 256; j++) kept[j] = a[j]; a[i] = kept[a[0] > 0 ? i : i + 1]; }"""
    for arch in (75, 90, 120):
        assert compiler.compile_source(source, {}, arch)["k"]["stack_bytes"] >= 1024


def longest_loop(made, arch, folder):
    """Instructions of the longest loop of a plan's kernels, as the compiler wrote it; see nvdisasm."""
    triton = importlib.util.find_spec("triton")
    beside = Path(triton.origin).parent / "backends/nvidia/bin/nvdisasm" if triton else None
    program = shutil.which("nvdisasm") or beside
    if program is None or not Path(program).is_file():
        pytest.skip("no nvdisasm, which CUDA's toolkit and Triton bring")
    (folder / "kernel.cubin").write_bytes(compiler._compiled(made.source, made.defines, arch)[1])
    command = [program, "-c", folder / "kernel.cubin"]
    begins, instructions, longest = {}, 0, 0
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            begins[label[1]] = instructions
        elif re.match(r"\s+/\*[0-9a-f]{4,}\*/\s", line):
            instructions += 1
            back = re.search(r"\bBRA\b.*?`\((\.L_\w+)\)", line)
            if back and begins.get(back[1], instructions) < instructions - 1:  # behind its end a kernel spins
                longest = max(longest, instructions - begins[back[1]])
    return longest


@pytest.mark.extended
@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90])
def test_the_march_takes_at_most_80_instructions_per_value(nvrtc, arch, tmp_path):
    made = launch_plan("guided_6_march.cu", (480, 640, 3), 4)
    values = made.defines["COLUMNS"] * (2 * made.defines["R"] + 1)  # of a thread in one pass: a window's rows
    assert 40 < longest_loop(made, arch, tmp_path) / values <= 80


def test_bytes_moved_by_hand(nvrtc):
    moved = {}
    for file in ("guided_4_fused.cu", "edge_1_global.cu", "guided_5_detr.cu"):
        (moved[file],) = (
            row.bytes_per_pixel for row in compiler.compile_plan(launch_plan(file, (48, 64, 3)), 90)
        )
    assert moved["guided_4_fused.cu"] == moved["edge_1_global.cu"] == 6  # three bytes in, three out
    assert moved["guided_5_detr.cu"] == 15


def test_kernels_are_examined_with_the_options_that_cupy_adds(nvrtc):
    import inspect

    from cupy.cuda import compiler as of_cupy

    text = inspect.getsource(of_cupy)
    for option in compiler.CUPY_ADDS:
        assert f"'{option}'" in text, option
    source = """extern "C" __global__ void half(float *x) { x[threadIdx.x] *= 1.0e-38f; }"""
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    nvrtc.compileProgram(program, ("-arch=compute_90", *compiler.CUPY_ADDS))
    assert ".ftz" in str(nvrtc.getPTX(program))
    assert compiler.compile_source(source, {}, 90)["half"]["stack_bytes"] == 0


def test_what_does_not_compile_shows_the_message(nvrtc):
    with pytest.raises(UsageError, match=r"does not compile for sm_90:\n(.|\n)*undefined"):
        compiler.compile_source('extern "C" __global__ void k(int *a) { a[0] = b; }', {}, 90)


def compiled(registers, shared_bytes, threads, arch=80):
    return compiler.CompiledKernel("f.cu", "k", arch, registers, shared_bytes, 0, threads, 100, 6.0)


@pytest.mark.parametrize(
    ("row", "blocks"),
    [  # by hand, from the sizes of a multiprocessor of 8.0: 2048 threads, 65536 registers, 164 KB
        (compiled(32, 0, 256), 8),  # threads run out first
        (compiled(64, 0, 256), 4),  # registers
        (compiled(33, 0, 256), 6),  # registers
        (compiled(16, 40 * 1024, 128), 4),  # shared memory
        (compiled(16, 0, 32), 32),  # blocks
    ],
)
def test_occupancy_by_hand(row, blocks):
    assert row.blocks_per_sm == blocks
    assert row.occupancy == pytest.approx(blocks * row.threads / 2048)


# Sources and launches


def test_every_kernel_file_has_a_launch_and_a_version():
    assert set(kernel_files()) == set(PLANNERS)
    assert {version.kernel for version in VERSIONS.values() if version.kernel} == set(PLANNERS)


def test_sources_are_self_contained():
    for file in kernel_files():
        assert '#include "' not in kernel_source(file)
        launched = {launch.kernel for launch in launch_plan(file, (8, 8, 3)).launches}
        assert launched == set(kernel_names(kernel_source(file)))
    with pytest.raises(UsageError, match=r"no kernel file '\.\./compile\.py'"):
        kernel_source("../compile.py")


@pytest.mark.parametrize("file", PLANNERS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (480, 640, 3), (1081, 1921, 3)], ids=str)
def test_grids_cover_the_image_and_no_more(file, shape):
    for launch in launch_plan(file, shape).launches:
        defines = launch_plan(file, shape).defines
        tile = defines.get("TILE", launch.block[0])
        assert (launch.grid[0] - 1) * tile < shape[1] <= launch.grid[0] * tile
        assert launch.grid[2] == 3
        assert launch.threads <= 1024


@pytest.mark.parametrize(
    ("file", "shape", "radius", "half", "message"),
    [
        ("guided_9.cu", (4, 4, 3), 4, False, "no launch is known"),
        ("guided_4_fused.cu", (4, 4, 5), 4, False, "1 to 4 channels"),
        ("guided_4_fused.cu", (4, 4), 4, False, "1 to 4 channels"),
        ("guided_4_fused.cu", (4, 4, 3), 17, False, "radius is 1 to 16"),
        ("guided_4_fused.cu", (4, 4, 3), 4, True, "writes bytes"),
        ("guided_5_detr.cu", (4, 4, 1), 4, False, "3 channels, RGB"),
        ("guided_7_nhwc.cu", (4, 4, 1), 4, False, "3 channels, RGB"),
        ("guided_1_global.cu", (40000, 40000, 3), 4, False, "too large"),
        ("guided_3_separable.cu", (65536, 1, 1), 4, False, "65536 px high"),
    ],
)
def test_impossible_plans_are_refused(file, shape, radius, half, message):
    with pytest.raises(UsageError, match=message):
        launch_plan(file, shape, radius, half=half)


# Launching from torch's memory: everything but the GPU


class OnDevice:
    """An array that says that it lies on a GPU."""

    def __init__(self, array, **changes):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None,
            "version": 3,
            **changes,
        }

    def data_ptr(self):
        return self.array.ctypes.data


def test_pointer_of_what_fits():
    array, wanted = noise_image((5, 7, 3)), Array((5, 7, 3), "uint8")
    for given in (OnDevice(array), OnDevice(array, strides=(21, 3, 1))):
        pointer = cuda.device_pointer(given, wanted, "image")
        assert pointer == array.ctypes.data
        assert pointer.itemsize == 8
    single = noise_image((1, 7, 1))
    assert cuda.device_pointer(OnDevice(single, strides=(99, 1, 1)), Array((1, 7, 1), "uint8"), "image")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((5, 7, 3), np.uint8), "not ndarray in host memory"),
        (torch.zeros((5, 7, 3), dtype=torch.uint8), "not Tensor in host memory"),
        (OnDevice(noise_image((5, 7, 4))), r"not uint8 \(5, 7, 4\)"),
        (OnDevice(np.zeros((5, 7, 3), np.float32)), "not float32"),
        (OnDevice(noise_image((5, 7, 3)), strides=(42, 3, 1)), "C-contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(FrameError, match=message):
        cuda.device_pointer(given, Array((5, 7, 3), "uint8"), "image")


@needs_gcc
@pytest.mark.parametrize("file", ["guided_1_global.cu", "guided_3_separable.cu", "guided_4_fused.cu"])
def test_device_filter_passes_the_right_arguments(fake_gpu, file):
    image = structured_image((20, 34, 3))
    place, own = torch.from_numpy(image).cuda(), torch.zeros(image.shape, dtype=torch.uint8, device="cuda")
    ready = cuda.DeviceFilter(file, image.shape, 4, device=0)
    held = torch.cuda.memory_allocated()
    found = ready(place, 0.01)
    assert found is ready.out
    assert ready(place, 0.2, out=own) is own
    assert torch.cuda.memory_allocated() == held, "a call allocates nothing"
    assert_close(file, found.cpu().numpy(), expected_result(file, image, 4))
    assert_close(file, own.cpu().numpy(), expected_result(file, image, 4, 0.2))


def test_an_array_on_another_gpu_is_refused(fake_gpu):
    ready = cuda.DeviceFilter("edge_1_global.cu", (4, 4, 1), device=0)
    image = OnDevice(noise_image((4, 4, 1)))
    image.device = torch.device("cuda", 1)
    with pytest.raises(FrameError, match="works on GPU 0, the array lies on GPU 1"):
        ready(image)


def test_device_filter_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnavailableError, match="version='numba'"):
        cuda.DeviceFilter("guided_4_fused.cu", (480, 640, 3))


def test_torch_streams_are_handed_to_cupy():
    pytest.importorskip("cupy")
    assert cuda._cupy_stream(4096).ptr == 4096


# On a GPU


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    pytest.importorskip("cupy")
    return torch.device("cuda")


@pytest.fixture(
    params=[pytest.param("real", marks=pytest.mark.gpu), pytest.param("fake_gpu", marks=needs_gcc)]
)
def any_gpu(request):
    """The real one, or the fake one."""
    request.getfixturevalue("gpu" if request.param == "real" else "fake_gpu")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("file", PLANNERS)
@pytest.mark.parametrize("radius", [1, 4, 9, 16])
def test_gpu_equals_the_reference(gpu, file, radius):
    for shape in ((1, 1, 3), (37, 131, 3), (480, 640, 3)):
        image = structured_image(shape)
        found = cuda.DeviceFilter(file, shape, radius)(torch.from_numpy(image).to(gpu))
        assert_close(file, found.cpu().numpy(), expected_result(file, image, radius))


def test_gpu_half_precision(any_gpu):
    image = structured_image((48, 64, 3))
    ready = cuda.DeviceFilter("guided_5_detr.cu", image.shape, 4, half=True)
    found = ready(torch.from_numpy(image).to(any_gpu))
    assert found.dtype == torch.float16
    assert_close("guided_5_detr.cu", found.cpu().numpy(), expected_result("guided_5_detr.cu", image, 4))


@pytest.mark.parametrize("file", ["guided_3_separable.cu", "guided_4_fused.cu"])
def test_gpu_graph_captures_and_replays(any_gpu, file):
    first, second = structured_image((48, 64, 3)), noise_image((48, 64, 3))
    place = torch.from_numpy(first).to(any_gpu)
    ready = cuda.DeviceFilter(file, first.shape, 4)
    ready(place)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ready(place)
    place.copy_(torch.from_numpy(second))
    graph.replay()
    assert_close(file, ready.out.cpu().numpy(), expected_result(file, second, 4))


def test_gpu_calls_allocate_nothing_and_follow_torchs_stream(any_gpu, request):
    image = structured_image((480, 640, 3) if "real" in request.node.name else (48, 64, 3))
    ready = cuda.DeviceFilter("guided_4_fused.cu", image.shape, 4)
    place = torch.zeros(image.shape, dtype=torch.uint8, device=any_gpu)
    host = torch.from_numpy(image).pin_memory()
    ready(place)
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)  # the upload comes late: a filter on another stream would not wait
        place.copy_(host, non_blocking=True)
        found = ready(place)
    side.synchronize()
    assert torch.cuda.memory_allocated() == held
    assert_close("guided_4_fused.cu", found.cpu().numpy(), expected_result("guided_4_fused.cu", image, 4))


@needs_gcc
def test_the_origins_way_gives_the_right_filter_with_a_wait_after_each_launch(fake_gpu, monkeypatch):
    """Managed memory is host memory here, and kernels run on the CPU; the rest is the real code."""
    import cupy

    from labkit.filters import cuda_managed
    from labkit.filters.image_filters import guided_filter

    made_bytes, malloc = [], cupy.cuda.malloc_managed
    monkeypatch.setattr(cupy.cuda, "malloc_managed", lambda n: made_bytes.append(n) or malloc(n))
    image = np.random.default_rng(1).integers(0, 256, (11, 14, 3), dtype=np.uint8)
    for _ in range(2):
        got = cuda_managed.guided_in_managed_memory("guided_1_global.cu", image, 2, 0.01)
        assert np.abs(got.astype(int) - guided_filter(image, 2, 0.01, version="reference")).max() <= 1
    assert fake_gpu.waits.by_what() == {"everything": 4}
    assert len(made_bytes) == 8  # all four arrays anew for each frame


@needs_gcc
@pytest.mark.extended
def test_every_kernel_gets_its_time_and_its_difference_from_the_reference(fake_gpu, monkeypatch):
    from labkit.filters import filter_benchmark

    monkeypatch.setattr(filter_benchmark, "CALLS", 2)
    launches = fake_gpu.launches
    found = filter_benchmark.time_gpu_versions(2, size=(40, 24), rounds=3)
    kernels = [row.short for row in VERSIONS.values() if row.filter == "guided" and row.kernel]
    assert [one.version for one in found.versions] == ["torch-cuda", *kernels]
    assert len(kernels) >= 5
    assert all(one.largest_difference <= 1 and len(one.seconds) == 3 for one in found.versions)
    assert fake_gpu.launches - launches > 3 * len(found.versions)
    assert "a model, not measured" in found.sentences()[0]
    assert filter_benchmark.FilterTimes.from_json(found.to_json()) == found
    table = found.table()
    assert table["times faster"].iloc[0] == 1


@pytest.mark.parametrize("file", NETWORK_INPUT)
def test_a_networks_input_is_single_precision_unless_half_is_asked_for(file):
    sizes = [
        np.dtype(launch_plan(file, (20, 20, 3), 2, **half).arrays[OUT].dtype).itemsize
        for half in ({}, {"half": False}, {"half": True})
    ]
    assert sizes == [4, 4, 2]
