"""One rung under a profiler: nsys watches a process of its own, torch.profiler this one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

from labkit.core.child import child_command
from labkit.core.errors import SourceError, UnavailableError, UsageError
from labkit.core.files import write_atomic
from labkit.core.read_json import read_json
from labkit.core.requirements import unmet_requirement
from labkit.core.types import Detections, Frame, Rung, Workload, WorkOptions, is_whole, read_work
from labkit.models.prepare import Prepared, prepare
from labkit.models.weights import models_of
from labkit.pipelines.ladder import rung as rung_named
from labkit.pipelines.own_loop import as_rung, own_loop
from labkit.profiling import nsys, profiler
from labkit.profiling.capture import Capture, Range, Read
from labkit.profiling.profile import Profile
from labkit.sources.openers import open_source
from labkit.sources.spec import redact, source_name

WARM_UP_FRAMES = 2


@dataclass(frozen=True)
class ProfileTarget:
    """A rung to profile with its workload and number of frames.

    Attributes:
        rung: name.
        workload: models, weights, size, boxes.
        source: see `open_source`.
        frames: how many are watched; `WARM_UP_FRAMES` more run unwatched before.
        timeouts_s: longest waits for the source to open, and for a frame of it.
    """

    rung: str
    workload: Workload
    source: str = field(default="photos", repr=False)  # it may hold a password
    frames: int = 5
    timeouts_s: tuple[float, float] = (5.0, 2.0)

    def __post_init__(self) -> None:
        if not is_whole(self.frames, 1, 1000):
            raise UsageError(f"frames is a number from 1 to 1000, not {self.frames!r}: a profile shows a few")
        models_of(self.workload)  # an unknown name is told before a process is started

    def command(self, notes: Path) -> list[str]:
        """The command line that runs the job alone, for a profiler to watch."""
        return [sys.executable, "-m", *self._run(notes)]

    def child_command(self, notes: Path) -> list[str]:
        """The same for a profiler that this process starts: the job ends with this process."""
        return child_command(*self._run(notes), direct=False)

    def _run(self, notes: Path) -> tuple[str, str, str]:
        return "labkit.profiling", json.dumps(asdict(self)), str(notes)

    @staticmethod
    def from_json(text: str) -> ProfileTarget:
        """The job of a command line."""
        given = json.loads(text)
        workload = Workload(**{**given["workload"], "size": tuple(given["workload"]["size"])})
        return ProfileTarget(**{**given, "workload": workload, "timeouts_s": tuple(given["timeouts_s"])})


def profile(
    rung: str | Rung | Callable[..., object],
    frames: int = 5,
    *,
    against: str | None = None,
    engine: str = "auto",
    **work: Unpack[WorkOptions],
) -> Profile:
    """Profiles a few frames of a rung after a warm-up: where the time goes, and what waits for what.

    Args:
        rung: name, or a loop of your own as in `labkit.bench`; that is watched in this process.
        frames: how many are profiled, 1 to 1000.
        against: rung whose networks a loop of your own gets.
        engine: "nsys" (Nsight Systems), "torch" (torch.profiler), or "auto" (nsys where it is found).
        work: source, size, fit, objects, model_set, detector, classifier, weights, seed, open_timeout_s,
            read_timeout_s, as in `bench`.

    Returns:
        A profile: `.table()` per range, `.timeline()`, `.reads()` (source lines at which the host
        reads a tensor), and the report's file.

    Raises:
        UsageError: there is no such rung or engine.
        UnavailableError: the rung needs what this machine lacks, or nsys was asked for and failed.

    Example:
        >>> import labkit
        >>> seen = labkit.profile(
        ...     "resnet_opencv_cpu", 2, engine="torch", size=(160, 128), model_set="lab"
        ... )
        >>> list(seen.table()["range"])
        ['preprocess', 'infer', 'decode']
    """
    target = _target(rung, frames, work, against)
    return Profile(profile_rung(target, engine))


def pipeline(
    rung: str | Rung | Callable[..., object],
    source: str | None = None,
    /,
    frames: int = 6,
    *,
    against: str | None = None,
    **work: Unpack[WorkOptions],
) -> Callable[[], Iterator[tuple[Frame, Detections]]]:
    """Makes a rung ready and warm, with its frames in memory, so that a loop over it holds nothing else.

    Args:
        rung: name, or a loop of your own as in `labkit.bench`.
        source: see `open_source`; "photos" if not given.
        frames: how many.
        against: rung whose networks a loop of your own gets.
        work: size, fit, objects, model_set, detector, classifier, weights, seed, as in `bench`.

    Returns:
        A function; each call gives the rung's generator over the same frames.

    Example:
        >>> import labkit
        >>> loop = labkit.pipeline("detr_opencv_cpu", "scenes", 1, size=(160, 128), model_set="lab")
        >>> [len(found.xyxy) <= 5 for frame, found in loop()]
        [True]
    """
    if source is not None:
        work["source"] = source
    chosen, prepared, kept = ready(_target(rung, frames, work, against))
    return lambda: chosen.run(kept, prepared.net)


def _target(
    rung: str | Rung | Callable[..., object], frames: int, work: WorkOptions, against: str | None
) -> ProfileTarget:
    source, workload, timeouts = read_work(work)
    waits = timeouts.get("open_timeout_s", 5.0), timeouts.get("read_timeout_s", 2.0)
    return ProfileTarget(as_rung(rung, against).name, workload, source_name(source), frames, waits)


def profile_rung(job: ProfileTarget, engine: str = "auto") -> Capture:
    """Profiles some frames of a rung, after a warm-up that is not watched.

    Args:
        job: what to profile.
        engine: "nsys", "torch", or "auto" (nsys where it is found).

    Raises:
        UnavailableError: the rung needs what this machine lacks, or nsys was asked for and is not
            there or failed.
    """
    if engine not in profiler.ENGINES:
        raise UsageError(f"engine is one of {', '.join(profiler.ENGINES)}, not {engine!r}")
    chosen = rung_named(job.rung)
    if reason := unmet_requirement(chosen.needs):
        raise UnavailableError(f"{job.rung} {reason}")
    why = profiler.why_not_nsys()
    if own_loop(chosen):
        why = "a loop of your own runs in this process, where nsys cannot look (%%profile NAME can)"
    if redact(job.source) != job.source:
        why = "nsys keeps the command line in its report, and this address may hold a password"
    found = nsys.find()
    asked = engine == "nsys" and found is not None and sys.platform == "win32" and not own_loop(chosen)
    if engine == "nsys" and not asked and (why or found is None):
        raise UnavailableError(f"{why}; --engine torch profiles without it")
    if found is None or (not asked and (engine == "torch" or why)):
        return _with_torch(job, (f"torch.profiler watched: {why}",) if engine == "auto" and why else ())
    try:
        return _with_nsys(job, found)
    except UnavailableError as error:
        if engine == "nsys":
            raise
        return _with_torch(job, (f"torch.profiler watched: {error}",))


def ready(job: ProfileTarget) -> tuple[Rung, Prepared, list[Frame]]:
    """The rung, ready and warm, with the frames to watch."""
    chosen = rung_named(job.rung)
    frames = read_frames(job.source, job.workload, job.frames, job.timeouts_s)
    prepared = prepare(chosen.prepare, job.workload)
    for _ in chosen.run([frames[i % len(frames)] for i in range(WARM_UP_FRAMES)], prepared.net):
        pass
    prepared.synchronize()
    return chosen, prepared, frames


def run_marked(job: ProfileTarget, notes: Path) -> None:
    """Runs the job with its frames marked for nsys, and writes what this process noted itself."""
    chosen, prepared, frames = ready(job)
    with profiler.marking() as marked:
        _pull(chosen, prepared, frames)
    noted = {"ranges": [astuple(r) for r in marked.ranges], "reads": [astuple(r) for r in marked.reads]}
    write_atomic(notes, json.dumps(noted))


def read_frames(
    source: str, workload: Workload, n: int, timeouts_s: tuple[float, float] = (5.0, 2.0)
) -> list[Frame]:
    """The first `n` frames of a source; fewer from a short recording."""
    how: Any = dict(zip(("open_timeout_s", "read_timeout_s"), timeouts_s, strict=True))
    with open_source(source, workload.size, fit=workload.fit, seed=workload.seed, **how) as stream:
        frames = list(islice(stream, n))
    if not frames:
        raise SourceError(f"{redact(source)} gave no frame")
    return frames


def _pull(chosen: Rung, prepared: Prepared, frames: Sequence[Frame]) -> None:
    for _ in chosen.run(frames, prepared.net):
        pass
    prepared.synchronize()


def _with_torch(job: ProfileTarget, notes: tuple[str, ...]) -> Capture:
    file = profiler.report_stem(job.rung).with_suffix(".json.gz")
    chosen, prepared, frames = ready(job)
    with profiler.torch_profiled(file), profiler.marking() as marked:
        _pull(chosen, prepared, frames)
    return profiler.torch_capture(marked, file, notes)


def _with_nsys(job: ProfileTarget, found: nsys.Nsys) -> Capture:
    stem = profiler.report_stem(job.rung)
    notes = stem.with_suffix(".json")
    nsys.run(found.profile(stem, job.child_command(notes)))
    try:
        marked = _read_notes(notes)
    finally:
        notes.unlink(missing_ok=True)
    return replace(
        profiler.nsys_capture(found, stem, marked), command=tuple(found.profile(stem, job.command(notes)))
    )


def _read_notes(path: Path) -> profiler.Marked:
    if not path.is_file():
        raise UnavailableError("the watched process ended before its frames were done; run it without nsys")
    noted = read_json(path)
    return profiler.Marked(
        ranges=tuple(Range(*r) for r in noted["ranges"]), reads=tuple(Read(*r) for r in noted["reads"])
    )
