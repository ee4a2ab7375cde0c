"""Lesson 05: timelines of threads and streams, measured and simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.core.terminal import print_text
from labkit.core.trace import hidden_share
from labkit.core.types import Rung, Size, Workload
from labkit.lessons.exercise import solved
from labkit.lessons.hints import hint
from labkit.lessons.simulated_streams import (
    NOTHING,
    TORN,
    Simulation,
    one_stream,
    simulate,
    two_streams_no_wait,
)
from labkit.lessons.stream_exercises import (
    check_filter_beside,
    check_keep_memory,
    check_launch,
    check_start_copy,
)
from labkit.pipelines.multi_stream import launch

if TYPE_CHECKING:
    import pandas as pd

    from labkit.core.trace import SpanRecord
    from labkit.results.plots.style import Chart

__all__ = [
    "check_filter_beside", "check_keep_memory", "check_launch", "check_start_copy", "depths", "hint",
    "loop_timeline", "simulated", "solved", "timeline",
]  # fmt: skip


THREADS = {
    "filter": "preprocess thread", "preprocess": "preprocess thread", "detect": "engine",
    "decode": "engine", "crop": "engine", "classify": "engine", "name": "engine",
}  # fmt: skip
STREAMS = {
    "upload": "upload stream", "preprocess": "upload stream", "filter": "filter stream",
    "infer": "infer stream", "copy back": "copy stream",
}  # fmt: skip
ORIGIN_STREAMS = {"filter": "host and default stream", "preprocess": "first stream"} | dict.fromkeys(
    ("detect", "decode", "crop", "classify", "name"), "second stream"
)
SCHEDULES = {
    "one stream": one_stream, "two streams, no waiting": two_streams_no_wait,
    "four streams": launch,
}  # fmt: skip
PREPARATION = {"upload", "preprocess", "filter"}
NETWORKS = {"infer", "detect", "classify"}


def timeline(
    rung_name: str,
    *,
    source: str = "scenes",
    frames: int = 4,
    size: Size = (640, 480),
    objects: int = 5,
    seed: int = 0,
    theme: str = "light",
) -> Chart | str:
    """Plot when each step of a rung ran, for a few frames in this process.

    Args:
        rung_name: which rung.
        source, size, objects, seed: of the frames.
        frames: number of frames to plot, after two that warm up.
        theme: "light" or "dark".

    Returns:
        A chart; a sentence where the machine lacks what the rung needs.
    """
    from labkit.bench.frames import collect
    from labkit.bench.session import Session
    from labkit.core.requirements import unmet_requirement
    from labkit.core.trace import recording
    from labkit.pipelines.ladder import rung

    row = rung(rung_name)
    reason = unmet_requirement(row.needs)
    if reason is not None:
        return f"{rung_name} {reason}."
    pictures = collect(source, size, frames + 2, seed=seed).frames
    session = Session(row, Workload(size=size, objects=objects, seed=seed), pictures)
    with recording() as record:
        answered = list(row.run(pictures, session.prepared.net))
    last = {frame.index for frame, _ in answered[2:]}
    spans = [span for span in record.spans() if span.index in last]
    about = f"{session.prepared.settings['weights']} weights"
    return _drawn(spans, stream_of_step(row), rung_name, about, theme)


def loop_timeline(
    loop: Callable[[Any], Any],
    rows: Mapping[str, str],
    *,
    source: str = "scenes",
    frames: int = 4,
    size: Size = (640, 480),
    seed: int = 0,
    theme: str = "light",
) -> Chart:
    """Plot when each step of a loop of your own ran, for a few frames in this process.

    Args:
        loop: generator function of frames, with spans that name their frame: `span("filter", frame)`.
        rows: name of a span -> the thread or stream on which it runs.
        source, size, seed: of the frames.
        frames: number of frames to plot, after two that warm up.
        theme: "light" or "dark".

    Raises:
        UsageError: no span of the loop is named in `rows`.
    """
    from labkit.bench.frames import collect
    from labkit.core.trace import recording

    pictures = collect(source, size, frames + 2, seed=seed).frames
    with recording() as record:
        list(loop(pictures))
    last = {frame.index for frame in pictures[2:]}
    return _drawn([span for span in record.spans() if span.index in last], rows, loop.__name__, "", theme)


def _drawn(
    spans: Sequence[SpanRecord], rows: Mapping[str, str], name: str, weights: str, theme: str
) -> Chart:
    from labkit.results.plots.timeline import timeline

    share = hidden_share(spans, PREPARATION, NETWORKS)
    hidden = "" if share is None else f"{share:.0%} of preparation beside a network"
    about = [part for part in (name, "measured in this process", weights, hidden) if part]
    return timeline(spans, rows, title=f"When each step ran: {name}", about=about, theme=theme)


def stream_of_step(row: Rung) -> dict[str, str]:
    """Step -> the thread or stream on which a rung runs it."""
    if row.run.__name__ == "baseline_streams":
        return ORIGIN_STREAMS
    if row.prepare.device == "cuda":
        return STREAMS
    return THREADS if row.run.__name__ == "threaded" else dict.fromkeys(THREADS, "one thread")


def simulated(
    schedule: str = "four streams",
    *,
    late: str | None = None,
    late_ms: float = 3.0,
    frames: int = 4,
    depth: int = 2,
    theme: str = "light",
) -> Chart:
    """Plot a schedule on the simulated GPU, and print whose answer each frame got.

    Args:
        schedule: "one stream", "two streams, no waiting" or "four streams".
        late: "upload", "filter", "infer" or "copy back": the step that comes `late_ms` late.
        late_ms: by how much.
        frames, depth: number of frames, and of those in flight at once.
        theme: "light" or "dark".
    """
    from labkit.results.plots.timeline import timeline

    result = simulate(SCHEDULES[schedule], frames, depth=depth, delays_ms={late: late_ms} if late else None)
    print_text(*describe_answers(result), sep="\n")
    about = ["simulated", "made-up times", f"{depth} in flight"]
    about += [f"{late} {late_ms:g} ms late"] if late else []
    return timeline(result.spans, result.rows, title=f"Simulated: {schedule}", about=about, theme=theme)


def describe_answers(result: Simulation) -> list[str]:
    """Sentences that say whose answer each frame got."""
    wrong = [(frame, answer) for frame, answer in result.answers if frame != answer]
    if not wrong:
        return [f"All {len(result.answers)} frames got their own answer."]
    words = {NOTHING: "memory that nothing was written to yet", TORN: "memory that was being written"}
    return [
        f"Frame {frame} got an answer about {words.get(answer, f'frame {answer}')}."
        for frame, answer in wrong
    ]


def depths(depths: Sequence[int] = (1, 2, 3, 4), frames: int = 40) -> pd.DataFrame:
    """Throughput and latency of the lab's four streams on the simulated GPU, by frames in flight.

    Times are simulated, so they show what depends on what and say nothing about any machine.
    """
    import pandas as pd

    rows = []
    for depth in depths:
        result = simulate(launch, frames, depth=depth)
        share = hidden_share(result.spans, {"upload", "filter"}, {"infer"})
        latency = sorted(result.latency_ms)[frames // 2]
        rows.append(
            {
                "frames in flight": depth,
                "frames per second": round(frames / result.total_ms * 1e3),
                "median latency (ms)": round(latency, 2),
                "upload and filter hidden": f"{share or 0:.0%}",
            }
        )
    return pd.DataFrame(rows)
