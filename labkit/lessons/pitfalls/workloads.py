"""Pitfalls of the workload: another one, an empty one, or memory in an unusual state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from labkit.lessons.pitfalls.pitfall import FPS, pitfall
from labkit.lessons.pitfalls.setup import Setup, jpeg

CAMERA_FPS = 30.0
BIG_BYTES = 192 * 2**20  # more than the caches of most machines hold

Image = NDArray[np.uint8]
Pairs = Iterator[tuple[float, float]]


@pitfall(
    name="unlike workloads in one table",
    unit="times faster (of a code against itself)",
    wrong_way="before at full size, after at five eighths of the width and five sixths of the height",
    right_way="both at full size",
    explanation="Nothing in the code changed, only the input shrank. A gain is stated for one workload, "
    "which is fixed, hashed and written into the row.",
    origin="feeds its detector 400x400, then 500x500, then 640x480 between the rows of one table",
)
def unlike_workloads(setup: Setup) -> Pairs:
    """A smaller input for the second of two runs of the same code."""
    large = [frame.image for frame in setup.stream(setup.per_round)]
    small = [shrunk(image) for image in large]
    for _ in range(setup.rounds):
        before, smaller, after = (
            setup.time_of(partial(_edges_of_all, setup, images)) for images in (large, small, large)
        )
        yield before / smaller, before / after


def shrunk(image: Image) -> Image:
    """The image at five eighths of its width and five sixths of its height: 640x480 to 400x400."""
    import cv2

    height, width = image.shape[:2]
    size = (max(1, width * 5 // 8), max(1, height * 5 // 6))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _edges_of_all(setup: Setup, images: list[Image]) -> None:
    for image in images:
        setup.edges(image)


@pitfall(
    name="a benchmark fed zeros",
    unit=FPS,
    wrong_way="every frame is black",
    right_way="frames of a real picture",
    explanation="Black frames decode faster and hold nothing to find, to crop or to name. What work "
    "there is depends on what is seen, so frames are pictures, and the number of boxes is fixed.",
)
def fed_zeros(setup: Setup) -> Pairs:
    """Black frames against pictures."""
    black = [jpeg(np.zeros_like(setup.frames[0].image))]
    n = setup.per_round
    for _ in range(setup.rounds):
        wrong, right = (
            n / setup.time_of(partial(_crop_parts, frames, n)) for frames in (black, setup.encoded)
        )
        yield wrong, right


def _crop_parts(encoded: list[Image], n: int) -> None:
    """Decode frames, find the connected parts of their edges, and cut out the largest ones."""
    import cv2

    for i in range(n):
        image = cv2.imdecode(encoded[i % len(encoded)], cv2.IMREAD_COLOR)
        edges = cv2.Canny(np.asarray(image), 60, 120)
        _, _, found, _ = cv2.connectedComponentsWithStats(edges)
        for x, y, width, height, _ in sorted(found[1:].tolist(), key=lambda part: -part[4])[:5]:
            cv2.resize(np.asarray(image)[y : y + height, x : x + width], (224, 224))


@pitfall(
    name="a cache that is never cold",
    unit="us per frame",
    wrong_way="the same frame over and over",
    right_way="as many frames in turn as no cache holds",
    explanation="A frame that was just used lies in the cache; the next frame of a stream does not. Code "
    "that mostly moves memory looks faster than it will ever be.",
)
def hot_cache(setup: Setup, big_bytes: int = BIG_BYTES) -> Pairs:
    """One frame again and again, out of the cache, against a stream of frames."""
    image = setup.frames[0].image
    n = max(2, big_bytes // image.nbytes)
    many = np.repeat(image[None], n, axis=0)
    for _ in range(setup.rounds):
        wrong = setup.time_of(lambda: [brightest(image) for _ in range(n)])
        right = setup.time_of(lambda: [brightest(one) for one in many])
        yield wrong / n * 1e6, right / n * 1e6


def brightest(image: Image) -> int:
    """Largest value in an image: work that only reads."""
    return int(image.max())


@pitfall(
    name="page faults",
    unit="us per frame",
    wrong_way="results written into memory that was never touched",
    right_way="the same memory, written before",
    explanation="The system hands out pages on first touch, one fault each. Allocate buffers once, use "
    "them in the warm-up, and time after that.",
    origin="allocates six buffers and frees them again in every frame",
)
def page_faults(setup: Setup, big_bytes: int = BIG_BYTES // 3) -> Pairs:
    """Memory that is touched for the first time inside the timer."""
    image = setup.frames[0].image
    n = max(2, big_bytes // image.nbytes)
    for _ in range(setup.rounds):
        out = np.empty((n, *image.shape), np.uint8)  # fresh: the system has not given the pages yet
        first, second = (setup.time_of(partial(_copy_into, out, image)) for _ in range(2))
        yield first / n * 1e6, second / n * 1e6


def _copy_into(out: Image, image: Image) -> None:
    for row in out:
        np.copyto(row, image)


@pitfall(
    name="a pipeline that never naps",
    unit="ms per frame",
    wrong_way="frames taken as fast as it can",
    right_way=f"frames that fall due {CAMERA_FPS:g} times a second, with naps in between",
    explanation="A camera leaves a pipeline without work between frames: threads go to sleep, the clock "
    "falls, others use the caches, and each frame pays for waking up. For the latency behind a camera "
    "feed a pipeline at the camera's rate: labkit.bench(..., paced=(10, 15, 30)).",
)
def never_napping(setup: Setup, fps: float = CAMERA_FPS) -> Pairs:
    """The median time of the same work back to back, and fed as by a camera."""
    frames = setup.identical(max(5, setup.per_round // 4))
    for _ in range(setup.rounds):
        busy = np.median(setup.time_each(frames))
        times, due = [], setup.clock.now()
        for frame in frames:
            due += 1 / fps
            setup.clock.sleep(max(0.0, due - setup.clock.now()))
            times.append(setup.time_of(partial(setup.task, frame)))
        yield 1e3 * float(busy), 1e3 * float(np.median(times))
