"""The exercise on streams: a `launch` that is right whatever is late, and still overlaps."""

from __future__ import annotations

from labkit.core.overlap import hidden_share
from labkit.lessons.checks import Checked
from labkit.lessons.simulated_streams import (
    NOTHING,
    STEPS_MS,
    TORN,
    Launch,
    Simulation,
    one_after_the_other,
    simulate,
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
    missing = [name for name in STEPS_MS if name not in {span.name for span in result.spans}]
    if missing:
        return Checked(False, f"no frame goes through {' and '.join(missing)}")
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
