"""The guided filter's CPU versions against one another, in turns on one frame.

    python -m labkit.filters.filter_benchmark results/reference/MACHINE

writes `filters.json` there, for whoever shows it. Where OpenCV has its extra modules (package
opencv-contrib-python), its own guided filter runs along as a peer.
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

REFERENCE, COMPOSED, PEER = "reference", "opencv", "ximgproc"
VERSIONS = (REFERENCE, COMPOSED, "torch", "numba")


@dataclass(frozen=True)
class Racer:
    """What one version did.

    Attributes:
        version: its name.
        seconds: of each round's call, in the order of rounds.
        largest_difference: in grey levels from the float64 reference; of the peer, whose windows
            are mirrored at the border instead of clipped, away from the border only.
    """

    version: str
    seconds: tuple[float, ...]
    largest_difference: int

    @property
    def median_ms(self) -> float:
        """Median time of a call."""
        return 1e3 * float(np.median(self.seconds))


@dataclass(frozen=True)
class Race:
    """Times of several versions on one frame.

    Attributes:
        size: (width, height) of the frame, which has three channels.
        radius, eps: of the filter.
        racers: one per version.
    """

    size: Size
    radius: int
    eps: float
    racers: tuple[Racer, ...]

    def of(self, version: str) -> Racer:
        """What a version did.

        Raises:
            UsageError: it did not run.
        """
        for racer in self.racers:
            if racer.version == version:
                return racer
        raise UsageError(f"{version!r} did not run; there are {', '.join(r.version for r in self.racers)}")

    def ratio(self, version: str, to: str = REFERENCE) -> tuple[float, stats.Interval]:
        """How many times faster a version is than another: median over rounds, 95% interval."""
        ratios = np.array(self.of(to).seconds) / np.array(self.of(version).seconds)
        return float(np.median(ratios)), stats.ratio_interval(ratios)

    def table(self) -> pd.DataFrame:
        """One row per version: ms, times faster than the reference with interval, difference from it."""
        import pandas as pd

        rows = []
        for racer in self.racers:
            ratio, interval = self.ratio(racer.version)
            rows.append(
                {
                    "version": racer.version,
                    "median ms": round(racer.median_ms, 2),
                    "times faster": round(ratio, 2),
                    "interval": stats.format_interval(interval),
                    "largest difference": racer.largest_difference,
                }
            )
        return pd.DataFrame(rows)

    def sentences(self) -> list[str]:
        """Each version beside the composition of OpenCV's box filters, in words."""
        width, height = self.size
        base = self.of(COMPOSED)
        lines = [
            f"Guided filter, {width}x{height}x3, radius {self.radius}: OpenCV's box filters put together "
            f"take {base.median_ms:.2f} ms (median of {len(base.seconds)} rounds, all versions in turns)."
        ]
        for racer in sorted(self.racers, key=lambda racer: racer.median_ms):
            if racer.version == COMPOSED:
                continue
            ratio, interval = self.ratio(racer.version, COMPOSED)
            where = " away from the border, where its windows differ" if racer.version == PEER else ""
            most = racer.largest_difference
            apart = f", within {most} grey level{'' if most == 1 else 's'} of float64{where}"
            lines.append(
                f"{racer.version}: {racer.median_ms:.2f} ms, {ratio:.2f} times as fast "
                f"({stats.format_interval(interval)}){'' if racer.version == REFERENCE else apart}."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Race:
        """What `to_json` gave; other keys are passed over."""
        racers = tuple(Racer(**{**each, "seconds": tuple(each["seconds"])}) for each in values["racers"])
        width, height = values["size"]
        return Race((width, height), values["radius"], values["eps"], racers)


def race(
    radius: int = 4, eps: float = 0.01, *, size: Size = (640, 480), rounds: int = 9, source: str = "photos"
) -> Race:
    """Lets all CPU versions take turns on the first frame of a source.

    Args:
        radius, eps: see `guided_filter`.
        size: (width, height) of the frame.
        rounds: turns of each version, after one that is not timed.
        source: see `open_source`.
    """
    image = first_frame(source, size).image
    work = {name: partial(guided_filter, image, radius, eps, version=name) for name in VERSIONS}
    if has_peer():
        work[PEER] = partial(peer, image, radius, eps)
    results = {name: call().astype(int) for name, call in work.items()}  # and warm
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds):
        for name in list(work) if turn % 2 == 0 else reversed(work):
            begun = time.perf_counter()
            work[name]()
            seconds[name].append(time.perf_counter() - begun)
    racers = []
    for name in work:
        apart = np.abs(results[name] - results[REFERENCE])
        edge = 2 * radius if name == PEER else 0
        inside = apart[edge : apart.shape[0] - edge, edge : apart.shape[1] - edge]
        racers.append(Racer(name, tuple(seconds[name]), int(inside.max(initial=0))))
    return Race(size, radius, eps, tuple(racers))


def has_peer() -> bool:
    """Whether this OpenCV brings a guided filter of its own."""
    import cv2

    return hasattr(cv2, "ximgproc")


def peer(image: Image, radius: int, eps: float) -> Image:
    """OpenCV's own guided filter, each channel guided by itself; (H, W, C) uint8 as `guided_filter`.

    It takes eps in squared grey levels, and mirrors the image at its border.
    """
    import cv2

    with_extra: Any = cv2
    guided = with_extra.ximgproc.guidedFilter
    channels = (np.ascontiguousarray(image[..., c]) for c in range(image.shape[2]))
    return np.stack([guided(one, one, radius, eps * 255**2) for one in channels], axis=-1)


def main() -> None:
    """Runs the race and writes what came out, with the machine's fingerprint."""
    from labkit.core.machine import fingerprint

    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m labkit.filters.filter_benchmark FOLDER")
    found = race(rounds=31)
    told = {**found.to_json(), "fingerprint": fingerprint()}
    write_atomic(Path(sys.argv[1]) / "filters.json", json.dumps(told, indent=1, default=str) + "\n")
    print("\n".join(found.sentences()))


if __name__ == "__main__":
    main()
