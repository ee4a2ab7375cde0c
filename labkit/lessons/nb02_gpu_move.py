"""Lesson 02: a network on the GPU and back, and busy time of a device that works off a queue."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from labkit.lessons.exercise import Mistake, Rng, answer_of, call, compare, exercise_check, numbers_in, solved
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

    classes, (height, width) = (
        int(rng.integers(3, 12)),
        rng.choice(np.arange(5, 12), 2, replace=False).tolist(),
    )
    for shape in ((1, 3, height, width), (1, 3, height, width), (1, 3, width, height)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(10**6)))
            last = nn.Linear(4 * (height - 2) * (width - 2), classes)
            net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), last)
        x, same = rng.normal(size=shape).astype(np.float32), deepcopy(net)
        ran: list[bool] = []
        with fake_gpu(real=False), torch.inference_mode():
            net.to("cuda").register_forward_hook(lambda net, given, out, ran=ran: ran.append(out.is_cuda))
            got = numbers_in(
                call(lambda values, net=net: answer_of(on_gpu, net, torch.from_numpy(values)), x)
            )
            if not any(ran):
                raise Mistake("the network did not work on the GPU; move its input, not the network back")
        with torch.inference_mode():
            logits = same(torch.from_numpy(x))[0]
        mistakes = {"those are the network's logits; softmax makes probabilities of them": logits.numpy()}
        right, otherwise = logits.softmax(-1).numpy(), "these are not the network's probabilities"
        compare(got, right, mistakes, otherwise, shape="one probability per class", atol=1e-5)
    return "the input went to the network, and the answer came back"


@exercise_check
def check_device_time(device_time: Callable[[Any, Any], Any], rng: Rng) -> str:
    """Check `device_time(asked_s, done_s)`: seconds that a device worked on each of several requests.

    It does one thing after another: it begins when it has been asked and the one before is done.
    """
    frames = int(rng.integers(4, 9))
    for asked_every_s, case in ((1.0, "a device that is never waited for"), (13.0, "one that idles"),
                                (4.0, "both by turns"), (4.0, "a single frame")):  # fmt: skip
        n = 1 if case == "a single frame" else frames
        asked = rng.uniform(0.5, 3) + np.cumsum(rng.uniform(0.5, 1.5, n) * asked_every_s)
        done = asked + rng.uniform(2, 6, n) * (3 if n == 1 else 1)
        for k in range(1, n):
            done[k] = max(asked[k], done[k - 1]) + rng.uniform(2, 6)
        got = call(device_time, asked, done)
        right = done - np.maximum(asked, np.concatenate([asked[:1], done[:-1]]))
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
        compare(got, right, mistakes, otherwise, shape="one value per frame", case=case)
    return "neither waiting in the queue nor idling counts as work"
