"""Films made for tests: H.264 in which frame k has a grey level of its own, with faults put in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

GRAIN = np.random.default_rng(0).integers(0, 16, (96, 128, 3), np.uint8)


@contextmanager
def scheduled_as_before() -> Iterator[None]:
    """SVT-AV1 gives its caller's thread, where root runs it, real-time priority, which children inherit."""
    try:
        yield
    finally:
        if hasattr(os, "sched_setscheduler"):
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


def film(
    path: Path,
    times: Sequence[int],
    rate: int = 25,
    key_every: int = 10,
    *,
    fragmented: bool = False,
    **options: str,
) -> Path:
    """A film whose frame k has grey level 8 k (below 240) and is shown at times[k] / rate seconds."""
    import av

    in_pieces = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    with av.open(str(path), "w", options=in_pieces) as out:
        stream = out.add_stream("libx264", rate=rate, options={"bf": "0", **options})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.gop_size, stream.time_base = key_every, Fraction(1, rate)
        for k, at in enumerate(times):
            frame = av.VideoFrame.from_ndarray(GRAIN + np.uint8(8 * k % 240), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """(position, bytes) in the file of each packet of its film."""
    import av

    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size]


def damage(path: Path, which: Sequence[int]) -> Path:
    """Overwrites packets of a film with noise."""
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(1)
    for k in which:
        at, size = packets(path)[k]
        data[at : at + size] = rng.integers(128, 256, size, np.uint8).tobytes()
    path.write_bytes(data)
    return path


def trim(path: Path, to: Path, first: int) -> Path:
    """Cuts a film at frame `first` without encoding it anew: what is before it stays, in an edit list."""
    import av

    with av.open(str(path)) as whole, av.open(str(to), "w") as out:
        stream = whole.streams.video[0]
        copy = out.add_stream_from_template(stream)
        shift = round(first / stream.average_rate / stream.time_base)
        for packet in whole.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                out.mux(packet)
    return to
