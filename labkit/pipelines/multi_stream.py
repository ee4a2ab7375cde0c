"""Steps of successive frames at the same time: a thread beside the engine, or CUDA streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from labkit.core.trace import span
from labkit.core.types import Detections, Frame
from labkit.pipelines.baseline import name_one_by_one, read_queries_one_by_one
from labkit.pipelines.filtered import smoothed
from labkit.pipelines.prefetch import ReadAhead

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.models.filter_stage import Filtered
    from labkit.models.fused import CopyBack, FusedNet
    from labkit.models.streamed import FrameRing, StagedNet, StreamedNet

AHEAD = 1
DEPTH = 2
Ring = TypeVar("Ring", bound="FrameRing")


def threaded(frames: Iterable[Frame], net: Filtered) -> Iterator[tuple[Frame, Detections]]:
    """A thread filters and prepares the next frame while the engine works on this one."""
    with ReadAhead(_prepared(frames, net), AHEAD) as ready:
        for frame, x in ready:
            with span("detect", frame):
                y = net.inner.detector.infer(x)
            with span("decode", frame):
                found = net.inner.detector.decode(y, frame.size)
            logits = []
            if len(found):
                with span("crop", frame):
                    crops = net.inner.classifier.crops(frame.image, found.xyxy)
                with span("classify", frame):
                    logits = [net.inner.classifier.infer(crops)]
            with span("name", frame):
                found = net.inner.classifier.name(found, logits)
            yield frame, found


def _prepared(frames: Iterable[Frame], net: Filtered) -> Iterator[tuple[Frame, Tensor]]:
    for frame in smoothed(frames, net):
        with span("preprocess", frame):
            x = net.inner.detector.preprocess(frame.image)
        yield frame, x


def baseline_streams(frames: Iterable[Frame], net: Filtered) -> Iterator[tuple[Frame, Detections]]:
    """The origin's two streams, both on the same frame, and nothing that makes one wait for the other.

    A mistake, kept as it was. The network reads its input on one stream while another may still be
    writing it; that it mostly goes well is luck. And nothing overlaps: the host waits for the
    network's answer before it takes the next frame.
    """
    inner = net.inner
    for frame in smoothed(frames, net):
        with net.streams.on("preprocess"), span("preprocess", frame):
            x = inner.detector.preprocess(frame.image)
        with net.streams.on("infer"):
            with span("detect", frame):
                logits, boxes = inner.detector.infer(x)
            with span("decode", frame):
                found = read_queries_one_by_one(logits[0], boxes[0], frame.size, inner)
            found = name_one_by_one(frame, found, inner)
        yield frame, found


def ring_of_streams(frames: Iterable[Frame], net: StreamedNet) -> Iterator[tuple[Frame, Detections]]:
    """Each step on a stream of its own; `net.depth` frames are under way at once.

    A frame's steps wait for one another on the device, not on the host. Its buffers are used
    again only after its answer has been fetched. Throughput rises, and so does latency: an
    answer is fetched only after later frames have been launched.
    """
    yield from in_a_ring(frames, net, launch)


def ring_of_stages(frames: Iterable[Frame], net: StagedNet) -> Iterator[tuple[Frame, Detections]]:
    """The classifier names frame i while the detector works on frame i + 1, each on its own stream."""
    yield from in_a_ring(frames, net, launch_stages)


def in_a_ring(
    frames: Iterable[Frame], net: Ring, launch: Callable[[Frame, int, Ring], None]
) -> Iterator[tuple[Frame, Detections]]:
    """Launches frames with `launch`, hands out slots, and fetches answers in order."""
    under_way: deque[tuple[Frame, int]] = deque()
    try:
        for number, frame in enumerate(frames):
            slot = number % net.depth
            launch(frame, slot, net)
            under_way.append((frame, slot))
            if len(under_way) == net.depth:
                yield _fetched(*under_way.popleft(), net)
        while under_way:
            yield _fetched(*under_way.popleft(), net)
    finally:
        net.streams.drain()  # whoever stops early leaves nothing that still writes into the ring


def launch(frame: Frame, slot: int, net: StreamedNet) -> None:
    """Puts one frame's steps onto their streams, each after the one before."""
    streams = net.streams
    with streams.on("upload"), span("upload", frame):
        net.upload(frame.image, slot)
    streams.after("filter", "upload")
    with streams.on("filter"), span("filter", frame):
        net.smooth(slot)
    streams.after("infer", "filter")
    with streams.on("infer"), span("infer", frame):
        net.infer(slot)
    streams.after("back", "infer")
    with streams.on("back"), span("copy back", frame):
        net.copy_back(slot)


def launch_stages(frame: Frame, slot: int, net: StagedNet) -> None:
    """As `launch`, with the detector on one stream and the classifier on another."""
    streams = net.streams
    with streams.on("upload"), span("upload", frame):
        net.upload(frame.image, slot)
    streams.after("detect", "upload")
    with streams.on("detect"), span("detect", frame):
        net.detect(slot)
    streams.after("name", "detect")
    with streams.on("name"), span("classify", frame):
        net.name(slot)
    streams.after("back", "name")
    with streams.on("back"), span("copy back", frame):
        net.copy_back(slot)


def _fetched(frame: Frame, slot: int, net: FrameRing) -> tuple[Frame, Detections]:
    with span("decode", frame):
        return frame, net.result(slot, frame.size)


def launched_ahead(frames: Iterable[Frame], net: FusedNet) -> Iterator[tuple[Frame, Detections]]:
    """Uploads and launches frame i + 1 before it waits for the answer to frame i.

    Throughput rises by the host's time per frame, and so does latency: the answer to a frame
    is fetched only after the next one has been launched.
    """
    waiting: deque[tuple[Frame, CopyBack]] = deque()
    for frame in frames:
        with span("preprocess", frame):
            x = net.preprocess(frame.image)
        with span("infer", frame):
            waiting.append((frame, net.start_copy(net.infer(x))))
        if len(waiting) == DEPTH:
            yield _finish(*waiting.popleft(), net)
    while waiting:
        yield _finish(*waiting.popleft(), net)


def _finish(frame: Frame, copy: CopyBack, net: FusedNet) -> tuple[Frame, Detections]:
    with span("decode", frame):
        return frame, net.unpack(net.finish_copy(copy), frame.size)
