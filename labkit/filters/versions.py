"""All versions of the filters, as data: what tests, tables and plots iterate."""

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
    """One way to compute a filter.

    Attributes:
        filter: "guided" or "edge".
        short: name among the versions of its filter, as in `guided_filter(..., version=short)`.
        device: "cpu" or "cuda".
        about: what it changes or shows, in a sentence.
        where: "module:function" in this room; imported when first used.
        kernel: file in `kernels/` that it launches, or None.
        guide: whether it takes a gray guide; without one, each channel guides itself.
        output: "image" (H, W, C) uint8, or "detr": the detector's normalised input, (3, H, W).
        exhibit: kept to be looked at; not correct.
    """

    filter: Filter
    short: str
    device: Literal["cpu", "cuda"]
    about: str
    where: str
    kernel: str | None = None
    guide: bool = False
    output: Literal["image", "detr"] = "image"
    exhibit: bool = False

    @property
    def name(self) -> str:
        """Unique among all versions, e.g. "guided-numba"."""
        return f"{self.filter}-{self.short}"

    @property
    def function(self) -> Callable[..., Any]:
        """What computes it; `guided_filter` and `edge_filter` check the arguments, this does not.

        Called with (image, radius, eps), and a guide where `guide`; for edges with (image).
        """
        module, _, name = self.where.partition(":")
        found = getattr(import_module(f"labkit.filters.{module}"), name)
        return found if self.kernel is None else partial(found, self.kernel)


def _guided(short: str, device: Literal["cpu", "cuda"], where: str, about: str, **more: Any) -> FilterVersion:
    return FilterVersion("guided", short, device, about, where, **more)


def _edge(short: str, device: Literal["cpu", "cuda"], where: str, about: str, **more: Any) -> FilterVersion:
    return FilterVersion("edge", short, device, about, where, **more)


_ALL = (
    _guided(
        "reference", "cpu", "reference:guided", "the paper in float64, the measure of the others",
        guide=True,
    ),
    _guided(
        "origin", "cpu", "baseline_formula:guided", "an exhibit: averages a*I+b and cuts, so it is a box blur",
        exhibit=True,
    ),
    _guided("opencv", "cpu", "opencv:guided", "cv2.boxFilter calls, one pass each", guide=True),
    _guided("torch", "cpu", "torch_filter:guided", "sums of shifted tensors in torch, on the CPU", guide=True),
    _guided("numba", "cpu", "numba_fused:guided", "one fused pass, a few rows of memory", guide=True),
    _guided("torch-cuda", "cuda", "torch_filter:guided_cuda", "the same torch lines on the GPU", guide=True),
    _guided(
        "cuda-global", "cuda", "cuda:guided", "each thread reads its window from global memory",
        kernel="guided_1_global.cu",
    ),
    _guided(
        "cuda-shared", "cuda", "cuda:guided", "each block reads its tile once, into shared memory",
        kernel="guided_2_shared.cu",
    ),
    _guided(
        "cuda-separable", "cuda", "cuda:guided", "rows, then columns: additions in 2 w instead of w^2",
        kernel="guided_3_separable.cu",
    ),
    _guided(
        "cuda-fused", "cuda", "cuda:guided", "one launch, bytes in and bytes out",
        kernel="guided_4_fused.cu",
    ),
    _guided(
        "cuda-detr", "cuda", "cuda:guided", "one launch that ends in the detector's normalised input",
        kernel="guided_5_detr.cu", output="detr",
    ),
    _edge("reference", "cpu", "reference:edges", "differences of whole numbers in NumPy"),
    _edge("opencv", "cpu", "opencv:edges", "cv2.absdiff and a saturating cv2.add"),
    _edge("torch", "cpu", "torch_filter:edges", "torch, on the CPU"),
    _edge("numba", "cpu", "edge_rows:edges", "one pass, bytes throughout"),
    _edge("torch-cuda", "cuda", "torch_filter:edges_cuda", "the same torch lines on the GPU"),
    _edge(
        "cuda-global", "cuda", "cuda:edges", "one thread per value, neighbours from global memory",
        kernel="edge_1_global.cu",
    ),
    _edge(
        "cuda-shared", "cuda", "cuda:edges", "the tile in shared memory: right, and hardly worth it",
        kernel="edge_2_shared.cu",
    ),
)  # fmt: skip

VERSIONS: dict[str, FilterVersion] = {version.name: version for version in _ALL}
"""Every version by its name."""


def find_version(filter_name: Filter, version: str) -> FilterVersion:
    """The version of a filter, by its full or short name.

    Raises:
        UsageError: there is none of that name.
    """
    for name in (version, f"{filter_name}-{version}"):
        if name in VERSIONS and VERSIONS[name].filter == filter_name:
            return VERSIONS[name]
    known = ", ".join(each.short for each in VERSIONS.values() if each.filter == filter_name)
    raise UsageError(f"there is no version {version!r} of the {filter_name} filter; there are {known}")
