"""The figures of the live view: `python -m labkit.live.live_benchmark`, on a machine with nothing else to do.

The client that acknowledges is a stand-in in this process that costs next to nothing, so what
is measured is capture, drawing, JPEG and the protocol beside detection; with a browser on the
same cores, its own work comes on top.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from labkit.live.rates import Rates
from labkit.live.settings import LiveSettings
from labkit.live.start import make_view
from labkit.live.view import View


@dataclass(frozen=True)
class LiveBenchmark:
    """Measured rates and delays of a live view.

    Attributes:
        rung, model_set, seconds, rounds: of what, how long per part, how many times in turn.
        display_fps: pictures acknowledged per second.
        interval_p99_ms: 99th percentile of the time between two of them.
        slowdown: share of the detections per second that showing the picture costs.
        slowdown_per_round: the same for each round, for its spread.
        result_age_in_detections: p99 of (age of a result less one frame interval) / detection.
        stop_p99_ms, stop_max_ms, stops: time until a stop returns.
        load_before: of the machine, per core, just before; near 0 on a quiet one.
    """

    rung: str
    model_set: str
    seconds: float
    rounds: int
    display_fps: float
    interval_p99_ms: float
    slowdown: float
    slowdown_per_round: tuple[float, ...]
    result_age_in_detections: float
    stop_p99_ms: float
    stop_max_ms: float
    stops: int
    load_before: float


class Client:
    """Acknowledges at once, and notes when each picture came; shows or hides on demand."""

    def __init__(self) -> None:
        self.view: View | None = None
        self.came_s: list[float] = []

    def send(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        """Given to the view as what carries its messages."""
        if message["type"] == "frame":
            self.came_s.append(time.perf_counter())
            self.say({"type": "ack", "n": message["n"], "painted": True})
        elif message["type"] == "ping":
            self.say({"type": "pong", "n": message["n"], "after": message["after"], "clock_ms": 0.0})

    def say(self, message: dict[str, Any]) -> None:
        """Sends a message of a page."""
        assert self.view is not None
        self.view.receive({"page": "measure", **message})


def measure(
    rung: str = "auto",
    source: str = "photos",
    *,
    model_set: str = "full",
    seconds: float = 10.0,
    rounds: int = 5,
    stops: int = 100,
) -> LiveBenchmark:
    """Measures display, slow-down and stops of a live view at 640x480.

    Display and no display take turns, so that a drift of the machine meets both.

    Args:
        rung: as for `live`.
        source: any that goes on for long enough.
        model_set: "full" for the load of DETR-R50 (random weights, where there are no others), or "lab".
        seconds: of each turn.
        rounds: turns of each kind.
        stops: how often it is started and stopped.
    """
    import os

    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    client = Client()
    weights = "auto" if model_set == "lab" else "random"
    settings = LiveSettings(rung=rung, model_set=model_set, weights=weights)  # type: ignore[arg-type]
    view = make_view(source, settings, client.send)
    client.view = view
    client.say({"type": "hello", "visible": True})
    view.start()
    try:
        _warm(view)
        turns = [_turn(client, view, seconds) for _ in range(rounds)]
        stop_ms = [_stop_ms(client, view) for _ in range(stops)]
    finally:
        view.close()
    intervals_ms = np.concatenate([intervals for _, _, intervals, _ in turns])
    slowdowns = tuple(1 - shown / hidden for shown, hidden, _, _ in turns)
    return LiveBenchmark(
        rung=view.player.settings.rung,
        model_set=model_set,
        seconds=seconds,
        rounds=rounds,
        display_fps=1e3 / float(np.mean(intervals_ms)),
        interval_p99_ms=float(np.percentile(intervals_ms, 99)),
        slowdown=float(np.median(slowdowns)),
        slowdown_per_round=slowdowns,
        result_age_in_detections=float(np.percentile(np.concatenate([ages for *_, ages in turns]), 99)),
        stop_p99_ms=float(np.percentile(stop_ms, 99)),
        stop_max_ms=max(stop_ms),
        stops=stops,
        load_before=load,
    )


def _warm(view: View) -> None:
    deadline_s = time.perf_counter() + 600
    while sum(view.player.rates.inferred.values()) < 10:
        status = view.player.status()
        if status["fault"] or time.perf_counter() > deadline_s:
            raise SystemExit(f"no detections: {status['fault'] or status['doing'] or status['message']}")
        time.sleep(0.1)


def _turn(client: Client, view: View, seconds: float) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Detections per second with and without display, intervals in ms, ages in detections."""
    client.say({"type": "seen", "visible": True})
    time.sleep(0.5)
    first = len(client.came_s)
    shown, ages = _detections_per_s(view, seconds)
    intervals_ms = 1e3 * np.diff(client.came_s[first:])
    client.say({"type": "seen", "visible": False})
    time.sleep(0.5)
    hidden, _ = _detections_per_s(view, seconds)
    client.say({"type": "seen", "visible": True})
    return shown, hidden, intervals_ms, ages


def _detections_per_s(view: View, seconds: float) -> tuple[float, np.ndarray]:
    rates: Rates = view.player.rates
    begun_s = time.perf_counter()
    time.sleep(seconds)
    answers = [a for a in rates.recent() if a.done_s >= begun_s]
    if len(answers) < 2:
        raise SystemExit("too few detections; measure for longer")
    # From result to result: counting those inside fixed edges would err by up to one.
    rate = (len(answers) - 1) / (answers[-1].done_s - answers[0].done_s)
    ages = np.array([(a.age_s - 1 / 30) / a.took_s for a in answers])
    return rate, ages


def _stop_ms(client: Client, view: View) -> float:
    while view.player.latest_shot() is None:
        time.sleep(0.005)
    time.sleep(0.05 + 0.1 * np.random.default_rng().random())
    begun_s = time.perf_counter()
    view.stop()
    took_ms = 1e3 * (time.perf_counter() - begun_s)
    view.player.wait_until_ended(10)
    view.start()
    client.came_s.clear()
    return took_ms


def main() -> None:
    """Prints the figures and the machine's fingerprint as JSON."""
    from labkit.core.machine import fingerprint

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rung", default="auto")
    parser.add_argument("--source", default="photos")
    parser.add_argument("--model-set", choices=("full", "lab"), default="full")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stops", type=int, default=100)
    asked = parser.parse_args()
    figures = measure(
        asked.rung,
        asked.source,
        model_set=asked.model_set,
        seconds=asked.seconds,
        rounds=asked.rounds,
        stops=asked.stops,
    )
    print(json.dumps({**asdict(figures), "fingerprint": fingerprint()}, indent=2, default=str))


if __name__ == "__main__":
    main()
