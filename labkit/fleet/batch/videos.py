"""Videos of a batch, and their finished segments on disk."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.core.errors import SourceError, UsageError
from labkit.core.files import write_atomic
from labkit.core.read_json import read_json
from labkit.core.types import Rung, Workload
from labkit.fleet.fleet_plan import OpenNetworks
from labkit.fleet.rows import read_metadata
from labkit.sources.pictures import count_pictures
from labkit.sources.spec import VIDEO_SUFFIXES, natural_order, shown_path
from labkit.sources.video import is_film

SEGMENT = 32
MAX_SEGMENT_BYTES = 100_000_000
ABANDONED_S = 60.0
"""Age of a partial file from which the process that wrote it was killed; a younger one may be another's."""
_SETTINGS_FILE = "batch.json"
_FINISHED_FILE = "video.json"


@dataclass(frozen=True)
class Batch:
    """Settings of a batch.

    Attributes:
        folder: of videos, searched recursively.
        out: folder of the detections: a folder per video, a file per segment.
        rung, workload: the processing of every frame.
        segment: frames per file.
        engines: number of engines; each has a GPU, or its share of the cores.
        open_net: prepares the networks; None prepares the rung's own.
        timeouts_s: longest waits for a video to open, and for a frame of it.

    Raises:
        UsageError: a value is out of range.
    """

    folder: Path
    out: Path
    rung: Rung
    workload: Workload
    segment: int = SEGMENT
    engines: int = 1
    open_net: OpenNetworks | None = None
    timeouts_s: tuple[float, float] = (5.0, 2.0)

    def __post_init__(self) -> None:
        width, height = self.workload.size
        if self.segment < 1:
            raise UsageError(f"a segment needs at least one frame, not {self.segment}")
        if self.engines < 1:
            raise UsageError(f"a batch needs at least one engine, not {self.engines}")
        if self.segment * width * height * 3 > MAX_SEGMENT_BYTES:
            most = max(1, MAX_SEGMENT_BYTES // (width * height * 3))
            raise UsageError(
                f"a segment of {self.segment} frames of {width}x{height} is too large to send; "
                f"use --segment {most} or fewer, or a smaller --size"
            )

    def settings(self) -> dict[str, Any]:
        """Settings that the content of the files depends on, as plain data."""
        workload = self.workload
        return {
            "rung": self.rung.name,
            "preparation": self.rung.prepare.describe(),
            "model_set": workload.model_set,
            "weights": workload.weights,
            "size": list(workload.size),
            "fit": workload.fit,
            "objects": workload.objects,
            "threshold": workload.threshold,
            "seed": workload.seed,
            "segment": self.segment,
        }


@dataclass(frozen=True)
class Video:
    """A recording and its finished segments.

    Attributes:
        name: path inside the folder, with slashes.
        path: absolute path.
        stamp: size in bytes and modification time; they detect another file of that name.
        parts: numbers of finished segments.
        finished: True if all of its segments are there.
    """

    name: str
    path: str
    stamp: tuple[int, int]
    parts: tuple[int, ...] = ()
    finished: bool = False


@dataclass(frozen=True)
class BatchSummary:
    """Totals after a batch has run.

    Attributes:
        videos: number of finished videos.
        frames, boxes, parts: on disk, of all videos and runs.
        new_frames, seconds: of this run.
        faults: a sentence for each video or segment that could not be processed.
        unsaved: a sentence for each segment that could not be written.
        notes: a sentence for each video of which damaged packets were skipped.
    """

    videos: int
    frames: int
    boxes: int
    parts: int
    new_frames: int = 0
    seconds: float = 0.0
    faults: tuple[str, ...] = ()
    unsaved: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def scan_folder(batch: Batch) -> list[Video]:
    """Find the folder's videos and what earlier runs finished of them; removes partial files.

    Raises:
        SourceError: there is no folder, or no video in it.
        UsageError: `out` holds detections made with other settings.
        ResultsError: `out` holds files that cannot be read.
    """
    if not batch.folder.is_dir():
        raise SourceError(f"there is no folder {shown_path(batch.folder)}; name one that holds videos")
    paths = _list_videos(batch.folder)
    if not paths:
        kinds = " ".join(sorted(VIDEO_SUFFIXES))
        raise SourceError(f"there is no video in {batch.folder} ({kinds}); name another folder")
    _check_settings(batch)
    for partial in batch.out.rglob(".segment-*"):
        with suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > ABANDONED_S:
                partial.unlink()
    return [video for path in paths if (video := _scan_video(batch, path)) is not None]


def mark_finished(batch: Batch, video: Video, frames: int) -> None:
    """Write down that a video is finished, so that it is not decoded again."""
    facts = {"frames": frames, "stamp": list(video.stamp)}
    write_atomic(batch.out / video.name / _FINISHED_FILE, json.dumps(facts) + "\n")


def segment_path(batch: Batch, video: str, segment: int) -> Path:
    """The file of a segment's detections."""
    return batch.out.absolute() / video / f"segment-{segment:06d}.parquet"


def _list_videos(folder: Path) -> list[Path]:
    """Recordings in a folder and its subfolders, by name or content, no hidden ones, in natural order."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    shown = (path for path in paths if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    named = (path for path in shown if path.suffix.lower() in VIDEO_SUFFIXES or _holds_film(path))
    return sorted(named, key=natural_order)


def _holds_film(path: Path) -> bool:
    return not count_pictures(path) and is_film(path)


def _scan_video(batch: Batch, path: Path) -> Video | None:
    """Find a video's finished segments; removes those of another file of that name. None if it is gone."""
    try:
        stat = path.stat()
    except FileNotFoundError:  # a recorder deletes its oldest files at any time
        return None
    stamp = (stat.st_size, int(stat.st_mtime))
    video = Video(path.relative_to(batch.folder).as_posix(), str(path.absolute()), stamp)
    folder = batch.out / video.name
    known = _read_json(folder / _FINISHED_FILE)
    if known is not None and known.get("stamp") == list(stamp):
        return replace(video, finished=True)
    parts = []
    for part in sorted(folder.glob("segment-*.parquet")):
        facts = read_metadata(part)
        if facts.get("stamp") == list(video.stamp) and isinstance(facts.get("segment"), int):
            parts.append(facts["segment"])
        else:
            part.unlink(missing_ok=True)
    return replace(video, parts=tuple(parts))


def _check_settings(batch: Batch) -> None:
    """Check that a folder's detections were made with the same settings; writes them the first time."""
    path = batch.out / _SETTINGS_FILE
    wanted = json.loads(json.dumps(batch.settings()))
    known = _read_json(path)
    if known is None:
        write_atomic(path, json.dumps(wanted, indent=2) + "\n")
    elif known != wanted:
        differing = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
        raise UsageError(
            f"{batch.out} holds detections made with another {' and '.join(differing)}; "
            "choose another --out, or the options of that run"
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None
