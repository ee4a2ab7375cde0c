"""Two frames deep: the host works on the next frame while the device works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from labkit.core.trace import span
from labkit.core.types import Detections, Frame
from labkit.models.fused import CopyBack, FusedNet

DEPTH = 2


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
