"""The figures of the live view: `python tests/live_figures.py`, on a machine with nothing else to do.

The page that acknowledges is a stand-in in this process that costs next to nothing, so what is measured is
capture, drawing, JPEG and the protocol beside detection; `browser/figures.py` measures with a real browser.

| figure                     | is                                                                     |
|----------------------------|------------------------------------------------------------------------|
| `display_fps`              | pictures acknowledged per second                                       |
| `interval_p99_ms`          | 99th percentile of the time between two of them                        |
| `slowdown`                 | share of the detections per second that showing the picture costs      |
| `result_age_in_detections` | p99 of (age of a result less one frame interval) / duration            |
| `stop_p99_ms`, `_max_ms`   | time until a stop returns                                              |
| `load_before`              | of the machine, per core; near 0 on a quiet one                        |
"""

import argparse
import json
import os
import time

import numpy as np
from live_fakes import FakePage

from labkit.core.machine import fingerprint
from labkit.live.settings import LiveSettings
from labkit.live.start import make_view


class Client(FakePage):
    """Acknowledges at once, and notes when each picture came."""

    def __init__(self):
        super().__init__()
        self.came_s = []

    def send(self, message, buffers):
        if message["type"] == "frame":
            self.came_s.append(time.perf_counter())
        super().send(message, buffers)


def warm(view):
    deadline_s = time.perf_counter() + 600
    while sum(view.player.rates.inferred.values()) < 10:
        status = view.player.status()
        if status["fault"] or time.perf_counter() > deadline_s:
            raise SystemExit(f"no detections: {status['fault'] or status['doing'] or status['message']}")
        time.sleep(0.1)


def detections_per_s(view, client, seconds, visible):
    """With or without display; also the ages of the results, in detections."""
    client.say("seen", visible=visible)
    time.sleep(0.5)
    begun_s = time.perf_counter()
    time.sleep(seconds)
    answers = [a for a in view.player.rates.recent() if a.done_s >= begun_s]
    if len(answers) < 2:
        raise SystemExit("too few detections; measure for longer")
    # From result to result: counting those inside fixed edges would err by up to one.
    rate = (len(answers) - 1) / (answers[-1].done_s - answers[0].done_s)
    return rate, [(a.age_s - 1 / 30) / a.took_s for a in answers]


def stop_ms(view, client):
    while view.player.latest_shot() is None:
        time.sleep(0.005)
    time.sleep(0.05 + 0.1 * np.random.default_rng().random())
    begun_s = time.perf_counter()
    view.stop()
    took_ms = 1e3 * (time.perf_counter() - begun_s)
    view.player.wait_until_ended(10)
    view.start()
    return took_ms


def main():
    """Display and no display take turns, so that a drift of the machine meets both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rung", default="auto")
    parser.add_argument("--source", default="photos")
    parser.add_argument("--model-set", choices=("full", "lab"), default="full")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stops", type=int, default=100)
    asked = parser.parse_args()
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    client = Client()
    weights = "auto" if asked.model_set == "lab" else "random"
    settings = LiveSettings(rung=asked.rung, model_set=asked.model_set, weights=weights)
    view = client.view = make_view(asked.source, settings, client.send)
    client.say("hello", visible=True)
    view.start()
    intervals_ms, slowdowns, ages = [], [], []
    try:
        warm(view)
        for _ in range(asked.rounds):
            first = len(client.came_s)
            shown, old = detections_per_s(view, client, asked.seconds, visible=True)
            intervals_ms += (
                1e3 * np.diff(client.came_s[first + 15 :])
            ).tolist()  # without the first half second
            hidden, _ = detections_per_s(view, client, asked.seconds, visible=False)
            slowdowns.append(1 - shown / hidden)
            ages += old
        client.say("seen", visible=True)
        stops_ms = [stop_ms(view, client) for _ in range(asked.stops)]
    finally:
        view.close()
    figures = {
        "rung": view.player.settings.rung,
        "model_set": asked.model_set,
        "seconds": asked.seconds,
        "rounds": asked.rounds,
        "display_fps": 1e3 / float(np.mean(intervals_ms)),
        "interval_p99_ms": float(np.percentile(intervals_ms, 99)),
        "slowdown": float(np.median(slowdowns)),
        "slowdown_per_round": slowdowns,
        "result_age_in_detections": float(np.percentile(ages, 99)),
        "stop_p99_ms": float(np.percentile(stops_ms, 99)),
        "stop_max_ms": max(stops_ms),
        "stops": asked.stops,
        "load_before": load,
    }
    print(json.dumps({**figures, "fingerprint": fingerprint()}, indent=2, default=str))


if __name__ == "__main__":
    main()
