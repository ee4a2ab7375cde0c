"""Switching the practice GPU on and off."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, suppress
from typing import Any
from unittest.mock import patch

import torch

from labkit.core import requirements
from labkit.core.errors import UsageError
from labkit.core.gpu import reported_waits
from labkit.practice import fake_cupy, torch_cuda
from labkit.practice.gpu_report import GpuReport, Wait
from labkit.practice.gpu_tensor import Gpu
from labkit.practice.source_line import learner_line
from labkit.practice.stream_order import GpuError
from labkit.practice.time_model import SENTENCE, ModelledMs


def fake_gpu(*, strict: bool = False, real: bool | None = None) -> PracticeGpu | RealGpu:
    """A GPU to practise on: inside it ordinary code for CUDA runs on the CPU by the rules of a GPU.

        with fake_gpu() as gpu:
            x = torch.ones(3, device="cuda")
            (x * 2).sum().item()
        gpu  # the last line of a cell: waits, launches, copies and races, by source line

    Over several cells: `gpu = fake_gpu().start()` in the first, `gpu.stop()` in the last.

    It finds: tensors of two devices; each wait of the host, by line; work on a stream that did not
    wait for another's; memory freed while another stream uses it; page-locked memory read or written
    during a copy (what is read early is wrong, as on a GPU); waits while a graph is captured. CUDA
    graphs replay; autocast, channels_last, CuPy's arrays and kernels work; times of events and of
    `gpu.clock()` are a model (`labkit.practice.time_model`), not measured.

    It does not: compute as fast or round as a GPU; run a kernel with warp shuffles or templates;
    compile (`torch.compile` leaves a function as it is); know a second GPU, `torch.Generator("cuda")`
    or other processes, such as workers of a DataLoader or of `labkit.bench`; see what NumPy reads
    through an array that shares page-locked memory; run out of memory; say later and as "device-side
    assert triggered" that an index is out of range. Races are found by order, not
    by luck: also those that would go well today. Launches are PyTorch's operations without views; a
    convolution's bias is one of its own, attention is one, and libraries may still take several kernels
    for one. Names that were imported from `torch.cuda` or `cupy` before it was switched on (`from
    torch.cuda import Stream`) stay the real ones.

    Args:
        strict: a race raises GpuError where it happens; else it is a warning and a row of `gpu.races`.
        real: False takes the practice GPU even where there is a real one; None (and True) the real
            one where there is one, on which waits and copies are real and races are not looked for.

    Raises:
        UsageError: (real=True) torch sees no GPU.
    """
    if real and not torch.cuda.is_available():
        raise UsageError("real=True needs an NVIDIA GPU and torch sees none; leave it out to practise")
    if real is not False and torch.cuda.is_available() and not isinstance(_Switch.on, PracticeGpu):
        return RealGpu()
    return PracticeGpu(strict=strict)


class _Switch:
    """Switching on and off, as a context or by `start` and `stop`.

    Attributes:
        on: what is switched on now, or None.
    """

    on: Any = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stack: ExitStack | None = None
        self._started = False

    def start(self) -> Any:
        """Switches on until `stop()`. What an earlier cell has started is stopped first."""
        if _Switch.on is not None and _Switch.on._started:
            _Switch.on.stop()
        self.__enter__()
        self._started = True
        return self

    def stop(self) -> Any:
        """Switches off; everything is as it was before. Does nothing where it is off already."""
        if self._stack is not None:
            self.__exit__(None, None, None)
        return self

    def __enter__(self) -> Any:
        if _Switch.on is not None:
            raise UsageError(
                f"a GPU to practise on is switched on already, by {_Switch.on._line}; leave that block, "
                "or call its stop()"
            )
        stack = ExitStack()
        try:
            self._switched_on(stack)
        except BaseException:
            stack.close()
            raise
        self._stack, self._line, _Switch.on = stack, learner_line(), self
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        stack, self._stack, self._started, _Switch.on = self._stack, None, False, None
        if stack is not None:
            stack.close()
        self._switched_off(kind)

    def _switched_on(self, stack: ExitStack) -> None:
        raise NotImplementedError

    def _switched_off(self, error: Any) -> None: ...


class PracticeGpu(_Switch, Gpu):
    """The practice GPU: a context, and the report of what was asked of it."""

    def _switched_on(self, stack: ExitStack) -> None:
        Gpu.now = self
        stack.callback(_forget)
        _forget()
        stack.enter_context(torch_cuda.installed(self))
        stack.enter_context(fake_cupy.installed())

    def _switched_off(self, error: Any) -> None:
        if error is None and 0 < len(self.freed_early) == len(self.races):  # nothing was raised so far
            raise GpuError(self.freed_early[0])

    def notes(self) -> list[str]:
        """The model, where somebody has asked it for a time."""
        return [SENTENCE] if self.timed else []

    def clock(self) -> ModelledMs:
        """Milliseconds on the host's clock by the model, in place of `time.perf_counter`.

        The CPU computes what it launches at once, so its own clock cannot show that a host does not
        wait. On a real GPU this is the real clock.
        """
        self.timed = True
        return ModelledMs(self.model.host_us / 1000)


class RealGpu(_Switch, GpuReport):
    """A real GPU: the same context and report, with waits as CUDA itself reports them."""

    real = True

    def __init__(self) -> None:
        super().__init__()
        self.name = f"{torch.cuda.get_device_name()} (a real GPU)"
        self.launches = self.kernels = None

    def _switched_on(self, stack: ExitStack) -> None:
        stack.callback(torch.cuda.set_sync_debug_mode, torch.cuda.get_sync_debug_mode())
        stack.enter_context(reported_waits(lambda: self.waits.append(Wait("the GPU", learner_line()))))
        torch.cuda.set_sync_debug_mode("warn")
        synchronize = torch.cuda.synchronize

        def noted(device: Any = None) -> None:
            self.waits.append(Wait("everything", learner_line()))
            synchronize(device)

        stack.enter_context(patch.object(torch.cuda, "synchronize", noted))

    def clock(self) -> float:
        """Milliseconds of `time.perf_counter`."""
        return time.perf_counter() * 1000

    def notes(self) -> list[str]:
        """A sentence on what a real GPU does not count."""
        return [
            "On a real GPU waits are those that CUDA reports; launches, copies and races are not counted: "
            "fake_gpu(real=False) counts them."
        ]


def _forget() -> None:
    """Drops what is remembered of a GPU: whether there is one, and constants that lie on it."""
    requirements._no_cuda.cache_clear()
    preprocess = sys.modules.get("labkit.models.preprocess")
    if preprocess is not None:
        preprocess._kept.cache_clear()
    detectors = [module for name, module in sys.modules.items() if name.startswith("transformers.models.")]
    owners = {each for module in detectors for each in vars(module).values() if isinstance(each, type)}
    for method in (each for owner in owners for each in vars(owner).values()):
        for cell in getattr(getattr(method, "__func__", method), "__closure__", None) or ():
            with suppress(ValueError, AttributeError):  # of an empty cell, of anything but a cache
                cell.cell_contents.cache_clear()  # anchors and position embeddings by size
