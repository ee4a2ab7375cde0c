"""Detections of recorded videos, as fast as a cluster can, one segment of frames at a time.

Ray Data streams the work: tasks decode each video from its start, since only that is exact for every
container, and a pool of actors detects. A segment's detections become one file, named by video and
segment alone and written atomically. So the files record what is done, whoever is killed, and the same
batch started again continues.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from labkit.core.errors import LabError, ResultsError
from labkit.fleet.batch.segments import END_OF_VIDEO, SegmentDetector, decode_segments
from labkit.fleet.batch.videos import Batch, BatchSummary, Video, mark_finished
from labkit.fleet.cluster import nodes, ray_errors
from labkit.fleet.cores import check_capacity, threads_per_engine
from labkit.fleet.rows import read_metadata
from labkit.fleet.run_fleet import READY_S

T = TypeVar("T")


@dataclass
class _Progress:
    """Progress and errors of the videos of a run.

    Attributes:
        todo: videos by name.
        done: segments of each video that were finished in this run.
        expected: number of segments of each video, as its container states or as counted.
        lengths: frames of each video that was decoded to its end.
        faults: errors, as sentences.
        unsaved: what could not be written, as sentences.
        notes: what was skipped in a video, as sentences.
        new_frames: frames processed in this run.
        finished: number of videos that were finished in this run.
    """

    todo: dict[str, Video]
    done: dict[str, set[int]] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unsaved: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    new_frames: int = 0
    finished: int = 0

    def share(self) -> float:
        """Finished share from 0 to 1, by segments; videos are weighted by their bytes."""
        weight = sum(video.stamp[0] for video in self.todo.values()) or 1
        finished = 0.0
        for name, video in self.todo.items():
            expected = self.expected.get(name, 0)
            segments = len(self.done.get(name, ())) + len(video.parts)
            finished += video.stamp[0] * (min(1.0, segments / expected) if expected else 0.0)
        return finished / weight

    def add(self, batch: Batch, row: dict[str, Any]) -> None:
        """Add a result; marks a video as finished once all of its segments are there.

        Raises:
            LabError: the networks cannot be prepared.
        """
        if row["fatal"]:
            raise LabError(row["fatal"])
        name, segment = os.fsdecode(row["video"]), row["segment"]
        if row["fault"]:
            (self.unsaved if row["unsaved"] else self.faults).append(row["fault"])
            self.new_frames += row["n"] if row["unsaved"] else 0
            return
        if segment == END_OF_VIDEO:
            self.lengths[name] = row["n"]
            self.notes += [row["note"]] if row["note"] else []
            self.expected[name] = -(-row["n"] // batch.segment)
        else:
            self.expected.setdefault(name, row["expected"])
            self.done.setdefault(name, set()).add(segment)
            self.new_frames += row["n"]
        if name in self.lengths:
            video = self.todo[name]
            parts = self.done.get(name, set()) | set(video.parts)
            if parts == set(range(self.expected[name])):
                try:
                    mark_finished(batch, video, self.lengths[name])
                    self.finished += 1
                except ResultsError as error:  # its segments are there; the next run finds them
                    self.unsaved.append(f"{name}: {error}")


def process(
    batch: Batch, videos: Sequence[Video], report: Callable[[float, str], None] = lambda share, text: None
) -> BatchSummary:
    """Process the videos that are not finished; Ray must be running unless there are none.

    Args:
        batch: settings.
        videos: from `scan_folder`.
        report: called with the finished share, from 0 to 1, and a line of text.

    Raises:
        LabError: the networks cannot be prepared, or Ray gave up.
        UnavailableError: the cluster has too few GPUs or cores for the engines.
    """
    begun_s = time.monotonic()
    progress = _Progress({video.name: video for video in videos if not video.finished})
    for row in _results(batch, list(progress.todo.values())) if progress.todo else ():
        progress.add(batch, row)
        report(progress.share(), f"{progress.new_frames} frames")
    return _summary(batch, progress, len(videos) - len(progress.todo), time.monotonic() - begun_s)


def _results(batch: Batch, todo: Sequence[Video]) -> Iterator[dict[str, Any]]:
    """Yield results as they come: video, segment, n, boxes, expected, fault, unsaved, note, fatal."""
    import ray

    check_capacity(batch.rung, batch.engines)
    _configure(ray.data.DataContext.get_current(), batch)
    items = [
        {
            "video": os.fsencode(video.name),  # a file's name need not be the text that Arrow's strings are
            "path": os.fsencode(video.path),
            "stamp": list(video.stamp),
            "parts": list(video.parts),
        }
        for video in todo
    ]
    # An engine and a decoder have to fit beside each other, also on a machine with one core. With equal
    # shares, Ray Data would decode inside the engines.
    share = 1.0 if sum(node.cpus for node in nodes()) > batch.engines else 0.5
    on_gpu = batch.rung.prepare.device == "cuda"
    engine = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": share}
    videos: Any = ray.data.from_items(items, override_num_blocks=len(items))
    frames = videos.map_batches(
        decode_segments,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={
            "size": batch.workload.size,
            "segment": batch.segment,
            "fit": batch.workload.fit,
            "open_timeout_s": batch.timeouts_s[0],
            "read_timeout_s": batch.timeouts_s[1],
        },
        num_cpus=0.5 * share,
    )
    results = frames.map_batches(
        SegmentDetector,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=batch.engines),
        fn_constructor_kwargs={"batch": batch, "threads": threads_per_engine(batch.engines)},
        **engine,
    )
    with ray_errors("the batch failed and can be resumed"):
        yield from each_within(READY_S, results.iter_rows())


def each_within(deadline_s: float, items: Iterable[T]) -> Iterator[T]:
    """The items, each of which has to come within a deadline.

    Raises:
        LabError: one did not; what the items raise is raised here.
    """
    come: queue.Queue[tuple[str, Any]] = queue.Queue(1)

    def fetch() -> None:
        try:
            for item in items:
                come.put(("item", item))
            come.put(("end", None))
        except BaseException as error:
            come.put(("error", error))

    threading.Thread(target=fetch, name="labkit batch", daemon=True).start()
    while True:
        try:
            kind, value = come.get(timeout=deadline_s)
        except queue.Empty:
            raise LabError(
                f"the batch gave no result for {deadline_s:g} s and was ended; the same command resumes it"
            ) from None
        if kind == "end":
            return
        if kind == "error":
            raise value
        yield value


def _summary(batch: Batch, progress: _Progress, before: int, seconds: float) -> BatchSummary:
    """Totals of what is on disk, of this run and earlier ones."""
    frames = boxes = parts = 0
    for path in batch.out.rglob("segment-*.parquet"):
        try:
            facts = read_metadata(path)
        except ResultsError as error:
            progress.faults.append(str(error))
        else:
            frames, boxes, parts = frames + facts["rows"], boxes + facts["boxes"], parts + 1
    return BatchSummary(
        before + progress.finished, frames, boxes, parts, progress.new_frames, seconds,
        tuple(progress.faults), tuple(progress.unsaved), tuple(progress.notes),
    )  # fmt: skip


def _configure(context: Any, batch: Batch) -> None:
    """Silence Ray Data's own output, and make a block about a segment, which bounds memory."""
    width, height = batch.workload.size
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = max(2**20, batch.segment * width * height * 3)
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
