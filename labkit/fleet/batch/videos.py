"""The videos of a batch and what lies on disk of each: files that are there whole are the record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.core.errors import ResultsError, SourceError, UsageError
from labkit.core.files import write_atomic
from labkit.core.types import Rung, Workload
from labkit.fleet.fleet_plan import OpenNetworks
from labkit.fleet.rows import read_metadata
from labkit.sources.spec import RECORDED_SUFFIXES

SEGMENT = 32
MOST_SEGMENT_BYTES = 100_000_000
_ABOUT = "batch.json"
_DONE = "video.json"


@dataclass(frozen=True)
class Batch:
    """What is processed, how, and where to.

    Attributes:
        folder: of videos, searched below too.
        out: one folder per video, one file per segment.
        rung, workload: what is done with every frame.
        segment: frames per file.
        engines: how many; each has a GPU, or its share of the cores.
        open_net: makes the networks ready; None prepares the rung's own.
    """

    folder: Path
    out: Path
    rung: Rung
    workload: Workload
    segment: int = SEGMENT
    engines: int = 1
    open_net: OpenNetworks | None = None

    def __post_init__(self) -> None:
        width, height = self.workload.size
        if self.segment < 1:
            raise UsageError(f"a segment has one frame or more, not {self.segment}")
        if self.engines < 1:
            raise UsageError(f"a batch has one engine or more, not {self.engines}")
        if self.segment * width * height * 3 > MOST_SEGMENT_BYTES:
            most = max(1, MOST_SEGMENT_BYTES // (width * height * 3))
            raise UsageError(
                f"a segment of {self.segment} frames of {width}x{height} is too large to travel; "
                f"use --segment {most} or fewer, or a smaller --size"
            )

    def about(self) -> dict[str, Any]:
        """What decides the content of every file."""
        workload = self.workload
        return {
            "rung": self.rung.name,
            "preparation": self.rung.prepare.describe(),
            "model_set": workload.model_set,
            "weights": workload.weights,
            "size": list(workload.size),
            "objects": workload.objects,
            "threshold": workload.threshold,
            "seed": workload.seed,
            "segment": self.segment,
        }


@dataclass(frozen=True)
class Video:
    """A recording and what there is of it.

    Attributes:
        name: its path inside the folder, with slashes.
        path: from the root.
        stamp: size in bytes and time of change, by which another file of that name is noticed.
        parts: segments that are finished.
        whole: frames, boxes and segments, once all are.
    """

    name: str
    path: str
    stamp: tuple[int, int]
    parts: tuple[int, ...] = ()
    whole: dict[str, int] | None = None


@dataclass(frozen=True)
class WorkList:
    """The videos of a batch, those that are finished apart."""

    todo: tuple[Video, ...]
    finished: tuple[Video, ...]


@dataclass(frozen=True)
class BatchSummary:
    """What there is once a batch has run.

    Attributes:
        videos: finished ones.
        frames, boxes, parts: on disk, of all videos and runs.
        new_frames, seconds: of this run.
        faults: a sentence for each video or segment that could not be processed.
    """

    videos: int
    frames: int
    boxes: int
    parts: int
    new_frames: int = 0
    seconds: float = 0.0
    faults: tuple[str, ...] = ()


def scan_folder(job: Batch) -> WorkList:
    """The videos of the folder, with what earlier runs have finished; leftovers of a kill are removed.

    Raises:
        SourceError: there is no folder, or no video in it.
        UsageError: `out` holds the work of another rung, size, ... .
        ResultsError: `out` holds files that cannot be read.
    """
    if not job.folder.is_dir():
        raise SourceError(f"there is no folder {job.folder}; name one that holds videos")
    paths = list_videos(job.folder)
    if not paths:
        kinds = " ".join(sorted(RECORDED_SUFFIXES))
        raise SourceError(f"there is no video in {job.folder} ({kinds}); name another folder")
    _check_same_work(job)
    for left in job.out.rglob(".segment-*"):
        left.unlink(missing_ok=True)
    videos = [scan_video(job, path) for path in paths]
    return WorkList(
        tuple(video for video in videos if video.whole is None),
        tuple(video for video in videos if video.whole is not None),
    )


def mark_finished(job: Batch, video: Video, frames: int, parts: Sequence[int]) -> None:
    """Notes that every segment of a video is there, so that it need not be decoded again."""
    boxes = sum(read_metadata(segment_path(job, video.name, n))["boxes"] for n in parts)
    told = {"frames": frames, "boxes": boxes, "segments": len(parts), "stamp": list(video.stamp)}
    write_atomic(job.out / video.name / _DONE, json.dumps(told) + "\n")


def segment_path(job: Batch, video: str, segment: int) -> Path:
    """Where a segment's detections go."""
    return job.out.absolute() / video / f"segment-{segment:06d}.parquet"


def list_videos(folder: Path) -> list[Path]:
    """The recordings of a folder and those below, in order."""
    return sorted(path for path in folder.rglob("*")
                  if path.suffix.lower() in RECORDED_SUFFIXES and path.is_file())  # fmt: skip


def scan_video(job: Batch, path: Path) -> Video:
    """A video with its finished segments; those of another file of that name are removed."""
    about = path.stat()
    video = Video(
        path.relative_to(job.folder).as_posix(), str(path.absolute()), (about.st_size, int(about.st_mtime))
    )
    folder = job.out / video.name
    whole = _read_json(folder / _DONE)
    if whole is not None and tuple(whole.get("stamp", ())) == video.stamp:
        return replace(video, whole={key: int(whole[key]) for key in ("frames", "boxes", "segments")})
    parts = []
    for part in sorted(folder.glob("segment-*.parquet")):
        facts = read_metadata(part)
        if tuple(facts["stamp"]) == video.stamp:
            parts.append(int(facts["segment"]))
        else:
            part.unlink()
    return replace(video, parts=tuple(parts))


def _check_same_work(job: Batch) -> None:
    """A folder holds the work of one rung, size, ...; said in a file that is written first."""
    path = job.out / _ABOUT
    wanted = json.loads(json.dumps(job.about()))
    known = _read_json(path)
    if known is None:
        write_atomic(path, json.dumps(wanted, indent=2) + "\n")
    elif known != wanted:
        differing = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
        raise UsageError(
            f"{job.out} holds detections made with another {' and '.join(differing)}; "
            "choose another --out, or the options of that run"
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read ({error}); move it out of the folder") from error
