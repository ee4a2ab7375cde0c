"""Launch configuration of each kernel file: grids, blocks, macros, and the arrays between launches.

Plain data, worked out from the image's shape and the radius; the GPU, the emulation on the CPU,
the compiler's table and the tests all use the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from labkit.core.errors import UsageError
from labkit.filters.kernel_source import kernel_source

Dim3 = tuple[int, int, int]
Shape = tuple[int, int, int]

GUIDED_MAX_RADIUS = 16
MAX_GRID_HEIGHT = 65535
IMAGE, OUT = "image", "out"  # names of a plan's input and output arrays
NETWORK_INPUT = ("guided_5_detr.cu", "guided_7_nhwc.cu")  # files that end in a network's input


@dataclass(frozen=True)
class Array:
    """Shape and type of an array on the device."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes that one copy of it takes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Launch:
    """One kernel launch; `args` are names of arrays, or width, height, channels, eps."""

    kernel: str
    grid: Dim3
    block: Dim3
    args: tuple[str, ...]

    @property
    def threads(self) -> int:
        """Threads per block."""
        return prod(self.block)


@dataclass(frozen=True)
class LaunchPlan:
    """All launches of one kernel file for one shape of image.

    Attributes:
        file: in `kernels/`.
        defines: macros that the file is compiled with.
        arrays: every array by name; "image" goes in, "out" comes out, the rest lies between.
        launches: in order.
    """

    file: str
    shape: Shape
    defines: dict[str, int]
    arrays: dict[str, Array]
    launches: tuple[Launch, ...]

    @property
    def source(self) -> str:
        """The kernel file's text."""
        return kernel_source(self.file)

    @property
    def buffers(self) -> dict[str, Array]:
        """The arrays between the launches: neither image nor result."""
        return {name: array for name, array in self.arrays.items() if name not in (IMAGE, OUT)}

    def bytes_moved(self, launch: Launch) -> int:
        """Global memory traffic of one launch, worked out, not measured.

        Each array that it reads or writes counts once, as if a cache of unbounded size served all
        repeated reads.
        """
        return sum(self.arrays[name].nbytes for name in launch.args if name in self.arrays)

    @property
    def bytes_per_value(self) -> float:
        """Global memory traffic of all launches per pixel and channel, worked out."""
        return sum(map(self.bytes_moved, self.launches)) / prod(self.shape)

    def scalars(self, eps: float) -> dict[str, np.generic]:
        """Arguments that are no arrays; eps comes in squared intensity of [0, 1] images."""
        height, width, channels = self.shape
        return {
            "width": np.int32(width),
            "height": np.int32(height),
            "channels": np.int32(channels),
            "eps": np.float32(eps * 255**2),
        }


def launch_plan(file: str, shape: Shape, radius: int = 4, *, half: bool = False) -> LaunchPlan:
    """Plan the launches of `kernels/<file>` for an image.

    Args:
        file: a key of `PLANNERS`.
        shape: (H, W, C) of the image.
        radius: px, 1 to 16; edge filters take none and ignore it.
        half: the result is half precision; for kernels that end in a network's input.

    Raises:
        UsageError: the file is unknown, or the kernel cannot take this shape or radius.
    """
    if file not in PLANNERS:
        raise UsageError(f"no launch is known for the kernel file {file!r}; there are {', '.join(PLANNERS)}")
    if len(shape) != 3 or min(shape) < 1 or shape[2] > 4:
        raise UsageError(f"kernels take images of shape (H, W, C) with 1 to 4 channels, not {tuple(shape)}")
    if prod(shape) >= 2**31:
        raise UsageError(f"kernels index with 32 bits; an image of shape {tuple(shape)} is too large")
    if shape[0] > MAX_GRID_HEIGHT:
        raise UsageError(f"a grid has at most {MAX_GRID_HEIGHT} rows; an image {shape[0]} px high has more")
    if not 1 <= radius <= GUIDED_MAX_RADIUS:
        raise UsageError(f"radius is 1 to {GUIDED_MAX_RADIUS} px, not {radius}")
    if half and file not in NETWORK_INPUT:
        raise UsageError(f"{file} writes bytes; half precision is for {' and '.join(NETWORK_INPUT)}")
    made = PLANNERS[file](shape, radius)
    if not half:
        return made
    arrays = {**made.arrays, OUT: Array(made.arrays[OUT].shape, "float16")}
    return LaunchPlan(file, shape, {**made.defines, "HALF": 1}, arrays, made.launches)


def _guided_in_two(file: str, shape: Shape, radius: int, defines: dict[str, int], block: Dim3) -> LaunchPlan:
    grid = _tiles(shape, block[0], block[1])
    floats, size = Array(shape, "float32"), ("width", "height", "channels")
    return LaunchPlan(
        file,
        shape,
        {"R": radius, **defines},
        {IMAGE: _bytes(shape), "a": floats, "b": floats, OUT: _bytes(shape)},
        (
            Launch("coefficients", grid, block, (IMAGE, "a", "b", *size, "eps")),
            Launch("apply", grid, block, (IMAGE, "a", "b", OUT, *size)),
        ),
    )


def _guided_global(shape: Shape, radius: int) -> LaunchPlan:
    return _guided_in_two("guided_1_global.cu", shape, radius, {}, (32, 8, 1))


def _guided_shared(shape: Shape, radius: int) -> LaunchPlan:
    return _guided_in_two("guided_2_shared.cu", shape, radius, {"TILE": 16}, (16, 16, 1))


def _guided_separable(shape: Shape, radius: int) -> LaunchPlan:
    tile, strip = 128, 16
    height, width, channels = shape
    across = -(-width // tile)
    rows, columns = (across, height, channels), (across, -(-height // strip), channels)
    floats, whole = Array(shape, "float32"), Array(shape, "int32")
    size, block = ("width", "height", "channels"), (tile, 1, 1)
    return LaunchPlan(
        "guided_3_separable.cu",
        shape,
        {"R": radius, "TILE": tile, "STRIP": strip},
        {
            IMAGE: _bytes(shape),
            "sums": whole,
            "squares": whole,
            "a": floats,
            "b": floats,
            "sums_a": floats,
            "sums_b": floats,
            OUT: _bytes(shape),
        },
        (
            Launch("sum_rows", rows, block, (IMAGE, "sums", "squares", *size)),
            Launch("column_coefficients", columns, block, ("sums", "squares", "a", "b", *size, "eps")),
            Launch("sum_coefficient_rows", rows, block, ("a", "b", "sums_a", "sums_b", *size)),
            Launch("apply_columns", columns, block, (IMAGE, "sums_a", "sums_b", OUT, *size)),
        ),
    )


def _fused(file: str, shape: Shape, radius: int, out: Array) -> LaunchPlan:
    tile = 32 if radius <= 8 else 24 if radius <= 12 else 16  # what 48 KB of shared memory hold
    threads = 256
    return LaunchPlan(
        file,
        shape,
        {"R": radius, "TILE": tile, "THREADS": threads},
        {IMAGE: _bytes(shape), OUT: out},
        (
            Launch(
                "fused",
                _tiles(shape, tile, tile),
                (threads, 1, 1),
                (IMAGE, OUT, "width", "height", "channels", "eps"),
            ),
        ),
    )


def _guided_fused(shape: Shape, radius: int) -> LaunchPlan:
    return _fused("guided_4_fused.cu", shape, radius, _bytes(shape))


def _guided_detr(shape: Shape, radius: int) -> LaunchPlan:
    _check_rgb(shape)
    return _fused("guided_5_detr.cu", shape, radius, Array((3, *shape[:2]), "float32"))


def _march(file: str, shape: Shape, radius: int, out: Array) -> LaunchPlan:
    columns, threads, strip = 2 if radius <= 7 else 1, 128, 32  # more columns have no registers beyond
    tile = threads * columns - 4 * radius
    height, width, channels = shape
    grid = -(-width // tile), -(-height // strip), channels
    return LaunchPlan(
        file,
        shape,
        {"R": radius, "TILE": tile, "COLUMNS": columns, "STRIP": strip},
        {IMAGE: _bytes(shape), OUT: out},
        (Launch("march", grid, (threads, 1, 1), (IMAGE, OUT, "width", "height", "channels", "eps")),),
    )


def _guided_march(shape: Shape, radius: int) -> LaunchPlan:
    return _march("guided_6_march.cu", shape, radius, _bytes(shape))


def _guided_nhwc(shape: Shape, radius: int) -> LaunchPlan:
    _check_rgb(shape)
    return _march("guided_7_nhwc.cu", shape, radius, Array(shape, "float32"))


def _check_rgb(shape: Shape) -> None:
    if shape[2] != 3:
        raise UsageError(f"the detector's input has 3 channels, RGB; this image has {shape[2]}")


def _edges(file: str, shape: Shape, defines: dict[str, int], block: Dim3) -> LaunchPlan:
    return LaunchPlan(
        file,
        shape,
        defines,
        {IMAGE: _bytes(shape), OUT: _bytes(shape)},
        (
            Launch(
                "edges",
                _tiles(shape, block[0], block[1]),
                block,
                (IMAGE, OUT, "width", "height", "channels"),
            ),
        ),
    )


def _edge_global(shape: Shape, radius: int) -> LaunchPlan:
    return _edges("edge_1_global.cu", shape, {}, (32, 8, 1))


def _edge_shared(shape: Shape, radius: int) -> LaunchPlan:
    return _edges("edge_2_shared.cu", shape, {"TILE": 16}, (16, 16, 1))


def _tiles(shape: Shape, tile_width: int, tile_height: int) -> Dim3:
    height, width, channels = shape
    return -(-width // tile_width), -(-height // tile_height), channels


def _bytes(shape: Shape) -> Array:
    return Array(shape, "uint8")


PLANNERS: dict[str, Callable[[Shape, int], LaunchPlan]] = {
    "guided_1_global.cu": _guided_global,
    "guided_2_shared.cu": _guided_shared,
    "guided_3_separable.cu": _guided_separable,
    "guided_4_fused.cu": _guided_fused,
    "guided_5_detr.cu": _guided_detr,
    "guided_6_march.cu": _guided_march,
    "guided_7_nhwc.cu": _guided_nhwc,
    "edge_1_global.cu": _edge_global,
    "edge_2_shared.cu": _edge_shared,
}
