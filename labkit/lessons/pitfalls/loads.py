"""Mistakes in what is fed: another workload, an empty one, or memory that is not as it will be."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from labkit.lessons.pitfalls.averages import FPS
from labkit.lessons.pitfalls.pitfall import Stand, jpeg
from labkit.lessons.pitfalls.result import Exhibit

BIG_BYTES = 192 * 2**20  # more than the caches of most machines hold


def unlike_workloads(stand: Stand) -> Exhibit:
    """Two sizes of input in one table."""
    large = [frame.image for frame in stand.stream(stand.per_round)]
    small = [shrunk(image) for image in large]
    wrong, right = [], []
    for _ in range(stand.rounds):
        before = stand.time_of(partial(_edges_of_all, stand, large))
        wrong.append(before / stand.time_of(partial(_edges_of_all, stand, small)))
        right.append(before / stand.time_of(partial(_edges_of_all, stand, large)))
    height, width = large[0].shape[:2]
    return Exhibit(
        name="unlike workloads in one table",
        unit="times faster (of a code against itself)",
        wrong_way=f"before at {width}x{height}, after at {small[0].shape[1]}x{small[0].shape[0]}",
        right_way=f"both at {width}x{height}",
        explanation="Nothing in the code changed, only the input shrank. A gain is told of one workload, "
        "which is fixed, hashed and written into the row.",
        origin="feeds its detector 400x400, then 500x500, then 640x480 between the rows of one table",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image at five eighths of its width and five sixths of its height: 640x480 to 400x400."""
    import cv2

    height, width = image.shape[:2]
    size = (max(1, width * 5 // 8), max(1, height * 5 // 6))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _edges_of_all(stand: Stand, images: list[NDArray[np.uint8]]) -> None:
    for image in images:
        stand.edges(image)


def fed_zeros(stand: Stand) -> Exhibit:
    """A benchmark whose frames are black."""
    black = jpeg(np.zeros_like(stand.frames[0].image))
    wrong, right = [], []
    for _ in range(stand.rounds):
        wrong.append(stand.per_round / stand.time_of(partial(_find_in, [black], stand.per_round)))
        right.append(stand.per_round / stand.time_of(partial(_find_in, stand.encoded, stand.per_round)))
    return Exhibit(
        name="a benchmark fed zeros",
        unit=FPS,
        wrong_way="every frame is black",
        right_way="frames of a real picture",
        explanation="Black frames decode faster and hold nothing to find, to crop or to name. What work "
        "there is depends on what is seen, so frames are pictures, and the number of boxes is fixed.",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def _find_in(encoded: list[NDArray[np.uint8]], n: int) -> None:
    """Decodes frames, finds the connected parts of their edges, and cuts the largest ones out."""
    import cv2

    for i in range(n):
        image = cv2.imdecode(encoded[i % len(encoded)], cv2.IMREAD_COLOR)
        edges = cv2.Canny(np.asarray(image), 60, 120)
        _, _, found, _ = cv2.connectedComponentsWithStats(edges)
        for x, y, width, height, _ in sorted(found[1:].tolist(), key=lambda part: -part[4])[:5]:
            cv2.resize(np.asarray(image)[y : y + height, x : x + width], (224, 224))


def hot_cache(stand: Stand, big_bytes: int = BIG_BYTES) -> Exhibit:
    """One frame, again and again, out of the cache."""
    image = stand.frames[0].image
    n = max(2, big_bytes // image.nbytes)
    many = np.repeat(image[None], n, axis=0)
    wrong, right = [], []
    for _ in range(stand.rounds):
        wrong.append(stand.time_of(lambda: [brightest(image) for _ in range(n)]) / n * 1e6)
        right.append(stand.time_of(lambda: [brightest(one) for one in many]) / n * 1e6)
    return Exhibit(
        name="a cache that is never cold",
        unit="us per frame",
        wrong_way="the same frame over and over",
        right_way=f"{n} frames in turn, {many.nbytes / 2**20:.0f} MiB of them",
        explanation="A frame that was just used lies in the cache; the next frame of a stream does not. Code "
        "that mostly moves memory looks faster than it will ever be.",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def brightest(image: NDArray[np.uint8]) -> int:
    """Work that only reads: the largest value in an image."""
    return int(image.max())


def page_faults(stand: Stand, big_bytes: int = BIG_BYTES // 3) -> Exhibit:
    """Memory that is touched for the first time inside the timer."""
    image = stand.frames[0].image
    n = max(2, big_bytes // image.nbytes)
    wrong, right = [], []
    for _ in range(stand.rounds):
        out = np.empty((n, *image.shape), np.uint8)  # fresh: the system has not given the pages yet
        wrong.append(stand.time_of(partial(_copy_into, out, image)) / n * 1e6)
        right.append(stand.time_of(partial(_copy_into, out, image)) / n * 1e6)
    return Exhibit(
        name="page faults",
        unit="us per frame",
        wrong_way="results written into memory that was never touched",
        right_way="the same memory, written before",
        explanation="The system hands out pages on first touch, one fault each. Allocate buffers once, use "
        "them in the warm-up, and time after that.",
        origin="allocates six buffers and frees them again in every frame",
        wrong_rounds=np.array(wrong),
        right_rounds=np.array(right),
    )


def _copy_into(out: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    for row in out:
        np.copyto(row, image)
