"""Segments of frames: decoded by tasks, answered and written by a pool of actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from labkit.core.errors import LabError
from labkit.core.types import Frame
from labkit.fleet.batch.videos import Batch, segment_path
from labkit.fleet.rows import write_rows

END_OF_VIDEO = -1
"""In place of a segment's number: a row about the whole video."""


def decode_segments(rows: Any, size: tuple[int, int], segment: int) -> Iterator[Any]:
    """The frames of videos, a table of one row per segment, and one at the end of each video.

    Args:
        rows: table of video, path, stamp, parts (segments to leave out).
    """
    for row in rows.to_pylist():
        yield from _decoded_one(row, size, segment)


def _decoded_one(row: dict[str, Any], size: tuple[int, int], segment: int) -> Iterator[Any]:
    from labkit.sources.openers import open_source

    held: list[bytes] = []
    n, expected, fps, fault = 0, 0, 0.0, ""
    finished = set(row["parts"])

    def told(number: int, frames: Sequence[bytes], count: int, why: str = "") -> Any:
        import pyarrow as pa

        plain = {"video": row["video"], "stamp": row["stamp"], "segment": number, "n": count, "fps": fps,
                 "expected": expected, "fault": why}  # fmt: skip
        columns = {key: pa.array([value]) for key, value in plain.items()}
        return pa.table({**columns, "frames": pa.array([b"".join(frames)], pa.large_binary())})

    try:
        with open_source(row["path"], size) as source:
            fps = source.fps or 0.0
            expected = -(-(source.length or 0) // segment)
            for frame in source:
                if n // segment not in finished:
                    held.append(frame.image.tobytes())
                n += 1
                if n % segment == 0 and held:
                    yield told(n // segment - 1, held, len(held))
                    held = []
    except LabError as error:
        fault = str(error)
    except Exception as error:  # whatever a decoder raises concerns this video alone
        fault = f"{row['video']} cannot be read: {type(error).__name__}: {error}"
    if held:
        yield told(n // segment, held, len(held))
    yield told(END_OF_VIDEO, [], n, fault)


class SegmentDetector:
    """An engine of the pool: networks, ready, that answer segments and write them."""

    def __init__(self, job: Batch, threads: int) -> None:
        from labkit.fleet.cores import set_threads
        from labkit.fleet.inference_engine import open_networks

        set_threads(threads)
        self._job = job
        self._fatal = ""
        self._net: Any = None
        self._facts: dict[str, Any] = {}
        try:
            self._net, self._facts = (job.open_net or open_networks)(job.rung, job.workload)
        except LabError as error:  # raised here it would be tried again and again
            self._fatal = str(error)

    def __call__(self, rows: Any) -> Any:
        """A table of segments -> what became of each."""
        import pyarrow as pa

        results = []
        for i in range(rows.num_rows):
            row = {name: rows[name][i].as_py() for name in rows.column_names if name != "frames"}
            boxes = 0
            if row["segment"] != END_OF_VIDEO and not self._fatal:
                try:
                    boxes = self._write(row, rows["frames"][i].as_buffer())
                except Exception as error:  # one segment's fault is told, and the rest goes on
                    row["fault"] = f"{row['video']}, segment {row['segment']}: {error}"
            kept = ("video", "segment", "n", "expected", "fault")
            results.append({**{key: row[key] for key in kept}, "boxes": boxes, "fatal": self._fatal})
        return pa.Table.from_pylist(results)

    def _write(self, row: dict[str, Any], content: Any) -> int:
        """Finds what is in a segment's frames and writes it; the number of boxes."""
        found = [found for _, found in self._job.rung.run(self._frames(row, content), self._net)]
        if len(found) != row["n"]:
            raise LabError(f"{self._job.rung.name} answered {len(found)} of {row['n']} frames")
        first = row["segment"] * self._job.segment
        columns: dict[str, list[Any]] = {"frame": list(range(first, first + row["n"]))}
        if row["fps"] > 0:
            columns["time_s"] = [index / row["fps"] for index in columns["frame"]]
        boxes = sum(len(each) for each in found)
        kept = ("weights", "weights_sha256")
        facts = {
            **{key: row[key] for key in ("video", "segment", "stamp")},
            "boxes": boxes,
            "rung": self._job.rung.name,
            **{key: self._facts[key] for key in kept if key in self._facts},
        }
        write_rows(segment_path(self._job, row["video"], row["segment"]), columns, found, facts)
        return boxes

    def _frames(self, row: dict[str, Any], content: Any) -> list[Frame]:
        import numpy as np

        width, height = self._job.workload.size
        # A copy: memory shared with other processes is not to be written.
        images = np.frombuffer(content, np.uint8).reshape(row["n"], height, width, 3).copy()
        return [Frame(image, i, 0.0) for i, image in enumerate(images)]
