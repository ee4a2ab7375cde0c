"""Watches a stretch of this process, with nsys where it can, else with torch.profiler."""

from __future__ import annotations

import datetime
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from labkit.core.errors import UnavailableError, UsageError
from labkit.core.files import results_folder
from labkit.core.trace import recording
from labkit.profiling import nsys
from labkit.profiling.capture import ANCHOR, ANCHOR_DOMAIN, Capture, Range, Read
from labkit.profiling.export import read_export
from labkit.profiling.reads import noting_reads
from labkit.profiling.torch_trace import read_trace, torch_profiled

ENGINES = ("auto", "nsys", "torch")


@dataclass
class Watched:
    """Result of a profiled block: its capture, once the block has ended without error."""

    capture: Capture | None = None

    def result(self) -> Capture:
        """The capture; an error where the block has not ended."""
        if self.capture is None:
            raise UsageError("the watched block has not ended yet")
        return self.capture


@dataclass
class Marked:
    """A block with its ranges and reads noted by this process itself.

    Attributes:
        began_ns: `time.perf_counter_ns` when it began.
        ranges: what labkit's spans noted, for where the profiler lost them.
        reads: of tensors by the host.
    """

    began_ns: int = 0
    ranges: tuple[Range, ...] = ()
    reads: tuple[Read, ...] = ()

    def counts(self) -> Counter[str]:
        """Number of times each of labkit's ranges was sent."""
        return Counter(r.name for r in self.ranges)


@contextmanager
def marking() -> Iterator[Marked]:
    """Opens the range that tells a profiler when to look, and notes spans and reads inside."""
    marked = Marked()
    with noting_reads() as reads, recording() as record, _anchor():
        marked.began_ns = time.perf_counter_ns()
        yield marked
    began = marked.began_ns
    ranges = [Range(span.name, span.start_ns - began, span.stop_ns - began) for span in record.spans()]
    marked.ranges = tuple(sorted(ranges, key=lambda r: (r.start_ns, -r.stop_ns)))
    marked.reads = tuple(read for read in reads.since(began) if read.at_ns >= 0)


def clock_difference(own: Sequence[Range], theirs: Sequence[Range]) -> int:
    """How much later, in ns, a profiler's clock shows what this process's clock shows: a median over ranges.

    One moment would not do: between two readings of it another program may have the core.
    """
    starts: list[dict[str, list[int]]] = [defaultdict(list), defaultdict(list)]
    for ranges, found in zip((own, theirs), starts, strict=True):
        for each in sorted(ranges, key=lambda r: r.start_ns):
            found[each.name].append(each.start_ns)
    late = [b - a for name in starts[0] for a, b in zip(starts[0][name], starts[1][name], strict=False)]
    return round(median(late)) if late else 0


@contextmanager
def watching(name: str, engine: str = "auto") -> Iterator[Watched]:
    """Profiles the block.

    Args:
        name: for the report's file, which lands beside the results.
        engine: "nsys" (this process was started under it), "torch", or "auto".

    Raises:
        UnavailableError: nsys was asked for and cannot watch this process.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine is one of {', '.join(ENGINES)}, not {engine!r}")
    found, notes = (None, ()) if engine == "torch" else _usable_nsys(engine)
    watched = Watched()
    stem = report_stem(name)
    if found is not None:
        with _under_nsys(found, stem, watched):
            yield watched
        return
    file = stem.with_suffix(".json.gz")
    with torch_profiled(file), marking() as marked:
        yield watched
    watched.capture = torch_capture(marked, file, notes)


def torch_capture(marked: Marked, file: Path, notes: tuple[str, ...]) -> Capture:
    """The capture that torch.profiler and this process's own notes make together."""
    import torch

    gpu, waits = read_trace(file)
    return Capture(
        f"torch.profiler {torch.__version__}", marked.ranges, tuple(gpu), tuple(waits), marked.reads, file,
        notes, torch.cuda.is_available(),
    )  # fmt: skip


def nsys_capture(found: nsys.Nsys, stem: Path, marked: Marked) -> Capture:
    """The capture of an exported report, with what this process noted itself.

    Where the report lost labkit's ranges, its own notes stand in and the capture says so.
    """
    export = stem.with_suffix(".sqlite")
    if not export.is_file():
        why = nsys.invisible(found.version) or "see whether nsys said why; --engine torch needs no nsys"
        raise UnavailableError(f"{found.name} wrote no report: {why}")
    report = stem.with_suffix(".nsys-rep")
    file = report if report.is_file() else export
    capture = replace(read_export(export), reads=marked.reads, file=file)
    missing = nsys.lost(marked.counts(), capture.counts(), found.version)
    if missing is None:
        late_ns = clock_difference(marked.ranges, capture.ranges)
        return replace(capture, reads=tuple(replace(r, at_ns=r.at_ns + late_ns) for r in marked.reads))
    notes = (*capture.notes, missing, "the ranges shown are those that labkit noted itself")
    return replace(capture, ranges=marked.ranges, notes=notes)


def report_stem(name: str) -> Path:
    """A new file name, without its ending, in the folder of profiles beside the results.

    Where that cannot be made, it is one in a new folder of temporary files, so that no profile is lost.
    """
    folder = results_folder() / "profiles"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="labkit-profiles-"))
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return (folder / f"{name}-{now}").absolute()


def why_not_nsys() -> str | None:
    """Why nsys is not taken by itself to watch a process here, in words; None if it is."""
    if sys.platform == "win32":
        return "nsys on Windows has no sessions and is not tried by itself; --engine nsys asks for it"
    found = nsys.find()
    if found is None:
        return "Nsight Systems (nsys) was not found on this machine"
    return nsys.invisible(found.version)


def _usable_nsys(engine: str) -> tuple[nsys.Nsys | None, tuple[str, ...]]:
    why = why_not_nsys()
    if why is None and nsys.session() is None:
        why = (
            "this process was not started under nsys; for notebooks: labkit profile --install-kernel, "
            "then choose the kernel 'Python 3 under nsys'"
        )
    if why is None:
        return nsys.find(), ()
    if engine == "nsys":
        raise UnavailableError(why)
    return None, (f"torch.profiler watched: {why}",)


@contextmanager
def _under_nsys(found: nsys.Nsys, stem: Path, watched: Watched) -> Iterator[None]:
    session = nsys.session()
    assert session is not None
    found.start(session, stem)
    try:
        with marking() as marked:
            yield
    finally:
        found.stop(session)
    watched.capture = nsys_capture(found, stem, marked)


@contextmanager
def _anchor() -> Iterator[None]:
    try:
        import nvtx
    except ImportError:  # then no profiler sees any range, which `nsys.invisible` says
        yield
        return
    nvtx.push_range(ANCHOR, domain=ANCHOR_DOMAIN)
    try:
        yield
    finally:
        nvtx.pop_range(domain=ANCHOR_DOMAIN)
