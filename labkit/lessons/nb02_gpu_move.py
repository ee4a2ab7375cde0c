"""Lesson 02: a network on the GPU and back, and busy time of a device that works off a queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.lessons.exercise import (
    Mistake,
    call_for_array,
    call_for_numbers,
    exercise_check,
    find_mistake,
    seeded_check,
    solved,
)
from labkit.lessons.hints import hint

__all__ = ["check_device_time", "check_on_gpu", "hint", "solved"]

Floats = NDArray[np.float64]


@seeded_check
def check_on_gpu(on_gpu: Callable[[Any, Any], Any], rng: np.random.Generator) -> str:
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
            logits = net(torch.from_numpy(x))[0].numpy()
        with fake_gpu(real=False) as gpu, torch.inference_mode():
            net.to("cuda")
            gpu.reset()
            got = call_for_array(lambda values, net=net: on_gpu(net, torch.from_numpy(values)), x)
            if not next(net.parameters()).is_cuda or gpu.launches < len(net):
                raise Mistake("the network did not work on the GPU; move its input, not the network back")
        right = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        if got.shape != right.shape:
            raise Mistake(f"the shape is {got.shape}; expected is one probability per class, {right.shape}")
        if not np.allclose(got, right, atol=1e-5):
            mistakes = {"those are the network's logits; softmax makes probabilities of them": logits}
            raise Mistake(
                find_mistake(got, mistakes, right, atol=1e-4) or "these are not the network's probabilities"
            )
    return "the input went to the network, and the answer came back"


@exercise_check
def check_device_time(device_time: Callable[[Any, Any], Any]) -> str:
    """Check `device_time(asked_s, done_s)`: seconds that a device worked on each of several requests.

    It does one thing after another: it begins when it has been asked and the one before is done.
    """
    cases = {
        "a device that is never waited for": ([0.0, 1.0, 2.0], [4.0, 7.0, 12.0]),
        "a device that idles between frames": ([0.0, 10.0, 20.0], [3.0, 12.0, 27.0]),
        "both by turns": ([0.0, 1.0, 9.0, 9.5], [4.0, 6.0, 10.0, 13.0]),
        "a single frame": ([2.0], [5.0]),
    }
    for case, (asked_s, done_s) in cases.items():
        asked, done = np.array(asked_s), np.array(done_s)
        right = done - np.maximum(asked, np.concatenate([[-np.inf], done[:-1]]))
        got = call_for_numbers(device_time, asked, done)
        if got.shape != right.shape:
            raise Mistake(f"for {case} the shape is {got.shape}; expected is one value per frame")
        if not np.allclose(got, right, atol=1e-9):
            reason = find_mistake(got, _mistakes(asked, done), right) or (
                "when could it begin? Not before it was asked, and not before the frame before was done"
            )
            raise Mistake(
                f"for {case} (asked at {asked_s}, done at {done_s} s) it gives {got.tolist()}: {reason}"
            )
    return "neither waiting in the queue nor idling counts as work"


def _mistakes(asked: Floats, done: Floats) -> dict[str, Floats]:
    mean = (done[-1] - asked[0]) / len(done)
    return {
        "that counts the wait in the queue as work; the device was busy with the frame before": done - asked,
        "that counts idling as work; nobody had asked yet": np.diff(done, prepend=asked[0]),
        "that is when the host asked, not when the device worked": np.diff(asked, prepend=asked[0]),
        "that is when each frame was done, not how long it took": done,
        "that is the mean of all; each frame has its own": np.full(len(done), mean),
    }
