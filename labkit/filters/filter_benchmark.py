"""Benchmark of the guided filter's versions, in interleaved rounds on one frame.

Where OpenCV has its extra modules (package opencv-contrib-python), its own guided filter is timed too.
`labkit filters` runs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labkit.core import stats
from labkit.core.errors import UnavailableError, UsageError
from labkit.core.shown import Sentences, shown_table
from labkit.core.types import Size
from labkit.filters import reference
from labkit.filters.image_filters import guided_filter
from labkit.filters.versions import VERSIONS as EVERY_VERSION
from labkit.filters.versions import FilterVersion
from labkit.sources.openers import first_frame

if TYPE_CHECKING:
    import pandas as pd

Image = NDArray[np.uint8]

REFERENCE, COMPOSED, THIRD_PARTY = "reference", "opencv", "ximgproc"
VERSIONS = (REFERENCE, COMPOSED, "torch", "numba")
TORCH_CUDA = "torch-cuda"
CALLS = 20
"""Calls of a GPU version between two events: a short kernel ends before the next one is launched."""


@dataclass(frozen=True)
class VersionTimes:
    """Times and error of one version.

    Attributes:
        version: name.
        seconds: of one call per round, in the order of rounds.
        largest_difference: in grey levels from the float64 reference; of OpenCV's own filter, whose
            windows are mirrored at the border instead of clipped, away from the border only.
    """

    version: str
    seconds: tuple[float, ...]
    largest_difference: int

    @property
    def median_ms(self) -> float:
        """Median time of a call."""
        return 1e3 * float(np.median(self.seconds))


@dataclass(frozen=True)
class FilterTimes:
    """Times of several versions on one frame.

    Attributes:
        size: (width, height) of the frame, which has three channels.
        radius, eps: of the filter.
        versions: one per version.
        device: "cpu", or the GPU's name.
        left_out: a sentence for each version that cannot run here.
    """

    size: Size
    radius: int
    eps: float
    versions: tuple[VersionTimes, ...]
    device: str = "cpu"
    left_out: tuple[str, ...] = ()

    def of(self, version: str) -> VersionTimes:
        """Times of a version.

        Raises:
            UsageError: it was not timed.
        """
        for one in self.versions:
            if one.version == version:
                return one
        raise UsageError(
            f"{version!r} was not timed; there are {', '.join(r.version for r in self.versions)}"
        )

    def ratio(self, version: str, to: str = REFERENCE) -> tuple[float, stats.Interval]:
        """Speed of a version over that of another, from rounds of one process, and its 95% interval."""
        ratios = np.array(self.of(to).seconds) / np.array(self.of(version).seconds)
        return stats.speed_ratio(ratios), stats.ratio_interval(ratios)

    def table(self) -> pd.DataFrame:
        """One row per version: ms, times faster than the first one with interval, difference from float64."""
        rows = []
        for one in self.versions:
            ratio, interval = self.ratio(one.version, self.versions[0].version)
            rows.append(
                {
                    "version": one.version,
                    "median ms": round(one.median_ms, 2 if self.device == "cpu" else 4),
                    "times faster": round(ratio, 2),
                    "interval": stats.format_interval(interval),
                    "largest difference": one.largest_difference,
                }
            )
        return shown_table(rows)

    def sentences(self) -> Sentences:
        """Each version compared with the one that is made of a library's calls, one sentence each."""
        width, height = self.size
        on_cpu = self.device == "cpu"
        base = self.of(COMPOSED if on_cpu else TORCH_CUDA)
        composed = "OpenCV's box filters put together take" if on_cpu else "sums of shifted tensors take"
        digits = 2 if on_cpu else 4
        lines = [
            f"Guided filter{'' if on_cpu else f' on {self.device}'}, {width}x{height}x3, "
            f"radius {self.radius}: {composed} {base.median_ms:.{digits}f} ms "
            f"(median of {len(base.seconds)} rounds, all versions interleaved)."
        ]
        for one in sorted(self.versions, key=lambda one: one.median_ms):
            if one.version == base.version:
                continue
            ratio, interval = self.ratio(one.version, base.version)
            where = " away from the border, where its windows differ" if one.version == THIRD_PARTY else ""
            most = one.largest_difference
            apart = f", within {most} grey level{'' if most == 1 else 's'} of float64{where}"
            lines.append(
                f"{one.version}: {one.median_ms:.{digits}f} ms, {ratio:.2f} times as fast "
                f"({stats.format_interval(interval)}){'' if one.version == REFERENCE else apart}."
            )
        return Sentences([*lines, *self.left_out])

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `filters.json`."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> FilterTimes:
        """The inverse of `to_json`; other keys are ignored."""
        stored = values["versions"] if "versions" in values else values["racers"]  # until November 2026
        versions = tuple(VersionTimes(**{**each, "seconds": tuple(each["seconds"])}) for each in stored)
        width, height = values["size"]
        return FilterTimes(
            (width, height), values["radius"], values["eps"], versions, values.get("device", "cpu"),
            tuple(values.get("left_out", ())),
        )  # fmt: skip


def time_versions(
    radius: int = 4, eps: float = 0.01, *, size: Size = (640, 480), rounds: int = 9, source: str = "photos"
) -> FilterTimes:
    """Time all CPU versions in interleaved rounds on the first frame of a source.

    Args:
        radius, eps: see `guided_filter`.
        size: (width, height) of the frame.
        rounds: calls of each version, after one that is not timed.
        source: see `open_source`.
    """
    image = first_frame(source, size).image
    work = {name: partial(guided_filter, image, radius, eps, version=name) for name in VERSIONS}
    if has_ximgproc():
        work[THIRD_PARTY] = partial(ximgproc_guided, image, radius, eps)
    results = {name: call().astype(int) for name, call in work.items()}  # and warm

    def seconds_of(call: Callable[[], Image]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    seconds = _interleaved(work, seconds_of, rounds)
    versions = []
    for name in work:
        apart = np.abs(results[name] - results[REFERENCE])
        edge = 2 * radius if name == THIRD_PARTY else 0
        inside = apart[edge : apart.shape[0] - edge, edge : apart.shape[1] - edge]
        versions.append(VersionTimes(name, seconds[name], int(inside.max(initial=0))))
    return FilterTimes(size, radius, eps, tuple(versions))


def time_gpu_versions(
    radius: int = 4, eps: float = 0.01, *, size: Size = (640, 480), rounds: int = 9, source: str = "photos"
) -> FilterTimes:
    """Time all GPU versions in interleaved rounds on a frame that lies on the device.

    `CALLS` calls of each are captured in a CUDA graph, which is replayed between two events: neither the
    host's launches nor copies are in the time.

    Args:
        radius, eps, size, source: see `time_versions`.
        rounds: replays of each version's graph, after one that is not timed.

    Raises:
        UnavailableError: there is no NVIDIA GPU that torch sees, or no CuPy.
    """
    import torch

    from labkit.filters.cuda import require_gpu

    require_gpu()
    image = first_frame(source, size).image
    place = torch.from_numpy(image.copy()).cuda()
    rows = [row for row in EVERY_VERSION.values() if row.filter == "guided" and row.device == "cuda"]
    calls = {row: _on_device(row, image.shape, radius, eps) for row in rows}
    graphs, apart, left_out = {}, {}, []
    with torch.inference_mode():
        for row, call in calls.items():
            try:
                apart[row.short] = levels_apart(row, call(place).cpu().numpy(), image, radius, eps)
            except UnavailableError as error:  # a compiler of its own is not there
                left_out.append(f"{row.short}: not timed, {error}")
                continue
            graphs[row.short] = graph_of_calls(call, place)  # which needs the memory that `calls` holds

    modelled = replay_s(next(iter(graphs.values())))[1]
    seconds = _interleaved(graphs, lambda graph: replay_s(graph)[0], rounds)
    name = torch.cuda.get_device_name() + ("; times are a model, not measured" if modelled else "")
    versions = tuple(VersionTimes(short, seconds[short], apart[short]) for short in graphs)
    return FilterTimes(size, radius, eps, versions, name, tuple(left_out))


def _interleaved(
    work: dict[str, Any], seconds_of: Callable[[Any], float], rounds: int
) -> dict[str, tuple[float, ...]]:
    """Seconds of each, one call of each in turn, every other round in reverse."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(rounds):
        for name in list(work) if round_ % 2 == 0 else reversed(work):
            seconds[name].append(seconds_of(work[name]))
    return {name: tuple(each) for name, each in seconds.items()}


def _on_device(
    version: FilterVersion, shape: tuple[int, int, int], radius: int, eps: float
) -> Callable[[Any], Any]:
    if version.kernel is None:
        return lambda place: version.on_tensors(place, radius, eps)
    from labkit.filters.cuda import DeviceFilter

    ready = DeviceFilter(version.kernel, shape, radius)
    return lambda place: ready(place, eps)


def replay_s(graph: Any) -> tuple[float, bool]:
    """Seconds of one call in a graph of `CALLS`, by the GPU's clock; and whether that is a model's."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    ms = begin.elapsed_time(end)
    return float(ms) / 1e3 / CALLS, type(ms) is not float  # the practice GPU's events say what they are


def graph_of_calls(call: Callable[[Any], Any], place: Any) -> Any:
    """CUDA graph of `CALLS` calls, replayed once."""
    import torch

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call(place)
    graph.replay()
    torch.cuda.synchronize()
    return graph


def levels_apart(version: FilterVersion, found: Any, image: Image, radius: int, eps: float) -> int:
    """Largest difference from the float64 reference, in grey levels."""
    if version.output == "image":
        return int(np.abs(found.astype(int) - reference.guided(image, radius, eps)).max())
    if found.shape == image.shape:  # channels last
        found = found.transpose(2, 0, 1)
    apart = np.abs(found - reference.detector_input(image, radius, eps)).max(axis=(1, 2))
    return round(float((apart * reference.DEVIATION).max()) * 255)


def has_ximgproc() -> bool:
    """True if this OpenCV has a guided filter of its own (opencv-contrib-python)."""
    import cv2

    return hasattr(cv2, "ximgproc")


def ximgproc_guided(image: Image, radius: int, eps: float) -> Image:
    """OpenCV's own guided filter, each channel guided by itself; (H, W, C) uint8 as `guided_filter`.

    It takes eps in squared grey levels, and mirrors the image at its border.
    """
    import cv2

    with_extra: Any = cv2
    guided = with_extra.ximgproc.guidedFilter
    channels = (np.ascontiguousarray(image[..., c]) for c in range(image.shape[2]))
    return np.stack([guided(one, one, radius, eps * 255**2) for one in channels], axis=-1)
