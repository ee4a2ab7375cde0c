"""Lesson 02: a network on the GPU and back, and busy time of a device that works off a queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from labkit.lessons.exercise import Mistake, Rng, call, compare, exercise_check, numbers_in, solved
from labkit.lessons.hints import hint

__all__ = ["check_device_time", "check_on_gpu", "hint", "solved"]


@exercise_check
def check_on_gpu(on_gpu: Callable[[Any, Any], Any], rng: Rng) -> str:
    """Check `on_gpu(net, x)`: a network on the GPU, (1, 3, h, w) on the host -> (classes,) on the host.

    The check runs it on the practice GPU, with small networks of random weights.
    """
    import torch
    from torch import nn

    from labkit.practice import fake_gpu

    for _ in range(2):
        classes, size = int(rng.integers(3, 12)), int(rng.integers(5, 12))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(10**6)))
            last = nn.Linear(4 * (size - 2) ** 2, classes)
            net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), last)
        x = rng.normal(size=(1, 3, size, size)).astype(np.float32)
        with torch.inference_mode():
            logits = net(torch.from_numpy(x))[0]
        with fake_gpu(real=False) as gpu, torch.inference_mode():
            net.to("cuda")
            gpu.reset()
            got = numbers_in(call(lambda values, net=net: on_gpu(net, torch.from_numpy(values)), x))
            if not next(net.parameters()).is_cuda or gpu.launches < len(net):
                raise Mistake("the network did not work on the GPU; move its input, not the network back")
        mistakes = {"those are the network's logits; softmax makes probabilities of them": logits.numpy()}
        right, otherwise = logits.softmax(-1).numpy(), "these are not the network's probabilities"
        compare(got, right, mistakes, otherwise, shape="one probability per class", atol=1e-5)
    return "the input went to the network, and the answer came back"


@exercise_check
def check_device_time(device_time: Callable[[Any, Any], Any], rng: Rng) -> str:
    """Check `device_time(asked_s, done_s)`: seconds that a device worked on each of several requests.

    It does one thing after another: it begins when it has been asked and the one before is done.
    """
    for asked_every_s, case in ((1.0, "a device that is never waited for"), (13.0, "one that idles"),
                                (4.0, "both by turns"), (4.0, "a single frame")):  # fmt: skip
        n = 1 if case == "a single frame" else int(rng.integers(4, 9))
        asked = rng.uniform(0.5, 3) + np.cumsum(rng.uniform(0.5, 1.5, n) * asked_every_s)
        works, done = rng.uniform(2, 6, n), np.empty(n)
        for k in range(n):
            done[k] = max(asked[k], done[k - 1] if k else 0.0) + works[k]
        mistakes = {
            "that counts the wait in the queue as work; the device was busy with the frame before": done
            - asked,
            "that counts idling as work; nobody had asked yet": np.diff(done, prepend=asked[0]),
            "that is when the host asked, not when the device worked": np.diff(asked, prepend=asked[0]),
            "that is when each frame was done, not how long it took": done,
            "that is the mean of all; each frame has its own": np.full(n, (done[-1] - asked[0]) / n),
        }
        otherwise = "when could it begin? Not before it was asked, and not before the frame before was done"
        case = f"{case}: asked at {asked.round(1).tolist()}, done at {done.round(1).tolist()} s"
        got = call(device_time, asked, done)
        compare(got, works, mistakes, otherwise, shape="one value per frame", case=case)
    return "neither waiting in the queue nor idling counts as work"
