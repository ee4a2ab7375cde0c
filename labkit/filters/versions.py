"""The table of filter versions, which tests, tables and plots iterate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal

from labkit.core.errors import UsageError

Filter = Literal["guided", "edge"]


@dataclass(frozen=True)
class FilterVersion:
    """One version of a filter.

    Attributes:
        filter: "guided" or "edge".
        short: name among the versions of its filter, as in `guided_filter(..., version=short)`.
        device: "cpu" or "cuda".
        where: "module:function" in this package; imported when first used.
        about: what it changes or shows, in a phrase.
        kernel: file in `kernels/` that it launches, or None.
        guide: whether it takes a gray guide; without one, each channel guides itself.
        output: "image" (H, W, C) uint8, or "detr": the detector's normalised input, (3, H, W).
        correct: whether it agrees with the reference; the baseline is kept to show its mistakes.
    """

    filter: Filter
    short: str
    device: Literal["cpu", "cuda"]
    where: str
    about: str
    kernel: str | None = None
    guide: bool = False
    output: Literal["image", "detr"] = "image"
    correct: bool = True

    @property
    def name(self) -> str:
        """Unique name among all versions, e.g. "guided-numba"."""
        return f"{self.filter}-{self.short}"

    @property
    def function(self) -> Callable[..., Any]:
        """The function that computes it, with no checks of arguments; see `guided_filter`, `edge_filter`.

        Called with (image, radius, eps), and a guide where `guide`; for edges with (image).
        """
        found = self._named(self.where.partition(":")[2])
        return found if self.kernel is None else partial(found, self.kernel)

    @property
    def on_tensors(self) -> Callable[..., Any]:
        """The same on a tensor of the GPU, for versions of the guided filter that launch no file's kernel."""
        return self._named("guided_tensor")

    def _named(self, name: str) -> Callable[..., Any]:
        module = import_module(f"labkit.filters.{self.where.partition(':')[0]}")
        return getattr(module, name)  # type: ignore[no-any-return]


# To add a version: a function in a module of this room, and a row here. Its tests, the choice in
# `guided_filter`, and the tables and plots follow from the row.
_TABLE = (
    FilterVersion(
        "guided", "reference", "cpu", "reference:guided",
        "the paper in float64, with which the others are compared", guide=True,
    ),
    FilterVersion(
        "guided", "baseline", "cpu", "baseline_formula:guided",
        "the baseline's formula, wrong: averages a*I+b and truncates, so it is a box blur", correct=False,
    ),
    FilterVersion(
        "guided", "opencv", "cpu", "opencv:guided", "cv2.boxFilter calls, one pass each", guide=True
    ),
    FilterVersion(
        "guided", "torch", "cpu", "torch_filter:guided", "sums of shifted tensors in torch, on the CPU",
        guide=True,
    ),
    FilterVersion(
        "guided", "numba", "cpu", "numba_fused:guided", "one fused pass, a few rows of memory", guide=True
    ),
    FilterVersion(
        "guided", "torch-cuda", "cuda", "torch_filter:guided_cuda", "the same torch lines on the GPU",
        guide=True,
    ),
    FilterVersion(
        "guided", "numba-cuda", "cuda", "numba_cuda:guided", "each thread reads its window, in Python's words"
    ),
    FilterVersion(
        "guided", "triton", "cuda", "triton_filter:guided", "each program works on a block, guards are masks"
    ),
    FilterVersion(
        "guided", "cuda-global", "cuda", "cuda:guided", "each thread reads its window from global memory",
        kernel="guided_1_global.cu",
    ),
    FilterVersion(
        "guided", "cuda-shared", "cuda", "cuda:guided", "each block reads its tile once, into shared memory",
        kernel="guided_2_shared.cu",
    ),
    FilterVersion(
        "guided", "cuda-separable", "cuda", "cuda:guided",
        "rows, then columns: 2 w additions instead of w^2", kernel="guided_3_separable.cu",
    ),
    FilterVersion(
        "guided", "cuda-fused", "cuda", "cuda:guided", "one launch, bytes in and bytes out",
        kernel="guided_4_fused.cu",
    ),
    FilterVersion(
        "guided", "cuda-detr", "cuda", "cuda:guided",
        "one launch that ends in the detector's normalised input",
        kernel="guided_5_detr.cu", output="detr",
    ),
    FilterVersion(
        "guided", "cuda-march", "cuda", "cuda:guided",
        "one launch that marches down strips, the window's rows in registers",
        kernel="guided_6_march.cu",
    ),
    FilterVersion(
        "guided", "cuda-input", "cuda", "cuda:guided",
        "the same, ending in the detector's input with its channels last",
        kernel="guided_7_nhwc.cu", output="detr",
    ),
    FilterVersion("edge", "reference", "cpu", "reference:edges", "differences of integers in NumPy"),
    FilterVersion("edge", "opencv", "cpu", "opencv:edges", "cv2.absdiff and a saturating cv2.add"),
    FilterVersion("edge", "torch", "cpu", "torch_filter:edges", "torch, on the CPU"),
    FilterVersion("edge", "numba", "cpu", "edge_rows:edges", "one pass, bytes throughout"),
    FilterVersion("edge", "torch-cuda", "cuda", "torch_filter:edges_cuda", "the same torch lines on the GPU"),
    FilterVersion(
        "edge", "cuda-global", "cuda", "cuda:edges", "one thread per value, neighbours from global memory",
        kernel="edge_1_global.cu",
    ),
    FilterVersion(
        "edge", "cuda-shared", "cuda", "cuda:edges", "the tile in shared memory: correct, with little gain",
        kernel="edge_2_shared.cu",
    ),
)  # fmt: skip

VERSIONS: dict[str, FilterVersion] = {version.name: version for version in _TABLE}
"""Every version by its name."""


def find_version(filter_name: Filter, version: str) -> FilterVersion:
    """Look up a version of a filter by its full or short name.

    Raises:
        UsageError: there is none of that name.
    """
    version = version.replace("origin", "baseline")  # its name in older scripts
    for name in (version, f"{filter_name}-{version}"):
        if name in VERSIONS and VERSIONS[name].filter == filter_name:
            return VERSIONS[name]
    known = ", ".join(each.short for each in VERSIONS.values() if each.filter == filter_name)
    raise UsageError(f"there is no version {version!r} of the {filter_name} filter; there are {known}")
