"""Launch configuration of each kernel file: grids, blocks, macros, and the arrays between launches.

Plain data, worked out from the image's shape and the radius; the GPU, the emulation on the CPU,
the compiler's table and the tests all use the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np

from labkit.core.errors import UsageError
from labkit.core.types import MAX_RADIUS
from labkit.filters.kernel_source import kernel_source

Dim3 = tuple[int, int, int]
Shape = tuple[int, int, int]

MAX_GRID_HEIGHT = 65535
IMAGE, OUT = "image", "out"  # names of a plan's input and output arrays
SIZE = ("width", "height", "channels")
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
    if not 1 <= radius <= MAX_RADIUS:
        raise UsageError(f"radius is 1 to {MAX_RADIUS} px, not {radius}")
    if half and file not in NETWORK_INPUT:
        raise UsageError(f"{file} writes bytes; half precision is for {' and '.join(NETWORK_INPUT)}")
    made = PLANNERS[file](file, shape, radius)
    if not half:
        return made
    arrays = {**made.arrays, OUT: Array(made.arrays[OUT].shape, "float16")}
    return replace(made, defines={**made.defines, "HALF": 1}, arrays=arrays)


def _guided_in_two(file: str, shape: Shape, radius: int, block: Dim3, tile: int | None = None) -> LaunchPlan:
    grid = _tiles(shape, block[0], block[1])
    floats = Array(shape, "float32")
    return LaunchPlan(
        file,
        shape,
        {"R": radius, **({} if tile is None else {"TILE": tile})},
        {IMAGE: _bytes(shape), "a": floats, "b": floats, OUT: _bytes(shape)},
        (
            Launch("coefficients", grid, block, (IMAGE, "a", "b", *SIZE, "eps")),
            Launch("apply", grid, block, (IMAGE, "a", "b", OUT, *SIZE)),
        ),
    )


def _guided_separable(file: str, shape: Shape, radius: int) -> LaunchPlan:
    tile, strip, block = 128, 16, (128, 1, 1)
    rows, columns = _tiles(shape, tile, 1), _tiles(shape, tile, strip)
    between = {name: Array(shape, "int32") for name in ("sums", "squares")}
    between |= {name: Array(shape, "float32") for name in ("a", "b", "sums_a", "sums_b")}
    return LaunchPlan(
        file,
        shape,
        {"R": radius, "TILE": tile, "STRIP": strip},
        {IMAGE: _bytes(shape), **between, OUT: _bytes(shape)},
        (
            Launch("sum_rows", rows, block, (IMAGE, "sums", "squares", *SIZE)),
            Launch("column_coefficients", columns, block, ("sums", "squares", "a", "b", *SIZE, "eps")),
            Launch("sum_coefficient_rows", rows, block, ("a", "b", "sums_a", "sums_b", *SIZE)),
            Launch("apply_columns", columns, block, (IMAGE, "sums_a", "sums_b", OUT, *SIZE)),
        ),
    )


def _fused(file: str, shape: Shape, radius: int, out: Array | None = None) -> LaunchPlan:
    tile = 32 if radius <= 8 else 24 if radius <= 12 else 16  # what 48 KB of shared memory hold
    defines = {"R": radius, "TILE": tile, "THREADS": 256}
    return _in_one(file, shape, "fused", _tiles(shape, tile, tile), (256, 1, 1), defines, out)


def _march(file: str, shape: Shape, radius: int, out: Array | None = None) -> LaunchPlan:
    columns, threads, strip = 2 if radius <= 7 else 1, 128, 32  # more columns have no registers beyond
    tile = threads * columns - 4 * radius
    defines = {"R": radius, "TILE": tile, "COLUMNS": columns, "STRIP": strip}
    return _in_one(file, shape, "march", _tiles(shape, tile, strip), (threads, 1, 1), defines, out)


def _edges(file: str, shape: Shape, radius: int, block: Dim3, tile: int | None = None) -> LaunchPlan:
    defines = {} if tile is None else {"TILE": tile}
    return _in_one(file, shape, "edges", _tiles(shape, block[0], block[1]), block, defines, eps=())


def _in_one(
    file: str,
    shape: Shape,
    kernel: str,
    grid: Dim3,
    block: Dim3,
    defines: dict[str, int],
    out: Array | None = None,
    eps: tuple[str, ...] = ("eps",),
) -> LaunchPlan:
    """One launch from the image to the result, which is bytes unless `out` says otherwise."""
    arrays = {IMAGE: _bytes(shape), OUT: out or _bytes(shape)}
    return LaunchPlan(file, shape, defines, arrays, (Launch(kernel, grid, block, (IMAGE, OUT, *SIZE, *eps)),))


def _guided_detr(file: str, shape: Shape, radius: int) -> LaunchPlan:
    return _fused(file, shape, radius, Array((3, *_rgb(shape)[:2]), "float32"))


def _guided_nhwc(file: str, shape: Shape, radius: int) -> LaunchPlan:
    return _march(file, shape, radius, Array(_rgb(shape), "float32"))


def _rgb(shape: Shape) -> Shape:
    if shape[2] != 3:
        raise UsageError(f"the detector's input has 3 channels, RGB; this image has {shape[2]}")
    return shape


def _tiles(shape: Shape, tile_width: int, tile_height: int) -> Dim3:
    height, width, channels = shape
    return -(-width // tile_width), -(-height // tile_height), channels


def _bytes(shape: Shape) -> Array:
    return Array(shape, "uint8")


PLANNERS: dict[str, Callable[[str, Shape, int], LaunchPlan]] = {
    "guided_1_global.cu": partial(_guided_in_two, block=(32, 8, 1)),
    "guided_2_shared.cu": partial(_guided_in_two, block=(16, 16, 1), tile=16),
    "guided_3_separable.cu": _guided_separable,
    "guided_4_fused.cu": _fused,
    "guided_5_detr.cu": _guided_detr,
    "guided_6_march.cu": _march,
    "guided_7_nhwc.cu": _guided_nhwc,
    "edge_1_global.cu": partial(_edges, block=(32, 8, 1)),
    "edge_2_shared.cu": partial(_edges, block=(16, 16, 1), tile=16),
}
