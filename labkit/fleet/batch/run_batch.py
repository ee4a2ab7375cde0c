"""Recorded videos, processed as fast as a cluster can, a segment of frames at a time.

Ray Data streams the work: tasks decode, each video from its start, since only that is exact for
every container; a pool of actors finds and names; a segment's detections become one file of a
name that depends on nothing but video and segment. A file is there whole or not at all, so the
files are the record of what is done, whoever is killed, and the same run again goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from labkit.core.errors import LabError, UnavailableError, first_line
from labkit.fleet.batch.segments import END_OF_VIDEO, SegmentDetector, decode_segments
from labkit.fleet.batch.videos import (
    Batch,
    BatchSummary,
    Video,
    WorkList,
    list_videos,
    mark_finished,
    scan_video,
    segment_path,
)
from labkit.fleet.cluster import nodes
from labkit.fleet.rows import read_metadata


@dataclass
class _Progress:
    """How far the videos of a run are, and what went wrong."""

    todo: dict[str, Video]
    came: dict[str, set[int]] = field(default_factory=dict)  # segments finished in this run
    expected: dict[str, int] = field(default_factory=dict)  # segments, as stated or counted
    lengths: dict[str, int] = field(default_factory=dict)  # frames, counted
    faults: list[str] = field(default_factory=list)
    new_frames: int = 0

    def share(self) -> float:
        """By segments, each video weighing as much as it has bytes."""
        weight = sum(video.stamp[0] for video in self.todo.values()) or 1
        done = 0.0
        for name, video in self.todo.items():
            segments = self.expected.get(name, 0)
            here = len(self.came.get(name, ())) + len(video.parts)
            done += video.stamp[0] * (min(1.0, here / segments) if segments else 0.0)
        return done / weight


def process(
    job: Batch, work: WorkList, progress: Callable[[float, str], None] = lambda share, text: None
) -> BatchSummary:
    """Processes what is left; Ray is running already, unless nothing is left.

    Args:
        progress: called with the finished share, from 0 to 1, and a line of text.

    Raises:
        LabError: the networks cannot be prepared, or Ray gave the work up.
    """
    begun_s = time.monotonic()
    seen = _Progress({video.name: video for video in work.todo})
    for row in _stream(job, work) if work.todo else ():
        _note(job, seen, row)
        progress(seen.share(), f"{seen.new_frames} frames")
    return _outcome(job, seen, time.monotonic() - begun_s)


def _stream(job: Batch, work: WorkList) -> Iterator[dict[str, Any]]:
    """Results as they come: video, segment, n, boxes, expected, fault, fatal."""
    import ray

    _quieten(ray.data.DataContext.get_current(), job)
    items = [
        {"video": video.name, "path": video.path, "stamp": list(video.stamp), "parts": list(video.parts)}
        for video in work.todo
    ]
    engine, decoder, threads = _shares(job)
    videos: Any = ray.data.from_items(items, override_num_blocks=len(items))
    frames = videos.map_batches(
        decode_segments,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"size": job.workload.size, "segment": job.segment},
        **decoder,
    )
    results = frames.map_batches(
        SegmentDetector,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=job.engines),
        fn_constructor_kwargs={"job": job, "threads": threads},
        **engine,
    )
    try:
        yield from results.iter_rows()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LabError):
            raise error.cause from None
        raise LabError(f"the batch failed: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise LabError(f"the batch was given up ({first_line(error)}); start it again to go on") from error


def _note(job: Batch, seen: _Progress, row: dict[str, Any]) -> None:
    """Takes a result into account; a video whose segments are all there is marked as finished."""
    if row["fatal"]:
        raise LabError(row["fatal"])
    name, segment = row["video"], row["segment"]
    if row["fault"]:
        seen.faults.append(row["fault"])
        return
    if segment == END_OF_VIDEO:
        seen.lengths[name] = row["n"]
        seen.expected[name] = -(-row["n"] // job.segment)
    else:
        seen.expected.setdefault(name, row["expected"])
        seen.came.setdefault(name, set()).add(segment)
        seen.new_frames += row["n"]
    if name in seen.lengths:
        video = seen.todo[name]
        parts = seen.came.get(name, set()) | set(video.parts)
        if parts == set(range(seen.expected[name])):
            mark_finished(job, video, seen.lengths[name], sorted(parts))


def _outcome(job: Batch, seen: _Progress, seconds: float) -> BatchSummary:
    """What lies on disk, whoever made it."""
    finished = frames = boxes = parts = 0
    for video in (scan_video(job, path) for path in list_videos(job.folder)):
        facts = (
            [read_metadata(segment_path(job, video.name, n)) for n in video.parts]
            if video.whole is None
            else []
        )
        whole = video.whole or {}
        finished += video.whole is not None
        frames += whole.get("frames", 0) + sum(each["rows"] for each in facts)
        boxes += whole.get("boxes", 0) + sum(each["boxes"] for each in facts)
        parts += whole.get("segments", 0) + len(facts)
    return BatchSummary(finished, frames, boxes, parts, seen.new_frames, seconds, tuple(seen.faults))


def _shares(job: Batch) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What an engine and a decoder reserve, and how many threads an engine has.

    Raises:
        UnavailableError: the cluster has too few GPUs or cores for the engines.
    """
    machines = nodes()
    on_gpu = job.rung.prepare.device == "cuda"
    cores = sum(node.cpus for node in machines)
    there = int(sum(node.gpus for node in machines) if on_gpu else cores)
    if there < job.engines:
        raise UnavailableError(
            f"{job.engines} engines of {job.rung.name} want a {'GPU' if on_gpu else 'core'} each, and the "
            f"cluster has {there}; use fewer --engines, or a rung for another device"
        )
    # An engine and a decoder have to fit beside each other, on a machine of one core too; and were
    # their shares alike, Ray Data would decode inside the engines.
    share = 1.0 if cores > job.engines else 0.5
    engine = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": share}
    per_machine = -(-job.engines // max(1, len(machines)))
    threads = max(1, int(min((node.cpus for node in machines), default=1)) // per_machine)
    return engine, {"num_cpus": 0.5 * share}, threads


def _quieten(context: Any, job: Batch) -> None:
    """Ray Data's own bars and lines give way to ours; a block is about a segment, so memory stays bounded."""
    width, height = job.workload.size
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = max(2**20, job.segment * width * height * 3)
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
