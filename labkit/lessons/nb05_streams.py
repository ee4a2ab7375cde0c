"""Lesson 05: timelines of streams, measured and simulated, and the cost of overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from labkit.core.stats import format_interval
from labkit.core.trace import hidden_share
from labkit.core.types import Rung, Size, Workload
from labkit.lessons.exercise import Mistake, exercise_check
from labkit.lessons.hints import hint
from labkit.lessons.simulated_streams import (
    NOTHING,
    STEPS_MS,
    TORN,
    Launch,
    Simulation,
    one_stream,
    simulate,
    two_streams_no_wait,
)
from labkit.pipelines.multi_stream import launch

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart
    from labkit.results.records import Run
    from labkit.results.result_set import ResultSet

__all__ = ["check_launch", "depths", "hint", "latency_table", "simulated", "timeline"]


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
    source: str = "photos",
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
    from labkit.results.plots.timeline import timeline

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
    rows = stream_of_step(row)
    share = hidden_share(spans, PREPARATION, NETWORKS)
    about = (rung_name, "measured in this process", f"{session.prepared.settings['weights']} weights",
             f"{share:.0%} of preparation beside a network" if share is not None else "")  # fmt: skip
    return timeline(spans, rows, title=f"When each step ran: {rung_name}", about=about, theme=theme)


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
    print(*describe_answers(result), sep="\n")
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


def latency_table(result: ResultSet) -> pd.DataFrame:
    """Throughput and latency of each run in one table: overlap buys one with the other."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "rung": run.rung,
                "frames per second": f"{run.fps:.2f} ({format_interval(run.fps_interval)})",
                **{f"p{q} latency (ms)": _percentile(run, q) for q in (50, 90)},
                "noisy": run.noisy,
            }
            for run in result
        ]
    )


def _percentile(run: Run, q: int) -> str:
    value = run.percentile_ms(q)
    return "n too small" if value is None else f"{value:.1f}"


FRAMES = 8
DELAY_MS = 5.0
HIDDEN_AT_LEAST = 0.5


@exercise_check
def check_launch(launch: Launch) -> str:
    """Check `launch(frame, slot, net)`: each step of a frame waits for the one before it, and for no more.

    It runs on a simulated GPU, as it is and with each step delayed in turn, with one to three
    frames in flight.
    """
    for depth in (2, 1, 3):
        for late in (None, *STEPS_MS):
            delays = {} if late is None else {late: DELAY_MS}
            try:
                result = simulate(launch, FRAMES, depth=depth, delays_ms=delays)
            except Exception as error:  # whatever the learner's code raises is the answer to show
                raise Mistake(f"your function raised {type(error).__name__}: {error}") from error
            _check_steps(result)
            _check_answers(result, late, depth)
    return _check_overlap(launch)


def _check_steps(result: Simulation) -> None:
    counts = {name: sum(span.name == name for span in result.spans) for name in STEPS_MS}
    missing = [name for name, count in counts.items() if not count]
    if missing:
        raise Mistake(f"no frame goes through {' and '.join(missing)}")
    for name, count in counts.items():
        if count != FRAMES:
            raise Mistake(f"{name} ran {count} times for {FRAMES} frames")


def _check_answers(result: Simulation, late: str | None, depth: int) -> None:
    if result.right:
        return
    frame, answer = next((frame, answer) for frame, answer in result.answers if frame != answer)
    when = f"when {late} is {DELAY_MS:g} ms late" if late else "even when nothing is late"
    what = {
        NOTHING: "was read before it was written",
        TORN: "was read while it was being written",
    }.get(answer, f"is about frame {answer}")
    following = dict(pairwise(STEPS_MS)).get(late or "")
    advice = f"; {following} must wait for {late}" if following else "; what must wait for what?"
    raise Mistake(f"{when}, the answer to frame {frame} {what} ({depth} in flight){advice}")


def _check_overlap(launch: Launch) -> str:
    """Right answers are not enough: waiting for everything is right and gains nothing."""
    result, plain = (simulate(each, FRAMES, depth=2) for each in (launch, one_stream))
    hidden = hidden_share(result.spans, {"upload", "filter"}, {"infer"}) or 0.0
    if hidden < HIDDEN_AT_LEAST:
        raise Mistake(
            f"every answer is right, but only {hidden:.0%} of upload and filter run behind the network "
            "of another frame: give them streams of their own, and wait for no more than needed"
        )
    return (
        f"right whatever is late, and {hidden:.0%} of upload and filter run behind the network: "
        f"{FRAMES} frames take {result.total_ms:.1f} ms of simulated time instead of {plain.total_ms:.1f}"
    )
