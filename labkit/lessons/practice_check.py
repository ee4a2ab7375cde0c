"""Answers of a learner on the practice GPU: what they return, and how often the host waits for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labkit.core.errors import LabError
from labkit.lessons.exercise import Mistake, answer_of, call
from labkit.practice.gpu_report import Waits
from labkit.practice.practice_gpu import fake_gpu


class _Kept(Waits):
    """Waits that an answer cannot have forgotten."""

    def clear(self) -> None:
        raise Mistake("your function clears the counts of the practice GPU, by which it is checked")


def on_practice_gpu(
    function: Callable[..., Any], there: tuple[Any, ...], here: tuple[Any, ...]
) -> tuple[Any, Waits]:
    """A learner's answer, and how the host waited for it.

    Args:
        there: tensors and modules, which are moved to the practice GPU first.
        here: what the function is given after them.

    Raises:
        Mistake: as for `call`, or streams race, or the result is left on the GPU, or a practice GPU is
            switched on already.
    """

    def answer(*here: Any) -> Any:
        given = [each.to("cuda") for each in there]
        tensors = [(each, each.clone()) for each in given if isinstance(each, Tensor)]
        gpu.reset()
        gpu.waits = _Kept()
        got = answer_of(function, *given, *here)
        waits.extend(gpu.waits)
        if gpu.races:
            raise Mistake(str(gpu.races[0]))
        if not all(torch.equal(now, before) for now, before in tensors):
            raise Mistake("your function changed its input, which others still need; work on a copy")
        for each in [got] if isinstance(got, Tensor) else got if type(got) in (tuple, list) else []:
            if isinstance(each, Tensor) and each.is_cuda:
                raise Mistake("the result is still on the GPU; .cpu().numpy() brings it to the host")
        return got

    waits = Waits()
    try:
        with warnings.catch_warnings(), fake_gpu(real=False) as gpu:
            warnings.simplefilter("ignore")  # races are told above
            return call(answer, *here), waits
    except LabError as error:
        raise Mistake(str(error)) from error


def check_reads(what: str, waits: Waits) -> None:
    """A `Mistake` where the host waits more than once.

    Args:
        what: is right so far, e.g. "the rows are right".
        waits: of the host.
    """
    if len(waits) > 1:
        line, times = waits.by_line().most_common(1)[0]
        raise Mistake(
            f"{what}, but the host waits {len(waits)} times, {times} of them at {line}; one read is enough"
        )
