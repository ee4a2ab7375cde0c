"""Benchmark of the guided filter's CPU versions, in interleaved rounds on one frame.

    python -m labkit.filters.filter_benchmark results/reference/MACHINE

writes `filters.json` there. Where OpenCV has its extra modules (package opencv-contrib-python), its
own guided filter is timed too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labkit.core import stats
from labkit.core.errors import UsageError
from labkit.core.files import write_atomic
from labkit.core.types import Size
from labkit.filters.image_filters import guided_filter
from labkit.sources.openers import first_frame

if TYPE_CHECKING:
    import pandas as pd

Image = NDArray[np.uint8]

REFERENCE, COMPOSED, THIRD_PARTY = "reference", "opencv", "ximgproc"
VERSIONS = (REFERENCE, COMPOSED, "torch", "numba")


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
    """

    size: Size
    radius: int
    eps: float
    versions: tuple[VersionTimes, ...]

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
        """Speed of a version over that of another: median over rounds, and its 95% interval."""
        ratios = np.array(self.of(to).seconds) / np.array(self.of(version).seconds)
        return float(np.median(ratios)), stats.ratio_interval(ratios)

    def table(self) -> pd.DataFrame:
        """One row per version: ms, times faster than the reference with interval, difference from it."""
        import pandas as pd

        rows = []
        for one in self.versions:
            ratio, interval = self.ratio(one.version)
            rows.append(
                {
                    "version": one.version,
                    "median ms": round(one.median_ms, 2),
                    "times faster": round(ratio, 2),
                    "interval": stats.format_interval(interval),
                    "largest difference": one.largest_difference,
                }
            )
        return pd.DataFrame(rows)

    def sentences(self) -> list[str]:
        """Each version compared with the composition of OpenCV's box filters, one sentence each."""
        width, height = self.size
        base = self.of(COMPOSED)
        lines = [
            f"Guided filter, {width}x{height}x3, radius {self.radius}: OpenCV's box filters put together "
            f"take {base.median_ms:.2f} ms (median of {len(base.seconds)} rounds, all versions interleaved)."
        ]
        for one in sorted(self.versions, key=lambda one: one.median_ms):
            if one.version == COMPOSED:
                continue
            ratio, interval = self.ratio(one.version, COMPOSED)
            where = " away from the border, where its windows differ" if one.version == THIRD_PARTY else ""
            most = one.largest_difference
            apart = f", within {most} grey level{'' if most == 1 else 's'} of float64{where}"
            lines.append(
                f"{one.version}: {one.median_ms:.2f} ms, {ratio:.2f} times as fast "
                f"({stats.format_interval(interval)}){'' if one.version == REFERENCE else apart}."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `filters.json`."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> FilterTimes:
        """The inverse of `to_json`; other keys are ignored."""
        stored = values["versions"] if "versions" in values else values["racers"]  # until November 2026
        versions = tuple(VersionTimes(**{**each, "seconds": tuple(each["seconds"])}) for each in stored)
        width, height = values["size"]
        return FilterTimes((width, height), values["radius"], values["eps"], versions)


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
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(rounds):
        for name in list(work) if round_ % 2 == 0 else reversed(work):
            start = time.perf_counter()
            work[name]()
            seconds[name].append(time.perf_counter() - start)
    versions = []
    for name in work:
        apart = np.abs(results[name] - results[REFERENCE])
        edge = 2 * radius if name == THIRD_PARTY else 0
        inside = apart[edge : apart.shape[0] - edge, edge : apart.shape[1] - edge]
        versions.append(VersionTimes(name, tuple(seconds[name]), int(inside.max(initial=0))))
    return FilterTimes(size, radius, eps, tuple(versions))


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


def main() -> None:
    """Run the benchmark and write its result with the machine's fingerprint."""
    from labkit.core.machine import fingerprint

    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m labkit.filters.filter_benchmark FOLDER")
    found = time_versions(rounds=31)
    content = {**found.to_json(), "fingerprint": fingerprint()}
    write_atomic(Path(sys.argv[1]) / "filters.json", json.dumps(content, indent=1, default=str) + "\n")
    print("\n".join(found.sentences()))


if __name__ == "__main__":
    main()
