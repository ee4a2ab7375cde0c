"""What notebook 05 calls: timelines, measured and simulated, and what overlap buys and costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.core import stats
from labkit.core.trace import hidden_share
from labkit.core.types import Rung, Size, Workload
from labkit.lessons.checks import Checked
from labkit.lessons.simulated_streams import (
    NOTHING,
    STEPS_MS,
    TORN,
    Launch,
    Simulation,
    one_after_the_other,
    simulate,
    two_streams_no_waiting,
)
from labkit.pipelines.multi_stream import launch

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results.plots.style import Chart


THREADS = {
    "filter": "preprocess thread", "preprocess": "preprocess thread", "detect": "engine",
    "decode": "engine", "crop": "engine", "classify": "engine", "name": "engine",
}  # fmt: skip
STREAMS = {
    "upload": "upload stream", "preprocess": "upload stream", "filter": "filter stream",
    "infer": "infer stream", "copy back": "copy stream",
}  # fmt: skip
ORIGINS_STREAMS = {"filter": "host and default stream", "preprocess": "first stream"} | dict.fromkeys(
    ("detect", "decode", "crop", "classify", "name"), "second stream"
)
SCHEDULES = {
    "one stream": one_after_the_other, "two streams, no waiting": two_streams_no_waiting,
    "four streams": launch,
}  # fmt: skip
PREPARING = {"upload", "preprocess", "filter"}
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
    """Runs a rung in this process for a few frames and draws when each step ran.

    Args:
        rung_name: which rung.
        source, size, objects, seed: of the frames.
        frames: how many are drawn, after two that warm up.
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
    rows = _rows_of(row)
    share = hidden_share(spans, PREPARING, NETWORKS)
    about = (rung_name, "measured in this process", f"{session.prepared.settings['weights']} weights",
             f"{share:.0%} of preparing runs while a network does" if share is not None else "")  # fmt: skip
    return timeline(spans, rows, title=f"When each step ran: {rung_name}", about=about, theme=theme)


def _rows_of(row: Rung) -> dict[str, str]:
    """On which thread or stream each of a rung's steps runs."""
    if row.run.__name__ == "baseline_streams":
        return ORIGINS_STREAMS
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
    """Runs a schedule on the simulated GPU, prints whose answer each frame got, and draws it.

    Args:
        schedule: "one stream", "two streams, no waiting" or "four streams".
        late: "upload", "filter", "infer" or "copy back": the step that comes `late_ms` late.
        late_ms: by how much.
        frames, depth: how many, and how many under way at once.
        theme: "light" or "dark".
    """
    from labkit.results.plots.timeline import timeline

    result = simulate(SCHEDULES[schedule], frames, depth=depth, delays_ms={late: late_ms} if late else None)
    for line in told(result):
        print(line)
    about = (
        "simulated",
        "made-up times",
        f"{depth} under way",
        f"{late} {late_ms:g} ms late" if late else "",
    )
    return timeline(
        result.spans, result.rows, title=f"Simulated: {schedule}", about=[a for a in about if a], theme=theme
    )


def told(result: Simulation) -> list[str]:
    """Whose answer each frame got, in sentences."""
    wrong = [(frame, answer) for frame, answer in result.answers if frame != answer]
    if not wrong:
        return [f"All {len(result.answers)} frames got their own answer."]
    words = {-1: "memory that nothing was written to yet", -2: "memory that was being written"}
    return [
        f"Frame {frame} got an answer about {words.get(answer, f'frame {answer}')}."
        for frame, answer in wrong
    ]


def depths(depths: Sequence[int] = (1, 2, 3, 4), frames: int = 40) -> pd.DataFrame:
    """The lab's four streams on the simulated GPU, with more and more frames under way.

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
                "frames under way": depth,
                "frames per second": round(frames / result.total_ms * 1e3),
                "median latency (ms)": round(latency, 2),
                "upload and filter hidden": f"{share or 0:.0%}",
            }
        )
    return pd.DataFrame(rows)


def side_by_side(outcome: Any) -> pd.DataFrame:
    """Throughput and latency of each run in one table: overlap buys one with the other."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "rung": run.rung,
                "frames per second": f"{run.fps:.2f} ({stats.format_interval(run.fps_interval)})",
                "p50 latency (ms)": round(run.percentile_ms(50) or float("nan"), 1),
                "p90 latency (ms)": round(run.percentile_ms(90), 1)
                if run.percentile_ms(90)
                else "n too small",
                "noisy": run.noisy,
            }
            for run in outcome.runs
        ]
    )


FRAMES = 8
DELAY_MS = 5.0
HIDDEN_AT_LEAST = 0.5


def check_launch(launch: Launch) -> Checked:
    """Exercise of notebook 05: each step of a frame waits for the one before it, and for no more.

    Runs `launch(frame, slot, net)` on a simulated GPU, as it is and with each step delayed in
    turn, with one to three frames under way.
    """
    for depth in (2, 1, 3):
        for late in (None, *STEPS_MS):
            delays = {} if late is None else {late: DELAY_MS}
            try:
                result = simulate(launch, FRAMES, depth=depth, delays_ms=delays)
            except Exception as error:  # whatever the learner's code raises is the answer to show
                return Checked(False, f"your function raised {type(error).__name__}: {error}")
            wrong = _wrong(result, late, depth)
            if wrong is not None:
                return wrong
    return _quick(launch)


def _wrong(result: Simulation, late: str | None, depth: int) -> Checked | None:
    unmet_requirement = [name for name in STEPS_MS if name not in {span.name for span in result.spans}]
    if unmet_requirement:
        return Checked(False, f"no frame goes through {' and '.join(unmet_requirement)}")
    counts = {name: sum(span.name == name for span in result.spans) for name in STEPS_MS}
    twice = [name for name, count in counts.items() if count != FRAMES]
    if twice:
        return Checked(False, f"{twice[0]} ran {counts[twice[0]]} times for {FRAMES} frames")
    if result.right:
        return None
    frame, answer = next((frame, answer) for frame, answer in result.answers if frame != answer)
    when = f"when {late} is {DELAY_MS:g} ms late" if late else "even when nothing is late"
    what = {
        NOTHING: "was read before it was written",
        TORN: "was read while it was being written",
    }.get(answer, f"is about frame {answer}")
    next_step = _after(late)
    advice = f"; {next_step} must wait for {late}" if late and next_step else "; what must wait for what?"
    return Checked(False, f"{when}, the answer to frame {frame} {what} ({depth} under way){advice}")


def _after(step: str | None) -> str | None:
    steps = list(STEPS_MS)
    if step is None or step == steps[-1]:
        return None
    return steps[steps.index(step) + 1]


def _quick(launch: Launch) -> Checked:
    """Right answers are not enough: waiting for everything is right and gains nothing."""
    result, plain = (simulate(each, FRAMES, depth=2) for each in (launch, one_after_the_other))
    hidden = hidden_share(result.spans, {"upload", "filter"}, {"infer"}) or 0.0
    if hidden < HIDDEN_AT_LEAST:
        return Checked(
            False,
            f"every answer is right, but only {hidden:.0%} of upload and filter run behind the network "
            "of another frame: give them streams of their own, and wait for no more than needed",
        )
    return Checked(
        True,
        f"right whatever is late, and {hidden:.0%} of upload and filter run behind the network: "
        f"{FRAMES} frames take {result.total_ms:.1f} ms of simulated time instead of {plain.total_ms:.1f}",
    )
