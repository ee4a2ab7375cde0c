"""Segments of frames: decoding as a Ray task, detection and writing as an actor of a pool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from labkit.core.errors import LabError, ResultsError
from labkit.core.terminal import printable
from labkit.core.types import Frame, Size
from labkit.fleet.batch.videos import Batch, segment_path
from labkit.fleet.rows import write_rows
from labkit.fleet.streams import check_frame_size
from labkit.sources.convert import placement

END_OF_VIDEO = -1
"""Segment number of the row that ends a video: `n` is its length in frames."""


def decode_segments(rows: Any, size: Size, segment: int, **opening: Any) -> Iterator[Any]:
    """Decode videos into tables of one row: each segment, and the end of each video.

    Args:
        rows: table of video and path (in bytes), stamp, parts (segments to leave out).
        size: (width, height) px of the frames.
        segment: frames per segment.
        opening: further arguments of `open_source`: fit, open_timeout_s, read_timeout_s.

    Yields:
        Tables of video, stamp, segment, n (frames), times_s and originals
        (time, and size before it was fitted, of each), expected (segments), fault,
        note, frames (n * height * width * 3 bytes RGB).
    """
    for row in rows.to_pylist():
        yield from _decode_video(row, size, segment, opening)


def _decode_video(video: dict[str, Any], size: Size, segment: int, opening: dict[str, Any]) -> Iterator[Any]:
    from labkit.sources.openers import open_source

    held: list[bytes] = []
    times_s: list[float] = []
    originals: list[Size] = []
    n, expected, fault, note = 0, 0, "", ""
    finished = set(video["parts"])

    def row(number: int, count: int, why: str = "") -> Any:
        import pyarrow as pa

        plain = {"video": video["video"], "stamp": video["stamp"], "segment": number, "n": count,
                 "expected": expected, "fault": why, "note": note}  # fmt: skip
        columns = {key: pa.array([value]) for key, value in plain.items()}
        columns["times_s"] = pa.array([times_s], pa.list_(pa.float64()))
        columns["originals"] = pa.array([originals], pa.list_(pa.list_(pa.int32())))
        return pa.table({**columns, "frames": pa.array([b"".join(held)], pa.large_binary())})

    try:
        with open_source(os.fsdecode(video["path"]), size, **opening) as source:
            expected = -(-(source.length or 0) // segment)
            for frame in source:
                check_frame_size(frame.size, size)
                if n // segment not in finished:
                    held.append(frame.image.tobytes())
                    originals.append(frame.placed.original if frame.placed is not None else frame.size)
                    times_s.append(frame.time_s if frame.time_s is not None else n / (source.fps or 30.0))
                n += 1
                if n % segment == 0 and held:
                    yield row(n // segment - 1, len(held))
                    held, times_s, originals = [], [], []
            note = source.note
    except LabError as error:
        fault = str(error)
    except Exception as error:  # whatever a decoder raises concerns this video alone
        name = os.fsdecode(video["video"])
        fault = printable(f"cannot read {name}: {type(error).__name__}: {error}")
    if held:
        yield row(n // segment, len(held))
        held, times_s, originals = [], [], []
    yield row(END_OF_VIDEO, n, fault)


class SegmentDetector:
    """Detects in segments and writes their files; an actor that keeps the networks ready."""

    def __init__(self, batch: Batch, threads: int) -> None:
        from labkit.fleet.cores import set_threads
        from labkit.fleet.inference_engine import open_networks

        set_threads(threads)
        self._batch = batch
        self._fatal = ""
        self._net: Any = None
        self._facts: dict[str, Any] = {}
        try:
            self._net, self._facts = (batch.open_net or open_networks)(batch.rung, batch.workload)
        except LabError as error:  # if it were raised here, Ray would retry again and again
            self._fatal = str(error)

    def __call__(self, rows: Any) -> Any:
        """Process a table of segments; returns one of results, see `run_batch`."""
        import pyarrow as pa

        results = []
        for i in range(rows.num_rows):
            row = {name: rows[name][i].as_py() for name in rows.column_names if name != "frames"}
            boxes, unsaved = 0, False
            if row["segment"] != END_OF_VIDEO and not self._fatal:
                try:
                    boxes = self._process(row, rows["frames"][i].as_buffer())
                except Exception as error:  # reported as this segment's fault; the others go on
                    name = os.fsdecode(row["video"])
                    row["fault"] = printable(f"{name}, segment {row['segment']}: {error}")
                    unsaved = isinstance(error, ResultsError)
            kept = {key: row[key] for key in ("video", "segment", "n", "expected", "fault", "note")}
            results.append({**kept, "boxes": boxes, "unsaved": unsaved, "fatal": self._fatal})
        return pa.Table.from_pylist(results)

    def _process(self, row: dict[str, Any], content: Any) -> int:
        """Detect in a segment's frames and write its file; returns the number of boxes."""
        found = [found for _, found in self._batch.rung.run(self._frames(row, content), self._net)]
        if len(found) != row["n"]:
            raise LabError(f"{self._batch.rung.name} returned results for {len(found)} of {row['n']} frames")
        size, fit = self._batch.workload.size, self._batch.workload.fit
        originals = [(width, height) for width, height in row["originals"]]
        found = [
            placement(original, size, fit).to_original(each)
            for original, each in zip(originals, found, strict=True)
        ]
        video = os.fsdecode(row["video"])
        first = row["segment"] * self._batch.segment
        columns = {"frame": list(range(first, first + row["n"])), "time_s": row["times_s"]}
        boxes = sum(len(each) for each in found)
        kept = ("weights", "weights_sha256")
        facts = {
            "video": video,
            **{key: row[key] for key in ("segment", "stamp")},
            "boxes": boxes,
            "size": list(size),
            "fit": fit,
            "original_size": list(originals[0]),
            "rung": self._batch.rung.name,
            **{key: self._facts[key] for key in kept if key in self._facts},
        }
        write_rows(segment_path(self._batch, video, row["segment"]), columns, found, facts)
        return boxes

    def _frames(self, row: dict[str, Any], content: Any) -> list[Frame]:
        import numpy as np

        width, height = self._batch.workload.size
        # A copy: Ray's shared memory is read-only.
        images = np.frombuffer(content, np.uint8).reshape(row["n"], height, width, 3).copy()
        return [Frame(image, i, 0.0) for i, image in enumerate(images)]
